"""What optimizers and schedulers are made with."""

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler


def constants_of_scheduler(scheduler: LRScheduler) -> dict[str, Any]:
    """What a schedule is made with: numbers that are public, and do not change from step to step."""
    changing = ("last_epoch", "base_lrs")
    return {
        name: value
        for name, value in vars(scheduler).items()
        if isinstance(value, int | float | str) and not name.startswith("_") and name not in changing
    }


def constants_of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer is made with; the learning rate as the schedule begins from it."""
    names = {name for group in optimizer.param_groups for name in group} - {"params", "lr"}
    values = {name: [_plain(group.get(name)) for group in optimizer.param_groups] for name in sorted(names)}
    return {name: each[0] if all(value == each[0] for value in each) else each for name, each in values.items()}


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, torch.Tensor) else value
