"""Folders of runs as the published preparations write them."""

from pathlib import Path

import torch
from torch import Tensor

from nstorm.data import prepare_published, time_first


def write_data_pt(folder: Path, bold: Tensor, mask: Tensor | None = None) -> Path:
    """Prepare a run, and write it as one file of int8 frames and their step."""
    frames, step = prepare_published(bold, mask=mask, quantize=True)
    return write_frames_and_step(folder, time_first(frames), step)


def write_frames_and_step(folder: Path, frames: Tensor, step: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # a copy: torch would write all that a view is a part of
    frames = frames.as_subclass(Tensor).clone(memory_format=torch.contiguous_format)
    torch.save({"frames": frames, "scale": step, "num_frames": len(frames)}, folder / "data.pt")
    return folder


def write_frames_pt(folder: Path, bold: Tensor, mask: Tensor | None = None) -> Path:
    """Prepare a run, and write it as one float16 file for every frame."""
    return write_each_frame(folder, time_first(prepare_published(bold, mask=mask)))


def write_each_frame(folder: Path, frames: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames.as_subclass(Tensor).half()):
        torch.save(frame[..., None].clone(), folder / f"frame_{index}.pt")
    return folder
