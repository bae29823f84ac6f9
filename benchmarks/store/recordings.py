"""The recordings that both formats are written from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from nstorm.data import (
    EmbeddedRestRun,
    haxby_runs,
    load_bold,
    load_mask,
    mni152_grid,
    resample_space,
    rest_run,
    run_item,
    save_mask,
)

MNI152_CODE = 4
TR = 0.72
# frames that are upsampled at a time
BLOCK = 10
# what does not ship with nstorm
ELSEWHERE = Path(__file__).parents[3] / "shared" / "data" / "derived_MNI152_4mm"


@dataclass(frozen=True)
class Recording:
    """A run on disk."""

    name: str
    items: list[dict[str, Any]]


def upsampled_rest_run(folder: Path, num_frames: int) -> EmbeddedRestRun:
    """Write the rest run as a run of the HCP: 91 x 109 x 91 voxels of 2 mm in MNI152 space, a TR of 0.72 s.

    Interpolation leaves voxels that are all too much alike: to each is added what its 4 mm voxel changes by from frame
    to frame, as independent noise.
    """
    rest, grid = rest_run(), mni152_grid(2.0)
    bold = load_bold(rest.bold)
    brain = resample_space(load_mask(rest.mask).float(), grid)[0].as_subclass(Tensor) > 0.5
    changes = bold.as_tensor().diff(dim=0).std(0) / 2**0.5
    noise = resample_space(MetaTensor(changes[None], affine=bold.affine), grid)[0].as_subclass(Tensor)
    generator = torch.Generator().manual_seed(0)
    voxels = np.zeros((*grid.shape, num_frames), np.int16, order="F")
    for start in range(0, num_frames, BLOCK):
        stop = min(start + BLOCK, num_frames)
        frames = resample_space(bold[start:stop], grid).as_subclass(Tensor)
        frames += noise * torch.randn(frames.shape, generator=generator)
        voxels[..., start:stop] = (frames * brain).round().movedim(0, -1).numpy()
    image = nibabel.Nifti1Image(voxels, grid.affine.numpy())
    image.set_sform(grid.affine.numpy(), MNI152_CODE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = TR
    made = EmbeddedRestRun(folder / "rest_bold.nii.gz", folder / "rest_mask.nii.gz")
    nibabel.save(image, made.bold)
    save_mask(made.mask, MetaTensor(brain[None], affine=grid.affine))
    return made


def study(run: EmbeddedRestRun, folder: Path, num_runs: int) -> list[dict[str, Any]]:
    """Describe a study of so many subjects, whose files are links to those of one run."""
    folder.mkdir()
    items = []
    for number in range(1, num_runs + 1):
        stem = f"sub-{number:02d}_task-rest_space-MNI152NLin6Asym"
        image, mask = folder / f"{stem}_bold.nii.gz", folder / f"{stem}_desc-brain_mask.nii.gz"
        image.symlink_to(run.bold)
        mask.symlink_to(run.mask)
        items.append(run_item(image, mask=mask, space="MNI152NLin6Asym"))
    return items


def recordings() -> Iterator[Recording]:
    """List the real recordings that are at hand."""
    rest = rest_run()
    yield Recording("rapidtide, 4 mm", [run_item(rest.bold, mask=rest.mask)])
    yield Recording("Haxby, 12 runs, half a slice", [run_item(run.bold) for run in haxby_runs()])
    for bold in sorted(ELSEWHERE.glob("studyforrest*_bold.nii.gz")):
        mask = bold.with_name(bold.name.replace("_bold.nii.gz", "_desc-brain_mask.nii.gz"))
        yield Recording("studyforrest, 4 mm", [run_item(bold, mask=mask, subject="studyforrest")])
