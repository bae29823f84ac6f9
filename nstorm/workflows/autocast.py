"""Mixed precision on any device."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]


class AutocastInferer:
    """Call a network under autocast: MONAI's `inferer`, for mixed precision on CPUs too.

    MONAI's own `amp=True` is for CUDA only, and scales the loss, which float16 needs and bfloat16 does not. What the
    network computes, a loss in its output too, is in mixed precision; its parameters and their gradients stay float32.

    Args:
        precision: `"bfloat16"`; or `"float32"`, which calls the network as it is. `"float16"` needs MONAI's `amp=True`.

    Raises:
        ValueError: if it is another.

    Example:
        >>> import torch
        >>> from nstorm.workflows import AutocastInferer
        >>> AutocastInferer("bfloat16")(torch.randn(2, 3), torch.nn.Linear(3, 4)).dtype
        torch.bfloat16
    """

    def __init__(self, precision: Precision = "bfloat16") -> None:
        if precision not in ("float32", "bfloat16"):
            raise ValueError(
                f"precision is {precision!r}, but an AutocastInferer takes float32 or bfloat16; for float16 give "
                "MONAI's trainer amp=True, or use nstorm.workflows.pretrainer"
            )
        self.precision = precision

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call the network with the inputs and all else."""
        if self.precision == "float32":
            return network(inputs, *args, **kwargs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return network(inputs, *args, **kwargs)
