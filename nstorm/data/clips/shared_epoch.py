"""Which epoch a dataset is in, and whether a loader goes through it again and again without saying so."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

_NOT_YET, _FIRST = -2, -1


class SharedEpoch:
    """The number of an epoch, which a dataset has in common with the workers of its loaders.

    A loader that shuffles does not tell the dataset when an epoch begins. What it would silently get, the same clips in
    every epoch, is noticed here: clips come again, and each after another one than before. Where clips come again in
    the order in which they came before, as in an evaluation, they are meant to be the same.

    Args:
        num_clips: Number of clips of the dataset.
    """

    def __init__(self, num_clips: int) -> None:
        self._number = torch.zeros((), dtype=torch.int64)
        # by clips, which one a process asked for before
        self._before = torch.full((num_clips,), _NOT_YET, dtype=torch.int32)
        # how many came again after another one, and whether that was said; processes may miss counts of each other
        self._noticed = torch.zeros(2, dtype=torch.int64)
        self._last = _FIRST
        self._share()

    def __int__(self) -> int:
        return int(self._number)

    def begin(self, epoch: int) -> None:
        """Begin an epoch, here and in the workers, those that persist among them."""
        self._number.fill_(epoch)
        self._before.fill_(_NOT_YET)
        self._noticed[0] = 0

    def note(self, indices: Sequence[int]) -> None:
        """Note which clips a loader asks for, and warn once if half of them came again in another order."""
        before, noticed = self._before.numpy(), self._noticed.numpy()
        for index in indices:
            known = before[index]
            noticed[0] += known >= 0 and self._last >= 0 and known != self._last
            before[index] = self._last
            self._last = index
        if 2 * noticed[0] > len(before) and not noticed[1]:
            noticed[1] = 1
            warnings.warn(
                f"clips come again, in another order, with the draws of epoch {int(self)}: give the loader a "
                "ClipSampler in place of shuffle=True, or call the dataset's set_epoch before each epoch",
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._share()

    def _share(self) -> None:
        # of a copy nobody else knows
        for shared in (self._number, self._before, self._noticed):
            shared.share_memory_()
