"""What shows the quality of a run: small arrays that are kept beside it, so that a report need not read its frames."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SERIES = ("global_signal", "dvars", "framewise_displacement")
"""Rows of the array ``series``."""

NUMBERS = ("tsnr", "dvars", "dvars_share", "framewise_displacement", "displaced_share")
"""Entries of the array ``numbers``."""

FAR_DVARS = 1.5
"""Standardised DVARS of a frame beyond which it counts as changed too much; fMRIPrep's for its outliers."""

FAR_DISPLACEMENT = 0.5
"""Framewise displacement in mm beyond which a frame counts as moved; fMRIPrep's for its outliers."""

CARPET_STEP = 1 / 32
"""Standard deviations for each step of the carpet's codes."""

MOST_ROWS = 160
# the range between quartiles of a normal distribution, in standard deviations
_QUARTILES = 1.349
# voxels for which robust deviation and autocorrelation are estimated
_SAMPLE = 10_000


def quality_of(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    framewise_displacement: NDArray[Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Measure what shows the quality of a run.

    DVARS is standardised: the root mean square over voxels of the change from one frame to the next, over what is
    expected of stationary noise with each voxel's robust standard deviation and autocorrelation, so that 1 is usual
    whatever the scanner's units.

    The rows of the carpet are means of z-scored voxels that lie equally deep below the surface of the mask, the
    outermost voxels first. Movement shows at the surface, breathing in all rows.

    Args:
        values: Finite, ``(T, V)``: the voxels of the mask in C order.
        mask: The brain, ``(H, W, D)``.
        framewise_displacement: In mm, ``(T,)``; the first may be NaN, as fMRIPrep has it.

    Returns:
        ``series``, float32 ``(3, T)`` with the rows :data:`SERIES`: mean over voxels, standardised DVARS (NaN for the
        first frame) and framewise displacement in mm (NaN if it is not known);
        ``carpet``, int8 ``(R, T)`` of up to 160 rows, in steps of 1/32 standard deviation;
        ``numbers``, float32 with the entries :data:`NUMBERS`: median of the voxels' temporal signal-to-noise ratio
        (mean over standard deviation), mean of DVARS, share of frames with more than 1.5 of it, mean of the framewise
        displacement, share of frames with more than 0.5 mm.

    References:
        Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018 (DVARS, framewise displacement). Nichols 2017,
        arXiv:1704.01469 (standardised DVARS). Power 2017, doi:10.1016/j.neuroimage.2016.08.009 (carpet).

    Example:
        >>> import numpy as np
        >>> from nstorm.data.report.quality import SERIES, quality_of
        >>> noise = np.random.default_rng(0).normal(100, 2, (200, 512)).astype(np.float32)
        >>> noise[120] += 6
        >>> quality = quality_of(noise, np.ones((8, 8, 8), bool))
        >>> quality["series"].shape, quality["carpet"].shape
        ((3, 200), (160, 200))
        >>> np.flatnonzero(quality["series"][SERIES.index("dvars")] > 1.5).tolist()
        [120, 121]
    """
    num_frames, num_voxels = values.shape
    rows = np.array_split(_by_depth(mask), min(MOST_ROWS, num_voxels))
    apart = max(1, num_voxels // _SAMPLE)
    carpet = np.empty((len(rows), num_frames), np.int8)
    total, squares = np.zeros(num_frames), np.zeros(num_frames - 1)
    tsnr, expected = [], []
    # a row of the carpet at a time, so that what is computed stays in the processor's cache
    for row, voxels in enumerate(rows):
        part = values[:, voxels]
        total += part.sum(1)
        squares += np.square(np.diff(part, axis=0)).sum(1)
        expected.append(_expected_change(part[:, ::apart]))
        # from the first frame on, or rounding would make a constant voxel vary
        first = part[0].copy()
        part -= first
        above = part.mean(0)
        part -= above
        std = np.sqrt(np.einsum("tv,tv->v", part, part) / num_frames)
        varies = std > 0
        tsnr.append((first + above)[varies] / std[varies])
        unit = np.divide(1, std * len(voxels), out=np.zeros_like(std), where=varies)
        carpet[row] = np.clip(np.rint(part @ unit / CARPET_STEP), -127, 127)

    series = np.full((len(SERIES), num_frames), np.nan, np.float32)
    series[0] = total / num_voxels
    usual = np.concatenate(expected).mean()
    series[1, 1:] = np.sqrt(squares / num_voxels) / usual if usual > 0 else 0
    if framewise_displacement is not None:
        series[2] = framewise_displacement
    ratios = np.concatenate(tsnr)
    numbers = [
        np.median(ratios) if ratios.size else np.nan,
        *_mean_and_share(series[1], FAR_DVARS),
        *_mean_and_share(series[2], FAR_DISPLACEMENT),
    ]
    return {"series": series, "carpet": carpet, "numbers": np.array(numbers, np.float32)}


def _by_depth(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Sort the voxels of a mask from its surface inwards."""
    from scipy.ndimage import distance_transform_cdt

    depth = distance_transform_cdt(mask, metric="taxicab")[mask]
    return np.argsort(depth, kind="stable")


def _expected_change(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root mean square change between neighbours of a series that has no outliers."""
    low, high = np.percentile(values, [25, 75], axis=0)
    around = values - values.mean(0)
    variance = np.square(around).sum(0)
    products = (around[1:] * around[:-1]).sum(0)
    autocorrelation = np.divide(products, variance, out=np.zeros_like(variance), where=variance > 0)
    return (high - low) / _QUARTILES * np.sqrt(2 * (1 - autocorrelation))


def _mean_and_share(series: NDArray[np.float32], limit: float) -> tuple[float, float]:
    known = series[~np.isnan(series)]
    return (float(known.mean()), float((known > limit).mean())) if known.size else (np.nan, np.nan)
