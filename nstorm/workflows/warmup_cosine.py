"""The learning rates of a pre-training."""

import torch
from torch.optim.lr_scheduler import LRScheduler


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int | None, steps: int) -> LRScheduler:
    """Let the learning rate grow over the first steps, by default a tenth of all, and fall to 0 along half a cosine.

    Raises:
        ValueError: if there are fewer steps in all.
    """
    from monai.optimizers import WarmupCosineSchedule

    if warmup_steps is None:
        warmup_steps = -(-steps // 10)
    if not 0 <= warmup_steps <= steps:
        raise ValueError(f"warmup_steps is {warmup_steps}, but there are {steps} steps in all")
    # the first step already learns something: from 1 / n and not from 0
    return WarmupCosineSchedule(optimizer, warmup_steps, steps, warmup_multiplier=1 / max(1, warmup_steps))
