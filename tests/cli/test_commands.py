"""The commands as one calls them, on a study of four tiny runs."""

from pathlib import Path

import pytest

from nstorm.cli import COMMANDS, main
from nstorm.data import Store, Study, load_bold
from tests.data.study.trees import write_study


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


def test_export_and_report_and_clean(store, tmp_path):
    key = "sub-02_task-rest_run-01"
    assert main(["export", str(store), str(tmp_path / "nifti"), "--runs", "sub-2"]) == 2
    assert main(["export", str(store), str(tmp_path / "nifti"), "--runs", key]) == 0
    (image,) = (tmp_path / "nifti").rglob("*_bold.nii.gz")
    assert load_bold(image).shape == (24, 5, 4, 3)
    assert main(["report", str(store), "--out", str(tmp_path / "page.html")]) == 0
    assert "<html" in (tmp_path / "page.html").read_text()
    assert main(["clean", str(store), "--dry-run"]) == 0


@pytest.mark.parametrize("command", ["study", "prepare", "verify", "export", "report", "convert", "clean"])
def test_what_is_not_there_is_one_sentence(command, tmp_path, capsys):
    second = {"prepare": ["store"], "export": ["out"], "convert": ["store"]}.get(command, [])
    assert main([command, str(tmp_path / "nothing"), *(str(tmp_path / name) for name in second)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("nstorm: ")
    assert "\n" not in error
    assert "nothing" in error
