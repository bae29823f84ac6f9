"""One training step of a registered net on a CPU: `python -m benchmarks.nets`.

Prints the median time of a step (forward, loss, backward, optimizer), the largest resident memory of the process,
and where the time goes: the profiler's own time of every operator, grouped into parts, as a share of the step's wall
time under the profiler.
"""

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import machine, median_seconds, peak_resident_bytes
from nstorm.nets import create_model

PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "matmul", "linear"),
    "selective scan": ("selective_scan",),
    "causal convolution": ("conv",),
    "activations (GELU, SiLU)": ("gelu", "silu"),
    "layer norm": ("layer_norm",),
    "layout (windows, patches, copies)": (
        "index_select", "copy_", "cat", "clone", "contiguous", "pad", "slice", "split", "view", "permute",
        "transpose", "expand", "as_strided", "reshape", "Permute", "chunk", "narrow",
    ),
    "optimizer": ("Optimizer", "lerp", "addcdiv", "addcmul", "sqrt", "_foreach"),
    "elementwise and sums": ("add", "mul", "sum", "fill_", "zero_", "mean", "div", "exp", "neg", "softmax"),
}  # fmt: skip


def part_of(name: str) -> str:
    """The part an operator belongs to; the first that has a word of its name."""
    plain = name.split("::")[-1]
    for part, words in PARTS.items():
        if any(word in plain for word in words if word not in ("mm",)) or plain in words:
            return part
    return "dispatch and the rest"


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
    clip, label = torch.randn(1, 1, 96, 96, 96, 20), torch.tensor([1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(clip), label).backward()
        optimizer.step()

    seconds = median_seconds(step, args.repeats)
    peak = peak_resident_bytes()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        step()
        wall = time.perf_counter() - start
    shares: dict[str, float] = {}
    for event in profiler.key_averages():
        part = part_of(event.key)
        shares[part] = shares.get(part, 0.0) + event.self_cpu_time_total / 1e6 / wall

    print(machine())
    print(f"{args.model}, clip 96 x 96 x 96 x 20, batch 1: {seconds:.2f} s a training step, peak {peak / 1e9:.2f} GB")
    print("| part | share of the step |\n|---|---|")
    for part, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {part} | {share:.1%} |")
    print(f"| accounted for | {sum(shares.values()):.1%} |")


if __name__ == "__main__":
    main()
