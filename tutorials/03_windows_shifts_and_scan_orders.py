# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Windows, shifts and scan orders
#
# A shifted-window block cuts a grid of tokens into windows and mixes the tokens of each. Four choices decide which
# tokens meet, and when: the shift, what happens at the border, the order of the scan, and the brain mask. Here you
# look at each of them on a whole-brain recording. Everything runs on a CPU in less than a minute. It helps to know
# [your first 4D fMRI model](01_your_first_4d_fmri_model.ipynb).

# %%
import time
import warnings
from functools import partial

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.patches import Patch, Rectangle

from nstorm.data import load_bold, rest_run, zscore_voxels
from nstorm.layers import MambaMixer, PatchEmbed4D, ShiftedWindowBlock, WindowAttention
from nstorm.nets import NeuroSTORM, SwiFT
from nstorm.plots import plot_order
from nstorm.scan import (
    ScanOrder,
    WindowLayout,
    cross_scan,
    hilbert_order,
    list_orders,
    raster_order,
    scan_order,
    snake_order,
)

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")
torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

run = rest_run()
bold = load_bold(run.bold)
brain = torch.from_numpy(np.asarray(nib.load(run.mask).dataobj) > 0)
signal = zscore_voxels(bold, brain).as_tensor()
mean = bold.as_tensor().mean(0)
print("run:       ", tuple(bold.shape), "= (T, H, W, D), TR", bold.meta["tr"], "s, voxels of 4 mm")
print("axes:      ", nib.aff2axcodes(bold.affine.numpy()), "so H runs to the right, W to the front, D upwards")
print("brain:     ", int(brain.sum()), f"voxels, {brain.float().mean():.0%} of the volume")

# %% [markdown]
# ## 1. What wraps around
#
# We crop the volume to a box around the brain, as many pipelines do, and take 20 frames. A token is 12 mm and one
# frame, as in the published NeuroSTORM, a window 4 tokens along each axis, and the shift half a window.
# `WindowLayout` knows the rest.

# %%
BOX = slice(6, 42), slice(4, 52), slice(4, 40)
PATCH, FRAMES = 3, 20
WINDOW, SHIFT = (4, 4, 4, 4), (2, 2, 2, 2)


def pool(mask, patch):
    """Tokens (h, w, d) with a voxel of the mask."""
    return F.max_pool3d(mask.float()[None], patch, ceil_mode=True)[0].bool()


image, in_brain = mean[BOX], pool(brain[BOX], PATCH)
grid = (*in_brain.shape, FRAMES)
plain, shifted = (WindowLayout(grid, WINDOW, shift) for shift in ((0, 0, 0, 0), SHIFT))
print("tokens:    ", grid, "= (h, w, d, t)")
print("windows:   ", shifted.num_windows, "of", shifted.num_tokens, "tokens")


def window_of_every_token(layout):
    """Number the windows, and put each number where the tokens of its window are."""
    numbers = torch.arange(layout.num_windows).view(-1, 1, 1).expand(-1, layout.num_tokens, 1)
    return layout.reverse(numbers.float())[0, ..., 0].int()


def show(axes, image, view="axial", patch=PATCH):
    """A slice of voxels in grey, with ticks that count tokens."""
    height, width = (size / patch - 0.5 for size in image.shape)
    axes.imshow(image.T, origin="lower", cmap="gray", extent=(-0.5, height, -0.5, width))
    across, up = {"axial": ("H, to the right", "W, to the front"), "sagittal": ("W, to the front", "D, upwards")}[view]
    axes.set(xlabel=f"{across} (tokens)", ylabel=f"{up} (tokens)")
    axes.set(xticks=range(0, int(height) + 1, 2), yticks=range(0, int(width) + 1, 2))


def paint(axes, numbers, strength):
    """A colour for each number over the slice; `strength` is how opaque, one number a token."""
    names = np.unique(numbers)
    hue = np.searchsorted(names, numbers) * 0.618 % 1
    colours = plt.get_cmap("hsv")(hue)
    colours[..., 3] = strength
    axes.imshow(np.swapaxes(colours, 0, 1), origin="lower", extent=(-0.5, len(hue) - 0.5, -0.5, hue.shape[1] - 0.5))


