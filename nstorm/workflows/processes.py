"""What the processes of a training tell each other. One process alone is a training of one."""

import atexit
import os
import time
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

T = TypeVar("T")


def number_of_processes() -> int:
    """How many processes train."""
    return distributed.get_world_size() if _connected() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not _connected() or distributed.get_rank() == 0


def process_number() -> int:
    """The number of this process."""
    return distributed.get_rank() if _connected() else 0


def gathered(value: T) -> list[T]:
    """What each process gave, in all of them. Small things only: they are pickled."""
    if number_of_processes() == 1:
        return [value]
    values: list[Any] = [None] * number_of_processes()
    distributed.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """What the first process gave, in all of them."""
    if number_of_processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def connect_processes(device: torch.device) -> None:
    """Connect the processes that `torchrun` started, unless they are, or there is only one."""
    if _connected() or int(os.environ.get("WORLD_SIZE", 1)) == 1 or not distributed.is_available():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    atexit.register(_disconnect)


def replicated(net: nn.Module, device: torch.device, find_unused_parameters: bool = False) -> nn.Module:
    """Wrap a network so that all processes train the same, unless it is, or there is only one process."""
    if number_of_processes() == 1 or isinstance(net, DistributedDataParallel):
        return net
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=devices, find_unused_parameters=find_unused_parameters)


def bare(net: nn.Module) -> nn.Module:
    """The network inside the wrappers of `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    while True:
        if isinstance(net, DistributedDataParallel | DataParallel):
            net = net.module
        elif isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        else:
            return net


def _connected() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _disconnect() -> None:
    if _connected():
        distributed.destroy_process_group()
        # A thread of gloo may hold the tensors of the last exchange for a moment. If it has to let go of them when
        # Python is no longer there, it ends the whole process with SIGABRT: let it have the interpreter while there
        # is one.
        time.sleep(0.5)
