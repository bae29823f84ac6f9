import csv
import math
import os
import shutil
import sys
from multiprocessing import spawn
from pathlib import Path

import pytest

from nstorm.data import Study, haxby_runs
from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.pool import _context, _empty_main
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.run_all import prepare
from nstorm.data.store.store import Store
from tests.data.preparation.stores import content_of, copied_study, flip_bit, keys_of, truncate
from tests.data.study.trees import write_image, write_study


def prepared(study, store, **options):
    return prepare(study, store, progress=False, **options)


def attempts(store):
    return {key: (record.attempt, record.arrays) for key, record in store.records.items()}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two runs and the store that they were prepared into; tests copy it."""
    folder = tmp_path_factory.mktemp("template")
    study = copied_study(folder / "runs", 2)
    prepared(study, folder / "store")
    return folder


@pytest.fixture
def two_runs(template, tmp_path):
    # with the times of the last change, by which a file is known
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    images = sorted((tmp_path / "runs").iterdir())
    study = Study({"image": str(image), "site": "Rutgers"} for image in images)
    return study, tmp_path / "store"


def test_a_store_has_the_runs_of_the_study(two_runs):
    study, path = two_runs
    store = Store(path)
    assert list(store) == keys_of(study)
    item = store.run_items()[0]
    assert (item["subject"], item["run"], item["site"], item["num_frames"]) == ("001", "01", "Rutgers", 121)
    assert len(os.listdir(path / "index")) == 1


def test_what_is_there_is_left_as_it_is(two_runs):
    study, path = two_runs
    before = attempts(Store(path))
    assert attempts(prepared(study, path)) == before
    os.utime(study[0]["image"])
    assert attempts(prepared(study, path)) == before


def test_what_is_not_there_is_added(two_runs):
    study, path = two_runs
    before = attempts(Store(path))
    more = shutil.copy(haxby_runs()[4].bold, path.parent / "runs")
    store = prepared([*study, {"image": more, "site": "Rutgers"}], path)
    assert len(store) == 3
    assert before.items() < attempts(store).items()


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_recipe_needs_a_word(two_runs, overwrite):
    study, path = two_runs
    before = attempts(Store(path))
    recipe = PRESETS["native"].but(dtype="float32")
    if overwrite:
        store = prepared(study, path, recipe=recipe, overwrite=True)
        assert {record.dtype for record in store.records.values()} == {"float32"}
        again = prepared(study, path, recipe=recipe)
        assert attempts(again) == attempts(store)
    else:
        with pytest.raises(ValueError, match=r"2 runs prepared in another way .*run-01, .*run-02.*overwrite=True"):
            prepared(study, path, recipe=recipe)
        assert attempts(Store(path)) == before


def test_a_file_that_has_changed_needs_a_word(two_runs):
    study, path = two_runs
    before = attempts(Store(path))
    shutil.copy(haxby_runs()[5].bold, study[1]["image"])
    with pytest.raises(ValueError, match=r"1 run prepared from files that have changed.*run-02\).*overwrite=True"):
        prepared(study, path)
    after = attempts(prepared(study, path, overwrite=True))
    first, second = keys_of(study)
    assert after[first] == before[first]
    assert after[second] != before[second]


def test_labels_alone_are_written_without_the_arrays(two_runs):
    study, path = two_runs
    before = Store(path).records
    changed = [{**item, "site": "Leipzig", "age": 24.5 if item["run"] == "01" else math.nan} for item in study]
    store = prepared(changed, path)
    assert [item["site"] for item in store.run_items()] == ["Leipzig", "Leipzig"]
    for key, record in store.records.items():
        assert record.attempt != before[key].attempt
        assert record.arrays == before[key].arrays
    # NaN is the same label as before
    assert attempts(prepared(changed, path)) == attempts(store)


def test_processes_do_what_this_process_does(tmp_path):
    study = copied_study(tmp_path / "runs", 4)
    truncate(study[1]["image"])
    for workers in (1, 2):
        with pytest.raises(PrepareError, match="1 run could not be prepared") as error:
            prepared(study, tmp_path / f"store-{workers}", workers=workers)
        assert study[1]["image"] in error.value.failures[0].reason
    assert len(content_of(tmp_path / "store-2")) == 3
    assert content_of(tmp_path / "store-2") == content_of(tmp_path / "store-1")


def test_workers_are_forks_where_a_socket_has_room_for_its_name(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for folder, method in (("/tmp", "forkserver"), ("/scratch/" + "x" * 90, "spawn")):
        monkeypatch.setattr("tempfile.tempdir", folder)
        assert _context().get_start_method() == method


def test_workers_do_not_run_the_script_of_the_caller():
    said = spawn.get_preparation_data("worker")
    assert any(name.startswith("init_main") for name in said)
    with _empty_main():
        said = spawn.get_preparation_data("worker")
    assert not any(name.startswith("init_main") for name in said)


def test_all_problems_are_listed_before_any_work(tmp_path):
    study = copied_study(tmp_path / "runs", 3)
    Path(study[0]["image"]).unlink()
    items = [dict(item) for item in study]
    items[1]["mask"] = str(tmp_path / "mask.nii")
    items[2]["run"] = "02"
    with pytest.raises(ValueError, match="problems before any work") as error:
        prepared(items, tmp_path / "store")
    for kind in ("image", "mask", "duplicate"):
        assert f"  {kind}: " in str(error.value)
    assert not Store(tmp_path / "store")


def test_problems_can_be_accepted_but_not_two_runs_of_one_name(tmp_path):
    study = Study(
        {"image": write_image(tmp_path / f"{number}.nii", tr=number), "subject": str(number)} for number in (1, 2)
    )
    with pytest.raises(ValueError, match="2 repetition times"):
        prepared(study, tmp_path / "store")
    assert len(prepared(study, tmp_path / "store", ignore=["tr"])) == 2
    # with a recipe that makes them one, there is nothing to accept
    assert len(prepared(study, tmp_path / "other", recipe=PRESETS["native"].but(tr=2.0))) == 2
    twice = [{**item, "subject": "1"} for item in study]
    with pytest.raises(ValueError, match=r"1 name of runs for more than one image \(sub-1\)"):
        prepared(twice, tmp_path / "third", ignore=["tr", "duplicate"])


def test_names_that_no_store_can_have_are_refused(tmp_path):
    image = write_image(tmp_path / "image.nii")
    with pytest.raises(ValueError, match=r"image.nii: a run cannot have the name 'sub-sss"):
        prepared([{"image": image, "subject": "s" * 300}], tmp_path / "store")


def test_a_study_may_be_a_folder_or_a_manifest(tmp_path):
    folder = write_study(tmp_path / "study", ["01"])
    ignore = ["confounds"]
    (tmp_path / "study" / "participants.tsv").write_text("participant_id\tage\nsub-01\t24\n")
    recipe = PRESETS["native"]
    store = prepared(folder, tmp_path / "store", recipe=recipe, ignore=ignore)
    assert [item["age"] for item in store.run_items()] == [24, 24]
    Study.from_bids(folder).to_manifest(tmp_path / "runs.tsv")
    other = prepared(tmp_path / "runs.tsv", tmp_path / "other", recipe=recipe, ignore=ignore)
    assert list(other) == list(store)
    with pytest.raises(FileNotFoundError, match="nowhere is not there: give a BIDS folder or a manifest"):
        prepared(tmp_path / "nowhere", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_parts_are_disjoint_and_complete(tmp_path):
    study = copied_study(tmp_path / "runs", 5)
    done = []
    for index in (1, 2, 3):
        store = prepared(study, tmp_path / "store", part=(index, 3))
        done.append(set(store) - set().union(*done))
    assert [len(part) for part in done] == [2, 2, 1]
    assert sorted(set().union(*done)) == keys_of(study)
    # more parts than runs
    assert len(prepared(study, tmp_path / "store", part=(6, 6))) == 5


def test_a_part_knows_of_duplicates_elsewhere(tmp_path):
    study = copied_study(tmp_path / "runs", 3)
    items = [*study, {**study[0], "image": study[1]["image"]}]
    with pytest.raises(ValueError, match=r"1 name of runs for more than one image \(.*run-01\)"):
        prepared(items, tmp_path / "store", part=(1, 2))


def test_a_failing_run_is_named_and_the_others_go_on(tmp_path):
    study = copied_study(tmp_path / "runs", 4)
    truncate(study[1]["image"])
    flip_bit(study[2]["image"])
    with pytest.raises(PrepareError, match="2 runs could not be prepared") as error:
        prepared(study, tmp_path / "store")
    failed = error.value
    assert list(failed.store) == [keys_of(study)[0], keys_of(study)[3]]
    assert failed.num_left == 0
    assert sorted(failure.key for failure in failed.failures) == keys_of(study)[1:3]
    for failure in failed.failures:
        assert failure.file in failure.reason
        assert str(failure) in str(failed)
    with open(failed.table, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["key"], row["image"]) for row in rows] == [(f.key, f.file) for f in failed.failures]
    # nothing of them is left
    assert {path.parent.name for path in (tmp_path / "store" / "runs").glob("*/*")} == set(failed.store)
    for number in (1, 2):
        shutil.copy(haxby_runs()[number].bold, study[number]["image"])
    assert list(prepared(study, tmp_path / "store")) == keys_of(study)
    # what a table lists can be read as a study
    assert len(Study.from_manifest(failed.table)) == 2


def test_strict_ends_at_the_first_failure(tmp_path):
    study = copied_study(tmp_path / "runs", 4)
    truncate(study[1]["image"])
    truncate(study[2]["image"])
    with pytest.raises(PrepareError, match=r"1 run could not be prepared(?s:.*)2 runs still to do") as error:
        prepared(study, tmp_path / "store", strict=True)
    assert [failure.key for failure in error.value.failures] == [keys_of(study)[1]]
    assert list(error.value.store) == keys_of(study)[:1]


def test_a_failure_leaves_the_run_as_it_was(two_runs):
    study, path = two_runs
    before = content_of(path)
    truncate(study[0]["image"])
    with pytest.raises(PrepareError):
        prepared(study, path, overwrite=True)
    assert content_of(path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"part": (0, 3)}, r"part is \(0, 3\)"),
        ({"part": (4, 3)}, r"part is \(4, 3\)"),
        ({"preset": "2mm"}, "preset is '2mm', but it has to be one of 'native', '4mm', 'published'"),
        ({"workers": 2, "scheduler": "tcp://here:1"}, "give one of the two"),
        ({"ignore": ["masks"]}, "ignore names 'masks'"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, options, message):
    study = [{"image": run.bold} for run in haxby_runs()[:1]]
    with pytest.raises(ValueError, match=message):
        prepared(study, tmp_path / "store", **options)


@pytest.mark.parametrize("recipe", [PRESETS["4mm"], PRESETS["native"].but(confounds="simple")], ids=str)
def test_runs_that_a_recipe_does_not_suit_are_listed_before_any_work(tmp_path, recipe):
    study = copied_study(tmp_path / "runs", 2)
    with pytest.raises(ValueError, match="the recipe does not suit 2 runs of the study") as error:
        prepared(study, tmp_path / "store", recipe=recipe)
    for item in study:
        assert f"\n  {item['image']} " in str(error.value)
    assert os.listdir(tmp_path / "store") == ["nstorm-store.json"]
    with pytest.raises(ValueError, match="does not suit 1 run of the study"):
        prepared(study, tmp_path / "store", recipe=recipe, part=(1, 2))


def test_a_folder_of_other_files_is_no_store(tmp_path):
    study = copied_study(tmp_path, 1)
    with pytest.raises(ValueError, match="holds other files"):
        prepared(study, tmp_path)


def test_dask_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    study = [{"image": run.bold} for run in haxby_runs()[:1]]
    with pytest.raises(ImportError, match=r"nstorm\[cluster\]"):
        prepared(study, tmp_path / "store", scheduler="tcp://127.0.0.1:8786")