def outline(axes, tokens, colour="white"):
    """The border of a set of tokens."""
    inside = np.pad(np.asarray(tokens), 1)
    for along, (one, other) in enumerate(((1, 0), (0, 1))):
        for h, w in np.argwhere(inside != np.roll(inside, 1, along)) - 1.5:
            axes.plot([h, h + other], [w, w + one], color=colour, linewidth=2.2, solid_capstyle="round")


number, axial, sagittal, frame = window_of_every_token(shifted), 6, 6, 5
before = window_of_every_token(plain)
# a token at the right end of the head, one at its front, one at its top
at = {"left and right": (11, 7, axial), "front and back": (6, 15, axial), "top and bottom": (sagittal, 5, 11)}
ends = {name: number == number[(*place, frame)] for name, place in at.items()}


def at_the_border(numbers):
    """Windows whose tokens lie further apart than a window is long."""
    span = [np.ptp(np.argwhere(numbers == name), axis=0).max() for name in np.unique(numbers)]
    return np.isin(numbers, np.unique(numbers)[np.array(span) >= WINDOW[0]])


# %% [markdown]
# Each colour is a window. Shifted, the grid is rolled, so that windows at one border go on at the opposite one:
# strong colours are windows that hold tokens of both ends. Right: the same slice as the windows see it.


# %%
def rolled(image, shift=2 * PATCH):
    return np.roll(np.asarray(image), (-shift, -shift), axis=(0, 1))


figure, panels = plt.subplots(2, 3, figsize=(11, 8.6), layout="constrained", height_ratios=[1.3, 1])
rows = {
    "axial": (np.s_[:, :, axial], ("left and right", "front and back")),
    "sagittal": (np.s_[sagittal], ("top and bottom",)),
}
for line, (view, (plane, names)) in zip(panels, rows.items(), strict=True):
    picture = image[:, :, axial * PATCH + 1] if view == "axial" else image[sagittal * PATCH + 1]
    now, then = (x[..., frame][plane].numpy() for x in (number, before))
    held = in_brain[plane].numpy()
    show(line[0], picture, view)
    paint(line[0], then, np.where(held, 0.5, 0.15))
    line[0].set_title(f"{view}: windows")
    show(line[1], picture, view)
    paint(line[1], now, np.where(at_the_border(now), np.where(held, 0.65, 0.3), 0.08))
    line[1].set_title("shifted by half a window")
    show(line[2], rolled(picture), view)
    line[2].set(title="shifted, as the windows see it", xlabel="", ylabel="", xticks=[], yticks=[])
    for edge in range(0, now.shape[0] + 1, 4):
        line[2].axvline(edge - 0.5, color="#888888", linewidth=0.7)
    for edge in range(0, now.shape[1] + 1, 4):
        line[2].axhline(edge - 0.5, color="#888888", linewidth=0.7)
    for name in names:
        tokens = ends[name][..., frame][plane].numpy()
        outline(line[1], tokens)
        outline(line[2], rolled(tokens, 2), "#ffd23f")
plt.show()

# %% [markdown]
# The outlined windows join the right temple to the left one, the forehead to the back of the head, and the crown to
# the cerebellum. Along time, the last frames and the first ones are neighbours too: below, a voxel's time course with
# one colour a window, and the window at the border as the scan reads it.

# %%
course = signal[:FRAMES, 40, 30, 25]
columns = number[11, 8, 7]
order = np.roll(np.arange(FRAMES), -SHIFT[3])[-4:]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.6), width_ratios=[3, 1], sharey=True, layout="constrained")
for t in range(FRAMES):
    wraps = t in order
    colour = "#e4572e" if wraps else ("#cfd8dc" if columns[t] % 2 else "#eceff1")
    left.axvspan(t - 0.5, t + 0.5, color=colour, alpha=0.6 if wraps else 1, linewidth=0)
