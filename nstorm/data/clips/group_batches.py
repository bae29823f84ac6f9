"""Batches of several clips of each of several subjects."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.epochs import EpochSampler
from nstorm.data.clips.groups import By, dealt, runs_by_group


class GroupBatchSampler(EpochSampler):
    """Batches of several clips of each of several groups, for contrastive learning.

    No group is twice in a batch, nor in the batches that the processes of a training have at the same time. The clips
    of a group follow each other in the batch. They come from different runs as far as it has them; random clips from
    the same run are drawn one by one, and may overlap.

    Give it to a loader as its ``batch_sampler``.

    Args:
        dataset: The clips.
        by: What makes a group: the key of a label, such as ``"subject"``, or a function of an item's labels.
        groups: Number of groups in a batch.
        clips: Number of clips of each.
        num_batches: Number of batches in an epoch, for each process. By default as many as the clips of the dataset
            fill.
        seed: Seed of the draws; the same in all processes.
        num_replicas: Number of processes. By default that of the training.
        rank: Number of this process. By default that in the training.

    Raises:
        ValueError: Clips have no such label, there are too few groups, or a number is below 1.

    Example:
        >>> import tempfile
        >>> from nstorm.data import ClipDataset, GroupBatchSampler, Study, haxby_runs, prepare
        >>> study = Study({"image": run.bold} for run in haxby_runs()[:4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = ClipDataset(prepare(study, folder, progress=False), 20)
        >>> list(GroupBatchSampler(clips, by="run", groups=2, clips=2, num_batches=2))
        [[(0, 0), (0, 1), (2, 0), (2, 1)], [(3, 0), (3, 1), (1, 0), (1, 1)]]
    """

    def __init__(
        self,
        dataset: ClipDataset,
        by: By = "subject",
        *,
        groups: int = 8,
        clips: int = 2,
        num_batches: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(dataset, seed=seed, num_replicas=num_replicas, rank=rank)
        self.groups = groups
        self.clips = clips
        self._groups = runs_by_group(dataset.data, by)
        at_once = groups * self.num_replicas
        if min(groups, clips, 1 if num_batches is None else num_batches) < 1:
            raise ValueError(f"groups is {groups}, clips {clips} and num_batches {num_batches}: give 1 or more of each")
        if len(self._groups) < at_once:
            processes = f" in each of {self.num_replicas} processes" * (self.num_replicas > 1)
            raise ValueError(
                f"a batch of {groups} groups{processes} needs {at_once} of them, but by {by!r} there are "
                f"{len(self._groups)}: give fewer groups"
            )
        self.num_batches = num_batches or max(1, len(dataset) // (at_once * clips))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = self.begin()
        decks = [[dealt(run, random) for run in runs] for runs in self._groups]
        drawn: Counter[int] = Counter()
        for batch in _batches(len(decks), self.groups * self.num_replicas, self.num_batches, random):
            given = []
            for group in batch:
                order = random.permutation(len(decks[group]))
                for clip in range(self.clips):
                    index = next(decks[group][order[clip % len(order)]])
                    given.append((index, drawn[index]))
                    drawn[index] += 1
            part = self.groups * self.clips
            yield given[self.rank * part : (self.rank + 1) * part]


def _batches(number: int, size: int, count: int, random: np.random.RandomState) -> Iterator[list[int]]:
    """Deal numbers to batches in rounds; those that no longer fill a batch wait for the next round."""
    per_round = number // size
    for batch in range(count):
        place = batch % per_round
        if place == 0:
            order = random.permutation(number).tolist()
        yield order[place * size : (place + 1) * size]
