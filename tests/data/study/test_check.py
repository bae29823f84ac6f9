import gzip
import json
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from nstorm.data import Study, haxby_runs, load_mask
from nstorm.data.clips.items import run_of
from nstorm.data.study.problem import KINDS
from nstorm.data.study.report import Report
from tests.data.study.trees import SPACE, write_confounds, write_image, write_run, write_study, write_text


def problems(study, **options):
    return study.check(errors="report", progress=False, **options).problems


def only_problem(study, **options):
    (problem,) = problems(study, **options)
    return problem


@pytest.fixture
def folder(tmp_path):
    return write_study(tmp_path, ["01", "02", "03"])


def func(folder, subject="02"):
    return folder / f"sub-{subject}" / "func"


def stem(subject="02", run="01"):
    return f"sub-{subject}_task-rest_run-{run}_space-{SPACE}"


def test_a_study_without_a_problem(folder):
    report = Study.from_bids(folder).check(progress=False)
    assert isinstance(report, Report)
    assert report.problems == ()
    assert report.repetition_times == {2.0: 6}
    header = report.headers[str(func(folder) / f"{stem()}_desc-preproc_bold.nii")]
    assert (header.num_frames, header.tr, header.grid.shape) == (24, 2.0, (5, 4, 3))
    assert repr(report) == "6 readable runs, 144 frames, 0.1 h\nTR 2 s (6)\n0 problems"


def test_two_spaces_are_one_problem(tmp_path):
    folder = write_study(tmp_path, spaces=["space-T1w", f"space-{SPACE}_res-1", f"space-{SPACE}_res-2"])
    study = Study.from_bids(folder)
    problem = only_problem(study)
    assert problem.kind == "duplicate"
    assert len(problem.files) == 12
    assert f"in res '', '1', '2'; space '{SPACE}', 'T1w'" in problem.what
    assert problem.remedy == "choose one, as with where(res=..., space=...)"
    assert only_problem(study.where(space=SPACE)).remedy == "choose one, as with where(res=...)"
    assert problems(study.where(space=SPACE, res=2)) == ()
    assert problems(Study.from_bids(folder, space="T1w")) == ()


def test_two_images_of_one_name(tmp_path):
    study = Study({"image": write_image(tmp_path / f"{name}.nii"), "subject": "1"} for name in "ab")
    problem = only_problem(study)
    assert problem.kind == "duplicate"
    assert "tell them apart by session, task" in problem.remedy
    assert problems(Study({**item, "run": str(number)} for number, item in enumerate(study))) == ()


def test_an_image_of_two_subjects(tmp_path):
    image = write_image(tmp_path / "a.nii")
    problem = only_problem(Study({"image": image, "subject": subject} for subject in ("1", "2")))
    assert (problem.kind, problem.what, problem.files) == ("duplicate", "1 image listed more than once", (str(image),))


@pytest.mark.parametrize(
    ("missing", "kind"),
    [
        (f"{stem()}_desc-brain_mask.nii", "mask"),
        (f"{stem()}_desc-preproc_bold.json", "sidecar"),
        ("sub-02_task-rest_run-01_desc-confounds_timeseries.tsv", "confounds"),
    ],
)
def test_a_file_is_missing(folder, missing, kind):
    (func(folder) / missing).unlink()
    study = Study.from_bids(folder)
    problem = only_problem(study)
    assert (problem.kind, problem.files) == (kind, (str(func(folder) / f"{stem()}_desc-preproc_bold.nii"),))
    assert "leave these runs out" in problem.remedy
    assert problems(study, ignore=[kind]) == ()
    with pytest.raises(ValueError, match=rf"^1 problem before any work:\n  {kind}: 1 run with no .*_desc-preproc_bold"):
        study.check(progress=False)


def test_all_masks_are_missing(folder):
    for mask in folder.rglob("*mask.nii"):
        mask.unlink()
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, len(problem.files)) == ("mask", 6)


def test_events_of_a_task_that_has_them(folder):
    write_text(func(folder) / "sub-02_task-rest_run-01_events.tsv")
    write_run(func(folder), "sub-02_task-other")
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, len(problem.files)) == ("events", 5)