left.plot(course, "o-", color="#222222", markersize=4)
left.set(title="windows along time", xlabel="frame", ylabel="signal (z-score)", xlim=(-0.5, 19.5), xticks=range(20))
right.axvspan(-0.5, 3.5, color="#e4572e", alpha=0.6, linewidth=0)
right.plot(course[order], "o-", color="#222222", markersize=4)
right.set(title="one window", xlabel="frame", xticks=range(4), xticklabels=order, xlim=(-0.5, 3.5))
plt.show()

# %% [markdown]
# How often does this happen? `partition` cuts anything into windows: here the coordinates of all tokens, and the
# mask.


# %%
def cut(layout, mask):
    """Coordinates (windows, tokens, 4) of the tokens of each window, and whether they are brain (windows, tokens)."""
    coordinates = torch.stack(torch.meshgrid(*map(torch.arange, layout.grid), indexing="ij"), dim=-1)[None]
    held = mask[None, ..., None, None].expand(1, *layout.grid, 1)
    return layout.partition(coordinates.float()), layout.partition(held.float())[..., 0].bool()


def share_that_wraps(mask, shift=SHIFT):
    """For each axis the share of the brain's tokens in a window with brain of the other end."""
    places, held = cut(WindowLayout((*mask.shape, FRAMES), WINDOW, shift), mask)
    highest = places.masked_fill(~held[..., None], -torch.inf).amax(1)
    lowest = places.masked_fill(~held[..., None], torch.inf).amin(1)
    meeting = highest - lowest >= torch.tensor(WINDOW)  # (windows, 4); False where a window holds no brain
    return (held.sum(1)[:, None] * meeting).sum(0) / held.sum()


cube = brain[:, 4:52]
wraps = {
    "box, tokens of 12 mm": share_that_wraps(in_brain),
    "192 mm cube, tokens of 12 mm": share_that_wraps(pool(cube, 3)),
    "192 mm cube, tokens of 24 mm": share_that_wraps(pool(cube, 6)),
}
print(f"{'share of the brain that wraps':29} left-right  back-front  bottom-top  first-last frame")
for name, shares in wraps.items():
    print(f"{name:29} " + "  ".join(f"{value:10.1%}" for value in shares))

# %% [markdown]
# The cube is the extent that the published model sees. In its first stage (12 mm) air keeps most ends apart; in its
# second (24 mm), shifted windows join them. First and last frames meet wherever windows are shifted along time.

# %% [markdown]
# ## 2. What meets, mixes: wrap or reset
#
# `boundary="wrap"` is what the published NeuroSTORM does. `boundary="reset"` groups the tokens of a window by the
# region they come from, and starts state and convolution of a scan anew at each; attention is masked between them,
# as SwiFT's is. Proof by perturbation: change the rightmost tokens of the brain in one frame, and see where the output
# moves. All weights are equal between the two, and random: this is about what *can* flow.

# %%
DIM, CHANGED_FRAME = 16, 10
MIXERS = {"MambaMixer": MambaMixer, "WindowAttention": partial(WindowAttention, num_heads=2)}


def tokens_of(volumes, patch, dim):
    """Frames (T, H, W, D) as tokens (1, h, w, d, t, dim)."""
    torch.manual_seed(0)
    embed = PatchEmbed4D(1, dim, (patch, patch, patch, 1)).requires_grad_(False)
    return rearrange(embed(rearrange(volumes, "t h w d -> 1 1 h w d t")), "b c h w d t -> b h w d t c")


def block_of(mixer, dim=DIM, window=WINDOW, shift=SHIFT, **kwargs):
    """A block, with the same weights for the same mixer."""
    torch.manual_seed(0)
    return ShiftedWindowBlock(dim, mixer(dim), window, shift, **kwargs).requires_grad_(False)


def movement(block, x, change):
    """How far a change of the tokens (1, h, w, d, t, c) moves the output of each, (h, w, d, t)."""
    return (block(x + change) - block(x)).norm(dim=-1)[0]


