"""Which clips an epoch has, and in which order."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.epochs import EpochSampler
from nstorm.data.clips.groups import By, dealt, runs_by_group


class ClipSampler(EpochSampler):
    """All clips of a dataset, once in an epoch.

    Args:
        dataset: The clips.
        shuffle: Whether each epoch has a new order, and new draws of random clips, as for training: if the clips cannot
            be divided evenly among the processes, the last ones of this order are left out. Otherwise all epochs have
            the same clips in their own order, as for evaluation: none is left out or counted twice, and processes may
            have one more or less than others.
        seed: Seed of the order; the same in all processes.
        num_replicas: Number of processes. By default that of the training.
        rank: Number of this process. By default that in the training.

    Raises:
        ValueError: There are fewer clips than processes.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import DataLoader
        >>> from nstorm.data import ClipDataset, ClipSampler, Study, haxby_runs, prepare
        >>> study = Study({"image": run.bold} for run in haxby_runs()[:3])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = ClipDataset(prepare(study, folder, progress=False), 20)
        ...     loader = DataLoader(clips, sampler=ClipSampler(clips))
        ...     for epoch in range(2):
        ...         print([(batch["run"][0], batch["start_frame"].item()) for batch in loader])
        [('03', 31), ('02', 101), ('01', 20)]
        [('01', 66), ('03', 96), ('02', 64)]
    """

    def __len__(self) -> int:
        return len(self._part(np.arange(len(self.dataset))))

    def __iter__(self) -> Iterator[int]:
        random = self.begin()
        number = len(self.dataset)
        return iter(self._part(random.permutation(number) if self.shuffle else np.arange(number)).tolist())

    def _part(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.shuffle:
            order = order[: len(order) // self.num_replicas * self.num_replicas]
        # a process gets what follows each other: clips of one run
        return np.array_split(order, self.num_replicas)[self.rank]


class BalancedSampler(EpochSampler):
    """Clips of all groups equally often, whatever the number of their runs, and of all runs of a group.

    An epoch deals in rounds: each group comes once in a round, each run once in a round of its group, each clip once in
    a round of its run. Random clips that come again are drawn anew.

    Args:
        dataset: The clips.
        by: What makes a group: the key of a label, such as ``"subject"`` or ``"site"``, or a function of an item's
            labels.
        num_samples: Number of clips in an epoch, of all processes together; rounded up to a multiple of the processes.
            By default the number of clips of the dataset.
        seed: Seed of the draws; the same in all processes.
        num_replicas: Number of processes. By default that of the training.
        rank: Number of this process. By default that in the training.

    Raises:
        ValueError: Clips have no such label, or ``num_samples`` is below 1.

    Example:
        >>> import tempfile
        >>> from nstorm.data import BalancedSampler, ClipDataset, Study, haxby_runs, prepare
        >>> study = Study({"image": run.bold, "site": site} for run, site in zip(haxby_runs(), "ABBB"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = ClipDataset(prepare(study, folder, progress=False), 20)
        >>> [clips.data[index]["site"] for index, draw in BalancedSampler(clips, by="site", num_samples=6)]
        ['A', 'B', 'A', 'B', 'B', 'A']
    """

    def __init__(
        self,
        dataset: ClipDataset,
        by: By = "subject",
        num_samples: int | None = None,
        *,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(dataset, seed=seed, num_replicas=num_replicas, rank=rank)
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}, but an epoch has one clip or more")
        self.num_samples = math.ceil((num_samples or len(dataset)) / self.num_replicas)
        self._groups = runs_by_group(dataset.data, by)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        clips = dealt(self._groups, self.begin())
        drawn: Counter[int] = Counter()
        for number in range(self.num_samples * self.num_replicas):
            index = next(clips)
            if number % self.num_replicas == self.rank:
                yield index, drawn[index]
            drawn[index] += 1
