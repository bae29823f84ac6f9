"""The published format, written and read as the published code does.

A run is a folder, with ``data.pt``: int8 frames ``(T, H, W, D)`` and the step they count in; or, older, with
``frame_0.pt`` and on: float16 ``(H, W, D, 1)``. A clip is read frame by frame or out of the mapped file, made float32,
and filled up to 96 voxels along each axis with the value of its first voxel, the background.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

SIZE = 96
INT8_MAX = 127


def z_scores(values: Tensor) -> Tensor:
    """Do what the published preparation does with intensities in the brain: one mean and one deviation for all."""
    values = values.clamp(min=0)
    return (values - values.mean()) / values.std()


def quantized(scores: Tensor) -> tuple[Tensor, float]:
    """Divide by one step for all voxels and frames, such that all fit into int8."""
    step = float(scores.abs().max()) / INT8_MAX
    return (scores / step).round().to(torch.int8), step


def on_grid(scores: Tensor, brain: Tensor) -> Tensor:
    """Put scores ``(T, V)`` on a grid ``(T, H, W, D)``, with the lowest of them around the brain."""
    frames = scores.new_full((len(scores), *brain.shape), float(scores.min()))
    frames[:, brain] = scores
    return frames


def write_data(folder: Path, frames: Tensor, step: float) -> None:
    folder.mkdir(parents=True)
    torch.save({"frames": frames, "scale": step, "num_frames": len(frames)}, folder / "data.pt")


def write_frames(folder: Path, frames: Tensor) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        torch.save(frame[..., None].to(torch.float16, copy=True), folder / f"frame_{number}.pt")


def read_data(folder: Path, start: int, stop: int) -> Tensor:
    saved = torch.load(folder / "data.pt", mmap=True, weights_only=True)
    return saved["frames"][start:stop].to(torch.float32).mul_(saved["scale"]).permute(1, 2, 3, 0)[None]


def read_frames(folder: Path, start: int, stop: int) -> Tensor:
    frames = [torch.load(folder / f"frame_{number}.pt", weights_only=True) for number in range(start, stop)]
    return torch.cat(frames, dim=-1)[None].to(torch.float32)


def padded(clip: Tensor, size: int) -> Tensor:
    """Fill up ``(1, H, W, D, T)``, with one more in front of an axis where it is uneven."""
    frames = clip.permute(0, 4, 1, 2, 3)
    missing = [size - length for length in reversed(frames.shape[2:])]
    sides = [side for number in missing for side in (math.ceil(number / 2), number // 2)]
    return F.pad(frames, sides, value=clip.flatten()[0].item()).permute(0, 2, 3, 4, 1)


class PublishedClips(Dataset[Tensor]):
    """Random clips ``(1, H, W, D, T)`` of published runs: ``clips[run, draw]``.

    Args:
        folders: Of the runs.
        read: ``read_data`` or ``read_frames``.
        num_frames: Of a run.
        length: Of a clip in frames.
        size: What clips are filled up to; None leaves them as they are.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        read: Callable[[Path, int, int], Tensor],
        num_frames: int,
        length: int,
        size: int | None = SIZE,
    ) -> None:
        self.folders = folders
        self.read = read
        self.num_frames = num_frames
        self.length = length
        self.size = size

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        run, _ = where
        start = int(np.random.default_rng(where).integers(self.num_frames - self.length + 1))
        clip = self.read(self.folders[run], start, start + self.length)
        return clip if self.size is None else padded(clip, self.size)
