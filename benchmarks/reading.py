"""A clip of 20 frames from a run on disk, beside its peers, in one table: `python -m benchmarks.reading`.

The run has 96 x 96 x 96 voxels and 300 frames of int16, written to a temporary folder: smooth noise in a ball, so that
it compresses about as a preprocessed run does (the table says how far). Every contestant ends with float32.

Each row is measured in a process of its own: the median of some reads after one to warm up, so that the file is in the
system's cache and the disk does not count; and how far one read raises the process's resident memory, result included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch

from benchmarks.measure import machine, median_seconds, peak_bytes

SHAPE = (96, 96, 96, 300)
CLIP = 20
STARTS = {"first": 0, "middle": 140, "last": 280}


def nstorm(path: Path, start: int) -> object:
    from nstorm.data.files.reader import load_bold

    return load_bold(path, frames=(start, start + CLIP))


def nibabel_slice(path: Path, start: int) -> object:
    return np.asarray(nibabel.nifti1.load(path).dataobj[..., start : start + CLIP], dtype=np.float32)


def nibabel_whole(path: Path, start: int) -> object:
    return nibabel.nifti1.load(path).get_fdata(dtype=np.float32)[..., start : start + CLIP].copy()


def monai_whole(path: Path, start: int) -> object:
    from monai.transforms import LoadImage

    return LoadImage(ensure_channel_first=True)(path)[start : start + CLIP].clone()


READERS: dict[str, Callable[[Path, int], object]] = {
    "nstorm load_bold(frames=)": nstorm,
    "nibabel dataobj[..., a:b]": nibabel_slice,
    "nibabel get_fdata()[..., a:b]": nibabel_whole,
    "MONAI LoadImage()[a:b]": monai_whole,
}


def write_run(folder: Path) -> list[Path]:
    """Write the run as .nii and .nii.gz."""
    random = np.random.default_rng(0)
    places = np.indices(SHAPE[:3]) - np.array(SHAPE[:3]).reshape(3, 1, 1, 1) / 2
    ball = (places**2).sum(0) < 40**2
    voxels = np.zeros(SHAPE, np.int16, order="F")
    for frame in range(SHAPE[3]):
        voxels[ball, frame] = random.normal(10_000, 100, ball.sum())
    image = nibabel.Nifti1Image(voxels, np.diag([-2.0, 2.0, 2.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 0.8
    paths = [folder / f"run{ending}" for ending in (".nii", ".nii.gz")]
    for path in paths:
        nibabel.save(image, path)
    return paths


def measure(reader: str, path: str, start: str, repeats: int) -> None:
    """Measure one row in this process."""
    torch.set_num_threads(1)

    def call() -> object:
        return READERS[reader](Path(path), int(start))

    memory = peak_bytes(call)
    print(json.dumps((median_seconds(call, repeats, warm_up=0), memory)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.reading"
    )
    parser.add_argument("--repeats", type=int, default=3, help="reads a row is the median of (default: 3)")
    parser.add_argument("--row", nargs=3, metavar=("READER", "PATH", "START"), help="measure one row in this process")
    args = parser.parse_args()
    if args.row:
        reader, path, start = args.row
        measure(reader, path, start, args.repeats)
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        paths = write_run(Path(folder))
        sizes = " and ".join(f"{path.stat().st_size / 1e6:.0f} MB as {path.name[3:]}" for path in paths)
        print(f"\n{SHAPE} int16, {sizes}; a clip of {CLIP} frames, {CLIP * 96**3 * 4 / 1e6:.0f} MB as float32\n")
        print("| reader | file | " + " | ".join(f"{name}, ms" for name in STARTS) + " | peak MB |")
        print("|---|---|" + "---|" * (len(STARTS) + 1))
        for path in paths:
            for reader in READERS:
                found = [row(reader, path, start, args.repeats) for start in STARTS.values()]
                times = " | ".join(f"{1e3 * seconds:.0f}" for seconds, _ in found)
                print(f"| {reader} | {path.name[3:]} | {times} | {max(memory for _, memory in found) / 1e6:.0f} |")


def row(reader: str, path: Path, start: int, repeats: int) -> tuple[float, int]:
    """Measure one row in a fresh process: seconds and bytes."""
    command = [sys.executable, "-m", "benchmarks.reading", "--repeats", str(repeats)]
    command += ["--row", reader, str(path), str(start)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


if __name__ == "__main__":
    main()
