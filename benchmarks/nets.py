"""One training step of a registered net on a CPU: `python -m benchmarks.nets`.

Prints the median time of a step (forward, loss, backward, optimizer) on a whole clip and with a brain mask, the largest
resident memory of the process, and where the time goes: the profiler's own time of every operator, grouped into parts,
as a share of the step's wall time under the profiler. The matrix products among them are the measure of the rest.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import machine, median_seconds, peak_resident_bytes
from nstorm.nets import create_model

# an operator belongs to the first part that has its name, or else a word of it
PARTS = {
    "matrix products": ({"mm", "addmm", "addmm_", "bmm"}, ()),
    "scan, convolution and gate of the mixers": (set(), ("mamba_inner", "selective_scan", "causal_conv")),
    "attention": (set(), ("scaled_dot_product", "softmax")),
    "GELU": (set(), ("gelu",)),
    "layer norm": (set(), ("layer_norm",)),
    "layout (windows, patches, copies)": (
        {"copy_", "cat", "clone", "contiguous", "split", "view", "t", "permute", "transpose", "expand", "reshape"},
        ("index_select", "pad", "slice", "as_strided", "_Take", "unsafe_view", "empty", "narrow", "select"),
    ),
    "optimizer": ({"lerp_", "addcdiv_", "addcmul_", "sqrt"}, ("Optimizer", "_foreach")),
    "sums and elementwise": ({"add", "add_", "mul", "mul_", "sum", "fill_", "zero_", "mean", "div", "exp", "neg"}, ()),
}


def part_of(name: str) -> str:
    """The part an operator belongs to."""
    plain = name.split("::")[-1]
    for part, (names, words) in PARTS.items():
        if plain in names or any(word in name for word in words):
            return part
    return "autograd, dispatch and the rest"


def brain_like_mask(size: int) -> Tensor:
    """An ellipsoid as large within its cube as the MNI152 brain at 2 mm within 96^3: a quarter of the voxels."""
    place = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size)] * 3, indexing="ij"), -1)
    return (place / torch.tensor([0.72, 0.90, 0.77])).square().sum(-1) < 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="neurostorm_base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = create_model(args.model, num_classes=2)
    clip, label, brain = torch.randn(1, 1, 96, 96, 96, 20), torch.tensor([1]), brain_like_mask(96)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step(mask: Tensor | None = None) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(clip, mask), label).backward()
        optimizer.step()

    seconds = median_seconds(step, args.repeats)
    peak = peak_resident_bytes()
    masked = median_seconds(lambda: step(brain), args.repeats)
    walls, products, shares = [], [], []
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            step()
            wall = time.perf_counter() - start
        share: dict[str, float] = {}
        for event in profiler.key_averages():
            part = part_of(event.key)
            share[part] = share.get(part, 0.0) + event.self_cpu_time_total / 1e6 / wall
        walls.append(wall)
        products.append(share["matrix products"] * wall)
        shares.append(share)

    own = statistics.median(products)
    print(machine())
    print(f"{args.model}, clip 96 x 96 x 96 x 20, batch 1, float32: a training step takes {seconds:.2f} s,")
    print(f"{seconds / own:.2f} times its own matrix products ({own:.2f} s); peak {peak / 1e9:.2f} GB.")
    faster = f"{masked:.2f} s, {seconds / masked:.2f} x faster"
    print(f"With a brain mask of {brain.float().mean():.0%} of the voxels: {faster}.")
    print(f"\nUnder the profiler ({statistics.median(walls):.2f} s):\n\n| part | share of the step |\n|---|---|")
    middle = shares[walls.index(statistics.median(walls))]
    for part, value in sorted(middle.items(), key=lambda item: -item[1]):
        print(f"| {part} | {value:.1%} |")
    print(f"| accounted for | {sum(middle.values()):.1%} |")


if __name__ == "__main__":
    main()
