import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.interfaces.bids import get_bids_files

from nstorm.data import Study, haxby_runs, load_confounds, strided_clips
from tests.data.fmriprep import write_derivatives
from tests.data.study.trees import SPACE, write_image, write_mask, write_run, write_study, write_text


def names(study: Study, key: str = "image") -> list[str]:
    return [Path(item[key]).name for item in study]


def test_runs_of_fmriprep(tmp_path):
    folder = write_study(tmp_path)
    study = Study.from_bids(folder)
    func = folder / "sub-02" / "func"
    stem = func / f"sub-02_task-rest_run-01_space-{SPACE}"
    assert len(study) == 4
    assert study.subjects == ("01", "02")
    assert study[2] == {
        "image": f"{stem}_desc-preproc_bold.nii",
        "subject": "02",
        "session": "",
        "task": "rest",
        "acquisition": "",
        "direction": "",
        "run": "01",
        "space": SPACE,
        "desc": "preproc",
        "mask": f"{stem}_desc-brain_mask.nii",
        "confounds": str(func / "sub-02_task-rest_run-01_desc-confounds_timeseries.tsv"),
        "sidecar": f"{stem}_desc-preproc_bold.json",
    }
    assert study.check(progress=False).repetition_times == {2.0: 4}


def test_finds_what_nilearn_finds(tmp_path):
    folder = write_study(tmp_path, spaces=("", "space-T1w", f"space-{SPACE}_res-2"))
    for space in ("T1w", SPACE):
        expected = get_bids_files(folder, "bold", "nii", filters=[("space", space), ("desc", "preproc")])
        expected = [path for path in expected if not Path(path).name.startswith(".")]
        assert sorted(item["image"] for item in Study.from_bids(folder, space=space)) == sorted(expected)
        assert len(expected) == 4


def test_what_fmriprep_writes_around_a_recording_can_be_used(tmp_path):
    func = tmp_path / "sub-001" / "func"
    func.mkdir(parents=True)
    write_derivatives(func)
    (item,) = Study.from_bids(tmp_path)
    assert load_confounds(item["image"]).values.shape[0] == 121
    assert Path(item["confounds"]).is_file()
    assert [clip["frames"][0] for clip in strided_clips(item, 20)] == [0, 20, 40, 60, 80, 100]


def test_masks_belong_to_the_space_and_the_resolution(tmp_path):
    spaces = ("", "space-T1w", f"space-{SPACE}", f"space-{SPACE}_res-2", f"space-{SPACE}_cohort-1_res-1")
    folder = write_study(tmp_path, ["1"], spaces=spaces)
    study = Study.from_bids(folder)
    assert len(study) == 10
    for item in study:
        assert item["mask"] == item["image"].replace("desc-preproc_bold", "desc-brain_mask")
    for wanted, number in (
        (("T1w", None), 2),
        (("", None), 2),
        ((SPACE, "2"), 2),
        ((SPACE, None), 6),
        ((SPACE, ""), 2),
    ):
        assert len(Study.from_bids(folder, space=wanted[0], res=wanted[1])) == number
    assert names(Study.from_bids(folder, space=SPACE, res=2, run=1)) == [
        f"sub-1_task-rest_run-01_space-{SPACE}_res-2_desc-preproc_bold.nii"
    ]


def test_sessions_acquisitions_and_directions(tmp_path):
    for session in ("a", "b"):
        for entities in ("task-rest_dir-LR", "task-rest_dir-RL", "task-nback_acq-mb8"):
            write_run(tmp_path / "sub-1" / f"ses-{session}" / "func", f"sub-1_ses-{session}_{entities}")
    study = Study.from_bids(tmp_path)
    found = [tuple(item[key] for key in ("session", "task", "acquisition", "direction")) for item in study]
    assert found == [
        *(("a", "nback", "mb8", ""), ("a", "rest", "", "LR"), ("a", "rest", "", "RL")),
        *(("b", "nback", "mb8", ""), ("b", "rest", "", "LR"), ("b", "rest", "", "RL")),
    ]
    assert all(Path(item["confounds"]).name.startswith(f"sub-1_ses-{item['session']}") for item in study)
    assert len(Study.from_bids(tmp_path, session="ses-b")) == 3
    assert len(Study.from_bids(tmp_path, session=["a", "b"], task="task-nback")) == 2
    assert study.check(progress=False).problems == ()


