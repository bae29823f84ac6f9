"""Pictures of what a network has learned so far."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nstorm.workflows.eval_mode import eval_mode
from nstorm.workflows.processes import bare, is_first
from nstorm.workflows.resuming.random_states import random_states_aside

Draw = Callable[[nn.Module, int, Path], Any]


class Pictures:
    """Call a function that draws, at the end of epochs: a handler for MONAI's trainer.

    The network is in eval mode and without gradients meanwhile, and what is drawn from global generators is given
    back, so that pictures change nothing about the training. In a training of several processes, the first one draws.

    Args:
        draw: of the network, without the wrappers of parallel training, the epoch, and the folder.
        folder: for the pictures; it is made.
        every: number of epochs from one call to the next.

    Raises:
        ValueError: if `every` is below 1.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import Pictures
        >>> def draw(net, epoch, folder):
        ...     print(epoch, folder.name, net.training)
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.ones(2, 4), "label": torch.ones(2, 1)}]
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handlers = [Pictures(draw, f"{folder}/pictures", every=2)]
        ...     loss = torch.nn.MSELoss()
        ...     SupervisedTrainer("cpu", 4, batches, net, optimizer, loss, train_handlers=handlers).run()
        2 pictures False
        4 pictures False
    """

    def __init__(self, draw: Draw, folder: str | PathLike[str], every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every is {every}, but pictures are drawn every 1 or more epochs")
        self.draw = draw
        self.folder = Path(folder)
        self.every = every

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Any) -> None:
        """Draw."""
        if not is_first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        net = bare(engine.network)
        with torch.no_grad(), random_states_aside(), eval_mode(net):
            self.draw(net, engine.state.epoch, self.folder)
