from pathlib import Path

import numpy as np
import pytest

from nstorm.data.report.quality import NUMBERS
from nstorm.data.report.table import grid_names, quality_table
from nstorm.data.store.store import Store
from tests.data.report.fabricated import FAULTS, add_run, fabricated_store


def test_planted_faults_are_flagged_and_clean_runs_are_not(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 20, FAULTS)
    table = quality_table(store, progress=False)
    said = {key: [problem.split(": ")[0] for problem in problems] for key, problems in table["problems"].items()}
    assert all(not problems for key, problems in said.items() if key not in FAULTS)
    for fault, kind in FAULTS.items():
        assert kind in said[fault], fault


def test_numbers_of_a_run_that_was_not_measured_are_those_of_one_that_was(tmp_path: Path) -> None:
    measured, other = (fabricated_store(tmp_path / name, 3, measured=name == "yes") for name in ("yes", "no"))
    columns = [name for name in NUMBERS if "displace" not in name]
    expected = quality_table(measured, progress=False)
    found = quality_table(other, progress=False)
    # int8 and the values it stands for
    np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-2, atol=1e-3)
    assert found["framewise_displacement"].isna().all()
    assert expected["overlap"].tolist() == found["overlap"].tolist()


def test_overlap_is_the_dice_coefficient_with_the_mean_mask(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 4, ["shifted-mask"])
    masks = np.stack([run.mask for run in store.values()])
    usual = masks.mean(0) >= 0.5
    expected = [2 * (mask & usual).sum() / (mask.sum() + usual.sum()) for mask in masks]
    table = quality_table(store, progress=False)
    np.testing.assert_allclose(table["overlap"], expected)
    np.testing.assert_allclose(table["volume"], masks.sum((1, 2, 3)) * 8**3 / 1000)


def test_two_runs_have_no_mean_mask_and_nothing_is_flagged(tmp_path: Path) -> None:
    table = quality_table(fabricated_store(tmp_path, 2), progress=False)
    assert table["overlap"].isna().all()
    assert not any(table["problems"])


def test_runs_can_be_chosen(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 3)
    assert list(quality_table(store, ["sub-02", "sub-00"], progress=False).index) == ["sub-02", "sub-00"]
    with pytest.raises(KeyError, match="sub-09"):
        quality_table(store, ["sub-09"], progress=False)
    with pytest.raises(ValueError, match="no runs to look at"):
        quality_table(store, [], progress=False)


def test_a_run_that_cannot_be_read_says_so_and_the_others_are_there(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 3)
    chunk = next(Path(store["sub-01"].name, "numbers").rglob("c/*"))
    chunk.write_bytes(chunk.read_bytes()[:-3])
    table = quality_table(store, progress=False)
    (problem,) = table.at["sub-01", "problems"]
    assert problem.startswith("cannot be read: ")
    assert store["sub-01"].name in problem
    assert table["tsnr"].notna().tolist() == [True, False, True]


def test_an_object_store_is_read_likewise(tmp_path: Path) -> None:
    local = fabricated_store(tmp_path, 3)
    remote = Store("memory://report/study", create=True)
    for number, key in enumerate(local):
        add_run(remote, key, number, labels={"subject": f"{number:02d}"})
    remote.refresh()
    assert quality_table(remote, progress=False).equals(quality_table(local, progress=False))


def test_grids_that_differ_have_names_that_differ(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 1, ["flipped"])
    record = store.records["sub-00"]
    moved = (*record.affine[0][:3], 5.0), *record.affine[1:]
    other = type(record)(**{**vars(record), "affine": moved})
    names = list(grid_names([record, other, store.records["flipped"], record]).values())
    assert names == ["24 x 28 x 24 of 8 mm, RAS", "24 x 28 x 24 of 8 mm, RAS (2)", "24 x 28 x 24 of 8 mm, LAS"]
