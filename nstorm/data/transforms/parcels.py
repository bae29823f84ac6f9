"""Signals of parcels and their connectivity, as transforms."""

from typing import Any

from torch import Tensor

from nstorm.data.parcels.atlas import Atlas
from nstorm.data.parcels.atlas_space import resample_atlas
from nstorm.data.parcels.connectivity import connectivity
from nstorm.data.parcels.series import parcel_time_series
from nstorm.data.space.grid import same_grid
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import BOLDTransform, OnKeys, OnKeysInMask


class ParcelTimeSeries(BOLDTransform):
    """Reduce a run or a clip to the signals of the parcels of an atlas: ``(P, T)``, parcels as channels.

    The result is a MetaTensor with ``meta["tr"]``, as the run's; :func:`nstorm.data.parcel_time_series` says more.

    Args:
        atlas: Parcels in the same space as the run.
        strategy: What the voxels of a parcel are reduced to in each frame: ``mean``, ``median``, ...
        missing: What to do about parcels without a voxel in the run and its mask: ``raise`` refuses, ``nan`` gives
            them NaN.

    Raises:
        ValueError: As :func:`nstorm.data.parcel_time_series`.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.parcels.atlas import schaefer_atlas
        >>> from nstorm.data.transforms.parcels import ParcelTimeSeries
        >>> signals = ParcelTimeSeries(schaefer_atlas(100))(load_bold(rest_run().bold))
        >>> signals.shape, signals.meta["tr"]
        (torch.Size([100, 200]), 1.5)
    """

    def __init__(self, atlas: Atlas, strategy: str = "mean", missing: str = "raise") -> None:
        if missing not in ("raise", "nan"):
            raise ValueError(f"missing is {missing!r}, but it has to be 'raise' or 'nan', so that items can be batched")
        self.atlas, self.strategy, self.missing = atlas, strategy, missing
        self._placed = atlas

    def __call__(self, img: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the signals inside a mask."""
        # most images that follow each other share a grid
        placed = self._placed
        if not same_grid(placed.image, img):
            self._placed = placed = resample_atlas(self.atlas, img)
        parcels = parcel_time_series(img, placed, mask=mask, strategy=self.strategy, missing=self.missing)
        return parcels.series.T.contiguous()


class Connectivity(BOLDTransform):
    """Turn signals of parcels ``(P, T)`` into their connectivity: ``(1, P, P)``, or a vector.

    Connectivity in tangent space has to be fitted to training subjects: :class:`nstorm.data.TangentSpace`.

    Args:
        kind: ``correlation`` or ``partial correlation``.
        estimator: An estimator of the covariance from scikit-learn; see :func:`nstorm.data.connectivity`.
        vectorize: Whether to give the ``P (P - 1) / 2`` values below the diagonal in place of the matrix.

    Raises:
        ValueError: As :func:`nstorm.data.connectivity`.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.parcels import Connectivity
        >>> Connectivity()(torch.randn(5, 40)).shape, Connectivity(vectorize=True)(torch.randn(5, 40)).shape
        (torch.Size([1, 5, 5]), torch.Size([10]))
    """

    def __init__(
        self,
        kind: str = "correlation",
        estimator: Any = None,
        vectorize: bool = False,
    ) -> None:
        self.kind, self.estimator, self.vectorize = kind, estimator, vectorize

    def __call__(self, img: Tensor) -> Tensor:
        """Compute the connectivity of signals."""
        found = connectivity(img.transpose(0, -1), self.kind, estimator=self.estimator, vectorize=self.vectorize)
        if not self.vectorize:
            found = found[None]
        return with_meta(found, img)


class ParcelTimeSeriesd(OnKeysInMask):
    """Dictionary form of :class:`ParcelTimeSeries`.

    The signals take the place of the image; ``CopyItemsd`` keeps it under another key.
    """

    array_class = ParcelTimeSeries


class Connectivityd(OnKeys):
    """Dictionary form of :class:`Connectivity`."""

    array_class = Connectivity
