"""Pictures of a run in space."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nstorm.data.report.figures import ORANGE, RED, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIGHT_BLUE = "#56b4e9"
# with less than this across it is no picture
_FEWEST_VOXELS = 4


def slices_figure(
    mean: NDArray[np.float32],
    tsnr: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    usual: NDArray[np.bool_] | None = None,
    most_tsnr: float,
) -> "Figure":
    """Draw slices of a run, the left of the head on the left: its mean with the outline of its mask, and its tSNR.

    Of the three planes those are drawn that have an extent, each where there is most of the brain.

    Args:
        mean: ``(H, W, D)``.
        tsnr: ``(H, W, D)``.
        mask: ``(H, W, D)``, not empty.
        affine: From voxel indices to mm, 4x4.
        usual: The study's mask on the same grid; its outline is dashed.
        most_tsnr: The end of the colour bar.
    """
    from matplotlib.figure import Figure
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import apply_orientation, io_orientation

    towards_ras = io_orientation(affine)
    size = voxel_sizes(affine)[np.argsort(towards_ras[:, 0])]
    around = mask if usual is None else mask | usual
    volumes = [apply_orientation(volume, towards_ras) for volume in (mean, tsnr, mask, around)]
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(volumes[-1]))
    # a margin, in which outlines close
    mean, tsnr, mask = (np.pad(volume[box], 1) for volume in volumes[:3])
    reference = None if usual is None else np.pad(apply_orientation(usual, towards_ras)[box], 1)

    planes = _planes(np.array(mask.shape) - 2)
    widths = [mask.shape[x] * size[x] for _, x, _ in planes]
    heights = [mask.shape[y] * size[y] for _, _, y in planes]
    # one plane: both pictures side by side
    rows, columns = (2, len(planes)) if len(planes) > 1 else (1, 2)
    height = rows * max(heights) / sum(widths) / (1 if rows == 2 else 2) * (WIDTH - 0.8) + 0.15
    figure = Figure(figsize=(WIDTH, float(np.clip(height, 1.5, 6))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, width_ratios=widths * (columns // len(planes)))
    above, below = panels.reshape(2, -1)

    low, high = np.percentile(mean[mask], [2, 98])
    grey: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high if high > low else low + 1}
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": most_tsnr}
    for first, second, (axis, x, y) in zip(above, below, planes, strict=True):
        at = int(mask.sum((x, y)).argmax())
        inside = mask.take(at, axis).T
        shape: dict[str, Any] = {"origin": "lower", "aspect": size[y] / size[x], "interpolation": "nearest"}
        first.imshow(np.where(inside, mean.take(at, axis).T, low), **shape, **grey)
        image = second.imshow(np.where(inside, tsnr.take(at, axis).T, np.nan), **shape, **colours)
        if reference is not None and (outline := reference.take(at, axis).T).any():
            first.contour(outline, levels=[0.5], colors=_LIGHT_BLUE, linewidths=1, linestyles="--")
        first.contour(inside, levels=[0.5], colors=ORANGE, linewidths=1)
        for axes, colour in ((first, "white"), (second, RED)):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            for place, side, align in ((0.01, "L", "left"), (0.99, "R", "right")) if axis != 0 else ():
                axes.text(place, 0.99, side, transform=axes.transAxes, ha=align, va="top", color=colour)
    figure.colorbar(image, ax=list(below), label="tSNR", pad=0.01, aspect=18, extend="max")
    return figure


def _planes(shape: NDArray[np.intp]) -> Sequence[tuple[int, int, int]]:
    """The axes through planes, from the left to the right of the picture, and upwards."""
    planes = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    wide = [(axis, x, y) for axis, x, y in planes if min(shape[x], shape[y]) >= _FEWEST_VOXELS]
    # of a tiny brain, the plane with most of it
    return wide or [planes[int(np.argmin(shape))]]
