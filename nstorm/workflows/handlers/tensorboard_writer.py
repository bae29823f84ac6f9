"""The history of a training in TensorBoard."""

from os import PathLike
from pathlib import Path
from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step
from nstorm.workflows.handlers.step_records import StepRecords
from nstorm.workflows.processes import is_first


class TensorBoardWriter:
    """Show loss, learning rate and gradient norm of each step in TensorBoard: a handler for MONAI's trainer.

    MONAI's `TensorBoardStatsHandler` counts batches, and shows steps twice that a training takes again when it goes
    on from a checkpoint; here they are hidden, by TensorBoard's `purge_step`.

    Args:
        folder: for its files, to be shown by `tensorboard --logdir FOLDER`.

    Raises:
        ImportError: if TensorBoard is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import TensorBoardWriter
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.zeros(2, 4), "label": torch.ones(2, 1)}] * 3
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handlers = [TensorBoardWriter(folder)]
        ...     SupervisedTrainer("cpu", 2, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=handlers).run()
        ...     len(list(Path(folder).glob("events.out.*")))
        1
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError('TensorBoard is not installed: pip install "nstorm[bundle]"') from error
        self.folder = Path(folder)
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        StepRecords.ensure(engine)
        engine.add_event_handler(Events.STARTED, self._close)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._flush)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _write(self, engine: Any) -> None:
        if not ends_step(engine) or not is_first():
            return
        record = engine.state.step_record
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=record["step"])
        for name, value in record.items():
            if name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, record["step"])

    def _flush(self, engine: Any) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _close(self, engine: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