def test_other_descriptions(tmp_path):
    func = tmp_path / "sub-1" / "func"
    write_run(func, "sub-1_task-rest")
    write_image(func / f"sub-1_task-rest_space-{SPACE}_desc-smoothAROMAnonaggr_bold.nii")
    assert [item["desc"] for item in Study.from_bids(tmp_path)] == ["preproc"]
    assert [item["desc"] for item in Study.from_bids(tmp_path, desc=None)] == ["preproc", "smoothAROMAnonaggr"]
    (item,) = Study.from_bids(tmp_path, desc="smoothAROMAnonaggr")
    assert Path(item["mask"]).name == f"sub-1_task-rest_space-{SPACE}_desc-brain_mask.nii"


def test_echoes_share_mask_and_confounds(tmp_path):
    func = tmp_path / "sub-1" / "func"
    write_run(func, "sub-1_task-rest", [""])
    write_image(func / "sub-1_task-rest_echo-2_desc-preproc_bold.nii")
    combined, second = sorted(Study.from_bids(tmp_path), key=lambda item: item["echo"])
    assert (combined["echo"], second["echo"]) == ("", "2")
    assert combined["mask"] == second["mask"] != ""
    assert combined["confounds"] == second["confounds"] != ""


def test_confounds_of_an_old_fmriprep(tmp_path):
    folder = write_study(tmp_path, ["1"])
    for table in folder.rglob("*_timeseries.tsv"):
        table.rename(table.with_name(table.name.replace("timeseries", "regressors")))
    assert set(names(Study.from_bids(folder), "confounds")) == {
        f"sub-1_task-rest_run-0{run}_desc-confounds_regressors.tsv" for run in (1, 2)
    }


EVENTS = [
    ("01", "faces", "1", "sub-01/func/sub-01_task-faces_run-1_events.tsv"),
    ("01", "faces", "2", ""),
    ("01", "nback", "", "sub-01/sub-01_task-nback_events.tsv"),
    ("01", "rest", "", ""),
    ("02", "faces", "1", "sub-02/func/sub-02_task-faces_events.tsv"),
    ("02", "faces", "2", "sub-02/func/sub-02_task-faces_events.tsv"),
    ("02", "nback", "", "task-nback_events.tsv"),
    ("02", "rest", "", ""),
]


