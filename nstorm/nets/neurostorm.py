"""NeuroSTORM: a shifted-window Mamba encoder that works directly on 4D fMRI."""

from nstorm.nets.arguments import keeps_arguments
from nstorm.nets.shifted_window_net import ShiftedWindowNet


@keeps_arguments
class NeuroSTORM(ShiftedWindowNet):
    """The shifted-window net around `MambaMixer`; the defaults are the published model of 5,173,020 parameters.

    Takes the arguments of `ShiftedWindowNet`.

    References:
        "Towards a general-purpose foundation model for fMRI analysis" (NeuroSTORM), arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.nets import NeuroSTORM
        >>> net = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1), num_classes=2)
        >>> net(torch.randn(1, 1, 24, 24, 24, 6)).shape
        torch.Size([1, 2])
    """
