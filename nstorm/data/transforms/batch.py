"""Array transforms on batches."""

from collections.abc import Callable
from typing import Any

from monai.data.utils import decollate_batch, list_data_collate

from nstorm.data.transforms.time_as_channel import RandomlyInside


class OnBatch(RandomlyInside):
    """Apply a transform to every sample of a batch, with a draw of its own for each, where the batch is.

    For augmentation on the GPU, after the loader: the loader's workers then only read.

    Args:
        transform: An array transform for batches that are tensors ``(B, 1, H, W, D, T)``, or a dictionary transform
            for batches that are dictionaries. A ``monai.transforms.Compose`` of several is one.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.batch import OnBatch
        >>> from nstorm.data.transforms.rand_affine import RandBOLDAffine
        >>> augment = OnBatch(RandBOLDAffine(rotate_range=0.2)).set_random_state(0)
        >>> augment(torch.randn(2, 1, 8, 9, 7, 20)).shape
        torch.Size([2, 1, 8, 9, 7, 20])
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(self, batch: Any) -> Any:
        """Transform the samples of a batch; the given batch stays as it is."""
        return list_data_collate([self.call_inside(sample) for sample in decollate_batch(batch)])
