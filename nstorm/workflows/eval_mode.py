"""A network in eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and every module of it back into its own afterwards, whatever happens.

    `net.train()` alone would also wake parts that are kept in eval mode, such as a frozen encoder.

    Example:
        >>> import torch
        >>> from nstorm.workflows.eval_mode import eval_mode
        >>> net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
        >>> _ = net[0].eval()
        >>> with eval_mode(net):
        ...     print(net[1].training)
        False
        >>> net[0].training, net[1].training
        (False, True)
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
