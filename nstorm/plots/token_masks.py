"""Figures of token masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_HIDDEN, _VISIBLE, _OUTSIDE, _ROW = "#c9485b", "#cfd8dc", "#ffffff", "#f0b429"
_FRAMES_IN_A_ROW = 5
_WIDTH, _ROW_HEIGHT = 9.0, 2.3


def plot_token_mask(
    hidden: Bool[Tensor, "h w d t"],
    background: Float[Tensor, "H W D *T"] | None = None,
    brain_tokens: Bool[Tensor, "h w d"] | None = None,
    frames: Sequence[int] | None = None,
    *,
    slice_index: int | None = None,
    row_index: int | None = None,
    patch_size: Sequence[int] | None = None,
) -> Figure:
    """Draw which tokens of a sample are hidden: a slice in several frames above, a row of it over all of time below.

    Above, axis 0 runs to the right and axis 1 upwards; a yellow frame marks the row along axis 1 that is drawn below.
    There a tube is a stripe along time, a hidden frame one across, and a window or a box a rectangle.

    Args:
        hidden: (h, w, d, t), such as `mask((1, h, w, d, t))[0]`.
        background: the volume (H, W, D), or (H, W, D, T) of which the mean is taken, to draw in grey below the mask.
        brain_tokens: (h, w, d), True for tokens of the brain; all others stay without colour. By default all are.
        frames: those to draw the slice in, tokens along t; by default up to 5 from the first to the last.
        slice_index: the slice, a token along axis 2; by default that with most of the brain.
        row_index: the row, a token along axis 0; by default that with most of the slice's brain.
        patch_size: voxels of a token along h, w, d of the background; by default the smallest that cover it.

    Returns:
        A figure, of which pyplot knows nothing.

    Raises:
        ValueError: if `hidden` is not 4D, or `brain_tokens` or `background` does not fit it.

    Example:
        >>> from nstorm.layers import WindowMask
        >>> from nstorm.plots import plot_token_mask
        >>> hidden = WindowMask(0.5)((1, 16, 16, 16, 20))[0]
        >>> [panel.get_title() for panel in plot_token_mask(hidden, frames=(0, 4)).axes[:2]]
        ['t = 0', 't = 4']
    """
    from matplotlib.figure import Figure

    tokens, brain = _checked(hidden, brain_tokens)
    h, w, _, num_frames = tokens.shape
    if frames is None:
        frames = np.linspace(0, num_frames - 1, min(_FRAMES_IN_A_ROW, num_frames)).round().astype(int).tolist()
    at = _fullest(brain.sum((0, 1))) if slice_index is None else slice_index
    row = _fullest(brain[:, :, at].sum(1)) if row_index is None else row_index
    # 0 visible, 1 hidden, -1 outside of the brain
    states = np.where(brain[..., None], tokens, -1)
    grey = None if background is None else _grey(_array(background), tokens.shape, at, patch_size)

    columns = min(len(frames), _FRAMES_IN_A_ROW)
    rows = -(-len(frames) // columns)
    height = min(_WIDTH / columns * w / h, 4.0) + 0.3
    figure = Figure(figsize=(_WIDTH, rows * height + _ROW_HEIGHT + 0.5), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=[rows * height, _ROW_HEIGHT])
    panels = parts[0].subgridspec(rows, columns).subplots(squeeze=False).ravel()
    for panel, frame in zip(panels, frames, strict=False):
        _draw_slice(panel, states[:, :, at, frame], row, grey)
        panel.set_title(f"t = {frame}", fontsize="medium")
    for panel in panels[len(frames) :]:
        panel.remove()
    _draw_row(figure.add_subplot(parts[1]), states[row, :, at], frames)
    _explain(figure, states)
    return figure


def _array(values: Any) -> Any:
    """As a NumPy array, from whatever device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _checked(hidden: Any, brain_tokens: Any) -> tuple[Bool[ndarray, "h w d t"], Bool[ndarray, "h w d"]]:
    tokens = _array(hidden).astype(bool)
    if tokens.ndim != 4:
        raise ValueError(f"hidden has shape {tokens.shape}, expected the mask of one sample (h, w, d, t): hidden[0]")
    brain = np.ones(tokens.shape[:3], bool) if brain_tokens is None else _array(brain_tokens).astype(bool)
    if brain.shape != tokens.shape[:3]:
        raise ValueError(f"brain_tokens has shape {brain.shape}, expected {tokens.shape[:3]} as of hidden")
    return tokens, brain


