"""A loader that goes on in the middle of an epoch."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from nstorm.workflows.resuming.differences import refuse_differences
from nstorm.workflows.resuming.random_states import random_states_aside, set_state, state_of
from nstorm.workflows.resuming.shielded_worker import ShieldedWorker


class ResumableLoader:
    """Batches of a loader that can be continued at any batch, in the same order, without reading those before.

    Whatever makes the order of an epoch is told its number, counted from 1: the sampler, the batch sampler, and the
    dataset, as far as they have `set_epoch`. What they draw from global generators when an epoch begins, as the
    loader's `shuffle=True` does, comes from one number drawn before; so that an epoch costs these generators one draw,
    however the loader works.

    To continue, samplers are gone through to where the epoch was. Batches that come from anything but a sampler, such
    as a list or an `IterableDataset`, are passed over one by one.

    What cannot be continued exactly: samplers that draw from a global generator later than at their start, and
    datasets that draw from global generators in the workers of a loader. `nstorm.data.ClipDataset` draws from a
    seed, the epoch and the index, and is continued exactly with any number of workers.

    Args:
        loader: a loader of PyTorch or MONAI, or batches in a list. It is left as it is.

    Attributes:
        epoch: the epoch that is gone through, counted from 1; 0 before the first.
        batch: batches of it that were given.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from nstorm.workflows import ResumableLoader
        >>> def loader():
        ...     return ResumableLoader(DataLoader(torch.arange(8), batch_size=2, shuffle=True))
        >>> first, again = loader(), loader()
        >>> batches = iter(first)
        >>> next(batches).shape
        torch.Size([2])
        >>> again.load_state_dict(first.state_dict())
        >>> rest = [batch.tolist() for batch in again]
        >>> len(rest), rest == [batch.tolist() for batch in batches]
        (3, True)
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._indices: _Skipping | None = None
        if isinstance(loader, DataLoader):
            self._loader = clone = copy.copy(loader)
            # a loader refuses to change these once it is made, but this copy has not begun
            given = vars(clone)
            given["worker_init_fn"] = ShieldedWorker(loader.worker_init_fn)
            if not isinstance(loader.dataset, IterableDataset):
                name = "sampler" if loader.batch_sampler is None else "batch_sampler"
                given[name] = self._indices = _Skipping(given[name])
        self._ordering = _ordering(loader)
        self._generators = [part.generator for part in self._ordering if _has_generator(part)]
        self.epoch = self.batch = 0
        self._seed = 0
        self._starts: list[Any] = []
        self._goes_on = False

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Go through the next epoch, or through the rest of the one that was loaded."""
        if self._goes_on and self.batch >= self._identity().get("batches", self.batch + 1):
            self._end_epoch()
        if not self._goes_on:
            self.epoch, self.batch = self.epoch + 1, 0
            self._seed = int(torch.empty((), dtype=torch.int64).random_())
            self._starts = list(map(state_of, self._generators))
        self._goes_on = False
        self._begin_epoch()
        with random_states_aside(self._seed):
            if self._indices is not None:
                self._indices.begin(self.batch, self._seed + 1, self._generators, self._starts)
            batches = iter(self._loader)
            if self._indices is None:
                for _ in islice(batches, self.batch):
                    pass
        for batch in batches:
            self.batch += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Which batch is next, and what the order of this epoch was drawn from."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seed": self._seed,
            "generators": list(self._starts),
            "data": self._identity(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another loader like this one was.

        Raises:
            ValueError: if it has other data, or goes through them differently; it says in what.
        """
        refuse_differences("the state is that of another loader", state_dict["data"], self._identity())
        self.epoch, self.batch = state_dict["epoch"], state_dict["batch"]
        self._seed, self._starts = state_dict["seed"], state_dict["generators"]
        self._goes_on = self.epoch > 0

    def _begin_epoch(self) -> None:
        from nstorm.data.clips.epochs import EpochSampler

        *before, dataset = self._ordering
        samplers = [part for part in before if hasattr(part, "set_epoch")]
        for sampler in samplers:
            sampler.set_epoch(self.epoch)
        # nstorm's own samplers begin the epochs of their dataset, or mean not to
        if hasattr(dataset, "set_epoch") and not any(isinstance(sampler, EpochSampler) for sampler in samplers):
            dataset.set_epoch(self.epoch)

    def _end_epoch(self) -> None:
        """Bring generators that samplers draw from to where an epoch that is over left them."""
        self._goes_on = False
        if self._indices is not None and self._generators:
            self._begin_epoch()
            self._indices.begin(self.batch, self._seed + 1, self._generators, self._starts)
            for _ in self._indices:
                pass

    def _identity(self) -> dict[str, Any]:
        """What has to be the same for the same batches."""
        found: dict[str, Any] = {}
        for name, value in (("batches", self._loader), ("items", self._ordering[-1])):
            try:
                found[name] = len(value)  # type: ignore[arg-type]
            except TypeError:
                continue
        for part in self._ordering:
            for attribute in ("seed", "shuffle", "batch_size"):
                value = getattr(part, attribute, None)
                if isinstance(value, int | str):
                    found[f"{attribute} of {type(part).__name__}"] = value
        return found


class _Skipping:
    """A sampler whose first indices are passed over."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self._sampler = sampler
        self.begin(0, 0, (), ())

    def begin(self, skip: int, seed: int, generators: Sequence[torch.Generator], starts: Sequence[Any]) -> None:
        self._skip, self._seed, self._generators, self._starts = skip, seed, generators, starts

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        with random_states_aside(self._seed):
            # a loader may have drawn the seed of its workers from them since
            for generator, start in zip(self._generators, self._starts, strict=True):
                set_state(generator, start)
            indices = iter(self._sampler)
            # up to the first that is wanted, with all that is drawn at the start
            first = list(islice(indices, self._skip, self._skip + 1))
        yield from first
        yield from indices


def _ordering(loader: Iterable[Any]) -> list[Any]:
    """What decides on the order of batches, the dataset last."""
    if not isinstance(loader, DataLoader):
        return [loader]
    inner = getattr(loader.batch_sampler, "sampler", None)
    parts = [loader, loader.batch_sampler, inner, loader.sampler, loader.dataset]
    return [
        part for number, part in enumerate(parts) if part is not None and all(part is not p for p in parts[:number])
    ]


def _has_generator(part: Any) -> bool:
    return isinstance(getattr(part, "generator", None), torch.Generator)
