"""Losses and gradients that are no numbers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nstorm.workflows.handlers.optimizer_steps import ends_step, steps_done
from nstorm.workflows.processes import gathered


class StopOnNonFinite:
    """Stop a training when its loss or gradient is NaN or infinite: a handler for MONAI's trainer.

    It stops before the optimizer steps, so that neither the network nor a checkpoint gets to hold such values. All
    processes of a training stop, and say what the one met that had the loss.

    Gradients are looked at once a step. With MONAI's `amp=True` they are not: there infinite ones are met by the
    scaler, which leaves such a step out.

    Raises:
        ValueError: in `run()`: with epoch and step, the learning rate, and whose clips the batch held, where it says so
            by `subject` and `run`, or by `key`.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import StopOnNonFinite
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.full((1, 4), torch.inf), "label": torch.zeros(1, 1), "subject": ["07"]}]
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=[StopOnNonFinite()]
        ... )
        >>> trainer.run()
        Traceback (most recent call last):
            ...
        ValueError: the loss is ... in epoch 1, step 1 (learning rate 1) with clips of subject 07, of which these hold
        values that are not finite: subject 07. ...
    """

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from monai.engines.utils import IterationEvents

        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look_at_loss)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._look_at_gradient)

    def _look_at_loss(self, engine: Any) -> None:
        loss = engine.state.output["loss"]
        found = None if bool(torch.isfinite(loss)) else f"the loss is {loss.item()}"
        # together: a process that raised alone would leave the others waiting for its gradient
        for words in gathered(None if found is None else _told(engine, found)):
            if words is not None:
                raise ValueError(words)

    def _look_at_gradient(self, engine: Any) -> None:
        if engine.scaler is not None or not ends_step(engine):
            return
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if not bool(torch.isfinite(norm)):
            raise ValueError(_told(engine, f"the gradient's norm is {norm.item()}"))


def _told(engine: Any, found: str) -> str:
    from nstorm.data.wording import some_of

    state, rate = engine.state, max(group["lr"] for group in engine.optimizer.param_groups)
    step = steps_done(engine) + (not ends_step(engine))
    words = f"{found} in epoch {state.epoch}, step {step} (learning rate {float(rate):g})"
    image = state.output["image"]
    names = _names(state.batch, len(image))
    if names:
        words += f" with clips of {some_of(list(dict.fromkeys(names)))}"
    broken = [not bool(torch.isfinite(clip).all()) for clip in image]
    if any(broken):
        whose = [name for name, is_broken in zip(names, broken, strict=False) if is_broken]
        words += (
            f", of which these hold values that are not finite: {some_of(whose)}" if whose else ", not finite itself"
        )
        return f"{words}. Prepare these runs again, or leave them out; the checkpoints are from before"
    return f"{words}: lower the learning rate or clip the gradient; the checkpoints are from before"


def _names(batch: Any, number: int) -> list[str]:
    if not isinstance(batch, Mapping):
        return []
    found = {key: _listed(batch[key]) for key in ("subject", "run") if key in batch}
    if not found and "key" in batch:
        found = {"": _listed(batch["key"])}
    found = {key: values for key, values in found.items() if len(values) == number}
    return [
        " ".join(f"{key} {value}".strip() for key, value in zip(found, each, strict=True))
        for each in zip(*found.values(), strict=True)
    ]


def _listed(values: Any) -> list[Any]:
    return (
        values.tolist()
        if isinstance(values, Tensor) and values.ndim
        else list(values)
        if isinstance(values, list | tuple)
        else [values]
    )
