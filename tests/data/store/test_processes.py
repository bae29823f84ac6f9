"""Stores and runs in the workers of a DataLoader."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nstorm.data.store.store import Store
from tests.data.store.runs import put

START = list(range(0, 40, 3))


class Clips(Dataset):
    def __init__(self, store, keep_open):
        self.store = store
        self.runs = dict(store.items()) if keep_open else store

    def __len__(self):
        return 2 * len(START)

    def __getitem__(self, index):
        run = self.runs[f"sub-{index % 2}"]
        start = START[index // 2]
        return run.read(start, start + 10, "zscore").as_tensor()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for number in (0, 1):
        put(store, f"sub-{number}", seed=number)
    store.refresh()
    return store


@pytest.mark.parametrize("keep_open", [False, True], ids=["opened anew", "kept open"])
def test_workers_that_are_forked_read_the_same(store, keep_open):
    clips = Clips(store, keep_open)
    # read before the fork: threads and what is open do not live through it
    expected = torch.stack([clips[index] for index in range(len(clips))])
    loader = DataLoader(clips, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert torch.equal(torch.stack(list(loader)), expected)


def test_threads_share_a_run(store):
    run = store["sub-0"]
    expected = run.read(normalize="zscore").as_tensor()
    fresh = store["sub-0"]
    barrier = threading.Barrier(4)

    def read(number):
        barrier.wait()
        return [fresh.read(start, start + 5, "zscore").as_tensor() for start in range(number, 40, 4)]

    with ThreadPoolExecutor(4) as threads:
        for number, clips in enumerate(threads.map(read, range(4))):
            for start, clip in zip(range(number, 40, 4), clips, strict=True):
                assert np.array_equal(clip, expected[..., start : start + 5])
