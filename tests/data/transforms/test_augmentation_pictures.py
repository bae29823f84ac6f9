"""Pictures of what augmentation does to a brain, to look at: set NSTORM_ARTEFACTS to a folder to keep them."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.orientations import aff2axcodes

from nstorm.data.transforms.rand_affine import RandBOLDAffine
from nstorm.data.transforms.rand_drift import RandDrift
from nstorm.data.transforms.rand_elastic import RandBOLDElastic
from nstorm.data.transforms.rand_flip import RandFlipLR
from nstorm.data.transforms.rand_frames import RandFrameDropout, RandSpikes
from nstorm.data.transforms.rand_intensity import RandBOLDBiasField, RandBOLDNoise, RandBOLDSmooth
from nstorm.data.transforms.rand_motion import RandMotion

mpl.use("agg")
import matplotlib.pyplot as plt

FRAMES = 40
# a place in the left hemisphere, in mm
MARKER = np.array([-40.0, -20.0, 20.0])


@pytest.fixture
def folder(tmp_path):
    kept = Path(os.environ.get("NSTORM_ARTEFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@pytest.fixture(scope="module")
def template():
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=4)
    brain = torch.from_numpy(image.get_fdata(dtype=np.float32)) * 100
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid @ image.affine[:3, :3].T + image.affine[:3, 3] - MARKER, axis=-1)
    brain[torch.from_numpy(distance < 9)] = 150
    run = brain[None, ..., None].repeat(1, 1, 1, 1, FRAMES)
    return MetaTensor(run, affine=torch.from_numpy(image.affine), meta={"tr": 2.0})


SPACE = {
    "given": lambda: None,
    "RandBOLDAffine": lambda: RandBOLDAffine(rotate_range=0.35, scale_range=0.1, translate_range=8.0),
    "RandFlipLR": lambda: RandFlipLR(prob=1.0),
    "RandBOLDElastic": lambda: RandBOLDElastic(magnitude_range=(10.0, 10.0), spacing=30.0),
    "RandBOLDSmooth": lambda: RandBOLDSmooth(fwhm_range=(12.0, 12.0)),
    "RandBOLDBiasField": lambda: RandBOLDBiasField(coeff_range=(-0.4, 0.4)),
    "RandBOLDNoise": lambda: RandBOLDNoise(std_range=(10.0, 10.0)),
}
TIME = {
    "RandMotion": lambda: RandMotion(translate_range=(2.0, 4.0), rotate_range=(0.02, 0.06), max_jerks=2),
    "RandDrift": lambda: RandDrift(amplitude_range=(10.0, 10.0), spacing=60.0),
    "RandSpikes": lambda: RandSpikes(amplitude_range=(20.0, 40.0)),
    "RandFrameDropout": lambda: RandFrameDropout(frame_prob=0.15, fill="zero"),
    "RandBOLDNoise": lambda: RandBOLDNoise(std_range=(5.0, 5.0)),
}


def marked(clip):
    """Where the marker is in the world, by the affine of the clip."""
    values = clip.as_tensor()[0].mean(dim=-1)
    voxels = (values > 125).nonzero().double().mean(dim=0)
    return (clip.affine[:3, :3] @ voxels + clip.affine[:3, 3]).numpy()


def label_ends(panel, horizontal, vertical):
    """Write at the ends of the axes which way they lead."""
    opposite = dict(zip("LRAPSI", "RLPAIS", strict=True))
    places = {(0.03, 0.5): opposite[horizontal], (0.97, 0.5): horizontal, (0.5, 0.05): opposite[vertical]}
    for (x, y), letter in (places | {(0.5, 0.95): vertical}).items():
        panel.text(x, y, letter, color="yellow", ha="center", va="center", transform=panel.transAxes)


def test_picture_of_space(template, folder):
    figure, rows = plt.subplots(len(SPACE), 3, figsize=(7.5, 2.4 * len(SPACE)), layout="constrained")
    # a slice through the marker along each axis
    middle = [14, 28, 23]
    for axes, (name, make) in zip(rows, SPACE.items(), strict=True):
        transform = make()
        clip = template if transform is None else transform.set_random_state(6)(template)
        volume = clip.as_tensor()[0, ..., 0].numpy()
        ends = aff2axcodes(clip.affine.numpy())
        for axis, panel in enumerate(axes):
            panel.imshow(volume.take(middle[axis], axis).T, origin="lower", cmap="gray", vmin=0, vmax=150)
            panel.set(xticks=[], yticks=[])
            label_ends(panel, *(end for other, end in enumerate(ends) if other != axis))
        axes[0].set_ylabel(name)
        if name in ("given", "RandBOLDAffine", "RandFlipLR"):
            # the affine follows, so that the marker has not left the left hemisphere
            np.testing.assert_allclose(marked(clip), MARKER, atol=2.5)
    figure.savefig(folder / "augmentation_space.png", dpi=100)
    plt.close(figure)


def test_picture_of_time(template, folder):
    figure, rows = plt.subplots(len(TIME), 2, figsize=(11, 2.2 * len(TIME)), layout="constrained")
    inside = template.as_tensor()[0, ..., 0] > 20
    for (carpet, line), (name, make) in zip(rows, TIME.items(), strict=True):
        clip = make().set_random_state(3)(template)
        change = (clip - template).as_tensor()[0][inside]
        assert change.abs().max() > 1
        limit = float(change.abs().quantile(0.99)) or float(change.abs().max())
        carpet.imshow(
            change[:: len(change) // 200].numpy(),
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        carpet.set(ylabel=name, yticks=[], title="change of 200 voxels" if name == "RandMotion" else None)
        if name == "RandMotion":
            motion = clip.meta["motion"].numpy()
            line.plot(motion[:, :3], label=["x", "y", "z"])
            line.plot(motion[:, 3:] * 50, "--", label=["about x", "about y", "about z"])
            line.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
            line.set(title="trace: mm, and mm on a sphere of 50 mm")
        else:
            line.plot(change.mean(dim=0).numpy())
            line.set(title="mean change" if name == "RandDrift" else None)
    for panel in rows[-1]:
        panel.set_xlabel("frame")
    figure.savefig(folder / "augmentation_time.png", dpi=100)
    plt.close(figure)
