"""Checks that the scan and the convolution before it share."""

import torch
from torch import Tensor


def check_shape(name: str, x: Tensor | None, *shapes: tuple[int, ...]) -> None:
    """Raise a ValueError where a tensor is given that has none of the shapes."""
    # only shapes of one rank are compared: tracing would make conditions of the others' sizes
    if x is not None and tuple(x.shape) not in [shape for shape in shapes if len(shape) == x.dim()]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {' or '.join(map(str, shapes))}")


def check_flags(token_mask: Tensor | None, reset: Tensor | None, shape: tuple[int, int]) -> None:
    """Raise a ValueError where flags are not one boolean a token, which kernels would read as something else."""
    for name, flags in (("token_mask", token_mask), ("reset", reset)):
        check_shape(name, flags, shape)
        if flags is not None and flags.dtype != torch.bool:
            raise ValueError(f"{name} has type {flags.dtype}, expected torch.bool")