def test_a_file_that_a_manifest_names_is_not_there(tmp_path):
    image = write_image(tmp_path / "a.nii")
    for key in ("image", "mask", "confounds", "events", "sidecar"):
        absent = str(tmp_path / f"no {key}")
        problem = only_problem(Study([{"image": image, "subject": "1", key: absent}]))
        assert (problem.kind, problem.files) == (key, (absent,))
        assert "not there" in problem.what


def test_images_that_cannot_be_read(folder):
    damaged = func(folder) / f"{stem()}_desc-preproc_bold.nii"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    flat = func(folder, "01") / f"{stem('01')}_desc-preproc_bold.nii"
    write_image(flat, (5, 4, 3))
    found = problems(Study.from_bids(folder))
    assert [problem.kind for problem in found] == ["image", "image"]
    assert [problem.files for problem in found] == [(str(flat),), (str(damaged),)]
    assert "has shape (5, 4, 3), but a BOLD run has four axes" in found[0].remedy
    assert "is damaged or no NIfTI image" in found[1].remedy


def test_one_fault_of_many_images_is_one_problem(folder):
    for sidecar in folder.rglob("*preproc_bold.json"):
        sidecar.write_text("{}")
    for image in folder.rglob("sub-*preproc_bold.nii"):
        write_image(image, tr=0.0)
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, len(problem.files)) == ("image", 6)
    assert "has no repetition time" in problem.remedy
    assert problems(Study({**item, "tr": 2.0} for item in Study.from_bids(folder))) == ()


def test_a_link_to_nothing(folder):
    image = func(folder) / f"{stem()}_desc-preproc_bold.nii"
    image.unlink()
    image.symlink_to(folder / "annex")
    problem = only_problem(Study.from_bids(folder))
    assert problem.kind == "image"
    assert "datalad get" in problem.remedy


@pytest.mark.parametrize("damage", ["cut", "4D"])
def test_masks_that_cannot_be_read(folder, damage):
    mask = func(folder) / f"{stem()}_desc-brain_mask.nii"
    if damage == "cut":
        mask.write_bytes(gzip.compress(b""))
    else:
        write_image(mask)
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, problem.files) == ("mask", (str(mask),))


def test_repetition_times_that_differ(folder):
    image = func(folder) / f"{stem()}_desc-preproc_bold.nii"
    write_image(image, tr=2.5)
    image.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.5}))
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, problem.files) == ("tr", (str(image),))
    assert "2 s (5 runs), 2.5 s (1 run)" in problem.what
    with pytest.raises(ValueError, match="before any work"):
        Study.from_bids(folder).check(progress=False)
    assert Study.from_bids(folder).check(ignore={"tr"}, progress=False).repetition_times == {2.0: 5, 2.5: 1}


def test_grids_that_differ(folder):
    other = func(folder) / f"{stem()}_desc-preproc_bold.nii"
    write_image(other, spacing=4.0)
    smaller = func(folder, "01") / f"{stem('01')}_desc-preproc_bold.nii"
    write_image(smaller, (5, 4, 2, 24))
    # the same to 0.001 mm
    write_image(func(folder, "03") / f"{stem('03')}_desc-preproc_bold.nii", spacing=3.0001)
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, problem.files) == ("grid", (str(smaller), str(other)))
    assert problem.what == "2 runs on another grid than the 4 of 5x4x3 voxels of 3x3x3 mm"


def test_too_few_frames(folder):
    image = func(folder) / f"{stem()}_desc-preproc_bold.nii"
    write_image(image, (5, 4, 3, 19))
    write_confounds(func(folder) / "sub-02_task-rest_run-01_desc-confounds_timeseries.tsv", 19)
    problem = only_problem(Study.from_bids(folder))
    assert (problem.kind, problem.files) == ("frames", (str(image),))
    assert problems(Study.from_bids(folder), min_frames=19) == ()
    assert len(only_problem(Study.from_bids(folder), min_frames=25).files) == 6


