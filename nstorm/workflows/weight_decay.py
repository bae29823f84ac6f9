"""Which parameters weight decay pulls towards 0."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from nstorm.layers import MaskToken, PositionEmbedding4D

_EXEMPT_MODULES = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    MaskToken,
    PositionEmbedding4D,
)
_EXEMPT_NAMES = {"A_log", "D", "bias", "relative_bias", "relative_position_bias_table", "pos_embed", "mask_token"}


def weight_decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a network into two groups for an optimizer: with weight decay, and without.

    Weight decay is meant for the matrices that mix channels. Without it are

    - parameters of one axis or none: all scales and biases, LayerScale's factors;
    - whole modules of these types, whatever the shape: norms, `PositionEmbedding4D`, `MaskToken`;
    - parameters that are called `A_log`, `D`, `bias`, `relative_bias`, `relative_position_bias_table`, `pos_embed` or
      `mask_token` in their module, as those of Mamba, and of MONAI's and timm's transformers;
    - what a network asks for itself: parameters marked `_no_weight_decay = True`, as `mamba_ssm` does, and those that
      a module lists in a method `no_weight_decay()`, as timm's networks do.

    A parameter that several modules share is in one group once; without decay if any of these says so. Frozen ones
    are in none.

    Args:
        net: any network.
        weight_decay: of the first group.

    Raises:
        ValueError: if nothing is trainable.

    References:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.

    Example:
        >>> import torch
        >>> from nstorm.layers import MambaMixer
        >>> from nstorm.workflows import weight_decay_groups
        >>> groups = weight_decay_groups(MambaMixer(8), 0.05)
        >>> [(group["weight_decay"], len(group["params"])) for group in groups]
        [(0.05, 5), (0.0, 4)]
        >>> optimizer = torch.optim.AdamW(groups, lr=5e-5)
    """
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"{type(net).__name__} has no parameter that is trainable: all are frozen, or there are none")
    exempt = {id(parameter) for parameter in _exempt(net)}
    decayed = [parameter for parameter in parameters if id(parameter) not in exempt]
    others = [parameter for parameter in parameters if id(parameter) in exempt]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _exempt(net: nn.Module) -> Iterator[nn.Parameter]:
    for module in net.modules():
        if isinstance(module, _EXEMPT_MODULES):
            yield from module.parameters()
        asked = getattr(module, "no_weight_decay", None)
        if callable(asked):
            names = dict(module.named_parameters())
            yield from (names[name] for name in asked() if name in names)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim <= 1 or name in _EXEMPT_NAMES or getattr(parameter, "_no_weight_decay", False):
                yield parameter
