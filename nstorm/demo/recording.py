"""A labelled recording as the demo needs it: clips, one for each block, and the splits between them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import torch
from jaxtyping import Bool, Float
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Image
from torch import Tensor

from nstorm.data import (
    HAXBY_DELAY,
    event_clips,
    haxby_runs,
    load_bold,
    merge_events,
    read_events,
    voxels_that_vary,
    zscore_voxels,
)

_RUNS_PER_FOLD = 3
_RUNS_TO_CHOOSE_ON = 2
# The network and its recipe were developed on the first runs; the report counts the others apart.
_RUNS_OF_DEVELOPMENT = 8


@dataclass(frozen=True)
class Block:
    """One block of a category: its z-scored frames (1, H, W, D, T) and where they come from."""

    image: Float[Tensor, "1 h w d t"]
    label: int
    run: str
    onset: float


@dataclass(frozen=True)
class Fold:
    """Indices of the blocks to train on, to choose settings on, and to test on."""

    train: tuple[int, ...]
    choose: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """Blocks, their categories, and the folds.

    `split` says in words what is held apart from what, `normalisation` what was done beside the z-score. `untouched`
    are the blocks that took no part in developing the recipe, where others of the recording did.
    """

    name: str
    about: str
    split: str
    normalisation: str
    untouched: tuple[int, ...]
    blocks: list[Block]
    labels: tuple[str, ...]
    folds: list[Fold]
    tr: float
    delay: float
    mean_image: Float[Tensor, "h w d"]
    mask: Bool[Tensor, "h w d"]
    voxel_size: tuple[float, ...]

    @property
    def block_labels(self) -> list[int]:
        """The label of every block."""
        return [block.label for block in self.blocks]


def _blocks(clips: list[dict[str, Any]], run: str) -> list[Block]:
    return [Block(clip["image"].as_tensor().contiguous(), clip["label"], run, clip["onset"]) for clip in clips]


def _voxel_size(affine: Tensor) -> tuple[float, ...]:
    return tuple(round(float(size), 2) for size in affine[:3, :3].norm(dim=0))


def haxby_recording() -> Recording:
    """The embedded Haxby runs, tested in four folds of three runs that were never seen in training."""
    blocks: list[Block] = []
    runs = haxby_runs()
    labels = tuple(sorted({event.trial_type for event in read_events(runs[0].events)}))
    images, masks = [], []
    for index, run in enumerate(runs):
        bold = load_bold(run.bold)
        images.append(bold.as_tensor().mean(0))
        masks.append(voxels_that_vary(bold))
        clips = event_clips(zscore_voxels(bold), read_events(run.events), delay=HAXBY_DELAY, labels=labels)
        blocks += _blocks(clips, f"run-{index + 1:02d}")

    names = [f"run-{index + 1:02d}" for index in range(len(runs))]
    folds = []
    for start in range(0, len(names), _RUNS_PER_FOLD):
        test = names[start : start + _RUNS_PER_FOLD]
        others = names[start + _RUNS_PER_FOLD :] + names[:start]
        parts = others[:-_RUNS_TO_CHOOSE_ON], others[-_RUNS_TO_CHOOSE_ON:], test
        folds.append(Fold(*(tuple(i for i, block in enumerate(blocks) if block.run in part) for part in parts)))
    return Recording(
        name="Haxby et al. 2001, one half slice",
        about=(
            "One person looked at pictures of eight categories in 12 runs. What ships here is one half slice of that "
            "recording at native resolution, over ventral and occipital cortex: 40 x 20 x 1 voxels. It shows what a "
            "model can learn from one person's cortex, and nothing about other people."
        ),
        split=(
            "four folds: 7 runs to train, 2 to choose settings on, 3 to test; what is fitted or chosen in a fold never "
            "sees its test runs"
        ),
        normalisation="",
        untouched=tuple(i for i, block in enumerate(blocks) if names.index(block.run) >= _RUNS_OF_DEVELOPMENT),
        blocks=blocks,
        labels=labels,
        folds=folds,
        tr=float(bold.meta["tr"]),
        delay=HAXBY_DELAY,
        mean_image=torch.stack(images).mean(0),
        mask=torch.stack(masks).all(0),
        voxel_size=_voxel_size(bold.affine),
    )


def recording_from_file(
    path: Path, *, events: Path | None = None, mask: Path | None = None, delay: float = 5.0
) -> Recording:
    """One labelled run: in every fold one block of each category is tested, and the others train.

    Args:
        path: BOLD image, NIfTI.
        events: `events.tsv`; the one beside the image by BIDS names if None. Events of one kind that follow each
            other within a TR are merged into one block.
        mask: brain mask on the grid of the image; the one beside it by BIDS names if there is one, otherwise all
            voxels that vary.
        delay: seconds from a stimulus to its response.

    Raises:
        FileNotFoundError: if there is no events file.
        ValueError: if a category has fewer than two blocks, or a file is unfit (see `nstorm.data`).
    """
    bold = load_bold(path)
    events = events or _beside(path, "_events.tsv")
    if events is None:
        raise FileNotFoundError(f"{path} has no events.tsv beside it: name one with --events")
    mask = mask or _beside(path, "_desc-brain_mask.nii.gz")
    inside = voxels_that_vary(bold)
    if mask is not None:
        inside = inside & _read_mask(mask, tuple(inside.shape), bold.affine)
    if not inside.any():
        raise ValueError(f"no voxel of {path} varies over time inside the mask {mask}: give the mask of this run")

    # with one block of a category to learn from, drift alone tells early blocks from late ones
    detrended = bold.new_tensor(scipy.signal.detrend(bold.numpy(), axis=0))

    tr = float(bold.meta["tr"])
    merged = merge_events(read_events(events), max_gap=tr)
    blocks = _blocks(event_clips(zscore_voxels(detrended, inside), merged, delay=delay), path.name.split(".")[0])
    labels = tuple(sorted({event.trial_type for event in merged}))
    if len(labels) < 2:
        raise ValueError(f"{events} has the single category {labels[0]!r}: give events of two or more categories")
    num_folds = min(Counter(event.trial_type for event in merged).values())
    if num_folds < 2:
        raise ValueError(
            f"{events} has a category with a single block: every category needs two, one to train on and one to test"
        )
    seen: Counter[int] = Counter()
    occurrence = []
    for block in blocks:
        occurrence.append(seen[block.label])
        seen[block.label] += 1
    folds = [
        Fold(
            train=tuple(i for i, nth in enumerate(occurrence) if nth != fold),
            choose=(),
            test=tuple(i for i, nth in enumerate(occurrence) if nth == fold),
        )
        for fold in range(num_folds)
    ]
    return Recording(
        name=path.name,
        about=(
            f"One run of one person, {tuple(bold.shape[1:])} voxels, {len(bold)} frames, {len(blocks)} blocks of "
            f"{len(labels)} categories. Blocks of one run share its noise and drift: results say nothing about other "
            f"runs or people. Mask: {mask or 'none found, all voxels that vary'}."
        ),
        split=f"{num_folds} folds: one block of each category is tested, the others train, none is left to choose on",
        normalisation=", its linear trend removed",
        untouched=(),
        blocks=blocks,
        labels=labels,
        folds=folds,
        tr=tr,
        delay=delay,
        mean_image=bold.as_tensor().mean(0),
        mask=inside,
        voxel_size=_voxel_size(bold.affine),
    )


def _beside(path: Path, ending: str) -> Path | None:
    """The file of another suffix that belongs to an image by its BIDS name, with or without derivative entities."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_bold")
    parts = stem.split("_")
    same_space = "_".join(part for part in parts if not part.startswith("desc-"))
    raw = "_".join(part for part in parts if not part.startswith(("space-", "res-", "desc-")))
    for candidate in (stem + ending, same_space + ending, raw + ending):
        if path.with_name(candidate).is_file():
            return path.with_name(candidate)
    return None


def _read_mask(path: Path, shape: tuple[int, ...], affine: Tensor) -> Bool[Tensor, "h w d"]:
    try:
        image = Nifti1Image.from_filename(path)
        voxels = np.asarray(image.dataobj) > 0
    except (ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a NIfTI mask ({error}): give another, or copy it again") from error
    if image.shape != shape or not np.allclose(image.affine, affine.numpy(), atol=1e-3):
        raise ValueError(
            f"{path} is on another grid ({image.shape}) than the recording ({shape}), or has another affine: "
            "give a mask of the same grid"
        )
    return torch.from_numpy(voxels)
