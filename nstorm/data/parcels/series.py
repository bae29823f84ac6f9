"""Time series of the parcels of an atlas."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_first
from nstorm.data.parcels.atlas import Atlas
from nstorm.data.parcels.atlas_space import mask_on_grid, parcel_coverage, resample_atlas
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import name_of
from nstorm.data.wording import some_of

if TYPE_CHECKING:
    import monai.data.meta_tensor

_ROW = 1024
_META_OF_SPACE = ("affine", "original_affine", "spatial_shape", "space", "space_code")


class ParcelSeries(NamedTuple):
    """Signals of the parcels of a run.

    Attributes:
        series: Shape ``(T, P)``, a MetaTensor with what the run's meta says of time and origin, such as ``tr``.
        labels: Names of the ``P`` parcels.
        coverage: The fraction of each parcel that lies in the run's field of view and in the mask.
    """

    series: "monai.data.meta_tensor.MetaTensor"
    labels: tuple[str, ...]
    coverage: Float[Tensor, " parcels"]


def parcel_time_series(
    bold: Tensor,
    atlas: Atlas,
    *,
    mask: Tensor | None = None,
    strategy: str = "mean",
    missing: str = "raise",
) -> ParcelSeries:
    """Reduce a run to one signal for each parcel of an atlas, through nilearn.

    The affines bring the atlas to the grid of the run (:func:`nstorm.data.resample_atlas`). Voxels outside the mask
    do not count; without a mask, those that were set to 0 outside the brain pull the mean down.

    Args:
        bold: A run or a clip with an affine: ``(T, H, W, D)`` or ``(1, H, W, D, T)``.
        atlas: Parcels in the same space as the run.
        mask: Voxels that count, boolean, on the grid of the run: ``(H, W, D)`` or ``(1, H, W, D)``. By default all.
        strategy: What the voxels of a parcel are reduced to in each frame: ``mean``, ``median``, ``sum``,
            ``minimum``, ``maximum``, ``variance`` or ``standard_deviation``.
        missing: What to do about parcels without a voxel in the run and its mask: ``raise`` refuses; ``nan`` gives
            them a column of NaN; ``drop`` leaves them out, so that columns of two runs need not be the same parcels.

    Returns:
        The signals, float32 (float64 for a float64 run) and on the run's device, without a gradient; the names of
        the parcels; their coverage (:func:`nstorm.data.parcel_coverage`).

    Raises:
        ValueError: The run has another shape, no affine, or NaN or infinite voxels in a parcel; the mask is not
            boolean or on another grid; the atlas lies outside the run; parcels are missing.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.parcels.atlas import schaefer_atlas
        >>> from nstorm.data.parcels.series import parcel_time_series
        >>> bold = load_bold(rest_run().bold)
        >>> parcels = parcel_time_series(bold, schaefer_atlas(100), mask=bold[0] > 0)
        >>> parcels.series.shape, parcels.labels[0], round(float(parcels.coverage.min()), 2)
        (torch.Size([200, 100]), '7Networks_LH_Vis_1', 0.87)
    """
    from monai.data.meta_tensor import MetaTensor

    if missing not in ("raise", "nan", "drop"):
        raise ValueError(f"missing is {missing!r}, but it has to be 'raise', 'nan' or 'drop'")
    run = time_first(bold)
    grid = grid_of(run)
    placed = resample_atlas(atlas, run).image[0].numpy()
    if mask is not None:
        placed = np.where(mask_on_grid(mask, grid), placed, 0)
    present = np.bincount(placed.ravel(), minlength=len(atlas.labels) + 1)[1:] > 0
    absent = [label for label, seen in zip(atlas.labels, present, strict=True) if not seen]
    if absent and (missing == "raise" or not present.any()):
        raise ValueError(
            f"{len(absent)} of the {len(atlas.labels)} parcels of {atlas.name} have no voxel in "
            f"{name_of(bold, 'the run')} and its mask: {some_of(absent)}; give an atlas and a mask that fit the run, "
            "or missing='nan' or 'drop'"
        )
    signals = _signals(run, placed, strategy, atlas)
    labels, coverage = atlas.labels, parcel_coverage(atlas, run, mask=mask)
    keep = torch.from_numpy(present)
    if missing == "drop":
        labels, coverage = tuple(label for label in labels if label not in absent), coverage[keep]
    elif absent:
        some, signals = signals, signals.new_full((len(signals), len(labels)), torch.nan)
        signals[:, keep] = some
    meta = {key: value for key, value in run.meta.items() if key not in _META_OF_SPACE}  # type: ignore[attr-defined]
    return ParcelSeries(MetaTensor(signals, meta=deepcopy(meta)), labels, coverage)


def _signals(run: Tensor, placed: NDArray[np.int32], strategy: str, atlas: Atlas) -> Tensor:
    """Reduce the voxels of each value but 0 that ``placed`` holds, in ascending order."""
    from nibabel.nifti1 import Nifti1Image
    from nilearn.regions import img_to_signals_labels

    inside = placed > 0
    values = placed[inside]
    gathered = run.as_subclass(Tensor)[:, torch.from_numpy(inside).to(run.device)]
    voxels = gathered.to(torch.promote_types(run.dtype, torch.float32)).numpy(force=True)
    bad = ~np.isfinite(voxels).all(axis=0)
    if bad.any():
        names = [atlas.labels[value - 1] for value in np.unique(values[bad])]
        raise ValueError(
            f"{name_of(run, 'the run')} has NaN or infinite values in {bad.sum()} voxels of parcels: {some_of(names)}; "
            "leave these voxels out with a mask, or replace their values"
        )
    # nilearn works through every voxel of an image: here the image has those of parcels and no others
    image = Nifti1Image(_as_volume(voxels), np.eye(4))
    labels = Nifti1Image(_as_volume(values[None])[..., 0], np.eye(4))
    signals = img_to_signals_labels(image, labels, strategy=strategy)[0]
    return torch.from_numpy(np.ascontiguousarray(signals)).to(run.device)


def _as_volume(frames: NDArray[Any]) -> NDArray[Any]:
    """Fold ``(T, voxels)``, filled up with 0, into ``(H, W, 1, T)``: a single row is too long for NIfTI."""
    filled = np.pad(frames, ((0, 0), (0, -frames.shape[1] % _ROW)))
    return filled.T.reshape(-1, _ROW, 1, len(frames))
