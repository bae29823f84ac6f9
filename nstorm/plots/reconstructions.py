"""Figures of what a masked autoencoder makes of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_TITLES = ("BOLD", "what the encoder saw", "reconstruction", "what is left over")
_LIMIT = 2.5
_HIDDEN = "#c9485b"


def plot_reconstruction(
    clip: Float[Tensor, "H W D T"],
    prediction: Float[Tensor, "H W D T"],
    hidden: Bool[Tensor, "H W D T"],
    brain_mask: Bool[Tensor, "H W D"],
    *,
    frames: tuple[int, ...] | None = None,
    slice_index: int | None = None,
) -> Figure:
    """Draw a clip, what an autoencoder saw of it, what it made of it, and the difference; and some voxels over time.

    Visible voxels keep their values in the third column. Below, four voxels that are hidden about as often as not, of
    those whose hidden frames vary most: the line is BOLD, dots are what was filled in, shaded frames were hidden.

    Args:
        clip: z-scored (H, W, D, T), along axes 0 and 1 to the right and upwards.
        prediction: the reconstruction.
        hidden: voxels that were hidden, such as `spread_tokens` makes them of tokens.
        brain_mask: (H, W, D); nothing is drawn outside.
        frames: to draw; three with hidden voxels by default.
        slice_index: along axis 2; by default the one with most of the brain.

    Returns:
        A figure, of which pyplot knows nothing.

    Example:
        >>> import torch
        >>> from nstorm.plots import plot_reconstruction
        >>> clip, hidden = torch.randn(12, 14, 9, 20), torch.rand(12, 14, 9, 20) < 0.5
        >>> figure = plot_reconstruction(clip, 0.5 * clip, hidden, torch.ones(12, 14, 9, dtype=torch.bool))
        >>> [panel.get_title() for panel in figure.axes[:2]]
        ['BOLD', 'what the encoder saw']
    """
    from matplotlib.figure import Figure

    clip, prediction = (values.detach().cpu().float() for values in (clip, prediction))
    hidden, brain_mask = hidden.cpu(), brain_mask.cpu()
    hidden = hidden & brain_mask[..., None]
    at = int(brain_mask.sum((0, 1)).argmax()) if slice_index is None else slice_index
    if frames is None:
        found = hidden[:, :, at].any(0).any(0).nonzero().flatten().tolist() or [0]
        frames = tuple(dict.fromkeys(found[len(found) * part // 6] for part in (1, 3, 5)))
    filled = prediction.where(hidden, clip)
    figure = Figure(figsize=(9.5, 2.15 * len(frames) + 2.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.15 * len(frames), 2.6))
    slices, series = parts
    panels = slices.subplots(len(frames), 4, squeeze=False)
    inside = brain_mask[:, :, at]
    for row, frame in zip(panels, frames, strict=True):
        seen = clip[:, :, at, frame].where(~hidden[:, :, at, frame], np.nan)
        left = (clip - filled)[:, :, at, frame]
        for panel, values in zip(row, (clip[:, :, at, frame], seen, filled[:, :, at, frame], left), strict=True):
            image = _draw_slice(panel, values.where(inside, np.nan).numpy(), inside.numpy())
        row[0].set_ylabel(f"t = {frame}")
    for panel, title in zip(panels[0], _TITLES, strict=True):
        panel.set_title(title, fontsize=10)
    slices.colorbar(image, ax=panels, label="z", shrink=0.8)
    places = _voxels(clip, hidden)
    for panel, place in zip(series.subplots(1, len(places) or 1, sharey=True, squeeze=False)[0], places, strict=False):
        _draw_series(panel, clip[place].numpy(), prediction[place].numpy(), hidden[place].numpy())
        panel.set_title("voxel {}, {}, {}".format(*place), fontsize=9)
    series.supxlabel("frame (shaded: hidden; dots: filled in)", fontsize=9)
    return figure


def _draw_slice(panel: Axes, values: Float[ndarray, "H W"], inside: Bool[ndarray, "H W"]) -> Any:
    panel.set_facecolor("#f4f4f4")
    panel.imshow(np.where(inside, 0.35, np.nan).T, origin="lower", cmap="Greys", vmin=0, vmax=1)
    image = panel.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-_LIMIT, vmax=_LIMIT, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    return image


def _draw_series(
    panel: Axes, clip: Float[ndarray, " T"], prediction: Float[ndarray, " T"], hidden: Bool[ndarray, " T"]
) -> None:
    frames = np.arange(len(clip))
    for frame in frames[hidden]:
        panel.axvspan(frame - 0.5, frame + 0.5, color="#eeeeee", linewidth=0)
    panel.plot(frames, clip, color="#333333", linewidth=1)
    panel.plot(frames[hidden], prediction[hidden], "o", color=_HIDDEN, markersize=3.5)
    panel.spines[["top", "right"]].set_visible(False)


def _voxels(clip: Tensor, hidden: Tensor) -> list[tuple[int, int, int]]:
    """Four voxels, far apart, that vary most where they are hidden: of those hidden in about half of the frames."""
    share = hidden.float().mean(-1)
    # a tube is hidden all along: then there are no others
    eligible = (share - 0.5).abs() < 0.25
    if not eligible.any():
        eligible = share > 0
    strength = (clip.square() * hidden).sum(-1).where(eligible, -1.0)
    places: list[tuple[int, int, int]] = []
    reach = [max(size // 5, 1) for size in strength.shape]
    while len(places) < 4 and strength.max() >= 0:
        h, w, d = (int(i) for i in np.unravel_index(int(strength.argmax()), strength.shape))
        places.append((h, w, d))
        low = [max(i - r, 0) for i, r in zip((h, w, d), reach, strict=True)]
        strength[low[0] : h + reach[0], low[1] : w + reach[1], low[2] : d + reach[2]] = -1.0
    return places
