import re

import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset, ThreadDataLoader
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from nstorm.data import haxby_runs, load_bold
from nstorm.data.clips.cut import strided_clips
from nstorm.data.clips.items import run_item
from nstorm.data.splits.leakage import check_leakage
from nstorm.data.splits.methods import k_folds, split_runs_within_subject


def item(subject, run="1", image=None):
    return {"image": image or f"{subject}-{run}.nii", "subject": subject, "run": run}


def test_parts_that_share_nothing():
    check_leakage(train=[item("a"), item("a", "2")], validation=[item("b")], test=[item("c")])
    check_leakage(train=[item("a"), item("b", "2")], test=[item("a", "2"), item("b")], unit="run")


@pytest.mark.parametrize(
    ("train", "test", "unit", "message"),
    [
        pytest.param(
            [item("a"), item("a", "2"), item("b")],
            [item("sub-a", "3"), item("c")],
            "subject",
            "train and test share 1 subject (a; 2 items of train, 1 of test): split by subject",
            id="subject",
        ),
        pytest.param(
            [item(n) for n in range(9)],
            [item(str(n), "2") for n in range(9)],
            "subject",
            "train and test share 9 subjects (0, 1, 2, 3, 4 and 4 more; 9 items",
            id="subjects",
        ),
        pytest.param(
            [item("a", "1", "x.nii")],
            [item("a", "1", "y.nii")],
            "run",
            "train and test share 1 run (sub-a_run-1; 1 items of train, 1 of test): split with",
            id="run",
        ),
        pytest.param(
            [item("a", image="same.nii")], [item("b", image="./same.nii")], "subject", "share 1 file (/", id="file"
        ),
        pytest.param(
            [item("a", "1", "same.nii")], [item("a", "2", "same.nii")], "run", "share 1 file (/", id="file of runs"
        ),
    ],
)
def test_parts_that_share_something(train, test, unit, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_leakage(train=train, test=test, unit=unit)
    with pytest.raises(ValueError, match="validation and test share"):
        check_leakage(train=[item("other")], validation=train, test=test, unit=unit)


def test_links_to_one_file_are_one_file(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "b.nii").symlink_to(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"share 1 file \(.*a\.nii;"):
        check_leakage(train=[item("a", image=str(tmp_path / "a.nii"))], test=[item("b", image=tmp_path / "b.nii")])


def test_clips_of_runs_in_memory():
    first, second = (strided_clips(load_bold(run.bold), 20) for run in haxby_runs()[:2])
    check_leakage(train=first, test=second, unit="run")
    renamed = [{**clip, "subject": "other"} for clip in first]
    with pytest.raises(ValueError, match=r"share 1 file \(.*run-01_res-1slice_bold\.nii\.gz; 3 items of train"):
        check_leakage(train=first[:3], test=renamed[3:])
    nameless = {"image": torch.zeros(1, 2, 3, 4, 5)}
    check_leakage(train=[{**nameless, "subject": "a"}], test=[{**nameless, "subject": "b"}])


def test_splits_pass():
    runs = [run_item(run.bold) for run in haxby_runs()]
    parts = split_runs_within_subject(runs).apply(strided_clips(runs, 20))
    check_leakage(**parts, unit="run")
    with pytest.raises(ValueError, match="train and validation share 1 subject"):
        check_leakage(**parts)
    study = [item(f"{n}", run) for n in range(20) for run in "12"]
    for split in k_folds(study, 4):
        check_leakage(**split.apply(study))


def fail(_):
    raise AssertionError("a transform was run")


@pytest.mark.parametrize(
    "kind", ["Dataset", "CacheDataset", "PersistentDataset", "Subset", "Concat", "DataLoader", "threads"]
)
def test_datasets_and_loaders(kind, tmp_path):
    def wrap(items):
        match kind:
            case "CacheDataset":
                return CacheDataset(items, fail, cache_num=0)
            case "PersistentDataset":
                return PersistentDataset(items, fail, cache_dir=tmp_path)
            case "Subset":
                return Subset(Dataset([item("other"), *items], fail), range(1, len(items) + 1))
            case "Concat":
                return ConcatDataset([Dataset(items[:1], fail), Dataset([*items[1:], item("z" + items[0]["subject"])])])
            case "DataLoader":
                return DataLoader(Dataset(items, fail), batch_size=2)
            case "threads":
                return ThreadDataLoader(Dataset(items, fail), batch_size=2, num_workers=0)
            case _:
                return Dataset(items, fail)

    check_leakage(train=wrap([item("a"), item("b")]), test=wrap([item("c")]))
    with pytest.raises(ValueError, match="train and test share 1 subject"):
        check_leakage(train=wrap([item("a"), item("b")]), test=wrap([item("c"), item("b")]))


@pytest.mark.parametrize(
    "data",
    [
        [],
        TensorDataset(torch.zeros(3)),
        ConcatDataset([Dataset([item("b")]), TensorDataset(torch.zeros(3))]),
        torch.zeros(3),
        iter([item("b")]),
    ],
)
def test_what_cannot_be_checked(data):
    with pytest.raises(ValueError, match="test shows no items that could be checked"):
        check_leakage(train=[item("a")], test=data)


def test_bad_arguments():
    with pytest.raises(ValueError, match="unit is 'clip', but what is held apart is one of subject, run"):
        check_leakage(train=[item("a")], test=[item("b")], unit="clip")
    with pytest.raises(ValueError, match=r"b\.nii has no subject"):
        check_leakage(train=[item("a")], test=[{"image": "b.nii"}])
