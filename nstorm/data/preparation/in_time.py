"""What a recipe does over time, to the voxels that are kept."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.reader import BOLDFile
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.published import TR, with_published_tr
from nstorm.data.time.clean import clean
from nstorm.data.time.confounds import load_confounds
from nstorm.data.time.resample_time import resample_time
from nstorm.data.time.scrub import scrub
from nstorm.data.time.timing import start_time_of

# voxels that are worked on together
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class InTime:
    """A run after the steps in time.

    Attributes:
        values: ``(T, V)``.
        tr: The repetition time in seconds.
        start_time: The time of the first frame after the start of the recording, in seconds.
        replaced: The frames of the recording that were not trusted and replaced.
    """

    values: NDArray[np.float32]
    tr: float
    start_time: float
    replaced: tuple[int, ...] = ()

    def nearest(self, file: BOLDFile) -> NDArray[np.intp]:
        """Give the frame of the recording that is nearest in time to each frame."""
        times = self.start_time + np.arange(len(self.values)) * self.tr
        return np.rint(times / file.tr).astype(np.intp).clip(max=file.num_frames - 1)


def in_time(values: NDArray[np.float32], file: BOLDFile, recipe: Recipe, progress: Callable[[float], None]) -> InTime:
    """Do the steps of a recipe in time.

    Args:
        values: ``(T, V)``; they are overwritten where the number of frames stays.
        file: The run.
        recipe: What is done with it.
        progress: Told the share of the voxels that is done.

    Raises:
        ValueError: A step cannot be done with the run.
    """
    if not (recipe.published or recipe.dummy_scans or recipe.cleans or recipe.tr is not None):
        return InTime(values, file.tr, 0.0)
    steps = _Steps(file, recipe)
    result, num_voxels = values, values.shape[1]
    for first in range(0, num_voxels, BLOCK):
        part = slice(first, first + BLOCK)
        # as one row of voxels, the shape (T, H, W, D) in which the steps are fastest
        series = steps(torch.from_numpy(values[:, None, part, None]))
        if first == 0 and len(series) != len(values):
            result = np.empty((len(series), num_voxels), np.float32)
        result[:, part] = series.numpy()[:, 0, :, 0]
        progress(min(part.stop / num_voxels, 1))
    return InTime(result, float(series.meta["tr"]), start_time_of(series), steps.replaced)  # type: ignore[attr-defined]


class _Steps:
    """The steps of a recipe on some voxels of a run ``(T, 1, V, 1)``."""

    def __init__(self, file: BOLDFile, recipe: Recipe) -> None:
        self.file = file
        self.recipe = recipe
        self.confounds: Tensor | None = None
        trusted = torch.ones(file.num_frames, dtype=torch.bool)
        if recipe.confounds is not None:
            chosen = load_confounds(file.path, recipe.confounds, **recipe.confound_options)
            self.confounds, trusted = chosen.values, chosen.keep
        trusted = trusted & (torch.arange(file.num_frames) >= recipe.dummy_scans)
        kept = trusted.nonzero()[:, 0].tolist()
        if not kept:
            raise ValueError(
                f"{file.path} has no frame left of {file.num_frames}, without {recipe.dummy_scans} dummy scans and "
                "those that its confounds do not trust: remove fewer, or leave the run out"
            )
        # frames at the ends that are not trusted go, those between others are replaced
        self.window = slice(kept[0], kept[-1] + 1)
        self.trusted = trusted[self.window]
        self.replaced = tuple((kept[0] + (~self.trusted).nonzero()[:, 0]).tolist())

    def __call__(self, values: Tensor) -> Tensor:
        from monai.data.meta_tensor import MetaTensor

        recipe, file = self.recipe, self.file
        if recipe.published:
            return MetaTensor(with_published_tr(values, file.tr), meta={"tr": TR})
        meta = {"tr": file.tr, "start_time": self.window.start * file.tr, "filename_or_obj": str(file.path)}
        run: Tensor = MetaTensor(values[self.window], meta=meta)
        if recipe.cleans:
            run = self._cleaned(run)
        return run if recipe.tr is None else resample_time(run, recipe.tr)

    def _cleaned(self, run: Tensor) -> Tensor:
        cleaned = clean(
            run,
            confounds=None if self.confounds is None else self.confounds[self.window],
            detrend=self.recipe.detrend,
            low_pass=self.recipe.low_pass,
            high_pass=self.recipe.high_pass,
            keep=self.trusted,
            # constant voxels stay as they are
            mask=torch.ones(run.shape[1:], dtype=torch.bool),
        )
        if self.trusted.all():
            return cleaned
        run = run.clone()
        run[self.trusted] = cleaned.as_subclass(Tensor)
        return scrub(run, self.trusted)
