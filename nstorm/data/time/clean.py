"""Removal of drifts, frequencies and confounds from the time series of a run."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.layout import time_axis, time_first
from nstorm.data.normalize import voxels_inside, zscore_voxels
from nstorm.data.time.scrub import spline_weights
from nstorm.data.time.timing import checked_frames, name_of, refuse_uneven, repetition_time_of, times_of_kept, with_meta

# voxels that are cleaned at a time, in double precision
CHUNK = 4096
# by how much sums in double precision are off, of the largest value
ROUNDING = 1e-12


def clean(
    bold: Tensor,
    *,
    confounds: Tensor | NDArray[Any] | None = None,
    detrend: int = 1,
    low_pass: float | None = None,
    high_pass: float | None = None,
    standardize: bool = False,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    keep_mean: bool = True,
) -> Tensor:
    """Remove drifts, frequencies and confounds from every voxel of the brain.

    In this order, as :func:`nilearn.signal.clean`, which filters and regresses: polynomials are removed from voxels and
    confounds; both are filtered (Butterworth, order 5, without a shift in time), so that the regression brings no
    removed frequency back; the confounds are regressed out. Give the whole run, before clips are cut.

    Args:
        bold: A run of shape ``(T, H, W, D)`` or ``(1, H, W, D, T)``; with ``meta["tr"]`` if it is to be filtered.
        confounds: One column for each regressor, ``(T, K)``, as in :func:`nstorm.data.load_confounds`.
        detrend: The highest order of the polynomials in time to remove: 1 (or True) is the linear trend, 0 none.
        low_pass: Keep frequencies below this one, in Hz.
        high_pass: Keep frequencies above this one, in Hz. fMRIPrep's strategies contain slow cosines for the same
            purpose: do not use both.
        standardize: Give every voxel zero mean and unit variance in the end (:func:`nstorm.data.zscore_voxels`).
        keep: The frames to trust, boolean of shape ``(T,)``. The others take no part in any estimate (they are
            interpolated while frequencies are filtered) and are dropped, as in :func:`nstorm.data.scrub`.
        mask: The brain, boolean of shape ``(H, W, D)`` or ``(1, H, W, D)``. By default the voxels that vary. Voxels
            outside become 0.
        keep_mean: Give every voxel its mean back, so that intensities stay BOLD units and percent signal change can be
            computed. nilearn does not.

    Returns:
        The run in its layout and with its meta, float32, or float64 for a float64 run.

    Raises:
        ValueError: The confounds or ``keep`` do not fit the run; the confounds hold NaN, or leave nothing of so few
            frames; a frequency is not between 0 and the Nyquist frequency, ``1 / (2 * TR)``; the run is too short to be
            filtered, not evenly spaced, or NaN or infinite in a voxel of the brain and a kept frame; it or the mask has
            another shape, or the mask is not boolean, is empty or lies on another grid.

    References:
        Lindquist et al. 2019, doi:10.1002/hbm.24528 (the order of filter and regression).

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.time.clean import clean
        >>> bold = load_bold(haxby_runs()[0].bold)
        >>> slow = clean(bold, low_pass=0.1, high_pass=0.01)
        >>> voxel = (slice(None), 10, 10, 0)
        >>> round(float(bold[voxel].std()), 1), round(float(slow[voxel].std()), 1), round(float(slow[voxel].mean()))
        (20.0, 8.2, 1449)
    """
    refuse_uneven(bold)
    axis = time_axis(bold)
    keep = torch.ones(bold.shape[axis], dtype=torch.bool) if keep is None else checked_frames(keep, bold)
    inside = voxels_inside(bold, mask)
    band = _checked_band(bold, low_pass, high_pass)
    cleaner = _Cleaner(name_of(bold), keep.numpy(), int(detrend), band, confounds)

    plain = bold.as_subclass(Tensor)
    shape = [int(keep.sum()) if i == axis else size for i, size in enumerate(plain.shape)]
    result = plain.new_zeros(shape, dtype=torch.promote_types(bold.dtype, torch.float32))
    smallest = max(torch.finfo(result.dtype).eps, ROUNDING)
    for voxels in inside.nonzero().split(CHUNK):
        place = slice(None), *voxels.T
        series = time_first(plain)[place].double().numpy(force=True)
        kept = series[cleaner.keep]
        if not np.isfinite(kept).all():
            first = voxels[int(np.flatnonzero(~np.isfinite(kept).all(axis=0))[0])].tolist()
            raise ValueError(
                f"{name_of(bold)} has NaN or infinite values, the first at voxel {tuple(first)}: leave such voxels out "
                "with a mask, or replace the values, as nstorm.data.load_bold does with fill_nan=0"
            )
        rest = cleaner(series)
        # what rounding leaves of a voxel that trend and confounds explain would be standardised like a signal
        rest[:, rest.std(axis=0) <= smallest * np.abs(kept).max(axis=0)] = 0
        time_first(result)[place] = torch.from_numpy(rest + keep_mean * kept.mean(axis=0)).to(result)
    cleaned = with_meta(result, bold, **times_of_kept(bold, keep))
    return zscore_voxels(cleaned, mask) if standardize else cleaned


class _Cleaner:
    """The steps of :func:`clean` on series of shape ``(T, n)``; what all voxels share is computed once."""

    def __init__(
        self,
        name: str,
        keep: NDArray[np.bool_],
        order: int,
        band: dict[str, float],
        confounds: Tensor | NDArray[Any] | None,
    ) -> None:
        if order < 0:
            raise ValueError(f"detrend is {order}, but the order of a polynomial is 0 (nothing is removed) or more")
        values = np.empty((len(keep), 0)) if confounds is None else _checked_confounds(name, confounds, len(keep))
        if values.shape[1] + order + 1 >= keep.sum():
            raise ValueError(
                f"{values.shape[1]} confounds and a trend of order {order} leave nothing of {keep.sum()} frames of "
                f"{name}: take fewer, and clean the whole run before clips are cut"
            )
        self.name = name
        self.keep = keep
        self.band = band
        # nilearn misplaces frames where both ends are bad, and leaves two bad frames that mirror each other: it gets
        # the frames from the first to the last kept one, with the bad ones between them already interpolated.
        kept = np.flatnonzero(keep)
        self.window = slice(kept[0], kept[-1] + 1)
        self.weights = spline_weights(torch.from_numpy(keep[self.window])).numpy()
        powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(keep)), order)
        self.trends = powers @ np.linalg.inv(np.linalg.qr(powers[keep], mode="r"))
        self.confounds = self._without_trends(values) if values.size else None

    def __call__(self, series: NDArray[np.float64]) -> NDArray[np.float64]:
        import nilearn.signal

        try:
            cleaned: NDArray[np.float64] = nilearn.signal.clean(
                self._without_trends(series),
                detrend=False,
                standardize=None,
                confounds=self.confounds,
                sample_mask=self.keep[self.window],
                butterworth__copy=True,
                **self.band,
            )
        except ValueError as error:
            if "padlen" in str(error):
                raise ValueError(
                    f"{self.name} has {len(series)} frames, too few to be filtered: clean the whole run before clips "
                    "are cut"
                ) from error
            raise
        return cleaned

    def _without_trends(self, series: NDArray[np.float64]) -> NDArray[np.float64]:
        rest = series - self.trends @ (self.trends[self.keep].T @ series[self.keep])
        inner, kept = rest[self.window], self.keep[self.window]
        inner[~kept] = self.weights @ inner[kept]
        return inner


def _checked_confounds(name: str, confounds: Tensor | NDArray[Any], num_frames: int) -> NDArray[np.float64]:
    table = confounds.numpy(force=True) if isinstance(confounds, Tensor) else confounds
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or len(values) != num_frames:
        raise ValueError(
            f"confounds have shape {values.shape}, but {name} has {num_frames} frames: give one row for each frame, "
            "one column for each confound"
        )
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        raise ValueError(
            f"confounds of {name} have NaN or infinite values in the rows {rows}: replace them "
            "(nstorm.data.load_confounds does)"
        )
    return values


def _checked_band(bold: Tensor, low_pass: float | None, high_pass: float | None) -> dict[str, float]:
    band = {name: hz for name, hz in (("low_pass", low_pass), ("high_pass", high_pass)) if hz is not None}
    if not band:
        return {}
    tr = repetition_time_of(bold)
    for name, hz in band.items():
        if not 0 < hz < 0.5 / tr:
            raise ValueError(
                f"{name} is {hz:g} Hz, but frames of {tr:g} s hold frequencies between 0 and {0.5 / tr:g} Hz (the "
                "Nyquist frequency): give one of these, in Hz"
            )
    if low_pass is not None and high_pass is not None and low_pass <= high_pass:
        raise ValueError(f"low_pass ({low_pass:g} Hz) has to be above high_pass ({high_pass:g} Hz)")
    return band | {"t_r": tr}
