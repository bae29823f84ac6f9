from collections import Counter

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, Subset

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.group_batches import GroupBatchSampler
from nstorm.data.clips.samplers import BalancedSampler, ClipSampler
from nstorm.data.store.store import Store
from tests.data.clips.stores import make_store, write_stored

RUNS = {"01": 5, "02": 1, "03": 2, "04": 1, "05": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", RUNS)


@pytest.fixture(scope="module")
def clips(store):
    return ClipDataset(store, 5, clips_per_run=2, output="brain")


def subjects(clips, drawn):
    return [clips.data[index]["subject"] for index, _ in drawn]


@settings(max_examples=30, deadline=None)
@given(replicas=st.integers(1, 20), shuffle=st.booleans(), seed=st.integers(0, 5))
def test_processes_get_equal_or_all_clips_and_none_twice(clips, replicas, shuffle, seed):
    samplers = [ClipSampler(clips, shuffle=shuffle, seed=seed, num_replicas=replicas, rank=r) for r in range(replicas)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    every = [index for part in parts for index in part]
    assert len(set(every)) == len(every)
    if shuffle:
        assert {len(part) for part in parts} == {len(clips) // replicas}
    else:
        assert every == list(range(len(clips)))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_is_left_out_of_an_epoch_is_not_always_the_same(clips):
    sampler = [ClipSampler(clips, num_replicas=3, rank=rank) for rank in range(3)]
    left_out = [set(range(20)) - {index for part in sampler for index in part} for _ in range(10)]
    assert {len(left) for left in left_out} == {2}
    assert len(set(map(frozenset, left_out))) > 5


def test_orders_differ_by_epoch_and_seed_and_do_not_hang_on_torch(clips):
    orders = [list(ClipSampler(clips, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    sampler = ClipSampler(clips)
    torch.manual_seed(7)
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] == orders[0]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]
    assert list(sampler) == epochs[2]


def test_an_evaluation_has_the_same_clips_in_every_epoch(store):
    clips = ClipDataset(store, 5, output="brain")
    loader = DataLoader(clips, sampler=ClipSampler(clips, shuffle=False))
    first = [int(batch["start_frame"]) for batch in loader]
    assert first == [item["start_frame"] for item in clips]
    loader.sampler.set_epoch(4)
    assert [int(batch["start_frame"]) for batch in loader] == first


def test_engines_take_them_for_distributed_samplers(clips):
    for sampler in (ClipSampler(clips), BalancedSampler(clips), GroupBatchSampler(clips, groups=2)):
        assert isinstance(sampler, DistributedSampler)
        sampler.set_epoch(2)
        assert int(clips._epoch) == 2


def test_groups_come_equally_often_and_so_do_their_runs(clips):
    drawn = list(BalancedSampler(clips, num_samples=200))
    assert Counter(subjects(clips, drawn)) == dict.fromkeys(RUNS, 40)
    by_key = Counter(clips.data[index]["key"] for index, _ in drawn)
    assert {by_key[f"sub-01_task-rest_run-{run}"] for run in range(1, 6)} == {8}
    assert {by_key[f"sub-03_task-rest_run-{run}"] for run in (1, 2)} == {20}
    # no draw of a clip is given twice
    assert len(set(drawn)) == 200
    assert len(BalancedSampler(clips)) == len(clips)


def test_rounds_are_in_random_order(clips):
    order = subjects(clips, BalancedSampler(clips, num_samples=500))
    rounds = {tuple(order[start : start + 5]) for start in range(0, 500, 5)}
    assert all(sorted(one) == sorted(RUNS) for one in rounds)
    assert len(rounds) > 50


def test_balanced_by_a_label_or_a_function(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for number, site in enumerate("AAAAB"):
        write_stored(store, number, f"0{number}", site=site, age=20.0 + number)
    store.refresh()
    clips = ClipDataset(store, 5)
    by_site = Counter(clips.data[index]["site"] for index, _ in BalancedSampler(clips, by="site", num_samples=40))
    assert by_site == {"A": 20, "B": 20}
    by_age = BalancedSampler(clips, by=lambda item: item["age"] > 22.5, num_samples=40)
    assert Counter(clips.data[index]["age"] > 22.5 for index, _ in by_age) == {True: 20, False: 20}
    with pytest.raises(ValueError, match=r"sex of 5 runs is not known \(sub-00_task-rest_run-1, .*join"):
        BalancedSampler(clips, by="sex")
    with pytest.raises(ValueError, match="num_samples is 0"):
        BalancedSampler(clips, num_samples=0)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_balanced_parts_make_up_one_epoch(clips, replicas):
    whole = list(BalancedSampler(clips, num_samples=30, num_replicas=1, rank=0))
    parts = [list(BalancedSampler(clips, num_samples=30, num_replicas=replicas, rank=rank)) for rank in range(replicas)]
    assert {len(part) for part in parts} == {30 // replicas}
    assert sorted(draw for part in parts for draw in part) == sorted(whole)
    uneven = [BalancedSampler(clips, num_samples=31, num_replicas=2, rank=rank) for rank in range(2)]
    assert [len(list(sampler)) for sampler in uneven] == [16, 16]


def test_batches_of_groups(clips):
    sampler = GroupBatchSampler(clips, groups=3, clips=2, num_batches=40)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 40
    seen = Counter()
    for batch in batches:
        assert len(batch) == len(set(batch)) == 6
        of = subjects(clips, batch)
        assert of[0::2] == of[1::2]
        assert len(set(of)) == 3
        seen.update(of[0::2])
        keys = [clips.data[index]["key"] for index, _ in batch]
        # different runs, where there are
        assert all(
            (one != other) == (RUNS[subject] > 1)
            for one, other, subject in zip(keys[0::2], keys[1::2], of[0::2], strict=True)
        )
    assert min(seen.values()) > 10
    draws = [draw for batch in batches for draw in batch]
    assert len(set(draws)) == len(draws)


def test_clips_of_a_group_use_all_its_runs_before_one_again(clips):
    for batch in GroupBatchSampler(clips, groups=5, clips=3, num_batches=10):
        runs = [
            {clips.data[index]["key"] for index, _ in batch[start : start + 3]} for start in range(0, len(batch), 3)
        ]
        by_subject = dict(zip(subjects(clips, batch)[::3], map(len, runs), strict=True))
        assert by_subject == {"01": 3, "02": 1, "03": 2, "04": 1, "05": 1}


def test_batches_at_the_same_time_share_no_group(clips):
    parts = [GroupBatchSampler(clips, groups=2, num_batches=20, num_replicas=2, rank=rank) for rank in range(2)]
    for one, other in zip(*map(list, parts), strict=True):
        assert len(set(subjects(clips, one + other))) == 4
    assert len(GroupBatchSampler(clips, groups=2, clips=2, num_replicas=2, rank=0)) == 20 // 8


def test_too_few_groups_are_refused(clips):
    with pytest.raises(ValueError, match="a batch of 6 groups needs 6 of them, but by 'subject' there are 5"):
        GroupBatchSampler(clips, groups=6)
    with pytest.raises(ValueError, match="3 groups in each of 2 processes needs 6"):
        GroupBatchSampler(clips, groups=3, num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="clips 0"):
        GroupBatchSampler(clips, groups=2, clips=0)
    with pytest.raises(ValueError, match="20 clips cannot be divided among 21 processes"):
        ClipSampler(clips, num_replicas=21, rank=0)


def test_parts_of_a_dataset_are_refused(clips, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for sampler in (ClipSampler, BalancedSampler, GroupBatchSampler):
        with pytest.raises(ValueError, match=r"a Subset, but these samplers .* make one of the runs that you want"):
            sampler(Subset(clips, range(5)))
