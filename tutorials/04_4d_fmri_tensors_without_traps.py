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
# # 4D fMRI tensors without traps
#
# MONAI's transforms are made for images with channels and three axes of space. A BOLD run has a fourth axis, time, and
# a repetition time (TR). Between the two lie traps that raise no error: the values are wrong, and training goes on.
# Here you see nine of them happen, in MONAI or in code that was published, and what `nstorm.data` does in their place.
# Everything runs on a CPU in less than a minute. You need to know MONAI's dictionary transforms.

# %%
import warnings

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")

import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import monai
import nibabel as nib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import LoadImage, RandFlip, RandFlipd, RandGaussianNoise, SaveImage, Spacing, Spacingd
from nibabel.affines import apply_affine
from nibabel.processing import resample_from_to
from scipy.ndimage import zoom
from scipy.signal import welch
from sklearn.model_selection import train_test_split

from nstorm.data import (
    HAXBY_DELAY,
    Grid,
    axcodes_of,
    check_leakage,
    clean,
    connectivity,
    decompress,
    event_clips,
    framewise_displacement,
    haxby_runs,
    load_bold,
    load_mask,
    mni152_grid,
    parcel_time_series,
    percent_signal_change,
    reorient,
    resample_atlas,
    resample_space,
    resample_time,
    rest_run,
    run_item,
    save_bold,
    schaefer_atlas,
    split_by_subject,
    split_runs_within_subject,
    strided_clips,
    time_last,
    zscore_global,
    zscore_voxels,
)
from nstorm.data.transforms import (
    Compose,
    CropToMaskd,
    LoadBOLDd,
    LoadMaskd,
    RandBOLDNoise,
    RandBOLDNoised,
    RandFlipLR,
    RandMotion,
    Reorientd,
    ResampleSpaced,
    TimeAsChanneld,
    TimeToLastd,
)

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
TRAP, OURS, GREY = "#e4572e", "#1f6f8b", "#9aa5ab"

rest, haxby = rest_run(), haxby_runs()
bold, mask = load_bold(rest.bold), load_mask(rest.mask)
brain = mask.as_tensor()[0]
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
print("MONAI", monai.__version__)
print("rest run:  ", tuple(bold.shape), "= (T, H, W, D), TR", bold.meta["tr"], "s, axes", axcodes_of(bold))
print(
    "Haxby run: ", tuple(load_bold(haxby[0].bold).shape), "= (T, H, W, D), TR", load_bold(haxby[0].bold).meta["tr"], "s"
)


def picture(axes, plane, title="", colour="black", *, sides=False, **kwargs):
    """A slice, its first axis to the right and its second one up; `sides` names left and right, as they are in RAS."""
    axes.imshow(np.asarray(plane).T, origin="lower", **{"cmap": "gray", **kwargs})
    axes.set_title(title, color=colour)
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)
    if sides:
        axes.text(0.03, 0.97, "L", transform=axes.transAxes, ha="left", va="top", color="white", weight="bold")
        axes.text(0.97, 0.97, "R", transform=axes.transAxes, ha="right", va="top", color="white", weight="bold")


def refused(call, *args, **kwargs):
    """Print the sentence with which a call is refused, and give it."""
    try:
        call(*args, **kwargs)
    except ValueError as error:
        print(textwrap.fill(f"{type(error).__name__}: {error}", 110))
        return str(error)
    raise AssertionError("nothing was refused")


# %% [markdown]
# ## 1. The repetition time is lost
#
# A header has four voxel sizes, and the fourth is the TR. `LoadImage` "corrects" all four from the affine, which knows
# nothing of time: the TR becomes the distance of the first voxel from the origin of space, in mm.

# %%
files = {"rest": rest.bold, "Haxby": haxby[0].bold}
in_monai = {name: LoadImage()(path) for name, path in files.items()}
print(f"{'':6} {'in the file':>12} {'LoadImage':>12} {'load_bold':>12}   |translation|")
for name, path in files.items():
    stored = float(nib.load(path).header.get_zooms()[3])
    monai_tr, far = float(in_monai[name].meta["pixdim"][4]), np.linalg.norm(nib.load(path).affine[:3, 3])
    print(f"{name:6} {stored:10.2f} s {monai_tr:10.2f} s {load_bold(path).meta['tr']:10.2f} s   {far:.2f} mm")
hours = in_monai["rest"].shape[3] * float(in_monai["rest"].meta["pixdim"][4]) / 3600
print(f"200 frames of the rest run, 5 minutes, would have lasted {hours:.1f} hours")

