"""The history of a training as a file."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step
from nstorm.workflows.handlers.step_records import StepRecords
from nstorm.workflows.processes import is_first


class HistoryWriter:
    """Write a line of JSON for each step of the optimizer: a handler for MONAI's trainer.

    A training that goes on from a checkpoint goes on here too: lines of steps that are taken again are removed first,
    so that every step is there once. In a training of several processes, the first one writes. See
    :class:`StepRecords` for what is in a line.

    Args:
        path: the file, usually `history.jsonl`; its folder is made.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import HistoryWriter
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.zeros(2, 4), "label": torch.ones(2, 1)}] * 3
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "history.jsonl")
        ...     trainer = SupervisedTrainer(
        ...         "cpu", 2, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=[HistoryWriter(path)]
        ...     )
        ...     trainer.run()
        ...     [line[:24] for line in path.read_text().splitlines()[:2]]
        ['{"epoch": 1, "step": 1, ', '{"epoch": 1, "step": 2, ']
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._begun = False

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        StepRecords.ensure(engine)
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _begin(self, engine: Any) -> None:
        self._begun = False

    def _write(self, engine: Any) -> None:
        if not ends_step(engine) or not is_first():
            return
        record = engine.state.step_record
        if not self._begun:
            self._remove_from(record["step"])
            self._begun = True
        with self.path.open("a") as file:
            file.write(f"{json.dumps(record)}\n")

    def _remove_from(self, step: int) -> None:
        from nstorm.data.files.atomic import written_whole

        before = self.path.read_text().splitlines() if self.path.exists() else []
        kept = []
        for line in before:
            try:
                if json.loads(line)["step"] >= step:
                    continue
            except ValueError:
                # half a line, of a process that was killed
                continue
            kept.append(f"{line}\n")
        with written_whole(self.path, overwrite=True) as temporary:
            temporary.write_text("".join(kept))
