"""The preparation of the published NeuroSTORM models, as a transform."""

from torch import Tensor

from nstorm.data.layout import time_last
from nstorm.data.published import LARGEST, prepare_published
from nstorm.data.transforms.base import BOLDTransform, OnKeysInMask


class PublishedPreprocessing(BOLDTransform):
    """Prepare a whole run for the published weights (:func:`nstorm.data.prepare_published`, which says what it costs).

    The result is ``(1, 96, 96, 96, T)``, from which clips are cut for ``neurostorm_base``.

    Args:
        axcodes: The directions in which voxels are numbered; None leaves them as they are.
        pad_to: Fill up every axis to this size with background; None leaves the size as it is.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.published import PublishedPreprocessing
        >>> PublishedPreprocessing()(load_bold(rest_run().bold)[:4]).shape
        torch.Size([1, 96, 96, 96, 8])
    """

    def __init__(self, *, axcodes: str | None = "LAS", pad_to: int | None = LARGEST) -> None:
        self.axcodes = axcodes
        self.pad_to = pad_to

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Prepare a run; without a mask, its background is where it is exactly 0."""
        prepared = prepare_published(img, mask=mask, axcodes=self.axcodes, pad_to=self.pad_to)
        return time_last(prepared).contiguous()


class PublishedPreprocessingd(OnKeysInMask):
    """Dictionary form of :class:`PublishedPreprocessing`, with the brain under ``mask_key`` if it is given."""

    array_class = PublishedPreprocessing
