"""Bounds on the gradient."""

from typing import Any

import torch

from nstorm.workflows.handlers.optimizer_steps import ends_step


class GradientClipper:
    """Scale the gradient down to a largest norm before each step of the optimizer: a handler for MONAI's trainer.

    With gradients accumulated over several batches it is their sum that is scaled, once, before the step; with MONAI's
    `amp=True` after the scaling of the loss is undone. The norm before is left in `engine.state.gradient_norm`.

    Args:
        max_norm: largest L2 norm of the gradient of all parameters that are optimized.

    Raises:
        ValueError: if it is not positive.

    References:
        Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv:1211.5063.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from nstorm.workflows import GradientClipper
        >>> net = torch.nn.Linear(4, 1)
        >>> batches = [{"image": torch.ones(2, 4), "label": torch.full((2, 1), 1e6)}]
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, batches, net, optimizer, torch.nn.MSELoss(), train_handlers=[GradientClipper(1.0)]
        ... )
        >>> before = net.weight.detach().clone()
        >>> trainer.run()
        >>> bool(trainer.state.gradient_norm > 1e6), bool((net.weight - before).norm() < 1.0)
        (True, True)
    """

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, but the largest norm of a gradient is above 0")
        self.max_norm = max_norm

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from monai.engines.utils import IterationEvents

        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip if a step follows."""
        if not ends_step(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        engine.state.gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
