import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.model_selection import StratifiedKFold

from nstorm.data import haxby_runs
from nstorm.data.clips.cut import strided_clips
from nstorm.data.clips.items import run_item, subject_of
from nstorm.data.splits.methods import (
    k_folds,
    leave_one_site_out,
    split_by_site,
    split_by_subject,
    split_runs_within_subject,
)


def make_items(num_subjects, runs=2, **labels):
    """Items of subjects 000, 001, ...; a label is a function of the subject's number."""
    return [
        {"image": f"{n}-{run}.nii", "subject": f"{n:03d}", "run": str(run)}
        | {key: label(n) for key, label in labels.items()}
        for n in range(num_subjects)
        for run in range(runs)
    ]


def holds_apart(split, items):
    """Every subject is in exactly one part, with all of its items."""
    parts = split.apply(items)
    subjects = [{subject_of(item) for item in part} for part in parts.values()]
    return all(not one & other for one, other in combinations(subjects, 2)) and sum(map(len, parts.values())) == len(
        items
    )


@given(
    classes=st.lists(st.sampled_from("abc"), min_size=60, max_size=90),
    test=st.floats(0.1, 0.4),
    seed=st.integers(0, 9),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_split_by_subject(classes, test, seed, order):
    few = {name for name, count in Counter(classes).items() if count < 12}
    classes = [name for name in classes if name not in few]
    if len(classes) < 12:
        return
    items = make_items(len(classes), group=lambda n: classes[n])
    fractions = {"train": 0.9 - test, "validation": 0.1, "test": test}
    split = split_by_subject(items, fractions, stratify="group", seed=seed)
    assert holds_apart(split, items)
    for part, share in fractions.items():
        assert abs(len(split[part]) - share * len(classes)) < 2
        found = Counter(classes[int(subject)] for subject in split[part])
        for name, count in Counter(classes).items():
            assert abs(found[name] - share * count) < 1 + 1e-9
    order.shuffle(items)
    assert split_by_subject(items, fractions, stratify="group", seed=seed) == split


def test_split_stays_as_it_is():
    """From another version of nstorm or a library, on another machine: the same subjects."""
    split = split_by_subject(make_items(20), seed=7)
    assert split["validation"] == ("005", "013", "016")
    assert split["test"] == ("001", "015", "018")


def test_parts_have_their_shares_exactly_where_they_can():
    for n in (20, 40, 100, 1000):
        split = split_by_subject(make_items(n, runs=1, sex=lambda n: "FM"[n % 4 == 0]), stratify="sex")
        assert [len(split[part]) for part in split.parts] == [0.7 * n, 0.15 * n, 0.15 * n]


def test_every_subject_is_tested_equally_often():
    items = make_items(10, runs=1)
    drawn = Counter(
        subject for seed in range(400) for subject in split_by_subject(items, {"a": 0.7, "b": 0.3}, seed=seed)["b"]
    )
    assert chisquare([drawn[f"{n:03d}"] for n in range(10)]).pvalue > 0.001
    assert split_by_subject(items, {"a": 0.7, "b": 0.3}, seed=1) != split_by_subject(
        items, {"a": 0.7, "b": 0.3}, seed=2
    )


@pytest.mark.parametrize(
    "age", [lambda n: 20 + (n * 7) % 60, lambda n: 20 + (n * 37 % 101) / 7], ids=["years", "decimals"]
)
def test_quantity_is_cut_at_its_quantiles(age):
    items = make_items(60, age=age)
    ages = np.array([age(n) for n in range(60)])
    bins = np.argsort(np.argsort(ages, kind="stable")) * 5 // 60
    for split in (split_by_subject(items, stratify="age"), *k_folds(items, 5, stratify="age")):
        counts = np.bincount(bins[[int(subject) for subject in split["test"]]], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_quantity_does_not_order_the_parts():
    items = make_items(50, runs=1, age=lambda n: n + 0.5)
    tested = Counter(
        subject
        for seed in range(200)
        for subject in split_by_subject(items, {"a": 0.8, "b": 0.2}, stratify="age", seed=seed)["b"]
    )
    assert chisquare([tested[f"{n:03d}"] for n in range(50)]).pvalue > 0.001


def test_quantity_of_a_small_study_is_cut_into_fewer_quantiles():
    items = make_items(12, age=lambda n: n + 0.5)
    split = split_by_subject(items, {"train": 0.75, "test": 0.25}, stratify="age")
    assert [int(subject) // 4 for subject in split["test"]] == [0, 1, 2]


def test_quantity_that_changes_between_sessions_enters_as_its_mean():
    items = make_items(12, age=lambda n: n + 0.5)
    changed = [{**item, "age": item["age"] + (40 if item["run"] == "1" else -40)} for item in items]
    assert split_by_subject(changed, {"a": 0.5, "b": 0.5}, stratify="age") == split_by_subject(
        items, {"a": 0.5, "b": 0.5}, stratify="age"
    )


def test_numbers_of_few_values_are_classes():
    split = split_by_subject(make_items(20, label=lambda n: int(n < 6)), {"a": 0.5, "b": 0.5}, stratify="label")
    assert sum(int(subject) < 6 for subject in split["a"]) == 3


@pytest.mark.parametrize("validation", [True, False])
def test_folds(validation):
    items = make_items(23)
    splits = k_folds(items, 5, validation=validation, seed=2)
    assert len(splits) == 5
    assert sorted(subject for split in splits for subject in split["test"]) == [f"{n:03d}" for n in range(23)]
    for index, split in enumerate(splits):
        assert holds_apart(split, items)
        assert len(split["test"]) in (4, 5)
        if validation:
            assert split["validation"] == splits[(index + 1) % 5]["test"]
        else:
            assert set(split.parts) == {"train", "test"}
    shuffled = random.Random(0).sample(items, len(items))
    assert k_folds(shuffled, 5, validation=validation, seed=2) == splits
    assert k_folds(items, 5, validation=validation, seed=3) != splits


def test_folds_are_as_even_as_those_of_scikit_learn():
    classes = np.array([0] * 31 + [1] * 17 + [2] * 6)
    items = make_items(len(classes), label=lambda n: f"class {classes[n]}")
    ours = [[int(subject) for subject in split["test"]] for split in k_folds(items, 5, stratify="label")]
    theirs = [test for _, test in StratifiedKFold(5, shuffle=True, random_state=0).split(classes, classes)]
    for name in range(3):
        found, expected = ([int((classes[fold] == name).sum()) for fold in folds] for folds in (ours, theirs))
        assert sorted(found) == sorted(expected)
    assert sorted(map(len, ours)) == sorted(map(len, theirs))


def test_sites_are_held_out_whole():
    items = make_items(12, site=lambda n: "ABCD"[n % 4])
    split = split_by_site(items, test=["C"], validation=["A"])
    assert holds_apart(split, items)
    sites = {part: {item["site"] for item in held} for part, held in split.apply(items).items()}
    assert sites == {"train": {"B", "D"}, "validation": {"A"}, "test": {"C"}}
    assert set(split_by_site(items, test=["C", "A"]).parts) == {"train", "test"}


def test_sites_may_be_numbers():
    # a column of a table with a gap somewhere holds decimals
    items = make_items(6, site=lambda n: (1, 2, 2.0)[n % 3])
    assert split_by_site(items, test=[2])["train"] == ("000", "003")


def test_each_site_is_left_out_once():
    items = make_items(40, site=lambda n: "ABCD"[n % 4])
    splits = leave_one_site_out(items, validation=0.2, seed=1)
    for site, split in zip("ABCD", splits, strict=True):
        assert holds_apart(split, items)
        parts = split.apply(items)
        assert {item["site"] for item in parts["test"]} == {site}
        assert site not in {item["site"] for part in ("train", "validation") for item in parts[part]}
        assert [len(split[part]) for part in split.parts] == [24, 6, 10]
    assert set(leave_one_site_out(items, validation=0.0)[0].parts) == {"train", "test"}
    assert leave_one_site_out(items[::-1], validation=0.2, seed=1) == splits
    assert leave_one_site_out(items, validation=0.2, seed=2) != splits


def test_runs_within_a_subject():
    items = [{**run_item(run.bold), "subject": subject} for subject in ("a", "b") for run in haxby_runs()]
    split = split_runs_within_subject(items, {"train": 0.5, "validation": 0.25, "test": 0.25}, seed=0)
    assert split.unit == "run"
    parts = split.apply(items)
    assert {part: Counter(item["subject"] for item in held) for part, held in parts.items()} == {
        "train": {"a": 6, "b": 6},
        "validation": {"a": 3, "b": 3},
        "test": {"a": 3, "b": 3},
    }
    assert split_runs_within_subject(items[::-1], {"train": 0.5, "validation": 0.25, "test": 0.25}) == split


def test_clips_are_split_with_their_runs():
    items = [run_item(run.bold) for run in haxby_runs()]
    split = split_runs_within_subject(items)
    clips = split.apply(strided_clips(items, 20))
    assert {part: len(held) for part, held in clips.items()} == {"train": 48, "validation": 12, "test": 12}
    assert split_runs_within_subject(strided_clips(items, 20)) == split


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: split_by_subject([]), "items is empty: give at least one", id="no items"),
        pytest.param(
            lambda: split_by_subject([{"image": "a.nii"}]),
            r"a\.nii has no subject: set item\['subject'\]",
            id="no subject",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(2)),
            r"the study has 2 subjects, too few for one in each of train \(0\.7\), validation \(0\.15\), test",
            id="few subjects",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(40, sex=lambda n: "FM"[n < 2]), stratify="sex"),
            r"sex 'M' has 2 subjects, too few for one in each of train \(0\.7\), .* join small classes",
            id="few of a class",
        ),
        pytest.param(
            lambda: k_folds(make_items(40, sex=lambda n: "FM"[n < 4]), 5, stratify="sex"),
            r"sex 'M' has 4 subjects, too few for one in each of fold 1 \(0\.2\), fold 2",
            id="few for the folds",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(40), stratify="sex"),
            r"40 of 40 subjects have an item without sex \(000, 001, 002, 003, 004 and 35 more\): add it, or leave",
            id="no label",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(40, age=lambda n: n if n else float("nan")), stratify="age"),
            r"1 of 40 subjects have an item without age \(000\)",
            id="NaN label",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(40, age=lambda n: n + 0.5 if n else np.float32("nan")), stratify="age"),
            r"1 of 40 subjects have an item without age \(000\)",
            id="NaN of 32 bits",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(40, sex=lambda n: ["n/a", "F", "M"][min(n, 2)]), stratify="sex"),
            r"1 of 40 subjects have an item without sex \(000\)",
            id="unknown label",
        ),
        pytest.param(
            lambda: split_by_subject(
                [*make_items(9, sex=lambda n: "F"), {"image": "x.nii", "subject": "004", "sex": "M"}], stratify="sex"
            ),
            r"the subject '004' has sex F and M: correct it, or give different people of one name",
            id="two labels",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(9), {"train": 0.7, "test": 0.2}),
            r"the fractions are \{'train': 0\.7, 'test': 0\.2\}, but they have to be positive and to sum to 1",
            id="sum",
        ),
        pytest.param(
            lambda: split_by_subject(make_items(9), {"train": 1.1, "test": -0.1}), "have to be positive", id="negative"
        ),
        pytest.param(lambda: split_by_subject(make_items(9), {}), r"the fractions are \{\}", id="no fractions"),
        pytest.param(
            lambda: k_folds(make_items(9), 2), "k is 2, but each part of a split takes a fold: give 3", id="k"
        ),
        pytest.param(lambda: k_folds(make_items(9), 1, validation=False), "k is 1, .* give 2 or more", id="one fold"),
        pytest.param(
            lambda: split_by_site(make_items(9), test=["A"]), "the subject '000' has no site: set item", id="no site"
        ),
        pytest.param(
            lambda: leave_one_site_out(make_items(9, site=lambda n: float("nan") if n == 3 else "AB"[n % 2])),
            "the subject '003' has no site: set item",
            id="NaN site",
        ),
        pytest.param(
            lambda: split_by_site(make_items(9, site=lambda n: "AB"[n % 2]), test=["C"]),
            "the site 'C' has no items: name some of A, B",
            id="unknown site",
        ),
        pytest.param(
            lambda: split_by_site(make_items(9, site=lambda n: "AB"[n % 2]), test=["A"], validation=["A"]),
            "the subject '000' is in 'validation' and in 'test': keep it in one",
            id="site named twice",
        ),
        pytest.param(
            lambda: split_by_site(make_items(9, site=lambda n: "AB"[n % 2]), test=["A", "B"]),
            "the part 'train' has no subject",
            id="no site to train on",
        ),
        pytest.param(
            lambda: leave_one_site_out(
                [*make_items(3, site=lambda n: "A"), {"image": "x.nii", "subject": "001", "site": "B"}]
            ),
            r"the subject '001' is at the sites A and B: if these are two people, .* such as B-001; if one, leave",
            id="subject at two sites",
        ),
        pytest.param(
            lambda: leave_one_site_out(make_items(9, site=lambda n: "A")), "all items are of the site A", id="one site"
        ),
        pytest.param(
            lambda: split_runs_within_subject(make_items(2, runs=2)),
            r"the subject '000' has 2 runs, too few for one in each of train",
            id="few runs",
        ),
    ],
)
def test_studies_that_cannot_be_split(call, message):
    with pytest.raises(ValueError, match=message):
        call()