def test_runs_without_a_subject(tmp_path):
    image = write_image(tmp_path / "a.nii")
    problem = only_problem(Study([{"image": image}]))
    assert (problem.kind, problem.files) == ("subject", (str(image),))


def test_labels_that_every_run_shall_have(folder):
    study = Study.from_bids(folder).join(pd.DataFrame({"subject": ["01", "02", "03"], "age": [1, None, 2], "sex": "F"}))
    assert problems(study) == ()
    problem = only_problem(study, labels=["age", "sex"])
    assert (problem.kind, problem.what, len(problem.files)) == ("label", "2 runs without age", 2)
    with pytest.raises(ValueError, match="labels names 'IQ', which no run has: choose among image"):
        study.check(labels=["IQ"], progress=False)


def test_everything_at_once_and_in_order(tmp_path):
    folder = write_study(tmp_path, ["01", "02", "03"], spaces=["space-T1w", f"space-{SPACE}"])
    write_image(func(folder) / f"{stem()}_desc-preproc_bold.nii", (5, 4, 3, 3), tr=1.0)
    (func(folder) / f"{stem()}_desc-preproc_bold.json").unlink()
    (func(folder) / f"{stem()}_desc-brain_mask.nii").unlink()
    (func(folder) / "sub-02_task-rest_run-02_desc-confounds_timeseries.tsv").unlink()
    write_text(func(folder) / "sub-02_task-rest_run-01_events.tsv")
    write_image(func(folder, "01") / f"{stem('01')}_desc-preproc_bold.nii", spacing=2.0)
    (func(folder, "03") / f"{stem('03')}_desc-preproc_bold.nii").write_text("no image")
    write_text(folder / "participants.tsv", "participant_id\tage\nsub-01\t1\nsub-99\t2\n")
    write_text(folder / "sub-04" / "anat" / "sub-04_T1w.nii")
    study = Study.from_bids(folder)
    found = [problem.kind for problem in problems(study)]
    # confounds that are missing and others of 3 frames, a subject without a run and a label without one
    assert found == sorted([*KINDS[1:], "confounds", "runs"], key=KINDS.index)
    with pytest.raises(ValueError, match=r"^13 problems before any work:") as error:
        study.check(progress=False)
    *lines, last = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == found
    assert last == f"To go on as it is, ignore: {', '.join(KINDS[1:-1])}"
    assert problems(study, ignore=KINDS) == ()


def test_long_lists_are_cut(tmp_path):
    runs = [{"image": write_text(tmp_path / f"{n:02d}.nii", f"{n}"), "subject": f"{n}"} for n in range(30)]
    for n, run in enumerate(runs):
        # every image has a fault of its own
        write_image(run["image"], (5, 4, 3, 24 + n)[: 3 - (n % 2)] if n < 2 else (2 + n, 3))
    found = problems(Study(runs))
    assert len(found) == 30
    with pytest.raises(ValueError, match="30 problems before any work") as error:
        Study(runs).check(progress=False)
    lines = str(error.value).splitlines()
    assert len(lines) == 23
    assert lines[-2].startswith("  and 10 more: check(errors='report')")
    many = Study({"image": f"/none/{n}.nii", "subject": f"{n}"} for n in range(5))
    assert str(only_problem(many)).startswith(
        "image: 5 files of image not there (/none/0.nii, /none/1.nii, /none/2.nii and 2 more)"
    )


def test_kinds_that_are_none(folder):
    with pytest.raises(ValueError, match="ignore names 'masks', but the kinds of problems are subject, duplicate"):
        Study.from_bids(folder).check(ignore=["masks"], progress=False)


def test_progress_in_a_terminal_and_not_in_a_log(capsys, monkeypatch):
    study = Study({"image": run.bold} for run in haxby_runs()[:2])
    study.check()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    study.check()
    assert "2/2" in capsys.readouterr().err
    study.check(progress=False)
    assert capsys.readouterr().err == ""