# %% [markdown]
# `SaveImage` writes a TR of 1 and no unit, and of a clip in the layout of networks, `(1, H, W, D, T)`, the first frame
# only. `save_bold` and `load_bold` hand on everything; so do `LoadBOLDd` and `SaveBOLDd`.

# %%
clip = time_last(bold[:20]).contiguous()
written = {}
for name, image in {"T first": bold[:20], "T last": clip}.items():
    save = SaveImage(folder / name, print_log=False, separate_folder=False)
    save(image)
    written[f"SaveImage, {name}"] = next((folder / name).iterdir())
    written[f"save_bold, {name}"] = save_bold(folder / f"{name}.nii.gz", image)
for name, path in written.items():
    header = nib.load(path).header
    tr = f"{header.get_zooms()[3]:.1f}" if len(header.get_zooms()) == 4 else "none"
    print(f"{name:18} {header.get_data_shape()!s:17} TR {tr:4} unit {header.get_xyzt_units()[1]}")
again = load_bold(written["save_bold, T last"])
same = {
    "values": torch.equal(again.as_tensor(), bold[:20].as_tensor()),
    "affine": torch.equal(again.affine, bold.affine),
    "TR": again.meta["tr"] == bold.meta["tr"],
}
print("after save_bold and load_bold the same:", same)

# %% [markdown]
# ## 2. Time is mixed into space
#
# On `(1, H, W, D, T)`, MONAI's `Spacing` reads the array as if time came before space. It raises nothing, and the
# shape is right. Below one frame before, after `Spacing` to 6 mm, and after nstorm's `ResampleSpaced`.

# %%
item = {"image": clip}
mixed = Spacing((6.0, 6.0, 6.0))(clip)
resampled = ResampleSpaced("image", 6.0)(item)["image"]
print("Spacing:", tuple(mixed.shape), "  ResampleSpaced:", tuple(resampled.shape))

figure, panels = plt.subplots(1, 3, figsize=(11, 4.4), layout="constrained")
picture(panels[0], clip[0, :, :, 26, 10], "frame 10 of a clip, 4 mm", sides=True)
picture(panels[1], mixed[0, :, :, 17, 10], "MONAI's Spacing to 6 mm", TRAP)
picture(panels[2], resampled[0, :, :, 17, 10], "nstorm's ResampleSpaced to 6 mm", OURS, sides=True)
plt.show()

# %% [markdown]
# nstorm's `Compose` is MONAI's with a guard: it refuses what is wrong in the layout that the image has.

# %%
mixes = refused(Compose([TimeToLastd("image"), Spacingd("image", (6.0, 6.0, 6.0))]), {"image": bold[:20]})

# %% [markdown]
# So there are three right ways: MONAI's transform before `TimeToLastd`, where time is a channel; in `TimeAsChanneld`;
# or nstorm's own, which takes both layouts.

# %%
spaced = Compose([Spacingd("image", (6.0, 6.0, 6.0)), TimeToLastd("image")])({"image": bold[:20]})["image"]
wrapped = Compose([TimeAsChanneld("image", Spacingd("image", (6.0, 6.0, 6.0)))])(item)["image"]
print("the first two give the same:", torch.equal(spaced.as_tensor(), wrapped.as_tensor()))

# %% [markdown]
# ## 3. Time runs backwards
#
# `RandFlip` flips all axes unless told which, and time is one of them. nstorm's `RandFlipLR` finds the axis that leads
# from left to right from the affine, and flips no other.

# %%
flipped = RandFlip(prob=1.0)(clip)
left_right = RandFlipLR(prob=1.0)(clip)
place = (12, 18, 30)
mirrored = tuple(size - 1 - index for size, index in zip(clip.shape[1:4], place, strict=True))

figure, panels = plt.subplots(1, 4, figsize=(11, 3), width_ratios=[1, 1, 1, 2], layout="constrained")
picture(panels[0], clip[0, :, :, 30, 0], "clip")
picture(panels[1], flipped[0, :, :, mirrored[2], 0], "RandFlip", TRAP)
picture(panels[2], left_right[0, :, :, 30, 0], "RandFlipLR", OURS)
for axes, (h, w) in zip(panels, (place[:2], mirrored[:2], (mirrored[0], place[1])), strict=False):
    axes.plot(h, w, "o", markersize=11, markerfacecolor="none", markeredgecolor="#ffd23f", markeredgewidth=2)
    axes.set(xlim=(5, 42), ylim=(4, 51))
