"""How many batches a loader gives to each process of a training."""

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from nstorm.workflows.processes import gathered, number_of_processes


def number_of_batches(loader: Iterable[Any]) -> int:
    """Count the batches of an epoch, the same number in all processes.

    Raises:
        ValueError: if that is not known, 0, or differs between processes, or if all would get the same clips.
    """
    try:
        number = len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            f"the loader, a {type(loader).__name__}, does not know how many batches it has, which the schedule and the "
            "checkpoints need: give a DataLoader over a dataset with a length, or batches in a list"
        ) from None
    if not number:
        raise ValueError("the loader has no batches: its dataset is empty, or drop_last leaves nothing of it")
    if number_of_processes() > 1:
        if isinstance(loader, DataLoader) and not any(
            isinstance(each, DistributedSampler) for each in _samplers(loader)
        ):
            raise ValueError(
                f"each of {number_of_processes()} processes would train on the same clips: give the loader a sampler "
                "that divides them, such as nstorm.data.ClipSampler, or torch's DistributedSampler"
            )
        numbers = gathered(number)
        if len(set(numbers)) > 1:
            raise ValueError(
                f"the processes have {numbers} batches, but need the same number of them: drop the last ones"
            )
    return number


def _samplers(loader: DataLoader[Any]) -> tuple[Any, ...]:
    return loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)
