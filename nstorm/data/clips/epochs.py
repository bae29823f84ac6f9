"""Epochs of a dataset of clips, and the part of them that each process of a training gets."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.distributed
from torch.utils.data.distributed import DistributedSampler

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.draws import random_state


class EpochSampler(DistributedSampler[Any]):
    """Base of samplers that begin a new epoch, of their dataset too, each time they are iterated over.

    :meth:`set_epoch`, which MONAI's and ignite's engines call, says which epoch is next, for instance where a training
    is taken up again. The processes of a training that ``torchrun`` started, or that has a process group, each get a
    part of the epoch.

    Args:
        dataset: The clips.
        shuffle: Whether epochs differ.
        seed: Seed of the draws; the same in all processes.
        num_replicas: Number of processes. By default that of the training.
        rank: Number of this process. By default that in the training.

    Raises:
        ValueError: There are fewer clips than processes, or the dataset is a part of one, or several.
    """

    dataset: ClipDataset

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if num_replicas is None:
            num_replicas = _of_training("WORLD_SIZE", torch.distributed.get_world_size, 1)
        if rank is None:
            rank = _of_training("RANK", torch.distributed.get_rank, 0)
        if not isinstance(dataset, ClipDataset):
            raise ValueError(
                f"the dataset is a {type(dataset).__name__}, but these samplers begin the epochs of a ClipDataset: "
                "make one of the runs that you want, as ClipDataset(store, runs=...)"
            )
        if len(dataset) < num_replicas:
            raise ValueError(
                f"{len(dataset)} clips cannot be divided among {num_replicas} processes: give more runs, or a larger "
                "clips_per_run"
            )
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=seed)
        self._begun = False

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, here and in the dataset."""
        super().set_epoch(epoch)
        self._begun = False
        if self.shuffle:
            self.dataset.set_epoch(epoch)

    def begin(self) -> np.random.RandomState:
        """Begin an epoch, the one that was said or else the one after the last, and give what to draw it from."""
        self.set_epoch(self.epoch + self._begun)
        self._begun = True
        return random_state(type(self).__name__, self.seed, self.epoch)


def _of_training(name: str, ask: Callable[[], int], default: int) -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return ask()
    # torchrun's, where the process group is not there yet
    return int(os.environ.get(name, default))