seconds = np.arange(20) * bold.meta["tr"]
panels[3].plot(seconds, clip[0, *place], color=GREY, linewidth=5, label="clip")
panels[3].plot(seconds, flipped[0, *mirrored], color=TRAP, label="RandFlip")
panels[3].plot(seconds, left_right[0, mirrored[0], *place[1:]], "--", color=OURS, label="RandFlipLR")
panels[3].set(xlabel="time (s)", ylabel="signal (scanner units)", title="the circled voxel", ylim=(13700, 14550))
panels[3].legend(frameon=False, ncols=3, loc="upper center")
plt.show()
flips = refused(Compose([RandFlipd("image", prob=1.0)]), item)

# %% [markdown]
# ## 4. One brain, stored in four ways
#
# Files differ in the order and direction of their axes, in their type and in the unit of TR. An array does not show
# it. We put a bright ball into the left hemisphere, 40 mm from the middle, and store the run in four ways; the last
# one is tilted by 20 degrees, as a scanner's oblique slices are.

# %%
BALL = np.array([-40.0, -10.0, 24.0])
places = apply_affine(bold.affine.numpy(), np.moveaxis(np.indices(bold.shape[1:]), 0, -1))
marked = bold[:20].clone()
marked[:, torch.from_numpy(np.linalg.norm(places - BALL, axis=-1) < 10)] = float(bold.max())

tilt = np.eye(4)
tilt[:2, :2] = [[np.cos(np.pi / 9), -np.sin(np.pi / 9)], [np.sin(np.pi / 9), np.cos(np.pi / 9)]]
oblique = resample_space(marked, Grid(bold.shape[1:], tilt @ bold.affine.numpy()))
stored = {
    "RAS, float32": save_bold(folder / "ras.nii", marked),
    "LAS, int16": save_bold(folder / "las.nii", reorient(marked, "LAS"), dtype=torch.int16),
    "PIR, float64, TR in ms": save_bold(folder / "pir.nii", reorient(marked, "PIR"), dtype=torch.float64),
    "oblique": save_bold(folder / "oblique.nii", oblique),
}
image = nib.load(stored["PIR, float64, TR in ms"])
in_ms = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
in_ms.header.set_xyzt_units("mm", "msec")
in_ms.header["pixdim"][4] = 1500
in_ms.to_filename(folder / "pir_ms.nii")
stored["PIR, float64, TR in ms"] = folder / "pir_ms.nii"

# %% [markdown]
# Above, slices through the ball as the files hold them, which is what a network sees that knows no affine. Below,
# after one pipeline.

# %%
prepare = Compose([LoadBOLDd("image"), Reorientd("image", "RAS"), ResampleSpaced("image", mni152_grid(4.0))])
prepared = {name: prepare({"image": path})["image"] for name, path in stored.items()}

figure, panels = plt.subplots(2, 4, figsize=(11, 6.4), layout="constrained")
for (above, below), (name, path) in zip(panels.T, stored.items(), strict=True):
    image = nib.load(path)
    through_ball = round(apply_affine(np.linalg.inv(image.affine), BALL)[2])
    picture(above, image.dataobj[:, :, through_ball, 0], name)
    picture(below, prepared[name][0, :, :, 25], sides=True)
panels[0, 0].set_ylabel("as stored")
panels[1, 0].set_ylabel("as prepared")
plt.show()

reference = prepared["RAS, float32"]
for name, image in prepared.items():
    equal = torch.equal(image.as_tensor(), reference.as_tensor())
    alike = np.corrcoef(image[0, brain], reference[0, brain])[0, 1]
    print(f"{name:23} TR {image.meta['tr']} s; equal to the first: {equal!s:5}; correlation in the brain {alike:.3f}")

# %% [markdown]
# The first three are equal to the last bit. The oblique file was interpolated twice, and is a little smoother.

# %% [markdown]
# ## 5. Atlases on the wrong brain
#
# The published code brings an atlas to the size of the run with `zoom`, without the affines. Schaefer's atlas, as
# published, has 182 x 218 x 182 voxels in the order LAS; our run is RAS, with a field of view of its own. Parcels of
# the left hemisphere have warm colours, those of the right one cold colours. nibabel says which labels are right.