class TestRaw:
    @pytest.fixture
    def raw(self, tmp_path):
        folder = tmp_path / "raw"
        write_text(folder / "dataset_description.json", "{}")
        write_text(folder / "task-rest_bold.json", json.dumps({"RepetitionTime": 2.0}))
        write_text(folder / "task-nback_events.tsv")
        for subject in ("01", "02"):
            for task in ("rest", "nback", "faces_run-1", "faces_run-2"):
                write_image(
                    folder / f"sub-{subject}" / "func" / f"sub-{subject}_task-{task}_bold.nii.gz".replace(".gz", "")
                )
        write_text(folder / "sub-01" / "func" / "sub-01_task-faces_run-1_events.tsv")
        write_text(folder / "sub-01" / "sub-01_task-nback_events.tsv")
        write_text(folder / "sub-02" / "func" / "sub-02_task-faces_events.tsv")
        write_text(folder / "participants.tsv", "participant_id\tage\nsub-01\t20\nsub-02\tn/a\n")
        return folder

    def events(self, study: Study, raw: Path) -> list[tuple[str, ...]]:
        return [
            (
                *(item[key] for key in ("subject", "task", "run")),
                os.path.relpath(item["events"], raw) if "events" in item else "",
            )
            for item in study
        ]

    def test_runs_with_inherited_events_and_sidecars(self, raw):
        study = Study.from_bids(raw)
        assert self.events(study, raw) == EVENTS
        assert not {"mask", "confounds", "desc"} & study[0].keys()
        assert [bool(item["sidecar"]) for item in study] == [item["task"] == "rest" for item in study]
        assert [str(item["age"]) for item in study] == ["20.0"] * 4 + ["nan"] * 4

    @pytest.mark.parametrize("inside", [True, False])
    def test_events_of_derivatives_are_in_the_raw_tree(self, raw, tmp_path, inside):
        folder = raw / "derivatives" / "fmriprep" if inside else tmp_path / "elsewhere"
        for subject in ("01", "02"):
            for task in ("rest", "nback", "faces_run-1", "faces_run-2"):
                write_run(folder / f"sub-{subject}" / "func", f"sub-{subject}_task-{task}")
        study = Study.from_bids(folder, raw=None if inside else raw)
        assert self.events(study, raw) == EVENTS
        assert study[0]["age"] == 20.0
        # nothing else of the raw tree is taken for a derivative's
        assert all(str(folder) in item[key] for item in study for key in ("image", "mask", "confounds", "sidecar"))
        if not inside:
            assert "age" not in Study.from_bids(folder)[0]

    def test_a_hint_where_derivatives_are(self, raw):
        write_study(raw / "derivatives" / "fmriprep")
        message = r"has all of space='T1w', .*choose among space: ''.*, or give .*fmriprep, which has preprocessed"
        with pytest.raises(ValueError, match=message):
            Study.from_bids(raw, space="T1w")

    @pytest.mark.parametrize("name", ["derivatives/fmriprep", "derivatives"])
    def test_raw_runs_where_preprocessed_ones_may_be_meant(self, raw, name):
        write_text(raw / "derivatives" / "freesurfer" / "sub-01" / "mri" / "T1.mgz")
        options = {"errors": "report", "ignore": ["sidecar", "events", "label"], "progress": False}
        assert Study.from_bids(raw).check(**options).problems == ()
        write_run(raw / name / "sub-01" / "func", "sub-01_task-rest")
        (problem,) = Study.from_bids(raw).check(**options).problems
        assert (problem.kind, problem.files) == ("runs", (str(raw / name),))
        assert problem.what == f"8 raw runs of {raw}, which has preprocessed ones as well"
        assert Study.from_bids(raw)[2:3].check(**options).problems == (problem,)
        study = Study.from_bids(raw / name)
        assert (study[0]["age"], "mask" in study[0]) == (20, True)


def test_participants(tmp_path):
    folder = write_study(tmp_path / "study", ["01", "02", "03"])
    write_text(
        folder / "participants.tsv", "participant_id\tage\tsex\tsite\nsub-01\t20\tF\t01\nsub-02\t30.5\tn/a\t02\n"
    )
    labels = [(item["age"], item["sex"], item["site"]) for item in Study.from_bids(folder, run=1)]
    assert str(labels) == "[(20.0, 'F', '01'), (30.5, '', '02'), (nan, '', '')]"
    assert "age" not in Study.from_bids(folder, participants=False)[0]
    other = write_text(tmp_path / "other.csv", "Subject,score\n01,3\n02,4\n03,5\n")
    assert [item["score"] for item in Study.from_bids(folder, run=1, participants=other)] == [3, 4, 5]
    with pytest.raises(FileNotFoundError):
        Study.from_bids(folder, participants=tmp_path / "none.tsv")
    (folder / "participants.tsv").unlink()
    (folder / "participants.tsv").symlink_to("../.git/annex/objects/none")
    with pytest.raises(FileNotFoundError, match=r"participants\.tsv is not there: fetch it, as with datalad get"):
        Study.from_bids(folder)


def test_participants_without_labels_or_of_another_study(tmp_path):
    folder = write_study(tmp_path)
    table = write_text(folder / "participants.tsv", "participant_id\nsub-01\nsub-02\n")
    assert Study.from_bids(folder).check(progress=False).problems == ()
    with pytest.raises(ValueError, match=r"has no column but subject: .* \(participants=False joins no table\)"):
        Study.from_bids(folder, participants=table)
    table.write_text("participant_id\tage\nsub-1\t20\nsub-2\t20\n")
    with pytest.raises(ValueError, match=r"no row of .*participants\.tsv has the subject of a run: it has 1, 2, the"):
        Study.from_bids(folder)
    assert len(Study.from_bids(folder, participants=False)) == 4