def _fullest(counts: Any) -> int:
    """Where there is most; the middle one of several such places."""
    places = np.flatnonzero(counts == counts.max())
    return int(places[len(places) // 2])


def _grey(
    background: Float[ndarray, "H W D *T"], grid: tuple[int, ...], at: int, patch_size: Sequence[int] | None
) -> dict[str, Any]:
    """What `imshow` needs to draw the middle of a slice of tokens in the coordinates of these."""
    size, grid = background.shape[:3], grid[:3]
    patch = tuple(patch_size or (-(-n // tokens) for n, tokens in zip(size, grid, strict=True)))[:3]
    if background.ndim not in (3, 4) or tuple(-(-n // p) for n, p in zip(size, patch, strict=True)) != grid:
        raise ValueError(
            f"background has shape {background.shape}, which patches of {patch} do not cut into the {grid} tokens of "
            "hidden: give a volume (H, W, D) or (H, W, D, T), and patch_size"
        )
    volume = background.astype(np.float64)
    volume = volume.mean(-1) if volume.ndim == 4 else volume
    low, high = np.percentile(volume, [2, 99.5])
    # nothing is as white as what surrounds the picture
    high += 0.25 * (high - low)
    middle = min(at * patch[2] + patch[2] // 2, size[2] - 1)
    x, y = (n / p - 0.5 for n, p in zip(size[:2], patch[:2], strict=True))
    return {"X": volume[:, :, middle].T, "extent": (-0.5, x, -0.5, y), "vmin": low, "vmax": high, "cmap": "gray"}


def _colours() -> dict[str, Any]:
    from matplotlib.colors import ListedColormap

    return {"cmap": ListedColormap([_OUTSIDE, _VISIBLE, _HIDDEN]), "vmin": -1, "vmax": 1, "interpolation": "nearest"}


def _draw_slice(axes: Axes, states: Any, row: int, grey: dict[str, Any] | None) -> None:
    """A slice in one frame: the hidden tokens over the image, or over the visible ones where there is none."""
    from matplotlib.patches import Rectangle

    h, w = states.shape
    if grey is None:
        axes.imshow(states.T, origin="lower", **_colours())
    else:
        axes.imshow(**grey, origin="lower", interpolation="nearest")
        shown = np.ma.masked_not_equal(states, 1)
        axes.imshow(shown.T, origin="lower", alpha=0.65, **_colours())
    axes.set_xticks(np.arange(h + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(w + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.3, alpha=0.35)
    axes.tick_params(which="both", length=0, labelleft=False, labelbottom=False)
    axes.set(xlim=(-0.5, h - 0.5), ylim=(-0.5, w - 0.5), aspect="equal")
    axes.spines[:].set_visible(False)
    axes.add_patch(Rectangle((row - 0.5, -0.5), 1, w, fill=False, edgecolor=_ROW, linewidth=1.4, clip_on=False))


def _draw_row(axes: Axes, states: Any, frames: Sequence[int]) -> None:
    """A row of tokens over time; triangles mark the frames that are drawn above."""
    from matplotlib.ticker import MaxNLocator

    w, num_frames = states.shape
    axes.imshow(states, origin="lower", aspect="auto", **_colours())
    axes.set_xticks(np.arange(num_frames + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(w + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.plot(frames, [w - 0.2] * len(frames), "v", color="black", markersize=5, clip_on=False)
    axes.set(ylim=(-0.5, w - 0.5), xlabel="time (tokens)", ylabel="axis 1 (tokens)")
    axes.spines[:].set_color(_ROW)
    axes.spines[:].set_linewidth(1.4)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))


def _explain(figure: Figure, states: Any) -> None:
    """The legend, and how many tokens are hidden."""
    from matplotlib.patches import Patch

    hidden, visible = int((states == 1).sum()), int((states == 0).sum())
    handles = [Patch(color=_HIDDEN, label="hidden"), Patch(color=_VISIBLE, label="visible")]
    of = "tokens"
    if (states == -1).any():
        handles.append(Patch(facecolor=_OUTSIDE, edgecolor="#888888", linewidth=0.5, label="outside the brain"))
        of = "tokens of the brain"
    handles.append(Patch(fill=False, edgecolor=_ROW, linewidth=1.4, label="the row below"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    share = 100 * hidden / max(hidden + visible, 1)
    figure.suptitle(f"{hidden:,} of {hidden + visible:,} {of} hidden ({share:.1f} %)", fontsize="medium")