def heat(axes, values, limits, cmap="plasma"):
    """Values on a logarithmic scale over a slice, nothing where they are 0."""
    extent = (-0.5, len(values) - 0.5, -0.5, values.shape[1] - 0.5)
    shown = np.ma.masked_equal(np.asarray(values).T, 0)
    return axes.imshow(shown, origin="lower", cmap=cmap, norm=LogNorm(*limits, clip=True), extent=extent)


x = tokens_of(signal[:FRAMES, *BOX], PATCH, DIM)
at_right = in_brain & (torch.arange(grid[0]) >= 11)[:, None, None]
other = torch.randn(DIM)
change_right, change_last = torch.zeros_like(x), torch.zeros_like(x)
change_right[0, :, :, :, CHANGED_FRAME][at_right] = other
change_last[0, :, :, :, -1][in_brain] = other
moved = {
    (name, boundary): [movement(block_of(mixer, boundary=boundary), x, c) for c in (change_right, change_last)]
    for name, mixer in MIXERS.items()
    for boundary in ("wrap", "reset")
}

# %%
figure, panels = plt.subplots(2, 3, figsize=(11, 8), layout="constrained")
for line, name in zip(panels, MIXERS, strict=True):
    top = float(moved[name, "wrap"][0].max())
    for axes, boundary, colour in zip(line, ("wrap", "reset"), ("#e4572e", "#1f6f8b"), strict=False):
        by_place, by_frame = moved[name, boundary]
        show(axes, image[:, :, axial * PATCH + 1])
        drawn = heat(axes, by_place[:, :, axial].amax(-1), (top * 1e-6, top))
        outline(axes, at_right[:, :, axial], "#4fc3f7")
        axes.set_title(f"{name}, {boundary}")
        curve = by_frame[in_brain].mean(0)
        size = 9 if boundary == "wrap" else 5
        line[2].plot(curve.where(curve > 0, torch.nan), "o", markersize=size, color=colour, label=boundary)
    figure.colorbar(drawn, ax=line[1], label="output moved by", shrink=0.8)
    line[2].set(title="last frame changed: output moved by", xlabel="frame", yscale="log")
    line[2].set(xticks=range(0, FRAMES, 2), xlim=(-1, FRAMES))
    line[2].legend(frameon=False, loc="center")
plt.show()

# %% [markdown]
# What was changed is outlined in blue. With `"wrap"` the output moves at the other side of the head, too. Right:
# after a change in the last frame, the *first* frames move, so the past depends on the future even with a causal
# scan. With `"reset"` neither happens: outside of the region, nothing moves at all.
#
# How the scan goes, in a window where both borders meet (a small grid in 2D). Lines part the regions. Under `"wrap"`
# one path runs through all of them. Under `"reset"` each region is scanned in one piece, in the given order, and
# convolution and state start anew at each blue ring: nothing is carried along the dashed step that leads there.


# %%
def path_at_the_border(boundary, order, grid=(12, 12), window=(6, 6), shift=(2, 2)):
    """The last window's order, and which of its tokens start anew."""
    windows = WindowLayout(grid, window, shift, order, boundary).windows()
    tokens = windows.places.index.reshape(-1, windows.num_tokens)[-1]
    rolled = np.subtract(np.unravel_index(tokens, grid), np.reshape(shift, (2, 1))) % np.reshape(grid, (2, 1))
    starts = np.zeros(len(tokens), bool) if windows.reset is None else windows.reset[-1]
    return ScanOrder(window, np.ravel_multi_index(tuple(rolled % np.reshape(window, (2, 1))), window)), starts


