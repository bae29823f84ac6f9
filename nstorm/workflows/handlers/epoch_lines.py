"""What a person sees of a training."""

import sys
from time import monotonic
from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step
from nstorm.workflows.handlers.step_records import StepRecords
from nstorm.workflows.processes import is_first


class EpochLines:
    """Print a line for each epoch, and in a terminal a progress bar of its batches: a handler for MONAI's trainer.

    In a training of several processes, the first one prints. Its state is the loss of an epoch so far, for one that
    goes on from a checkpoint (:class:`CheckpointEverything`, `also`).

    Args:
        description: shown before the bar.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import EpochLines
        >>> net = torch.nn.Linear(4, 1)
        >>> _ = net.bias.detach().fill_(2.0)
        >>> batches = [{"image": torch.zeros(2, 4), "label": torch.ones(2, 1)}]
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 2, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=[EpochLines()]
        ... )
        >>> trainer.run()
        epoch 1 of 2: loss 1, learning rate 0 after step 1 (... s)
        epoch 2 of 2: loss 1, learning rate 0 after step 2 (... s)
    """

    def __init__(self, description: str = "pre-training") -> None:
        self.description = description
        self._sum, self._steps = 0.0, 0
        self._began = 0.0

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events
        from ignite.handlers.tqdm_logger import ProgressBar

        StepRecords.ensure(engine)
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        # a log would keep every state of a bar
        is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
        if is_seen and is_first():
            bar = ProgressBar(desc=self.description)
            bar.attach(engine, output_transform=lambda _: {"loss": (engine.state.step_record or {"loss": ""})["loss"]})
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._print)

    def state_dict(self) -> dict[str, Any]:
        """The loss of this epoch so far."""
        return {"sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in an epoch."""
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]

    def _forget(self, engine: Any) -> None:
        self._sum, self._steps = 0.0, 0

    def _begin(self, engine: Any) -> None:
        self._began = monotonic()

    def _add(self, engine: Any) -> None:
        if ends_step(engine):
            self._sum += engine.state.step_record["loss"]
            self._steps += 1

    def _print(self, engine: Any) -> None:
        state, record = engine.state, engine.state.step_record
        loss, self._sum, self._steps = self._sum / max(1, self._steps), 0.0, 0
        if is_first():
            print(
                f"epoch {state.epoch} of {state.max_epochs}: loss {loss:.4g}, "
                f"learning rate {record['learning_rate']:.3g} after step {record['step']} "
                f"({monotonic() - self._began:.1f} s)",
                flush=True,
            )
