"""Every spatial transform on a template, as a picture to look at: set NSTORM_ARTEFACTS to a folder to keep it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data.meta_tensor import MetaTensor
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_template

from nstorm.data.space.grid import Grid, grid_of, mni152_grid
from nstorm.data.space.orientation import axcodes_of
from nstorm.data.transforms.brain_mask import ApplyMask
from nstorm.data.transforms.spatial import CropOrPad, CropToMask, Reorient, ResampleSpace

# in the left hemisphere, to the front and above the middle
MARKER = np.array([-38.0, 26.0, 22.0])
OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


def oblique_grid():
    """Voxels of 4 x 3 x 5 mm, turned by 20 degrees about z and 10 about x, stored from front to back."""
    z, x = np.deg2rad([20, 10])
    turn = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([4.0, -3.0, 5.0])
    shape = np.array([52, 80, 42])
    affine[:3, 3] = [0, -20, 16] - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid(shape.tolist(), affine)


@pytest.fixture(scope="module")
def template():
    """Two frames: the template, and a ball of 9 mm radius."""
    image = load_mni152_template(resolution=4)
    voxels = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    ball = np.linalg.norm(apply_affine(image.affine, voxels) - MARKER, axis=-1) < 9
    frames = torch.from_numpy(np.stack([image.get_fdata(), ball.astype(float)]))
    return MetaTensor(frames.float(), affine=torch.from_numpy(image.affine), meta={"tr": 2.0})


def centroid(run):
    ball = run[1].as_tensor().numpy()
    weights = ball / ball.sum()
    voxel = [(weights.sum(tuple({0, 1, 2} - {axis})) * np.arange(ball.shape[axis])).sum() for axis in range(3)]
    return apply_affine(run.affine.numpy(), voxel)


def transforms(brain):
    # 4 mm voxels, the first at -72 mm
    above = brain.clone()
    above[..., :13] = False
    return {
        "as it is": lambda run: run,
        "Reorient('LAS')": Reorient("LAS"),
        "Reorient('PSL')": Reorient("PSL"),
        "ResampleSpace(mni152_grid())": ResampleSpace(mni152_grid()),
        "ResampleSpace((3, 6, 8))": ResampleSpace((3.0, 6.0, 8.0)),
        "ResampleSpace(oblique grid)": ResampleSpace(oblique_grid()),
        "CropOrPad((40, 72, 40))": CropOrPad((40, 72, 40)),
        "CropToMask(margin=2)": lambda run: CropToMask(margin=2)(run, brain),
        "ApplyMask(), above -20 mm": lambda run: ApplyMask()(run, above),
    }


def draw(figure, row, rows, name, run):
    """Three slices through the marker, drawn in the order in which the voxels are stored, with the ends of the axes."""
    grid, codes = grid_of(run), axcodes_of(run)
    place = apply_affine(np.linalg.inv(grid.affine.numpy()), MARKER)
    image, ball = (frame.as_tensor().numpy() for frame in run[:2])
    for column in range(3):
        axes = figure.add_subplot(rows, 3, 3 * row + column + 1)
        across, up = [axis for axis in range(3) if axis != column]
        cut = round(place[column])
        extent = (-0.5, grid.shape[across] - 0.5, -0.5, grid.shape[up] - 0.5)
        shown = {"origin": "lower", "extent": extent, "aspect": grid.spacing[up] / grid.spacing[across]}
        axes.imshow(image.take(cut, column).T, cmap="gray", vmin=0, vmax=image.max(), interpolation="none", **shown)
        over = ball.take(cut, column).T
        axes.imshow(
            np.ma.masked_less(over, 0.3), cmap="autumn", vmin=0, vmax=1, alpha=0.8, interpolation="none", **shown
        )
        axes.plot(place[across], place[up], "+", color="deepskyblue", markersize=9)
        ends = {
            "left": OPPOSITE[codes[across]],
            "right": codes[across],
            "bottom": OPPOSITE[codes[up]],
            "top": codes[up],
        }
        for (x, y), end in zip([(0.03, 0.5), (0.97, 0.5), (0.5, 0.03), (0.5, 0.97)], ends.values(), strict=True):
            align = {0.03: ("left", "bottom"), 0.97: ("right", "top"), 0.5: ("center", "center")}
            box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
            place_of_text = {"transform": axes.transAxes, "ha": align[x][0], "va": align[y][1]}
            axes.text(x, y, end, color="white", weight="bold", bbox=box, **place_of_text)
        axes.set(xticks=[], yticks=[], facecolor="black")
        if column == 0:
            spacing = " x ".join(f"{step:.3g}" for step in grid.spacing)
            label = f"{name}\n{' x '.join(map(str, grid.shape))} voxels\n{spacing} mm, {codes}"
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)


def test_the_marker_keeps_its_place_in_mm(template, tmp_path):
    brain = (template[0] > 0.25 * template[0].max())[None]
    start = centroid(template)
    assert np.linalg.norm(start - MARKER) < 1
    named = transforms(brain)
    figure = Figure(figsize=(10, 3 * len(named)), layout="constrained")
    for row, (name, transform) in enumerate(named.items()):
        result = transform(template)
        voxel = max(*grid_of(template).spacing, *grid_of(result).spacing)
        assert np.abs(centroid(result) - start).max() < voxel / 2, name
        assert centroid(result)[0] < 0, name
        draw(figure, row, len(named), name, result)
    path = Path(os.environ.get("NSTORM_ARTEFACTS", tmp_path)) / "spatial_transforms.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    assert path.stat().st_size > 10_000