def test_labels_of_sessions(tmp_path):
    for session in ("1", "2"):
        write_run(tmp_path / "sub-1" / f"ses-{session}" / "func", f"sub-1_ses-{session}_task-rest")
    write_text(tmp_path / "participants.tsv", "participant_id\tsession_id\tage\nsub-1\tses-1\t20\nsub-1\tses-2\t22\n")
    assert [item["age"] for item in Study.from_bids(tmp_path)] == [20, 22]


def test_subjects_that_are_wanted(tmp_path):
    folder = write_study(tmp_path, ["01", "02", "103"])
    for wanted in (["sub-01", "103"], ("01", 103), {"01", "103"}, lambda subject: subject != "02"):
        assert Study.from_bids(folder, subjects=wanted).subjects == ("01", "103")
    assert Study.from_bids(folder, subjects="02").subjects == ("02",)
    write_text(folder / "participants.tsv", "participant_id\tage\nsub-01\t20\nsub-02\t21\nsub-04\t22\n")
    # said once, although it is without a folder and has a row in the table
    (problem,) = Study.from_bids(folder, subjects=["01", "04"]).check(errors="report", progress=False).problems
    assert problem.files == ("sub-04",)


def test_subjects_without_a_run_are_reported(tmp_path):
    folder = write_study(tmp_path, ["01"])
    write_text(folder / "sub-02" / "anat" / "sub-02_T1w.nii")
    write_text(folder / "sub-03" / "func" / "sub-03_task-rest_desc-confounds_timeseries.tsv")
    (problem,) = (
        Study.from_bids(folder, subjects=["01", "02", "03", "04"]).check(errors="report", progress=False).problems
    )
    assert (problem.kind, problem.files) == ("runs", ("sub-02", "sub-03", "sub-04"))
    assert Study.from_bids(folder, subjects="01").check(progress=False).problems == ()


def test_every_folder_is_listed_once_and_no_other_one(tmp_path, monkeypatch):
    folder = write_study(tmp_path, [f"{number:03d}" for number in range(20)])
    listed = Counter()
    scandir = os.scandir

    def counting(path):
        listed[os.path.relpath(path, folder)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    assert len(Study.from_bids(folder, subjects=lambda subject: subject != "007")) == 38
    monkeypatch.undo()
    subjects = [f"sub-{number:03d}" for number in range(20) if number != 7]
    assert listed == Counter([".", *subjects, *(f"{subject}/func" for subject in subjects)])


def test_links_are_followed(tmp_path):
    folder = write_study(tmp_path / "real", ["1"])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "sub-1").symlink_to(folder / "sub-1")
    assert len(Study.from_bids(tmp_path / "linked")) == 2


def test_paths_are_absolute(tmp_path, monkeypatch):
    write_study(tmp_path, ["1"])
    monkeypatch.chdir(tmp_path)
    assert Study.from_bids(".")[0]["image"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"space": "MNI"}, rf"no run of .* has all of space='MNI', desc='preproc': choose among .*space: '{SPACE}'"),
        ({"task": "rset"}, r"choose among task: 'rest'; "),
        ({"run": 3}, r"run: '01', '02'"),
        ({"desc": "denoised"}, r"desc: 'preproc'"),
        (
            {"subjects": "99"},
            r"no image sub-.* of subject='99': choose among its subjects, 'sub-01', 'sub-02'; it has no",
        ),
        ({"session": "2"}, r"no image sub-.* of session='2': choose .*; it has no sessions"),
        ({"subjects": [f"{number:02d}" for number in range(50, 99)]}, r"of subject=\['50', '51', .*, \.\.\.\]: choose"),
    ],
)
def test_nothing_is_wanted(tmp_path, filters, message):
    with pytest.raises(ValueError, match=message):
        Study.from_bids(write_study(tmp_path), **filters)


