"""Heads that turn a map of tokens into predictions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """Average all tokens and map the mean linearly to logits.

    Args:
        dim: channels of a token.
        num_classes: logits: one per class, or 1 for a binary label trained with a sigmoid, as published.
        dropout_rate: dropout on the mean.
        device: where the parameters live.
        dtype: their type.

    Example:
        >>> import torch
        >>> from nstorm.layers import ClassificationHead
        >>> ClassificationHead(288, num_classes=7)(torch.randn(2, 288, 2, 2, 2, 20)).shape
        torch.Size([2, 7])
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        dropout_rate: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes} must be 1 or more")
        self.dropout = nn.Dropout(dropout_rate)
        self.linear = nn.Linear(dim, num_classes, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a truncated normal of standard deviation 0.02, set the bias to 0."""
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b k"]:
        """Map tokens (B, C, ...) to logits (B, num_classes)."""
        return self.linear(self.dropout(x.flatten(2).mean(-1)))


class RegressionHead(nn.Module):
    """Average all tokens and map the mean linearly to targets in their own units.

    The linear layer learns the standardised target, as published; `mean` and `std` of the training targets bring it
    back to years, points or whatever the target is measured in, and travel in the state dict.

    Args:
        dim: channels of a token.
        num_targets: numbers to predict.
        mean: mean of the target over the training subjects, one for all targets or one each.
        std: its standard deviation, likewise.
        dropout_rate: dropout on the mean of the tokens.
        device: where the parameters live.
        dtype: their type.

    Example:
        >>> import torch
        >>> from nstorm.layers import RegressionHead
        >>> RegressionHead(288, mean=28.8, std=3.7)(torch.randn(2, 288, 2, 2, 2, 20)).shape
        torch.Size([2, 1])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int,
        num_targets: int = 1,
        mean: float | Float[Tensor, " k"] = 0.0,
        std: float | Float[Tensor, " k"] = 1.0,
        dropout_rate: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.standardised = ClassificationHead(dim, num_targets, dropout_rate, device=device, dtype=dtype)
        for name, value in (("mean", mean), ("std", std)):
            values = torch.as_tensor(value, device=device, dtype=dtype or torch.float32)
            self.register_buffer(name, values.expand(num_targets).clone())

    def reset_parameters(self) -> None:
        """Reset the linear layer; the target's mean and standard deviation stay."""
        self.standardised.reset_parameters()

    def forward(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b k"]:
        """Map tokens (B, C, ...) to targets (B, num_targets)."""
        return self.standardised(x) * self.std + self.mean
