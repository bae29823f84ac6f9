"""What is known of each step of the optimizer."""

from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step, steps_done
from nstorm.workflows.processes import gathered


class StepRecords:
    """Leave a record of each step of the optimizer in `engine.state.step_record`: a handler for MONAI's trainer.

    A record has `epoch` and `step`, both counted from 1, `loss`, the mean over the step's batches in all processes,
    the `learning_rate` of the step, the largest of all parameter groups, and `gradient_norm`, before it was clipped,
    where :class:`GradientClipper` measures it. :class:`HistoryWriter`, :class:`TensorBoardWriter` and
    :class:`EpochLines` read it, and attach this where it is not.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import StepRecords
        >>> net = torch.nn.Linear(4, 1)
        >>> _ = net.bias.detach().fill_(2.0)
        >>> batches = [{"image": torch.zeros(2, 4), "label": torch.ones(2, 1)}]
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=[StepRecords()]
        ... )
        >>> trainer.run()
        >>> trainer.state.step_record
        {'epoch': 1, 'step': 1, 'loss': 1.0, 'learning_rate': 0.1}
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._rate = 0.0

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events
        from monai.engines.utils import IterationEvents

        engine.state.step_record = None
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._collect)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)

    @classmethod
    def ensure(cls, engine: Any) -> None:
        """Attach one where there is none."""
        if not hasattr(engine.state, "step_record"):
            cls().attach(engine)

    def _forget(self, engine: Any) -> None:
        self._losses.clear()

    def _collect(self, engine: Any) -> None:
        self._losses.append(float(engine.state.output["loss"].detach()))
        # before a scheduler changes it
        self._rate = max(float(group["lr"]) for group in engine.optimizer.param_groups)

    def _record(self, engine: Any) -> None:
        if not ends_step(engine):
            return
        means = gathered(sum(self._losses) / len(self._losses))
        self._losses.clear()
        record = {
            "epoch": engine.state.epoch,
            "step": steps_done(engine),
            "loss": sum(means) / len(means),
            "learning_rate": self._rate,
        }
        norm = getattr(engine.state, "gradient_norm", None)
        if norm is not None:
            record["gradient_norm"] = float(norm)
        engine.state.step_record = record
