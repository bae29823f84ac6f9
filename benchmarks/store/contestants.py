"""Who reads clips, and the files they are read from."""

import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.store.clip_rates import Contestant
from benchmarks.store.published_format import (
    SIZE,
    PublishedClips,
    on_grid,
    padded,
    quantized,
    read_data,
    read_frames,
    write_data,
    write_frames,
    z_scores,
)
from nstorm.data import ClipDataset, Store, collate_brain, collate_clips, crop_or_pad, load_bold, load_mask, rest_run

CLIP = 20
OURS, DATA, FRAMES = "ours", "published data.pt", "published frame_*.pt"


def at_2mm(root: Path) -> list[Contestant]:
    """The presets with voxels of 2 mm, and what the published preparation makes of the same files."""
    return [
        _ours(OURS, root / "native"),
        _ours("ours, global, 96^3", root / "published", normalize="global", size=SIZE),
        _ours("ours, in the brain", root / "native", output="brain"),
        *_published(root / "data.pt", root / "frames", SIZE),
    ]


def at_4mm(root: Path) -> list[Contestant]:
    return [
        _ours(OURS, root / "4mm, native"),
        _ours("ours, in the brain", root / "4mm, native", output="brain"),
        *_published(root / "4mm, data.pt", root / "4mm, frames", None),
    ]


def write_published_2mm(root: Path, num_runs: int) -> None:
    """Complete the runs of ``data.pt``, of which some are there, and write their frames one by one."""
    first = root / "data.pt" / "sub-01"
    saved = torch.load(first / "data.pt", weights_only=True)
    write_frames(root / "frames" / first.name, saved["frames"] * saved["scale"])
    _copied(first, num_runs)
    _copied(root / "frames" / first.name, num_runs)


def difference_in_steps(root: Path) -> str:
    """Say how far apart the formats are where they have the same values."""
    folder = root / "data.pt" / "sub-01"
    step = torch.load(folder / "data.pt", weights_only=True)["scale"]
    theirs = padded(read_data(folder, 0, CLIP), SIZE)
    run = next(iter(Store(root / "published").values()))
    ours = crop_or_pad(run.read(0, CLIP, "global"), SIZE, value="min").as_subclass(torch.Tensor)
    return f"Ours, global, and data.pt differ by {float((ours - theirs).abs().max()) / step:.2f} of its steps at most."


def write_published_4mm(root: Path, num_runs: int) -> None:
    """Write the rest run on its own voxels, which the published preparation would make 2 mm."""
    bold = load_bold(rest_run().bold)
    brain = load_mask(rest_run().mask, like=bold)[0].as_subclass(torch.Tensor)
    frames = on_grid(z_scores(bold.as_tensor()[:, brain]), brain)
    write_data(root / "4mm, data.pt" / "sub-01", *quantized(frames))
    write_frames(root / "4mm, frames" / "sub-01", frames)
    _copied(root / "4mm, data.pt" / "sub-01", num_runs)
    _copied(root / "4mm, frames" / "sub-01", num_runs)


def _copied(run: Path, num_runs: int) -> None:
    for number in range(2, num_runs + 1):
        shutil.copytree(run, run.with_name(f"sub-{number:02d}"), dirs_exist_ok=True)


def _ours(name: str, folder: Path, **how: Any) -> Contestant:
    clips, store = ClipDataset(folder, CLIP, **how), Store(folder)
    num_frames = next(iter(store.values())).num_frames
    return Contestant(name, clips, folder, num_frames, collate_brain if "output" in how else collate_clips)


def _published(data: Path, frames: Path, size: int | None) -> list[Contestant]:
    num_frames = len(list((frames / "sub-01").iterdir()))
    return [
        Contestant(name, PublishedClips(sorted(folder.iterdir()), read, num_frames, CLIP, size), folder, num_frames)
        for name, folder, read in ((DATA, data, read_data), (FRAMES, frames, read_frames))
    ]