figure, panels = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
border = {
    choice: path_at_the_border(*choice) for choice in (("wrap", "raster"), ("reset", "raster"), ("reset", "hilbert"))
}
for axes, ((boundary, name), (order, starts)) in zip(panels, border.items(), strict=True):
    plot_order(order, axes)
    axes.axhline(3.5, color="#222222", linewidth=1.5)
    axes.axvline(3.5, color="#222222", linewidth=1.5)
    axes.scatter(
        *order.coordinates[starts].T[::-1], s=120, facecolor="none", edgecolor="#1f6f8b", linewidth=2.5, zorder=6
    )
    axes.set(title=f"{boundary}, {name}", xlabel="", ylabel="", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# **Padding** is the other half of the border. A grid that is no multiple of its window is padded at its end. The
# uncropped volume in patches of 4 voxels has 14 tokens along W, so windows of 4 leave 2 rows of padding. Under
# `"wrap"` these are scanned as tokens of zeros, as published; under `"reset"` they enter nothing. Without a shift, as
# here, the difference between the two is the padding's doing alone.

# %%
COARSE, WIDE = 4, 36
far = tokens_of(signal[:FRAMES], COARSE, WIDE)
far_brain = pool(brain, COARSE)
padded = WindowLayout(far.shape[1:-1], WINDOW, (0, 0, 0, 0)).padded
print("tokens:    ", tuple(far.shape[1:-1]), "padded to", padded)

figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained", sharey=True)
padding = {}
for axes, (name, mixer) in zip(panels, MIXERS.items(), strict=True):
    wrap, reset = (block_of(mixer, WIDE, shift=(0, 0, 0, 0), boundary=b) for b in ("wrap", "reset"))
    scanned, left_out = wrap(far), reset(far)
    # the two rows before the padding, as a grid of their own: no padding there
    padding[name] = scanned[:, :, 12:], left_out[:, :, 12:], reset(far[:, :, 12:])
    effect = (scanned - left_out).norm(dim=-1)[0] / left_out.norm(dim=-1)[0]
    show(axes, mean[:, :, 24], patch=COARSE)
    drawn = heat(axes, (effect.mean(-1) * far_brain)[:, :, 6], (1e-4, 1e-1))
    axes.add_patch(Rectangle((-0.5, 13.5), 12, 2, facecolor="#eeeeee", edgecolor="#999999", hatch="//"))
    axes.text(5.5, 14.5, "padding", ha="center", va="center", backgroundcolor="#eeeeee")
    axes.set(title=name, ylim=(6.5, 15.5))
    touched = far_brain[:, 12:]
    print(f"{name + ':':16} output of the brain beside the padding changed by {effect[:, 12:][touched].mean():.2%}")
figure.colorbar(drawn, ax=panels, label="relative change of the output", shrink=0.8)
plt.show()

# %% [markdown]
# ## 3. Scan orders
#
# A mixer such as Mamba reads the tokens of a window one after another, and forgets on the way. The order decides
# which tokens are near. `plot_order` draws it: solid steps go to a neighbour, dashed red ones jump; ring to square.

# %%
paths = {
    "raster": raster_order((8, 8)),
    "snake": snake_order((8, 8)),
    "hilbert": hilbert_order((8, 8)),
    "hilbert, any box": hilbert_order((5, 9)),
}
paths |= {f"cross-scan, {i} of 4": order for i, order in enumerate(cross_scan((8, 8)), start=1)}
figure, panels = plt.subplots(2, 4, figsize=(11, 5.8), layout="constrained")
for axes, (name, order) in zip(panels.ravel(), paths.items(), strict=True):
    plot_order(order, axes)
    axes.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
plt.show()

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained", subplot_kw={"projection": "3d"})
for axes, name in zip(panels, ("raster", "snake", "hilbert"), strict=True):
    plot_order(scan_order(name, (4, 4, 4)), axes)
    axes.set_title(name, y=1.0)
plt.show()

# %% [markdown]
# A window of the published model is 4 x 4 x 4 x 4, drawn below one frame a panel. The published raster follows each
# place through time, so that every step leaves the frame (triangles). Hilbert's curve visits compact blocks of space
# *and* time.

# %%
plot_order(raster_order(WINDOW))

# %%
plot_order(hilbert_order(WINDOW))

# %% [markdown]
# Measured: how many steps jump, the longest jump, and the *spread*: the greatest distance between any two of 16
# consecutive tokens, averaged over all such runs. Distances are counted in tokens along the axes.


# %%
def spread(order, length=16):
    runs = np.lib.stride_tricks.sliding_window_view(order.coordinates, length, axis=0)  # (runs, axes, length)
    return np.abs(runs[..., None] - runs[..., None, :]).sum(1).max((1, 2)).mean()


locality = {}
print(f"{'window':14} {'order':14} {'jumps':>6} {'longest':>8} {'spread of 16':>13}")
for window in (WINDOW, (4, 4, 4, 20)):
    for name in ("raster", "spatial_first", "snake", "hilbert"):
        order = scan_order(name, window)
        steps = order.jumps()
        locality[window, name] = (steps > 1).sum(), steps.max(), spread(order)
        print("{!s:14} {:14} {:6} {:8} {:13.1f}".format(window, name, *locality[window, name]))

# %% [markdown]
# `ShiftedWindowBlock(order=...)` takes one of these names or several; several are scanned one by one, and their mean
# is taken. A single causal scan leaves each token blind to those after it. Below, one token of a window is changed, 8
# places along D and 8 frames; colour says how much the others move, white cells cannot see it. The mean is over 64
# random windows.

# %%
print("names: ", ", ".join(list_orders()))
GRID = (1, 1, 8, 8)
CENTRE = (4, 3)
sets = {
    "raster": "raster",
    "hilbert": "hilbert",
    "raster + reversed": ("raster", "raster_reversed"),
    "cross-scan": ("raster", "raster_reversed", "spatial_first", "spatial_first_reversed"),
}
torch.manual_seed(0)
noise, change = torch.randn(64, *GRID, DIM), torch.zeros(64, *GRID, DIM)
change[:, 0, 0, *CENTRE] = torch.randn(64, DIM)

figure, panels = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained", sharey=True)
seen = {}
for axes, (name, order) in zip(panels, sets.items(), strict=True):
    block = block_of(MambaMixer, window=GRID, shift=(0, 0, 0, 0), order=order)
    moves = (block(noise + change) - block(noise)).norm(dim=-1).mean(0)[0, 0]  # (d, t)
    seen[name] = moves > 0
    moves[CENTRE] = 0
    drawn = heat(axes, moves.T, (1e-6, 0.1), "viridis")
    axes.plot(*CENTRE[::-1], "*", color="#e4572e", markersize=12)
    axes.set(title=f"{name}: {int(seen[name].sum())} of 64", xlabel="frame", xticks=range(8), yticks=range(8))
    axes.invert_yaxis()
panels[0].set_ylabel("place along D")
figure.colorbar(drawn, ax=panels, label="the output moved by", shrink=0.9)
plt.show()

# %% [markdown]
# On a plane, the four names of the last panel are VMamba's cross-scan. In 4D, `cross_scan` has a raster and its
# reverse for each axis; of these the block knows by name the pair along time (`raster`). To give each order weights
# of its own, pass an `nn.ModuleList` with one mixer for each.

# %% [markdown]
# ## 4. Leave out the air
#
# Most of a volume is air. Given a mask, a block does not compute windows of air, and skips tokens of air in the
# others: they enter nothing and are 0 in the output.

# %%
for patch in (2, 3, 4, 6):
    held = pool(brain, patch)
    print(f"patch {patch} x {patch} x {patch}: {1 - held.float().mean():.0%} of {held.numel()} tokens a frame are air")

layout = WindowLayout(far.shape[1:-1], WINDOW, SHIFT)
_, kept = cut(layout, far_brain)
has_brain = layout.reverse(kept.any(1)[:, None, None].expand(-1, layout.num_tokens, 1).float())[0, ..., 5, 0].bool()
print(f"of {len(kept)} windows, {int((~kept.any(1)).sum())} hold nothing but air; ", end="")
print(f"of their {kept.numel()} tokens, {int(kept.sum())} are in the brain ({kept.float().mean():.0%})")

figure, panels = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axes, level in zip(panels, (3, 6, 9), strict=True):
    show(axes, mean[:, :, COARSE * level], patch=COARSE)
    kind = np.where(far_brain[:, :, level], 0, np.where(has_brain[:, :, level], 1, 2))
    extent = (-0.5, 11.5, -0.5, 13.5)
    three = ListedColormap(["#00000000", "#2b6a8c", "#77787f"])
    axes.imshow(kind.T, origin="lower", cmap=three, vmin=0, vmax=2, extent=extent, interpolation="nearest")
    axes.set(title=f"d = {level}", xticks=range(0, 12, 2))
names = {"air, skipped": three(1), "window of air, not computed": three(2)}
figure.legend(handles=[Patch(color=c, label=n) for n, c in names.items()], loc="outside lower center", ncols=2)
plt.show()

# %% [markdown]
# Is the brain's output what it would be without leaving anything out? `everything` computes all windows in full and
# only tells the mixer which tokens are none (for Mamba on another backend, too). Air is filled with noise on one
# side, to show that it enters nothing.


# %%
def everything(block, x, mask):
    """The block on all windows; `token_mask` keeps air out of convolution and state, `attn_mask` out of attention."""
    layout = WindowLayout(x.shape[1:-1], block.window_size, block.shift_size)
    _, present = cut(layout, mask)
    if isinstance(block.mixer, MambaMixer):
        arguments = {"token_mask": present}
    else:
        arguments = {"attn_mask": present[:, None, :] | torch.eye(layout.num_tokens, dtype=torch.bool)}
    x = x + layout.reverse(block.mixer(layout.partition(block.norm1(x)), **arguments))
    return (x + block.mlp(block.norm2(x))) * mask[..., None, None]


def seconds(function, repeats=5):
    """The fastest of a few calls after a first one."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


noisy = torch.where(far_brain[None, ..., None, None], far, torch.randn_like(far))
in_full, left_air = {}, {}
took = {}
for name, mixer in MIXERS.items():
    block = block_of(mixer, WIDE)
    slow = block_of(partial(MambaMixer, backend="torch") if mixer is MambaMixer else mixer, WIDE)
    in_full[name], left_air[name] = everything(slow, far, far_brain), block(noisy, far_brain)
    took[f"block, {name}"] = seconds(partial(block, far)), seconds(partial(block, far, far_brain))
    error = (in_full[name] - left_air[name]).abs().max() / in_full[name].abs().max()
    print(f"{name + ':':16} largest difference {error:.0e} of the largest output")

# %% [markdown]
# ## 5. The same with attention: SwiFT
#
# Swap the mixer, and the block is SwiFT's. `WindowAttention` takes the same windows, shifts, boundary and mask; to it
# the order of tokens means nothing. Put into stages, the two blocks are the published networks.

# %%
with torch.device("meta"):
    sizes = {net.__name__: sum(p.numel() for p in net().parameters()) for net in (NeuroSTORM, SwiFT)}
print("parameters as published:", sizes)

size = (*brain.shape, FRAMES)
clip = rearrange(signal[:FRAMES], "t h w d -> 1 1 h w d t")
shape = {"patch_size": (4, 4, 4, 1), "feature_size": 24, "depths": (2, 2), "num_classes": 2}
logits = {}
for net in (NeuroSTORM(size, **shape), SwiFT(size, num_heads=(3, 6), **shape)):
    name = type(net).__name__
    net.eval().requires_grad_(False)
    logits[name] = net(clip, brain)
    took[name] = seconds(partial(net, clip), 3), seconds(partial(net, clip, brain), 3)

print("a forward pass on one thread")
for name, (full, masked) in took.items():
    print(
        f"{name + ':':23} {full * 1e3:5.0f} ms, with the mask {masked * 1e3:5.0f} ms: {full / masked:.1f} times faster"
    )

# %%
figure, axes = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
for place, (full, masked) in enumerate(took.values()):
    axes.barh(-place + 0.2, full * 1e3, 0.36, color="#9aa5ab", label="everything" if place == 0 else None)
    axes.barh(-place - 0.2, masked * 1e3, 0.36, color="#1f6f8b", label="without air" if place == 0 else None)
    axes.text(masked * 1e3, -place - 0.2, f" {full / masked:.1f} x", va="center")
axes.set_yticks([-place for place in range(len(took))], list(took))
axes.set_xlabel("forward pass on one thread (ms)")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Mamba skips every token of air. Attention leaves out windows of air, but computes the others in full. The networks
# gain less than their blocks: coarser tokens hold less air, and the last stage is one window over all of space, of
# which attention can leave out nothing.
#
# ## 6. What to change for your data
#
# | | |
# |---|---|
# | crop | the tighter the box around the brain, the more meets at the border; count it as in part 1 |
# | boundary | `"wrap"` for published weights, which were trained with it; `"reset"` for networks you train |
# | grid | where a size is no multiple of the window, `"reset"` (or a mask) keeps the padding out |
# | window | an axis shorter than the window is taken whole: no shift there, no border |
# | order | `("raster", "raster_reversed")`: all tokens see each other at twice the cost; `"hilbert"` in long windows |
# | mask | `block(x, mask)` in tokens, `net(clip, brain_mask)` in voxels; one for all samples, or one for each |
# | mask and weights | published weights have seen air as data: check your task with and without the mask |
#
# ## Proof

# %%
assert grid == shifted.padded == (12, 16, 12, 20)
# opposite ends meet along every axis, and only in shifted windows
assert (wraps["box, tokens of 12 mm"] > 0).all()
assert not share_that_wraps(in_brain, shift=(0, 0, 0, 0)).any()
assert wraps["192 mm cube, tokens of 24 mm"].sum() > wraps["192 mm cube, tokens of 12 mm"].sum()

for name in MIXERS:
    for boundary in ("wrap", "reset"):
        by_place, by_frame = moved[name, boundary]
        met = boundary == "wrap"
        assert bool(by_place[:2].any()) == met
        assert bool(by_frame[..., :2].any()) == met
        # other windows never see it
        assert not by_place[2:10].any()
        assert not by_frame[..., 2:18].any()
    scanned, left_out, alone = padding[name]
    assert torch.allclose(left_out, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scanned, alone, rtol=1e-4, atol=1e-5)

# four regions of one window: one path under wrap, four under reset
assert [int(starts.sum()) for _, starts in border.values()] == [0, 3, 3]
for window in (WINDOW, (4, 4, 4, 20)):
    for name in ("snake", "hilbert"):
        assert locality[window, name][:2] == (0, 1)
    assert locality[window, "hilbert"][2] < locality[window, "snake"][2] < locality[window, "raster"][2]
places_after = torch.arange(64).view(8, 8) >= CENTRE[0] * 8 + CENTRE[1]
assert torch.equal(seen["raster"], places_after)
assert seen["raster + reversed"].all()
assert seen["cross-scan"].all()
assert {scan_order(name, (8, 8)) for name in sets["cross-scan"]} == set(cross_scan((8, 8)))
assert {scan_order(name, WINDOW) for name in list_orders()} & set(cross_scan(WINDOW)) == {
    raster_order(WINDOW),
    raster_order(WINDOW).reversed(),
}

for name in MIXERS:
    assert torch.allclose(left_air[name], in_full[name], rtol=1e-4, atol=1e-5)
    assert not left_air[name][0, ~far_brain].any()
    assert not torch.allclose(block_of(MIXERS[name], WIDE)(far)[0, far_brain], in_full[name][0, far_brain], atol=1e-3)
assert int(kept.sum()) == int(far_brain.sum()) * FRAMES < kept.numel() / 3

attention = MIXERS["WindowAttention"]
assert torch.equal(block_of(attention, order="hilbert")(x), block_of(attention, order="raster")(x))
assert not torch.equal(block_of(MambaMixer, order="hilbert")(x), block_of(MambaMixer, order="raster")(x))
assert all(torch.isfinite(value).all() for value in logits.values())
assert sizes == {"NeuroSTORM": 5_173_020, "SwiFT": 4_314_636}
print("all claims hold")
