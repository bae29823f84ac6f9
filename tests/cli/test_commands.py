"""The commands as one calls them, on a study of four tiny runs."""

import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

from nstorm.cli import COMMANDS, main
from nstorm.data import Store, Study, load_bold
from tests.data.store.published_files import write_frames_and_step
from tests.data.study.trees import write_image, write_study, write_text


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "fmriprep")


@pytest.fixture
def store(study: Path, tmp_path: Path) -> Path:
    path = tmp_path / "store"
    assert main(["prepare", str(study), str(path)]) == 0
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_every_command_explains_itself(command, capsys):
    name = command.__name__.rpartition(".")[2]
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"usage: nstorm {name}" in capsys.readouterr().out


def test_study_lists_runs_and_problems(study, tmp_path, capsys):
    assert main(["study", str(study), "--to-manifest", str(tmp_path / "runs.csv")]) == 0
    assert "Study of 4 runs of 2 subjects" in capsys.readouterr().out
    assert list(Study.from_manifest(tmp_path / "runs.csv").where(subject="02", run=1)) == [
        run for run in Study.from_bids(study) if run["subject"] == "02" and run["run"] == "01"
    ]

    next(study.glob("sub-02/func/*run-02*brain_mask.nii")).unlink()
    assert main(["study", str(study)]) == 1
    assert "mask: " in capsys.readouterr().out
    assert main(["study", str(study), "--ignore", "mask"]) == 0
    assert main(["study", str(study), "--subjects", "01"]) == 0


def test_prepare_makes_a_store_and_its_report(store, study, capsys):
    assert len(Store(store)) == 4
    assert "<html" in (store / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in store.rglob("c/*/*")}
    assert main(["prepare", str(study), str(store)]) == 0
    assert {path: path.stat().st_mtime_ns for path in store.rglob("c/*/*")} == before


def test_prepare_takes_what_is_done_with_a_run_from_the_command(study, tmp_path):
    path = tmp_path / "store"
    options = ["--tr", "1.0", "--dtype", "float32", "--dummy-scans", "2", "--subjects", "01", "--run", "2"]
    assert main(["prepare", str(study), str(path), *options]) == 0
    ((key, record),) = Store(path).records.items()
    assert (key, record.tr, record.dtype) == ("sub-01_task-rest_run-02", 1.0, "float32")


def test_prepare_goes_on_past_a_run_that_fails(study, tmp_path, capsys):
    broken = next(study.glob("sub-01/func/*run-01*_bold.nii"))
    broken.write_bytes(broken.read_bytes()[:-100])
    path = tmp_path / "store"
    assert main(["prepare", str(study), str(path), "--ignore", "image"]) == 1
    assert broken.name in capsys.readouterr().err
    assert len(Store(path)) == 3


def test_parts_of_a_study_make_one_store(study, tmp_path):
    path = tmp_path / "store"
    assert main(["prepare", str(study), str(path), "--part", "1/2"]) == 0
    assert len(Store(path)) == 2
    assert main(["prepare", str(study), str(path), "--part", "2/2"]) == 0
    assert len(Store(path)) == 4
    with pytest.raises(SystemExit):
        main(["prepare", str(study), str(path), "--part", "3/2"])


def test_verify_names_what_is_damaged(study, store, capsys):
    assert main(["verify", str(store)]) == 0
    chunk = next(store.glob("runs/*/*/bold/c/0/0"))
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    assert main(["verify", str(store)]) == 1
    damaged = chunk.parents[4].name
    assert damaged in capsys.readouterr().out
    # taken out, it is prepared again
    assert main(["verify", str(store), "--remove"]) == 1
    assert len(Store(store)) == 3
    assert main(["prepare", str(study), str(store)]) == 0
    assert main(["verify", str(store)]) == 0
    assert len(Store(store)) == 4