class TestWrongFolders:
    @pytest.fixture
    def raw(self, tmp_path):
        raw = tmp_path / "ds"
        write_image(raw / "sub-01" / "func" / "sub-01_task-rest_bold.nii")
        write_study(raw / "derivatives" / "fmriprep", ["01"])
        return raw

    def test_it_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none is no folder: give one that holds the folders sub-"):
            Study.from_bids(tmp_path / "none")

    def test_a_file(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"runs\.csv is a file: give the folder that holds .* Study\.from_manifest"
        ):
            Study.from_bids(write_text(tmp_path / "runs.csv"))

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"give the folder that holds sub-\*; others, .* \(Study\.from_pattern\)"):
            Study.from_bids(tmp_path)

    def test_a_folder_above(self, raw):
        with pytest.raises(ValueError, match=rf"that holds sub-\*, such as '{raw}', '{raw}/derivatives/fmriprep'$"):
            Study.from_bids(raw.parent)
        with pytest.raises(ValueError, match=rf"that holds sub-\*, such as '{raw}/derivatives/fmriprep'$"):
            Study.from_bids(raw / "derivatives")

    @pytest.mark.parametrize("below", ["sub-01", "sub-01/func"])
    def test_the_folder_of_a_subject(self, raw, below, monkeypatch):
        message = f"it belongs to one subject, so give {raw}, and subjects='01' for it alone"
        with pytest.raises(ValueError, match=message):
            Study.from_bids(raw / below)
        monkeypatch.chdir(raw / below)
        with pytest.raises(ValueError, match=message):
            Study.from_bids(".")

    def test_sessions(self, tmp_path):
        write_run(tmp_path / "sub-1" / "ses-a" / "func", "sub-1_ses-a_task-rest")
        with pytest.raises(
            ValueError, match=r"of session='b': choose among its subjects, 'sub-1', and sessions, 'ses-a'$"
        ):
            Study.from_bids(tmp_path, session="b")

    def test_no_volumes(self, tmp_path):
        write_text(tmp_path / "sub-1" / "func" / "sub-1_task-rest_space-fsLR_den-91k_bold.dtseries.nii")
        with pytest.raises(ValueError, match=r"no volumes .* such as sub-1_.*dtseries\.nii: give one with volumes"):
            Study.from_bids(tmp_path)

    def test_an_image_that_is_not_named_by_bids(self, tmp_path):
        write_image(tmp_path / "sub-1" / "func" / "my_bold.nii")
        (problem,) = Study.from_bids(tmp_path).check(errors="report", progress=False).problems
        assert problem.kind == "subject"


label = st.text("abcXYZ019", min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    recordings=st.lists(
        st.fixed_dictionaries({"task": label}, optional={"acq": label, "dir": label, "run": st.integers(0, 99)}),
        min_size=1,
        max_size=5,
        unique_by=lambda entities: str(sorted(entities.items())).lower(),
    )
)
def test_any_names(tmp_path_factory, recordings):
    folder = tmp_path_factory.mktemp("study")
    for entities in recordings:
        name = "_".join(f"{key}-{value}" for key, value in entities.items())
        for ending in ("bold.nii", "bold.json"):
            write_text(folder / "sub-1" / "func" / f"sub-1_{name}_space-T1w_desc-preproc_{ending}")
        write_mask(folder / "sub-1" / "func" / f"sub-1_{name}_space-T1w_desc-brain_mask.nii")
    study = Study.from_bids(folder)
    expected = [{key: str(entities.get(key, "")) for key in ("task", "acq", "dir", "run")} for entities in recordings]
    keys = {"task": "task", "acq": "acquisition", "dir": "direction", "run": "run"}
    found = [{key: item[of_item] for key, of_item in keys.items()} for item in study]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert all(item["mask"] == item["image"].replace("preproc_bold", "brain_mask") for item in study)
    shutil.rmtree(folder)


def test_a_folder_of_one_dataset(tmp_path):
    shutil.copytree(haxby_runs()[0].bold.parent, tmp_path / "sub-001" / "func")
    study = Study.from_bids(tmp_path)
    assert len(study) == 12
    assert {Path(item["events"]).name for item in study} == {run.events.name for run in haxby_runs()}
    assert set(names(study, "sidecar")) == {"task-objectviewing_bold.json"}
