"""nstorm's store beside the published format: `python -m benchmarks.store`.

Volumes a second of preparation with its memory, random clips of 20 frames a second, bytes a frame, correlation over
time with the source, and what all of that makes of 28.65 million frames. Both formats are written from the same
recordings in the same run:

- 2 mm: the rest run that ships with nstorm, upsampled to 91 x 109 x 91 voxels with its own noise, and with a TR of
  0.72 s, as the HCP's. The published preparation makes 91 x 96 x 91 voxels at 0.8 s of it, which its reader fills up
  to 96^3.
- 4 mm: the rest run as it is, against cubes of the same 48 x 56 x 48 voxels, which nobody has published.

The runs of a study are links to one file, so that reading that is warm; what is written of them, and then read as
clips, lies in files of its own. All read float32, each process in one thread: "ours" z-scores each voxel, which is the
default; "ours, global" has the values of the published format.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.measure import machine
from benchmarks.store import clip_rates, extrapolate, fidelity, preparation
from benchmarks.store.clip_rates import Contestant, Rates
from benchmarks.store.contestants import (
    CLIP,
    DATA,
    FRAMES,
    OURS,
    at_2mm,
    at_4mm,
    difference_in_steps,
    write_published_2mm,
    write_published_4mm,
)
from benchmarks.store.extrapolate import Measured
from benchmarks.store.page_cache import drop, load, num_bytes, resident_bytes
from benchmarks.store.recordings import recordings, study, upsampled_rest_run
from nstorm.data import Study, load_mask, prepare, rest_run
from nstorm.data.clips.opened_runs import MOST

# times as many voxels as the published 91 x 96 x 91
CUBE = 96**3 / (91 * 96 * 91)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.store"
    )
    parser.add_argument("--runs", type=int, default=MOST + 2, help=f"runs that clips are of (default: {MOST + 2})")
    parser.add_argument("--frames", type=int, default=200, help="frames of a run, 200 (default) at most")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that rates are medians of (default: 3)")
    parser.add_argument("--turns", type=int, default=3, help="warm clips of each run in a round (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round with short runs, to see that all works")
    parser.add_argument("--folder", type=Path, help="where to write 8 GB (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, help="file for the page about 28.65 million frames, in Markdown")
    args = parser.parse_args()
    if args.runs <= MOST:
        parser.error(f"--runs is {args.runs}, but a dataset keeps {MOST} runs open: give more")
    if args.quick:
        args.frames, args.rounds, args.turns = 40, 1, 1
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        page = run(Path(folder), args.runs, args.frames, args.rounds, args.turns)
    print(f"\n{page}")
    if args.out:
        args.out.write_text(page)


def run(root: Path, num_runs: int, num_frames: int, rounds: int, turns: int) -> str:
    """Measure everything, and give the page that extrapolates it."""
    source = upsampled_rest_run(root, num_frames)
    voxels = int(load_mask(source.mask).sum())
    print(f"\n## Preparing .nii.gz of {num_frames} frames of 91 x 109 x 91 voxels, {voxels:,} of them in the brain\n")
    print("That two processes have to start counts as well.\n")
    speeds = preparation.table(study(source, root / "study", num_runs), num_frames, root)
    write_published_2mm(root, num_runs)
    print(f"\n{difference_in_steps(root)}")
    small = study(rest_run(), root / "4mm, study", num_runs)
    prepare(Study(small), root / "4mm, native", preset="native", progress=False)
    write_published_4mm(root, num_runs)

    rates: dict[str, dict[str, Rates]] = {}
    grids = {"2 mm": at_2mm(root), "4 mm, against cubes of the same voxels": at_4mm(root)}
    for grid, contestants in grids.items():
        print(f"\n## Clips of {CLIP} frames at {grid}\n\n{in_memory_after_drop(contestants)}\n")
        found = clip_rates.measure(contestants, num_runs, rounds, turns)
        print(clip_rates.table(contestants, found), flush=True)
        rates[grid] = {contestant.name: each for contestant, each in zip(contestants, found, strict=True)}

    print("\n## Correlation over time with the source\n")
    print("\n".join(fidelity.table(list(recordings()), root)), flush=True)

    two, four = (
        {contestant.name: Measured.of(contestant, num_runs, rates[grid][contestant.name]) for contestant in contestants}
        for grid, contestants in grids.items()
    )
    print(f"\n## Bytes\n\n{sizes(two, four)}")
    return extrapolate.page(
        {
            "ours, 2 mm": two[OURS].prepared_at(speeds["native"] / num_frames),
            "ours, 4 mm": four[OURS].prepared_at(speeds["4mm"] / num_frames),
            DATA: two[DATA].prepared_at(speeds["data.pt"] / num_frames),
            FRAMES: two[FRAMES],
        },
        machine(),
    )


def in_memory_after_drop(contestants: Sequence[Contestant]) -> str:
    """Say how much of the files stays in the page cache when they are dropped from it."""
    left = all_bytes = 0
    for folder in {contestant.folder for contestant in contestants}:
        load(folder)
        drop(folder)
        left, all_bytes = left + resident_bytes(folder), all_bytes + num_bytes(folder)
    return f"Cold: {left / 1e6:.1f} of {all_bytes / 1e6:.0f} MB are in the page cache after posix_fadvise(DONTNEED)."


def sizes(two: Mapping[str, Measured], four: Mapping[str, Measured]) -> str:
    """Compare bytes a frame."""
    data = two[DATA].frame_bytes
    rows = {
        "ours, native, 2 mm": two[OURS],
        "ours, published": two["ours, global, 96^3"],
        "data.pt, 91 x 96 x 91": two[DATA],
        "frame_*.pt, 91 x 96 x 91": two[FRAMES],
        "ours, native, 4 mm": four[OURS],
        "data.pt, 48 x 56 x 48": four[DATA],
        "frame_*.pt, 48 x 56 x 48": four[FRAMES],
    }
    lines = ["| format | frames a run | files a run | bytes a frame | share of data.pt | of data.pt as 96^3 |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {each.run_frames} | {each.run_files:.0f} | {each.frame_bytes:,.0f} "
        f"| {each.frame_bytes / data:.3f} | {each.frame_bytes / data / CUBE:.3f} |"
        for name, each in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
