"""Optimizer steps of a trainer that accumulates gradients, counted as MONAI's `SupervisedTrainer` takes them."""

from typing import Any


def ends_step(engine: Any) -> bool:
    """Whether the optimizer steps in this iteration: after `accumulation_steps` batches, and at the end of an epoch."""
    every, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
    place = engine.state.iteration
    if length is not None:
        place = (place - 1) % length + 1
    return bool(place % every == 0 or place == length)


def steps_done(engine: Any) -> int:
    """How many steps the optimizer has taken when this iteration is over."""
    every, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
    if length is None:
        return int(engine.state.iteration // every)
    epochs, batches = divmod(engine.state.iteration, length)
    return int(epochs * -(-length // every) + batches // every)