def test_files_that_were_not_fetched(folder):
    for kind in ("desc-preproc_bold.nii", "desc-preproc_bold.json", "desc-brain_mask.nii"):
        file = func(folder) / f"{stem()}_{kind}"
        file.unlink()
        file.symlink_to("../../.git/annex/objects/none")
    found = problems(Study.from_bids(folder))
    assert [problem.kind for problem in found] == ["image", "mask", "sidecar"]
    for problem in found:
        assert problem.what == f"1 file of {problem.kind} not fetched, links that lead nowhere"
        assert problem.remedy == "fetch them, as with datalad get"


def test_a_file_that_runs_share_is_named_once(tmp_path):
    folder = write_study(tmp_path, spaces=["space-T1w", f"space-{SPACE}_res-2"])
    (confounds,) = func(folder).glob("*run-01_desc-confounds_timeseries.tsv")
    write_confounds(confounds, 20)
    duplicate, problem = problems(Study.from_bids(folder))
    assert duplicate.remedy == "choose one, as with where(space=...)"
    assert (problem.what, problem.files) == ("1 confounds table of no use", (str(confounds),))


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("c.tsv", "x\ty\n" + "1\t2\n" * 24, 24),
        ("c.tsv", "x\ty\r\n" + "n/a\t2\r\n" * 23 + "1\t2", 24),
        ("c.csv", "1,2\n" * 24, 24),
        ("c.txt", "  1.0  -2e-3 \n" * 24 + "\n", 24),
        ("c.txt", "X Y\n" + "1 2\n" * 24, 24),
        ("c.tsv", "x\ty\n" + "1\t2\n" * 23, 23),
        ("c.txt", "1 2\n" * 25, 25),
        ("c.tsv", "x\n", 0),
        ("c.txt", "", 0),
    ],
)
def test_confounds_have_a_row_for_each_frame(tmp_path, name, text, rows):
    table = write_text(tmp_path / name, text)
    study = Study([{"image": write_image(tmp_path / "a.nii"), "subject": "1", "confounds": table}])
    if rows == 24:
        assert problems(study) == ()
    else:
        problem = only_problem(study)
        assert (problem.kind, problem.files) == ("confounds", (str(table),))
        assert f"{name} has {rows} rows for 24 frames" in str(problem)


def test_confounds_in_formats_of_which_rows_are_not_lines(tmp_path):
    table = write_text(tmp_path / "c.mat", "binary")
    assert problems(Study([{"image": write_image(tmp_path / "a.nii"), "subject": "1", "confounds": table}])) == ()


@pytest.mark.parametrize(("shift", "is_beside"), [(0, False), (13, False), (-10, False), (15.1, True), (-12.1, True)])
def test_masks_may_have_another_grid_but_not_lie_beside_the_run(tmp_path, shift, is_beside):
    # the run's voxels reach from -1.5 to 13.5 mm, the mask's from -1.5 to 10.5 mm before it is shifted
    image = write_image(tmp_path / "a.nii")
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (shift - 0.5, -0.5, -0.5)
    mask = nibabel.Nifti1Image(np.ones((6, 4, 3), np.uint8), affine)
    mask.to_filename(tmp_path / "m.nii")
    study = Study([{"image": image, "subject": "1", "mask": tmp_path / "m.nii"}])
    if is_beside:
        problem = only_problem(study)
        assert (problem.kind, problem.files) == ("mask", (str(tmp_path / "m.nii"),))
        assert "not in the same space" in problem.remedy
        with pytest.raises(ValueError, match="not in the same space"):
            load_mask(tmp_path / "m.nii", like=image)
    else:
        assert problems(study) == ()
        assert load_mask(tmp_path / "m.nii", like=image).any()


@pytest.mark.parametrize("key", ["mask", "confounds"])
def test_files_of_another_run(folder, key):
    runs = list(Study.from_bids(folder))
    shifted = [{**run, key: other[key]} for run, other in zip(runs, [*runs[1:], runs[0]], strict=True)]
    problem = only_problem(Study(shifted))
    assert (problem.kind, len(problem.files)) == (key, 6)
    assert "rows of a manifest are shifted" in problem.remedy