def test_export_and_report_and_clean(store, tmp_path, capsys):
    key = "sub-02_task-rest_run-01"
    assert main(["export", str(store), str(tmp_path / "nifti"), "--runs", "sub-2"]) == 2
    assert main(["export", str(store), str(tmp_path / "nifti"), "--runs", key]) == 0
    (image,) = (tmp_path / "nifti").rglob("*_bold.nii.gz")
    assert load_bold(image).shape == (24, 5, 4, 3)
    assert main(["report", str(store), "--out", str(tmp_path / "page.html")]) == 0
    assert "<html" in (tmp_path / "page.html").read_text()
    assert main(["clean", str(store), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(f"in {store}: 0 leftovers found\n")


@pytest.mark.parametrize("command", ["study", "prepare", "verify", "export", "report", "convert", "clean"])
def test_what_is_not_there_is_one_sentence(command, tmp_path, capsys):
    second = {"prepare": ["store"], "export": ["out"], "convert": ["store"]}.get(command, [])
    assert main([command, str(tmp_path / "nothing"), *(str(tmp_path / name) for name in second)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("nstorm: ")
    assert "\n" not in error
    assert "nothing" in error


def test_an_option_that_takes_the_store_too_says_so(study, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", str(study), "--task", "rest", str(tmp_path / "store")])
    assert "required: STORE (they come before the options)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("prepare", "--workers", "0"), ("prepare", "--dummy-scans", "-1"), ("verify", "--workers", "two")],
)
def test_counts_that_are_none(name, option, value, tmp_path, capsys):
    paths = [str(tmp_path)] * (1 + (name == "prepare"))
    with pytest.raises(SystemExit, match="2"):
        main([name, *paths, option, value])
    assert f"argument {option}: '{value}' is no count: give " in capsys.readouterr().err


def test_a_log_has_lines_and_no_bars(study, tmp_path, capsys):
    for _ in range(2):
        assert main(["prepare", str(study), str(tmp_path / "store")]) == 0
    written = capsys.readouterr()
    assert "\r" not in written.out + written.err
    lines = written.err.splitlines()
    assert all(line.startswith("prepare ") for line in lines)
    assert lines[-1] == "prepare 100%: 4 runs, all in the store already"


def test_a_report_that_cannot_be_written_leaves_the_runs_prepared(study, tmp_path, capsys):
    path = tmp_path / "store"
    assert main(["prepare", str(study), str(path), "--report", str(study)]) == 0
    assert f"nstorm: no report was written to {study}" in capsys.readouterr().err
    assert len(Store(path)) == 4
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path / "report.html")


def test_a_store_without_a_run_gets_no_report(study, tmp_path, capsys):
    path = tmp_path / "store"
    # frames of 2 s hold no such frequency
    assert main(["prepare", str(study), str(path), "--high-pass", "3"]) == 1
    assert "4 runs could not be prepared" in capsys.readouterr().err
    assert len(Store(path)) == 0
    assert not (path / "report.html").exists()


def test_a_part_says_how_the_report_is_made_and_makes_it_if_asked(study, tmp_path, capsys):
    path, page = tmp_path / "store", tmp_path / "page.html"
    assert main(["prepare", str(study), str(path), "--part", "1/2"]) == 0
    assert f"nstorm report {path}" in capsys.readouterr().out
    assert main(["prepare", str(study), str(path), "--part", "2/2", "--report", str(page)]) == 0
    assert page.exists()


@pytest.mark.filterwarnings("default")
def test_subjects_without_a_run_are_told_and_others_prepared(study, tmp_path, capsys):
    assert main(["prepare", str(study), str(tmp_path / "store"), "--subjects", "01", "77"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("nstorm: 1 problem before any work:\n  runs: 1 subject without a run")
    assert "(sub-77)" in error
    assert len(Store(tmp_path / "store")) == 2


def test_problems_say_what_would_ignore_them(study, tmp_path, capsys):
    for mask in study.glob("sub-*/func/*run-02*brain_mask.nii"):
        mask.unlink()
    write_text(study / "participants.tsv", "participant_id\tage\nsub-01\t3\n")
    assert main(["prepare", str(study), str(tmp_path / "store")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "To go on as it is, ignore: mask, label"
    assert main(["prepare", str(study), str(tmp_path / "store"), "--ignore", "mask", "label"]) == 0


def test_all_files_of_a_problem_are_named(study, capsys):
    masks = sorted(study.glob("sub-*/func/*brain_mask.nii"))
    for mask in masks:
        mask.unlink()
    for options, number in (([], 3), (["--all"], 7)):
        assert main(["study", str(study), *options]) == 1
        assert capsys.readouterr().out.count("_bold.nii") == number


def test_participants_that_cannot_be_joined_are_left_out(study, capsys):
    write_text(study / "participants.tsv", "participant_id\tage\nsub-01\t3\nsub-01\t4\n")
    assert main(["study", str(study)]) == 2
    assert "participants.tsv has more than one row for 01" in capsys.readouterr().err
    assert main(["study", str(study), "--no-participants"]) == 0


def test_a_manifest_is_replaced_if_asked(study, tmp_path, capsys):
    command = ["study", str(study), "--to-manifest", str(tmp_path / "runs.csv")]
    assert [main(command), main(command), main([*command, "--overwrite"])] == [0, 2, 0]
    assert main(["study", str(study), "--to-manifest", str(tmp_path / "runs.csv" / "runs.csv")]) == 2
    assert "Errno" not in capsys.readouterr().err


def test_another_desc(study):
    for image in study.glob("sub-*/func/*desc-preproc_bold.nii"):
        image.rename(image.with_name(image.name.replace("preproc", "denoised")))
    assert main(["study", str(study)]) == 2
    assert main(["study", str(study), "--desc", "denoised", "--ignore", "sidecar"]) == 0


def test_a_url_of_no_kind(capsys):
    assert main(["verify", "nowhere://bucket/store"]) == 2
    assert capsys.readouterr().err.startswith("nstorm: nowhere://bucket/store cannot be opened by fsspec: ")


def test_a_reader_that_has_enough_is_no_error(study):
    code = f"import sys; from nstorm.cli import main; sys.exit(main(['study', {str(study)!r}]))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_convert_takes_published_runs(tmp_path):
    frames = torch.arange(-60, 60).reshape(5, 2, 3, 4).to(torch.int8)
    for name in ("100307_REST1_LR", "100307_REST1_RL"):
        write_frames_and_step(tmp_path / "img" / name, frames, 0.1)
    like = write_image(tmp_path / "like.nii", (2, 3, 4, 5))
    path = tmp_path / "store"
    options = ["--pattern", "{subject}_{task}_{dir}/data.pt", "--like", str(like), "--tr", "0.72", "--part"]
    for part in ("1/2", "2/2"):
        assert main(["convert", str(tmp_path / "img"), str(path), *options, part]) == 0
    assert list(Store(path)) == ["sub-100307_task-REST1_dir-LR", "sub-100307_task-REST1_dir-RL"]
    assert {record.tr for record in Store(path).records.values()} == {0.72}
