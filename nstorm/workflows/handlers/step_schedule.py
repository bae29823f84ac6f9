"""Learning rates that change with the steps of the optimizer."""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from nstorm.workflows.handlers.optimizer_steps import ends_step


class StepSchedule:
    """Step a learning rate scheduler once for each step of the optimizer: a handler for MONAI's trainer.

    MONAI's `LrScheduleHandler` steps once an epoch, or at every batch, also where gradients are accumulated over
    several. Steps that the scaler of `amp=True` leaves out do not count here.

    Args:
        scheduler: over the trainer's optimizer.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import StepSchedule
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.ones(2, 4), "label": torch.ones(2, 1)}] * 4
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        >>> scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, batches, net, optimizer, torch.nn.MSELoss(), accumulation_steps=2,
        ...     train_handlers=[StepSchedule(scheduler)],
        ... )
        >>> trainer.run()
        >>> round(optimizer.param_groups[0]["lr"], 6)
        0.01
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler
        self._scale = 0.0

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_STARTED, self._note_scale)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _note_scale(self, engine: Any) -> None:
        if engine.scaler is not None:
            self._scale = engine.scaler.get_scale()

    def _step(self, engine: Any) -> None:
        if not ends_step(engine):
            return
        # a scaler that left a step out lowers its scale
        if engine.scaler is None or engine.scaler.get_scale() >= self._scale:
            self.scheduler.step()