# %%
atlas = schaefer_atlas(100)
published = reorient(resample_atlas(atlas, mni152_grid(1.0)).image, "LAS")
labels, target = published[0].numpy().astype(np.int16), (bold.shape[1:], bold.affine.numpy())
expected = resample_from_to(nib.Nifti1Image(labels, published.affine.numpy()), target, order=0).get_fdata()


def by_zoom(labels):
    resized = zoom(labels.astype(np.int32), np.array(bold.shape[1:]) / labels.shape, order=0)
    return replace(atlas, image=MetaTensor(torch.from_numpy(resized)[None], affine=bold.affine))


placed = {
    "by zoom": by_zoom(labels),
    "by zoom, flipped by hand": by_zoom(labels[::-1]),
    "by affine: resample_atlas": resample_atlas(atlas, bold),
}
right_labels = {name: (found.image[0].numpy() == expected)[expected > 0].mean() for name, found in placed.items()}

shades = np.random.default_rng(0).permutation(50) / 50
warm, cold = plt.get_cmap("YlOrRd")(0.2 + 0.75 * shades), plt.get_cmap("YlGnBu")(0.25 + 0.7 * shades)
colours = ListedColormap(np.vstack([[0, 0, 0, 0], warm, cold]))
figure, panels = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained")
for axes, (name, found), colour in zip(panels, placed.items(), (TRAP, TRAP, OURS), strict=True):
    picture(axes, bold[0, :, :, 29], sides=True)
    title = f"{name}\n{right_labels[name]:.1%} of the labels are right"
    picture(axes, found.image[0, :, :, 29], title, colour, cmap=colours, vmin=0, vmax=100, alpha=0.85)
    axes.set(xlim=(3, 44), ylim=(6, 47))
plt.show()

# %% [markdown]
# With the affine, time series of parcels and their connectivity are three calls. Rows and columns are ordered by
# network, and within one by hemisphere.

# %%
global_signal = bold.as_tensor()[:, brain].mean(1, keepdim=True)
band = {"low_pass": 0.1, "high_pass": 0.01, "mask": mask}
cleaned = {
    "0.01 to 0.1 Hz": clean(bold, **band),
    "0.01 to 0.1 Hz, global signal regressed": clean(bold, confounds=global_signal, **band),
}
matrices = {name: connectivity(parcel_time_series(run, atlas, mask=mask)) for name, run in cleaned.items()}

networks = np.array(atlas.networks)
names = list(dict.fromkeys(atlas.networks))
order = np.argsort([names.index(network) for network in networks], kind="stable")
edges = np.cumsum([0] + [int((networks == name).sum()) for name in names]) - 0.5
figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
    values = matrix.numpy()[np.ix_(order, order)].copy()
    np.fill_diagonal(values, np.nan)
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.hlines(edges, -0.5, 99.5, color="black", linewidth=0.5)
    axes.vlines(edges, -0.5, 99.5, color="black", linewidth=0.5)
    axes.set_title(name)
    axes.set_xticks((edges[:-1] + edges[1:]) / 2, names, rotation=40, ha="right")
    axes.set_yticks((edges[:-1] + edges[1:]) / 2, names)
    axes.tick_params(length=0)
figure.colorbar(drawn, ax=panels, label="correlation", shrink=0.8)
plt.show()

pairs = np.triu_indices(100, 1)
within = (networks[:, None] == networks)[pairs]
for name, matrix in matrices.items():
    values = matrix.numpy()[pairs]
    print(f"{name:40} within networks {values[within].mean():5.2f}, between {values[~within].mean():5.2f}")
wrong = connectivity(parcel_time_series(cleaned["0.01 to 0.1 Hz"], placed["by zoom"], mask=mask))
agreement = np.corrcoef(wrong.numpy()[pairs], matrices["0.01 to 0.1 Hz"].numpy()[pairs])[0, 1]
print(f"with the atlas by zoom the left matrix becomes another one: the two correlate by {agreement:.2f}")

# %% [markdown]
# ## 6. Fast rhythms come back as slow ones
#
# Some voxels of the rest run move at 0.27 Hz, probably with breathing. At a TR of 3 s, frequencies above 0.17 Hz cannot
# be seen any more. Plain interpolation folds them back: 0.27 Hz becomes 0.06 Hz, in the middle of the BOLD band.
# `resample_time` filters them out first. We look at the 300 voxels with the most of this rhythm.