def test_a_mask_of_another_space_and_masks_of_all(folder):
    run = Study.from_bids(folder)[0]
    other = shutil.copy(run["mask"], run["mask"].replace(SPACE, "T1w"))
    assert only_problem(Study([{**run, "mask": other}])).kind == "mask"
    for name in ("mask.nii", "sub-01_desc-brain_mask.nii", f"tpl-{SPACE}_desc-brain_mask.nii"):
        assert problems(Study([{**run, "mask": shutil.copy(run["mask"], folder / name)}])) == ()


@pytest.mark.parametrize(
    ("versions", "filters", "remedy"),
    [
        (["echo-1", "echo-2"], {"echo": 1}, "combine the echoes with tedana, or choose one, as with where(echo=...)"),
        (["", "echo-1", "echo-2"], {"echo": ""}, "choose one, as with where(echo=''), the echoes combined"),
        (["part-mag", "part-phase"], {"part": "mag"}, "choose one, as with where(part='mag')"),
        (["", "part-phase"], {"part": ""}, "choose one, as with where(part='')"),
        (["rec-a", "rec-b"], {"rec": "b"}, "choose one, as with where(rec=...)"),
        (["hemi-L", "hemi-R"], {"hemi": "L"}, "choose one, as with where(hemi=...)"),
    ],
)
def test_versions_of_one_run(tmp_path, versions, filters, remedy):
    for version in filter(None, versions):
        write_image(tmp_path / "sub-1" / "func" / f"sub-1_task-rest_{version}_bold.nii")
    if "" in versions:
        write_image(tmp_path / "sub-1" / "func" / "sub-1_task-rest_bold.nii")
    study = Study.from_bids(tmp_path)
    problem = only_problem(study)
    assert (problem.kind, problem.remedy, len(problem.files)) == ("duplicate", remedy, len(versions))
    assert problems(study.where(**filters)) == ()


def test_fields_that_tell_images_of_one_run_apart(tmp_path):
    for name in ("REST1", "REST1_clean"):
        write_image(tmp_path / "7" / f"{name}.nii")
    study = Study.from_pattern(tmp_path, "{subject}/{task:REST1}{kind:.*}.nii")
    problem = only_problem(study)
    assert problem.what.endswith("in kind '', '_clean'")
    assert problem.remedy.endswith("or choose one, as with where(kind=...)")
    assert problems(study.where(kind="_clean")) == ()


def test_names_of_runs_are_never_shared(tmp_path):
    runs = [{"subject": "1", "task": "2"}, {"subject": "1_task-2"}, {"subject": "a/b"}, {"subject": "a=2Fb"}]
    study = Study({"image": write_image(tmp_path / f"{number}.nii"), **run} for number, run in enumerate(runs))
    assert [run_of(item) for item in study] == ["sub-1_task-2", "sub-1_task-2", "sub-a=2Fb", "sub-a=3D2Fb"]
    problem = only_problem(study)
    assert (problem.kind, len(problem.files)) == ("duplicate", 2)


def test_parts_of_a_study(tmp_path):
    folder = write_study(tmp_path, ["01", "02"])
    write_text(folder / "sub-03" / "anat" / "sub-03_T1w.nii")
    study = Study.from_bids(folder)
    assert only_problem(study).files == only_problem(study.where(task="rest")).files == ("sub-03",)
    assert problems(study[:2]) == problems(study.where(subject="02")) == ()
    problem = only_problem(study.where(subject=["sub-01", "04", 5], run=1))
    assert problem.files == ("sub-04", "sub-5")
    assert problem.what == "2 subjects without a run of run=1"


def test_what_a_study_lacks_is_warned_of_and_stops_nothing(tmp_path):
    folder = write_study(tmp_path)
    for image in folder.glob("sub-02/func/*_bold.nii"):
        image.unlink()
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-03\t50\n")
    study = Study.from_bids(folder)
    with pytest.warns(UserWarning, match="2 problems before any work") as caught:
        report = study.check(progress=False)
    assert [problem.files for problem in report.problems] == [("sub-02",), ("03",)]
    assert "sub-02" in str(caught[0].message)
    with pytest.raises(ValueError, match="sub-02"):
        study.check(min_frames=100, progress=False)
