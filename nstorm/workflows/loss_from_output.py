"""A loss that the network computed."""

from typing import Any

from torch import Tensor


class LossFromOutput:
    """Take the loss from the network's output: the loss function of networks that compute their own.

    A masked autoencoder knows what it hid, so that its loss is part of its forward pass. MONAI's trainer wants a
    function of prediction and target; this is one.

    Example:
        >>> from typing import NamedTuple
        >>> import torch
        >>> from nstorm.workflows import LossFromOutput
        >>> class Output(NamedTuple):
        ...     loss: torch.Tensor
        >>> LossFromOutput()(Output(torch.tensor(0.5)), target=None)
        tensor(0.5000)
    """

    def __call__(self, prediction: Any, target: Any = None) -> Tensor:
        """Give `prediction.loss`; the target is not looked at.

        Raises:
            ValueError: if there is none.
        """
        loss = getattr(prediction, "loss", None)
        if not isinstance(loss, Tensor):
            raise ValueError(
                f"the network gives a {type(prediction).__name__} without a loss: its output needs an attribute "
                "`loss`, as that of nstorm.nets.MaskedAutoencoder has; for others give the trainer a loss function"
            )
        return loss
