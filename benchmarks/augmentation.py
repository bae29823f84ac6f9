"""Augmenting a batch of clips, nstorm beside MONAI, in one table: `python -m benchmarks.augmentation`.

A batch of clips (1, 96, 96, 96, 20) is rotated and scaled, gets noise and is smoothed, with the published ranges and
probabilities, and once more with every operation applied. Three ways to do the same:

- frame by frame, as published: MONAI's transforms in a Python loop over frames, with the sample's seed set anew before
  each frame, so that all frames get the same affine map; they get the same noise as well.
- MONAI's transforms on (T, H, W, D), where time is the channel.
- nstorm's 4D transforms on the batch. Noise is fresh for every voxel of every frame.

Times are medians of calls made in turns, so that whatever slows the machine slows all of them. Peak MB is the rise of
the resident memory during a call with every operation applied, its result included.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import RandGaussianNoise, RandGaussianSmooth
from monai.transforms.spatial.array import RandAffine
from torch import Tensor

from benchmarks.measure import machine, peak_bytes, seconds_in_turns
from nstorm.data.transforms.batch import OnBatch
from nstorm.data.transforms.rand_affine import RandBOLDAffine
from nstorm.data.transforms.rand_intensity import RandBOLDNoise, RandBOLDSmooth

ROTATION, SCALING, NOISE, SIGMA = 0.175, 0.1, 0.1, 0.5
VOXEL = 2.0
FWHM = 8**0.5 * torch.tensor(2.0).log().sqrt().item() * VOXEL

Augment = Callable[[Tensor], Tensor]


def monai_transforms(noise: float, smooth: float) -> Compose:
    affine = RandAffine(
        prob=1.0, rotate_range=(ROTATION,) * 3, scale_range=(SCALING,) * 3, mode="bilinear", padding_mode="border"
    )
    sigma = (0.0, SIGMA)
    return Compose(
        [
            affine,
            RandGaussianNoise(prob=noise, std=NOISE),
            RandGaussianSmooth(prob=smooth, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma),
        ]
    )


def frame_by_frame(transforms: Compose, batch: Tensor) -> Tensor:
    """The published way, but that the clip it is given stays as it is."""
    samples = []
    for sample in batch.as_subclass(Tensor):
        seed = int(torch.randint(2**31, ()))
        frames = []
        for frame in sample.unbind(dim=-1):
            transforms.set_random_state(seed)
            frames.append(transforms(frame))
        samples.append(torch.stack(frames, dim=-1))
    return torch.stack(samples)


def time_as_channel(transforms: Compose, batch: Tensor) -> Tensor:
    return torch.stack(
        [transforms(sample[0].movedim(-1, 0)).movedim(0, -1)[None] for sample in batch.as_subclass(Tensor)]
    ).contiguous()


def nstorm_transforms(noise: float, smooth: float) -> Compose:
    return Compose(
        [
            RandBOLDAffine(rotate_range=ROTATION, scale_range=SCALING),
            RandBOLDNoise(noise, std_range=(0.0, NOISE)),
            RandBOLDSmooth(smooth, fwhm_range=(0.0, SIGMA * FWHM)),
        ]
    )


def ways(noise: float, smooth: float, batch: Tensor) -> dict[str, Callable[[], object]]:
    """What to call, with these probabilities of noise and of smoothing."""
    calls: dict[str, Augment] = {
        "MONAI, frame by frame, as published": partial(frame_by_frame, monai_transforms(noise, smooth)),
        "MONAI on (T, H, W, D)": partial(time_as_channel, monai_transforms(noise, smooth)),
        "nstorm": OnBatch(nstorm_transforms(noise, smooth)),
    }
    return {name: partial(call, batch) for name, call in calls.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m benchmarks.augmentation",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of all contestants (default: 2)")
    parser.add_argument("--clips", type=int, default=2, help="clips in the batch (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    affine = torch.diag(torch.tensor([VOXEL, VOXEL, VOXEL, 1.0]))
    batch = list_data_collate(
        [MetaTensor(torch.randn(1, 96, 96, 96, 20), affine=affine, meta={"tr": 0.8}) for _ in range(args.clips)]
    )

    published, everything = ways(0.3, 0.1, batch), ways(1.0, 1.0, batch)
    seconds = [
        {name: median(times) for name, times in seconds_in_turns(calls, args.rounds).items()}
        for calls in (published, everything)
    ]
    print(
        f"{machine()}\nbatch {tuple(batch.shape)}\n\n"
        "| way | published probabilities ms | times faster | all applied ms | times faster | peak MB |\n"
        "|---|---|---|---|---|---|"
    )
    first = next(iter(published))
    for name, call in everything.items():
        columns = [f"{taken[name] * 1e3:.0f} | {taken[first] / taken[name]:.1f}" for taken in seconds]
        print(f"| {name} | {' | '.join(columns)} | {peak_bytes(call) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
