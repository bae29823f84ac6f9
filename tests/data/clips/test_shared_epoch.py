"""Whoever shuffles without saying when an epoch begins hears of it, and nobody else."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.samplers import BalancedSampler, ClipSampler
from nstorm.data.clips.shared_epoch import SharedEpoch
from nstorm.data.transforms.rand_intensity import RandBOLDNoised
from tests.data.clips.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", {"01": 2, "02": 2, "03": 2})


def shuffled(clips, workers=0, **about):
    about = {"shuffle": True, "batch_size": 4} | about
    return DataLoader(clips, num_workers=workers, generator=torch.Generator().manual_seed(0), collate_fn=list, **about)


def go_through(loader, epochs, begin=lambda epoch: None):
    for epoch in range(epochs):
        begin(epoch)
        for _ in loader:
            pass


@pytest.mark.parametrize("batch_size", [1, 4])
def test_shuffling_without_set_epoch_warns_once(store, batch_size):
    loader = shuffled(ClipDataset(store, 5, clips_per_run=5), batch_size=batch_size)
    go_through(loader, 1)
    with pytest.warns(UserWarning, match=r"clips come again.* epoch 0: give the loader a ClipSampler") as warned:
        go_through(loader, 3)
    assert len(warned) == 1


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_notice_together(store, persistent):
    loader = shuffled(ClipDataset(store, 5, clips_per_run=5), 2, persistent_workers=persistent)
    # what a worker warns of is seen where it is an error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="clips come again"):
            go_through(loader, 3)
        go_through(loader, 2)


def test_random_transforms_and_parts_count_too(store):
    noise = Compose([RandBOLDNoised("image", std_range=(0.5, 1.0))])
    for clips in (
        ClipDataset(store, 5, stride=5, transform=noise),
        Subset(ClipDataset(store, 5, clips_per_run=8), range(40)),
    ):
        with pytest.warns(UserWarning, match="clips come again"):
            go_through(shuffled(clips), 3)


def test_who_says_so_or_wants_the_same_hears_nothing(store):
    random = ClipDataset(store, 5, clips_per_run=5)
    plain = Lambdad("image", torch.square)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_through(shuffled(random), 4, random.set_epoch)
        go_through(shuffled(random, 2, persistent_workers=True), 4, random.set_epoch)
        for sampler in (ClipSampler(random), BalancedSampler(random)):
            go_through(shuffled(random, shuffle=False, sampler=sampler), 4)
        # always the same, in any order
        go_through(shuffled(ClipDataset(store, 5, stride=2, transform=Compose([plain]))), 3)
        # an evaluation, of a part in an order of its own too
        part = Subset(ClipDataset(store, 5, clips_per_run=5), torch.randperm(30).tolist())
        for workers in (0, 2):
            go_through(shuffled(part, workers, shuffle=False, batch_size=3, persistent_workers=workers > 0), 6)
        # by hand
        for index in np.random.RandomState(0).randint(0, 30, 200):
            random[int(index)]
        # one epoch with repetitions
        random.set_epoch(9)
        go_through(shuffled(random, shuffle=False, sampler=WeightedRandomSampler([1.0] * 30, 30)), 1)


def test_a_copy_counts_for_itself():
    epoch = SharedEpoch(4)
    epoch.begin(3)
    epoch.note([0, 1, 2, 3])
    copied = pickle.loads(pickle.dumps(epoch))
    epoch.note([3, 1, 0])
    assert int(copied) == 3
    with pytest.warns(UserWarning, match="epoch 3"):
        epoch.note([2])
    copied.note([0, 1, 2, 3])
