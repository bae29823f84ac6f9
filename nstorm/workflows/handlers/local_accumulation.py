"""Gradients that processes exchange once a step."""

from typing import Any

from torch.nn.parallel import DistributedDataParallel

from nstorm.workflows.handlers.optimizer_steps import ends_step


class LocalAccumulation:
    """Let processes exchange gradients once a step and not after each batch: a handler for MONAI's trainer.

    MONAI accumulates over several batches, but `DistributedDataParallel` averages over the processes after each of
    them, unless it is told not to. The sum is the same. For other networks this does nothing.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import LocalAccumulation
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.ones(2, 4), "label": torch.ones(2, 1)}] * 4
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, batches, net, torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.MSELoss(),
        ...     accumulation_steps=2, train_handlers=[LocalAccumulation()],
        ... )
        >>> trainer.run()
    """

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Exchange in this iteration only if a step follows."""
        if isinstance(engine.network, DistributedDataParallel):
            # what its context manager no_sync() sets; here it reaches from the forward to the backward pass
            engine.network.require_backward_grad_sync = ends_step(engine)
