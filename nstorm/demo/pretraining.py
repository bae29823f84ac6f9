"""Masked pre-training on one run: does it learn to fill in frames it has never seen?"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from nstorm.data import ClipDataset, ClipSampler, Recipe, Store, Study, prepare, rest_run, run_item
from nstorm.layers import RandomMask
from nstorm.losses import MaskedReconstructionLoss
from nstorm.nets import MaskedAutoencoder, NeuroSTORM, ShiftedWindowDecoder, save_pretrained
from nstorm.workflows import ReconstructionErrors, ReconstructionPictures, pretrainer, reconstruction_errors


@dataclass(frozen=True)
class PretrainingRecipe:
    """Every number of the pre-training, for clips of a brain at 4 mm."""

    num_frames: int = 20
    patch_size: tuple[int, ...] = (6, 6, 6, 1)
    feature_size: int = 48
    depths: tuple[int, ...] = (2, 2)
    window_size: tuple[int, ...] = (4, 4, 4, 4)
    ratio: float = 0.5
    clips_per_epoch: int = 40
    max_epochs: int = 8
    batch_size: int = 2
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class Pretraining:
    """What came out: the autoencoder, its errors on held-out clips, and the frames it learned and was judged from."""

    mae: MaskedAutoencoder
    errors: ReconstructionErrors
    learned_from: tuple[int, int]
    judged_on: tuple[int, int]
    picture: Path

    @property
    def num_parameters(self) -> int:
        """Of the autoencoder."""
        return sum(parameter.numel() for parameter in self.mae.parameters())

    def __str__(self) -> str:
        return f"squared error of hidden voxels in frames never trained on (z-scored):\n{self.errors}"


def make_autoencoder(img_size: Sequence[int], recipe: PretrainingRecipe) -> MaskedAutoencoder:
    """Make a small NeuroSTORM and its decoder, regions of shifted windows apart."""
    shared: dict[str, Any] = {
        "patch_size": recipe.patch_size,
        "feature_size": recipe.feature_size,
        "depths": recipe.depths,
        "window_size": recipe.window_size,
        "boundary": "reset",
    }
    encoder = NeuroSTORM((*img_size, recipe.num_frames), full_last_stage=False, **shared)
    loss = MaskedReconstructionLoss(recipe.patch_size)
    return MaskedAutoencoder(encoder, ShiftedWindowDecoder(**shared), RandomMask(recipe.ratio), loss)


def prepare_rest_run(folder: Path) -> Store:
    """Prepare the rest run that ships with nstorm, slow drifts taken out."""
    run = rest_run()
    study = Study([run_item(run.bold, mask=run.mask)])
    return prepare(study, folder, recipe=Recipe(detrend=2), progress=False)


def pretrain_on(
    store: Store,
    run: Mapping[str, Any],
    folder: Path,
    *,
    learn_from: tuple[int, int],
    judge_on: tuple[int, int],
    recipe: PretrainingRecipe,
    seed: int = 0,
) -> Pretraining:
    """Learn from some frames of a run of a store and fill in hidden tokens in others.

    Args:
        store: of the run.
        run: one of `store.run_items()`.
        folder: for the course of the training, checkpoints and pictures.
        learn_from: first frame and one past the last, of which random clips are cut.
        judge_on: the same of frames to judge on, cut into clips one after another.
        recipe: numbers.
        seed: of weights, clips and masks.
    """
    torch.manual_seed(seed)
    clips = ClipDataset(
        store,
        recipe.num_frames,
        runs=[{**run, "frames": learn_from}],
        clips_per_run=recipe.clips_per_epoch,
        seed=seed,
    )
    unseen = ClipDataset(store, recipe.num_frames, runs=[{**run, "frames": judge_on}], stride=recipe.num_frames)
    loader = DataLoader(clips, recipe.batch_size, sampler=ClipSampler(clips, seed=seed))
    held_out = DataLoader(unseen, 1)
    clip = unseen[0]
    mae = make_autoencoder(clip["mask"].shape[1:], recipe)
    pretrainer(
        mae,
        loader,
        folder,
        max_epochs=recipe.max_epochs,
        lr=recipe.learning_rate,
        mask_generator=torch.Generator().manual_seed(seed),
    ).run()
    mae.eval()
    errors = reconstruction_errors(mae, held_out, seed=seed, num_masks=4)
    picture = ReconstructionPictures(clip)(mae, recipe.max_epochs, folder)
    return Pretraining(mae, errors, learn_from, judge_on, picture)


def pretrain_on_rest(folder: Path, recipe: PretrainingRecipe, *, seed: int = 0) -> Pretraining:
    """Learn from the first two thirds of the rest run that ships with nstorm, and fill in the last one.

    In the folder it leaves the encoder, the course of the training and a picture.
    """
    with tempfile.TemporaryDirectory() as name:
        store = prepare_rest_run(Path(name) / "store")
        (run,) = store.run_items()
        # frames next to each other are alike: five of them belong to neither part
        spans = {"learn_from": (0, 135), "judge_on": (140, run["num_frames"])}
        made = pretrain_on(store, run, Path(name) / "training", **spans, recipe=recipe, seed=seed)
        shutil.copy(Path(name) / "training" / "history.jsonl", folder / "pretraining.jsonl")
        picture = Path(shutil.copy(made.picture, folder / "reconstruction.png"))
    save_pretrained(made.mae.encoder, folder / "pretrained_encoder.safetensors", overwrite=True)
    return replace(made, picture=picture)