# %%
SLOW = 3.0
percent = percent_signal_change(bold, mask)
times = np.arange(100) * SLOW
series = percent.as_tensor()[:, brain].numpy()
frequencies, power = welch(series, 1 / bold.meta["tr"], nperseg=100, axis=0)
rhythm = (frequencies > 0.26) & (frequencies < 0.29)
chosen = np.argsort(power[rhythm].sum(0) / power.sum(0))[-300:]
series = series[:, chosen]
every_other = np.stack([np.interp(times, np.arange(200) * bold.meta["tr"], voxel) for voxel in series.T], axis=1)
filtered = resample_time(percent, SLOW)

ways = {
    "TR 1.5 s, as recorded": (series, 1.5, GREY),
    "3 s, plain interpolation": (every_other, SLOW, TRAP),
    "3 s, resample_time": (filtered.as_tensor()[:, brain].numpy()[:, chosen], SLOW, OURS),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
at_60_mhz = {}
for name, (values, tr, colour) in ways.items():
    hertz, power = welch(values, 1 / tr, nperseg=round(150 / tr), axis=0)
    at_60_mhz[name] = power[hertz.searchsorted(0.06 - 1e-6)].mean()
    style = {"color": colour, "linewidth": 4 if colour == GREY else 2, "label": name}
    left.semilogy(hertz[1:], power[1:].mean(1), **style)
    right.plot(np.arange(len(values)) * tr, values[:, -1], **style)
left.axvline(0.5 / SLOW, color="black", linestyle=":", linewidth=1)
left.text(0.5 / SLOW + 0.004, 0.01, "Nyquist frequency\nat 3 s", fontsize=8)
arrow = {"arrowstyle": "->", "color": TRAP, "connectionstyle": "arc3,rad=0.25"}
left.annotate("", (0.06, 120), (0.273, 120), arrowprops=arrow)
left.text(0.172, 850, "0.27 Hz is\nseen as 0.06 Hz", color=TRAP, fontsize=8)
left.set(xlabel="frequency (Hz)", ylabel="power (%²/Hz)", xlim=(0, 1 / 3), ylim=(3e-3, 5e3), title="mean of 300 voxels")
right.set(xlabel="time (s)", ylabel="signal change (%)", xlim=(0, 60), ylim=(-4.8, 6), title="one of them")
right.legend(frameon=False, ncols=2, fontsize=8, loc="upper center")
plt.show()
print("power at 0.06 Hz:", ", ".join(f"{name}: {value:.0f} %²/Hz" for name, value in at_60_mhz.items()))

# %% [markdown]
# ## 7. Anatomy drowns the signal
#
# The published models standardise all voxels and frames together. What is left is almost all anatomy: the differences
# between voxels, which do not change. `zscore_voxels` standardises each voxel over time.

# %%
ways = {"zscore_global": zscore_global(bold, mask), "zscore_voxels": zscore_voxels(bold, mask)}
anatomy, repeats = {}, {}
for name, run in ways.items():
    values = run.as_tensor()[:, brain].double()
    anatomy[name] = float(values.mean(0).var() / values.var())
    repeats[name] = float(torch.corrcoef(values[[20, 100]])[0, 1])
    print(f"{name}: anatomy is {anatomy[name]:.2%} of the variance; two frames correlate by {repeats[name]:.3f}")


# %%
voxels = {"ventricle": (27, 31, 25), "grey matter": (23, 14, 25), "white matter": (17, 27, 25)}


def frames_and_courses(runs, frames, colours, unit, limit):
    """Two frames of each run, and the time courses of three voxels."""
    _, panels = plt.subplots(len(runs), 3, figsize=(11, 5.6), width_ratios=[1, 1, 2], layout="constrained")
    for line, (name, run), colour in zip(panels, runs.items(), colours, strict=True):
        for axes, frame in zip(line, frames, strict=False):
            plane = np.where(brain[:, :, 25], run[frame, :, :, 25], np.nan)
            picture(axes, plane, f"{name}, {frame * 1.5:g} s", colour, vmin=-limit, vmax=limit)
            axes.set(xlim=(5, 42), ylim=(4, 51))
        for (place, voxel), shade in zip(voxels.items(), ("#6c9fb5", "#222222", "#c9a227"), strict=True):
            line[2].plot(np.arange(len(run)) * 1.5, run[:, *voxel], label=place, color=shade, linewidth=1.3)
        line[2].set(ylabel=unit, ylim=(-1.5 * limit, 1.5 * limit))
    panels[0, 2].legend(frameon=False, ncols=3, loc="upper center")
    panels[-1, 2].set_xlabel("time (s)")
    plt.show()


frames_and_courses(ways, (20, 100), (TRAP, OURS), "signal (z-score)", 3)

# %% [markdown]
# ## 8. Noise that all frames share
#
# The published code augments a clip frame by frame in a loop, and sets the seed anew before each frame, so that all
# frames turn alike. But they get the same noise, too, which is no noise over time at all: it is a change of anatomy.
# nstorm's transforms take the whole clip: one map for all frames, and fresh noise in each.

# %%
quiet = torch.zeros_like(bold[:40])
loop = RandGaussianNoise(prob=1.0, std=0.1, sample_std=False)
in_loop = torch.stack([loop.set_random_state(0)(frame) for frame in quiet])
at_once = RandBOLDNoise(std_range=(0.1, 0.1)).set_random_state(0)(quiet)

frames_and_courses({"loop over frames": in_loop, "RandBOLDNoise": at_once}, (0, 1), (TRAP, OURS), "added noise", 0.3)

# %% [markdown]
# Some of what befalls a run has no counterpart in one image: `RandDrift`, `RandSpikes`, `RandFrameDropout`, and
# `RandMotion`, which moves the head along a random path. The path comes with the result, so that framewise
# displacement (FD) and a regression can be tried on it. The map shows by how much the voxels vary more: most at the
# rim, beyond which this recording was set to 0.

# %%
move = RandMotion(translate_range=(0.5, 1.0), rotate_range=(0.005, 0.02), max_jerks=2).set_random_state(1)
moved = move(bold)
trace = moved.meta["motion"]
displacement = framewise_displacement(trace)
before, after = (percent_signal_change(run, mask) for run in (bold, moved))
more = (after.std(0) - before.std(0)).where(brain, torch.nan)
voxel = (8, 20, 25)

seconds = np.arange(200) * 1.5
mosaic = [["map", "pose"], ["map", "fd"], ["map", "voxel"]]
figure, panels = plt.subplot_mosaic(mosaic, figsize=(11, 5), width_ratios=[1, 1.5], layout="constrained")
where, top, middle, bottom = panels.values()
picture(where, more[:, :, 25], "standard deviation added by motion", sides=True, cmap="inferno", vmin=0, vmax=5)
where.plot(*voxel[:2], "o", markersize=11, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2)
where.set(xlim=(5, 42), ylim=(4, 51))
figure.colorbar(where.images[0], ax=where, label="% of the mean", location="left", shrink=0.7)
for k, name in enumerate("xyz"):
    top.plot(seconds, trace[:, k], label=f"{name} (mm)", color=f"C{k}")
    top.plot(seconds, torch.rad2deg(trace[:, 3 + k]), "--", label=f"about {name} (°)", color=f"C{k}")
top.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
top.set_ylabel("pose")
middle.plot(seconds, displacement, color="black")
middle.set_ylabel("FD (mm)")
bottom.plot(seconds, after[:, *voxel], color=TRAP, label="moved")
bottom.plot(seconds, before[:, *voxel], color=GREY, label="as recorded")
bottom.set(xlabel="time (s)", ylabel="circled voxel (%)")
bottom.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## 9. From files to batches, with no one on both sides
#
# `LoadImage` reads a whole run and the clip is cut from it. `strided_clips` and `event_clips` read nothing but headers;
# `LoadBOLDd` then reads the frames of a clip. A `.nii.gz` has to be unpacked up to the clip, so unpack it once.

# %%
unpacked = decompress(rest.bold, folder)
items = strided_clips(run_item(unpacked, mask=rest.mask), seconds=30.0)
read = Compose(
    [
        LoadBOLDd("image"),
        LoadMaskd("mask"),
        CropToMaskd(["image", "mask"], mask_key="mask", multiple=8),
        TimeToLastd("image"),
    ]
)
print(len(items), "clips; the last:", {key: items[-1][key] for key in ("subject", "frames", "start_time", "tr")})
print("as a tensor:", tuple(read(items[-1])["image"].shape), "= (1, H, W, D, T)")


def milliseconds(function, repeats=3):
    """The fastest of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


load_whole, load_clip = LoadImage(ensure_channel_first=True), LoadBOLDd("image")
print(f"the last 20 frames: LoadImage {milliseconds(lambda: load_whole(unpacked)[180:]):.0f} ms,", end=" ")
print(f"LoadBOLDd {milliseconds(lambda: load_clip(items[-1])):.0f} ms")

# %% [markdown]
# A clip of the Haxby runs is one block of pictures. Its response is its difference from the other blocks, so we
# z-score the whole run, store it, and cut clips from that. Z-scored by itself, a clip has no mean left.

# %%
runs = []
for run in haxby:
    name = run.bold.name.replace("_bold.nii.gz", "_desc-zscored_bold.nii")
    path = save_bold(folder / "haxby" / name, zscore_voxels(load_bold(run.bold)))
    runs.append(run_item(path, events=run.events))
clips = event_clips(runs, delay=HAXBY_DELAY)
for key, value in clips[0].items():
    print(f"{key:12} {Path(value).name if key == 'image' else value!r}")

houses = [load_clip(block)["image"] for block in clips if block["trial_type"] == "house"]
response, lost = (
    float(torch.stack([scored(house).mean(0) for house in houses]).mean(0).max())
    for scored in (lambda house: house, zscore_voxels)
)
print(f"strongest mean response to houses: z = {response:.2f}; in clips z-scored by themselves {lost:.2f}")

# %% [markdown]
# Clips of one run share its noise and its drift. Dealt out at random, they leak. `check_leakage` looks at the items and
# refuses; nstorm's training calls it, too. All runs are of one person, so there is no split by subject. A split by
# runs within people has to be asked for by name.

# %%
at_random = dict(zip(("train", "test"), train_test_split(clips, test_size=0.25, random_state=0), strict=True))
leak = refused(check_leakage, **at_random, unit="run")
too_few = refused(split_by_subject, clips)
split = split_runs_within_subject(clips, {"train": 0.5, "validation": 0.25, "test": 0.25})
parts = split.apply(clips)
check_leakage(**parts, unit="run")
print("by run:", {part: len(of_part) for part, of_part in parts.items()}, "clips, SHA-256", split.sha256[:12])

# %%
shades = {"train": "#b9c4c9", "validation": "#e9b44c", "test": "#7b4f9d"}
figure, panels = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained", sharey=True)
for axes, (title, dealt) in zip(panels, {"dealt out at random": at_random, "split by run": parts}.items(), strict=True):
    for part, of_part in dealt.items():
        for clip_item in of_part:
            start, length = clip_item["start_time"], 9 * clip_item["tr"]
            axes.barh(int(clip_item["run"]), length, left=start, height=0.7, color=shades[part])
    axes.set(xlabel="time in the run (s)", xlim=(0, 302.5), yticks=range(1, 13))
    axes.set_title(title, color=TRAP if dealt is at_random else OURS)
panels[0].set_ylabel("run")
panels[0].invert_yaxis()
figure.legend(handles=[Patch(color=c, label=n) for n, c in shades.items()], loc="outside right center", frameon=False)
plt.show()

# %% [markdown]
# A study of many people splits by subject, here with the same share of women in each part. MONAI's datasets and
# loaders take the clips: what is random comes after what is cached.

# %%
study = [run_item(f"sub-{n:02d}_task-rest_run-{r}_bold.nii", sex="FFM"[n % 3]) for n in range(60) for r in (1, 2)]
by_subject = split_by_subject(study, stratify="sex")
people = by_subject.apply(study)
check_leakage(**people)
for part, of_part in people.items():
    print(
        f"{part:11} {len(by_subject[part]):2} people, {sum(i['sex'] == 'F' for i in of_part) / len(of_part):.0%} women"
    )

augment = [RandBOLDNoised("image", std_range=(0.0, 0.5))]
dataset = CacheDataset(parts["train"], Compose([LoadBOLDd("image"), TimeToLastd("image"), *augment]), progress=False)
torch.manual_seed(0)
batch = next(iter(DataLoader(dataset, batch_size=8, shuffle=True)))
print("\nimage", tuple(batch["image"].shape), "= (B, C, H, W, D, T)")
print("label", batch["label"].tolist(), " run", batch["run"])

# %% [markdown]
# ## 10. What to change for your data
#
# | | |
# |---|---|
# | TR | from the BIDS sidecar or the header; where both are wrong, `load_bold(path, tr=...)`, or `tr` in the item |
# | some frames of a run | `load_bold(path, frames=(20, 40))`; a slice `bold[20:40]` forgets that it starts later |
# | NaN outside the brain (SPM) | `LoadBOLDd("image", fill_nan=0.0)` |
# | grid | `mni152_grid(2.0)`, or that of one of your runs: `grid_of(path)`; masks among the keys go along |
# | order of axes | `"RAS"` for networks you train; `"LAS"` and `PublishedPreprocessingd` for published weights |
# | confounds | `load_confounds(path, "simple")` beside fMRIPrep's images, then `clean(..., confounds=..., keep=...)` |
# | atlas | `load_atlas(image, labels)`; in the space of the runs, on any grid |
# | delay | about 5 s where onsets are the times of stimuli; 0 s here, as the labels contain the lag |
# | whole-run steps | resampling in time, cleaning, z-scores: before clips are cut, and saved with `save_bold` |
# | transforms of MONAI and TorchIO | on `(T, H, W, D)`, or in `TimeAsChanneld`, inside nstorm's `Compose` |
# | split | `split_by_subject`, `split_by_site`, `k_folds`; `split.save(path)` for the paper |
#
# ## Proof

# %%
# 1: MONAI loses the TR and frames, nstorm keeps everything
for name, path in files.items():
    assert abs(in_monai[name].meta["pixdim"][4] - np.linalg.norm(nib.load(path).affine[:3, 3])) < 0.01
assert (load_bold(rest.bold).meta["tr"], load_bold(haxby[0].bold).meta["tr"]) == (1.5, 2.5)
assert nib.load(written["SaveImage, T first"]).header.get_zooms()[3] == 1
assert nib.load(written["SaveImage, T last"]).shape == clip.shape[1:4]
assert all(same.values())

# 2: the right ways agree, and MONAI's on the wrong layout gives something else
assert mixed.shape == resampled.shape == spaced.shape
assert torch.equal(spaced.as_tensor(), wrapped.as_tensor())
assert np.corrcoef(mixed.flatten(), spaced.flatten())[0, 1] < 0.3
assert "would mix time into space" in mixes

# 3: flipped in time too, or left and right alone
assert torch.equal(flipped.as_tensor(), clip.as_tensor().flip(1, 2, 3, 4))
assert torch.equal(left_right.as_tensor(), clip.as_tensor().flip(1))
assert "would flip time too" in flips

# 4: one volume, the ball on the left
for name, image in prepared.items():
    ball = (image[0] > 0.99 * bold.max()).as_tensor()
    assert places[ball][:, 0].max() < 0
    assert image.meta["tr"] == 1.5
    assert name == "oblique" or torch.equal(image.as_tensor(), reference.as_tensor())
assert np.corrcoef(prepared["oblique"][0, brain], reference[0, brain])[0, 1] > 0.95

# 5: labels, and left and right
zoomed, by_hand, by_affine = right_labels.values()
assert zoomed < 0.02 < by_hand < 0.9 < by_affine == 1
left_half = np.array([hemisphere == "LH" for hemisphere in atlas.hemispheres])
found = placed["by affine: resample_atlas"].image[0].numpy()
assert places[np.isin(found, np.flatnonzero(left_half) + 1)][:, 0].mean() < -10
for matrix in matrices.values():
    values = matrix.numpy()[pairs]
    assert values[within].mean() > values[~within].mean() + 0.1
assert agreement < 0.6

# 6: folded back by plain interpolation alone
recorded, folded, kept = at_60_mhz.values()
assert folded > 3 * recorded
assert abs(kept / recorded - 1) < 0.1

# 7: what is left after each z-score
assert anatomy["zscore_global"] > 0.99
assert repeats["zscore_global"] > 0.99
assert anatomy["zscore_voxels"] < 1e-6
assert abs(repeats["zscore_voxels"]) < 0.2

# 8: noise of the loop does not change over time; FD is what the trace says
assert not in_loop.std(0).any()
assert abs(float(at_once.std(0).mean()) - 0.1) < 0.005
steps = trace.diff(dim=0).abs() @ torch.tensor([1.0, 1, 1, 50, 50, 50], dtype=trace.dtype)
assert torch.allclose(displacement[1:], steps)
assert more[brain].mean() > 0

# 9: clips say what was read; leaks are refused
assert torch.equal(load_clip(items[-1])["image"].as_tensor(), bold[180:].as_tensor())
assert items[-1]["frames"] == (180, 200)
assert response > 1
assert abs(lost) < 1e-5
assert "share 12 runs" in leak
assert "subject" in too_few
assert not {block["run"] for block in parts["train"]} & {block["run"] for block in parts["test"]}
assert {len(of_part) for of_part in people.values()} == {84, 18}
assert batch["image"].shape == (8, 1, 40, 20, 1, 9)
temporary.cleanup()
print("all claims hold")
