# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The scan alone
#
# A *selective scan* is the heart of Mamba: a memory that moves along a sequence, and decides at every token what to
# keep. Here you meet it without a network around it. You will see what it remembers, run it on several backends, cut a
# sequence in two and stream it, skip frames, keep runs apart, smooth and train it on real BOLD series, and measure how
# fast it is. Everything runs on a CPU in less than a minute.

# %%
import logging
import statistics
import sys
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

from nstorm.data import haxby_runs, load_bold, read_events, rest_run, voxels_that_vary, zscore_voxels
from nstorm.layers import MambaMixer
from nstorm.scan import causal_conv1d, selective_scan, use_backend

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")
# one thread for all that is compared below
torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREY, BLACK = "#1f6f8b", "#e4572e", "#9aa5ab", "#222222"

# %% [markdown]
# ## 1. The formula
#
# A sequence has `l` tokens of `d` channels. Every channel has a state $h$ of `s` numbers. At token $t$
#
# $$h_t = e^{\Delta_t A}\, h_{t-1} + \Delta_t B_t\, u_t, \qquad y_t = C_t \cdot h_t .$$
#
# | | shape | |
# |---|---|---|
# | `u` | `(n, d, l)` | the input of `n` sequences |
# | `delta` | `(n, d, l)` | the step $\Delta$: how much time passes at this token |
# | `A` | `(d, s)` | how fast each state decays; negative |
# | `B`, `C` | `(n, s, l)` | what the states take in, and what is read out of them |
#
# Mamba adds a skip weight `D`, a gate `z` and a softplus around the step; all are arguments of `selective_scan`. The
# recurrence itself is a loop of three lines:


# %%
def plain_scan(u, delta, A, B, C):
    """The formula, one token after the other."""
    h, outputs = torch.zeros(*u.shape[:2], A.shape[1]), []
    for x, step, b, c in zip(u.unbind(2), delta.unbind(2), B.unbind(2), C.unbind(2), strict=True):
        h = torch.exp(step[..., None] * A) * h + (step * x)[..., None] * b[:, None]
        outputs.append((h * c[:, None]).sum(-1))
    return torch.stack(outputs, dim=2)


def example(n=2, d=24, length=63, s=16):
    """Random inputs of a scan."""
    delta, A = F.softplus(torch.randn(n, d, length) - 2), -torch.rand(d, s)
    return torch.randn(n, d, length), delta, A, torch.randn(n, s, length), torch.randn(n, s, length)


def seconds(call):
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


inputs = example()
first_call = seconds(lambda: selective_scan(*inputs))
second_call = seconds(lambda: selective_scan(*inputs))
formula_error = (selective_scan(*inputs) - plain_scan(*inputs)).abs().max().item()
print(f"selective_scan equals the loop to {formula_error:.1e}")
print(f"first call {first_call:.2f} s, second call {1e3 * second_call:.2f} ms")

# %% [markdown]
# The first call in a process is slow: numba loads its kernels from a cache on disk or, the very first time on a
# machine, compiles them. `nstorm info` on the command line says what that costs, and where the cache is.
#
# ## 2. What it remembers
#
# Give a channel one state with $A = -1$, and an input that is 1 at a single token. What the state holds afterwards
# fades as $e^{-\Delta}$ a token: **the step sets how long the memory is**, $1/\Delta$ tokens.
#
# With $B_t = (1 - e^{-\Delta_t}) / \Delta_t$ the state becomes an average, $h_t = e^{-\Delta_t} h_{t-1} + (1 -
# e^{-\Delta_t}) u_t$. With a constant step it forgets at one pace. **Selective** means that the step may depend on the
# token: a large one replaces the memory, a step of 0 leaves it as it is. On the right, one channel holds the last
# marked token through all the noise between, which no constant step can do.

# %%
length, steps = 80, torch.tensor([0.02, 0.1, 0.5])
impulse = torch.zeros(1, 3, length)
impulse[..., 10] = 1
every_token = torch.ones(1, 1, length)
decay = selective_scan(impulse / steps[:, None], steps[:, None].expand(1, 3, length), -torch.ones(3, 1),
                       every_token, every_token)[0]  # fmt: skip

noisy = torch.randn(1, 1, length)
marked = torch.zeros(length, dtype=torch.bool)
marked[[14, 29, 36, 60]] = True


def average(u, delta):
    """An average that forgets with the step, of one channel."""
    return selective_scan(u, delta, torch.tensor([[-1.0]]), -torch.expm1(-delta) / delta, torch.ones_like(u))


held = average(noisy, torch.where(marked, 20.0, 1e-6).expand(1, 1, length))[0, 0]
constant = average(noisy, torch.full((1, 1, length), 0.3))[0, 0]

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[1, 1.6], layout="constrained")
for row, step, colour in zip(decay, steps, (BLUE, "#5aa897", ORANGE), strict=True):
    left.plot(row, color=colour, label=f"step {step:g}: {1 / step:.0f} tokens")
left.legend(frameon=False, fontsize=9)
left.set(title="an impulse at token 10", xlabel="token", ylabel="state")
right.plot(noisy[0, 0], color=GREY, linewidth=0.9, label="input")
right.plot(constant, color=BLUE, label="constant step")
right.plot(held, color=ORANGE, linewidth=2, drawstyle="steps-mid", label="step of 20 at marked tokens, else almost 0")
right.plot(marked.nonzero()[:, 0], noisy[0, 0, marked], "o", color=BLACK, label="marked tokens")
right.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.0))
right.set(title="selectivity: what to keep is decided token by token", xlabel="token", ylim=(-3, 4.4))
plt.show()

# %% [markdown]
# ## 3. Backends
#
# The same call runs on different implementations. `reference` is the formula, slow and readable. `torch` uses PyTorch
# operations, on any device, also in float64. `numba` is the fast one on a CPU, in float32. `auto` takes the first that
# can, and says through `logging` why it passed another one over. You choose by the argument `backend`, by a `with`
# block, or by the environment variable `NSTORM_SCAN_BACKEND`.

# %%
exact = selective_scan(*(x.double() for x in inputs), backend="reference")
errors = {}
for name in ("reference", "torch", "numba"):
    with use_backend(name):
        errors[name] = (selective_scan(*inputs) - exact).abs().max().item() / exact.abs().max().item()
    print(f"{name:>9}: largest error against float64 {errors[name]:.0e}")

messages = logging.StreamHandler(sys.stdout)
logging.getLogger("nstorm").addHandler(messages)
logging.getLogger("nstorm").setLevel(logging.INFO)
wide = selective_scan(*(x.double() for x in inputs))
logging.getLogger("nstorm").removeHandler(messages)

try:
    selective_scan(*(x.double() for x in inputs), backend="numba")
    refusal = ""
except ValueError as error:
    refusal = str(error)
print("asked for by name:", refusal)

# %% [markdown]
# ## 4. A real series: time in seconds
#
# BOLD frames come every TR seconds. Let **the step be the TR** and $A = -1/\tau$, and the memory has a time constant
# $\tau$ *in seconds*, whatever the TR. Two states with two time constants make a band-pass: $\tau = 5$ s follows the
# signal, $\tau = 60$ s follows its drift, and `C = (1, -1)` reads out their difference. Nothing is learned here; these
# are numbers written by hand.
#
# The recording is one run of Haxby et al. (2001); see the [first tutorial](01_your_first_4d_fmri_model.ipynb). The
# voxel is the one that responds most to houses, picked for that; take the curve as an illustration.


# %%
def averages(bold, taus, readout, tr, **options):
    """Averages over the last `taus` seconds of series (n, voxels, frames), weighted by `readout`."""
    n, voxels, frames = bold.shape
    taus, readout = torch.tensor(taus), torch.tensor(readout)
    A = (-1 / taus).expand(voxels, -1)
    B = -torch.expm1(-tr / taus) / tr
    return selective_scan(
        bold, torch.full_like(bold, tr), A,
        B[None, :, None].expand(n, -1, frames), readout[None, :, None].expand(n, -1, frames), **options,
    )  # fmt: skip


runs = haxby_runs()
recordings = [load_bold(run.bold) for run in runs[:3]]
events, tr = read_events(runs[0].events), recordings[0].meta["tr"]
brain = torch.stack([voxels_that_vary(bold) for bold in recordings]).all(0)
series = [zscore_voxels(bold).as_tensor()[:, brain].T[None] for bold in recordings]  # (1, voxels, frames) each

middle = (torch.arange(series[0].shape[2]) + 0.5) * tr
house = next(event for event in events if event.trial_type == "house")
during = (middle >= house.onset) & (middle < house.onset + house.duration)
voxel = int(series[0][0, :, during].mean(1).argmax())
smooth = averages(series[0], [5.0], [1.0], tr)
band = averages(series[0], [5.0, 60.0], [1.0, -1.0], tr)

figure, axes = plt.subplots(figsize=(11, 3.2), layout="constrained")
for event in events:
    axes.axvspan(event.onset, event.onset + event.duration, color=GREY, alpha=0.2, linewidth=0)
    centre = event.onset + event.duration / 2
    axes.text(centre, 1.02, event.trial_type, transform=axes.get_xaxis_transform(), ha="center", fontsize=8)
axes.plot(middle, series[0][0, voxel], color=GREY, linewidth=1, label="voxel")
axes.plot(middle, smooth[0, voxel], color=BLUE, linewidth=2, label="$\\tau$ = 5 s")
axes.plot(middle, band[0, voxel], color=ORANGE, linewidth=2, label="5 s minus 60 s")
axes.set(xlabel="time (s)", ylabel="signal (z-score)", xlim=(0, float(middle[-1])))
axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper left")
plt.show()

# %% [markdown]
# A scan is causal: it sees no future, so a smoothed series lags behind by about $\tau$.
#
# ## 5. State: two halves are the whole
#
# `return_last_state` hands out where a scan ended, `initial_state` goes on from there. Both are differentiable, so a
# run too long for memory can be cut without changing outputs or gradients.

# %%
whole_input = series[0].clone().requires_grad_()
whole, last = averages(whole_input, [5.0, 60.0], [1.0, -1.0], tr, return_last_state=True)
whole_gradient = torch.autograd.grad(whole.square().sum(), whole_input)[0]

cut_input = series[0].clone().requires_grad_()
cut = 50
begin, state = averages(cut_input[..., :cut], [5.0, 60.0], [1.0, -1.0], tr, return_last_state=True)
end = averages(cut_input[..., cut:], [5.0, 60.0], [1.0, -1.0], tr, initial_state=state)
halves = torch.cat([begin, end], dim=2)
halves_gradient = torch.autograd.grad(halves.square().sum(), cut_input)[0]

print("state after a half:", tuple(state.shape), "= (n, voxels, states)")
print(f"outputs differ by {(halves - whole).abs().max():.0e}, ", end="")
print(f"gradients by {(halves_gradient - whole_gradient).abs().max():.0e}")

# %% [markdown]
# A `MambaMixer` has two memories: the scan's state, and the last inputs of its short convolution. `step` carries both,
# so that tokens can be taken as a scanner delivers them. Streaming gives what the whole run gives at once.

# %%
mixer = MambaMixer(dim=series[0].shape[1], expand=1).eval()
frames = series[0].transpose(1, 2)  # (1, frames, voxels): one token a frame
state, streamed = None, []
with torch.no_grad():
    at_once = mixer(frames)
    for frame in frames.unbind(1):
        y, state = mixer.step(frame, state)
        streamed.append(y)
streamed = torch.stack(streamed, dim=1)
print("carried:", {name: tuple(x.shape) for name, x in state._asdict().items()})
print(f"streamed and parallel differ by {(streamed - at_once).abs().max():.0e}")

# %% [markdown]
# ## 6. Frames to skip, places to start anew
#
# **`token_mask`** is False for tokens that must not be seen: they leave the state exactly as it is. Below, four frames
# of the real series are spoiled, as by a jerk of the head. With the mask the average passes them by, and whatever they
# hold, even NaN, reaches nothing: what comes out is what a run without these frames gives.
#
# **`reset`** is True where the state starts anew. Below, two runs follow each other in one sequence, with the first
# lifted by 3 so that you see it leak. With a reset the second run comes out as if it were alone.

# %%
spoiled = series[0].clone()
bad = torch.zeros(1, spoiled.shape[2], dtype=torch.bool)
bad[0, [30, 31, 32, 52]] = True
spoiled[:, :, bad[0]] += 8
careless = averages(spoiled, [10.0], [1.0], tr)
careful = averages(spoiled, [10.0], [1.0], tr, token_mask=~bad)
absent = averages(spoiled[:, :, ~bad[0]], [10.0], [1.0], tr)

joined = torch.cat([series[0] + 3, series[1]], dim=2)
boundary = series[0].shape[2]
anew = torch.zeros(1, joined.shape[2], dtype=torch.bool)
anew[0, boundary] = True
leaking = averages(joined, [30.0], [1.0], tr)
separate = averages(joined, [30.0], [1.0], tr, reset=anew)
alone = averages(series[1], [30.0], [1.0], tr)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
left.plot(spoiled[0, voxel], color=GREY, linewidth=1, label="voxel, 4 spoiled frames")
left.plot(careless[0, voxel], color=BLUE, label="all frames")
left.plot(np.where(bad[0], np.nan, careful[0, voxel]), color=ORANGE, linewidth=2, label="token_mask")
left.set(title="token_mask: an average over 10 s", xlabel="frame", ylabel="signal (z-score)")
right.plot(joined[0, voxel], color=GREY, linewidth=1, label="voxel, two runs")
right.plot(leaking[0, voxel], color=BLUE, label="one sequence")
right.plot(separate[0, voxel], color=ORANGE, linewidth=2, label="reset")
right.axvline(boundary, color=BLACK, linestyle=":", linewidth=1)
right.set(title="reset: an average over 30 s", xlabel="frame", xlim=(boundary - 50, boundary + 50))
for axes in (left, right):
    axes.legend(frameon=False, fontsize=9, loc="upper right")
plt.show()

# %% [markdown]
# ## 7. The short convolution
#
# Before its scan, Mamba looks at a few neighbours with `causal_conv1d`: each channel has its own taps, the last of
# which meets the present token. It takes `token_mask` and `reset` too, and taps reach over a skipped token to the one
# before.

# %%
ramp = torch.tensor([[[1.0, 2.0, 4.0, 8.0, 16.0]]])
difference = torch.tensor([[-1.0, 1.0]])
skip_third = torch.tensor([[True, True, False, True, True]])
changes = causal_conv1d(ramp, difference)
changes_over_gap = causal_conv1d(ramp, difference, token_mask=skip_third)
print("tokens:                ", ramp[0, 0].tolist())
print("change to the present: ", changes[0, 0].tolist())
print("third token skipped:   ", changes_over_gap[0, 0].tolist())

# %% [markdown]
# ## 8. Gradients: let the data choose the time constant
#
# All backends have exact gradients, so a scan is trained like any layer. Let every voxel predict its next frame from an
# average of its past, and learn two numbers a voxel, its time constant and a weight, on run 1. Runs 2 and 3 were not
# seen. The yardsticks are "as the last frame", and "0", which is the mean of a z-scored voxel.


# %%
def predict(bold, log_tau, weight):
    """Each voxel's next frame, from the average of its frames up to now."""
    delta = (tr / log_tau.exp())[:, None].expand_as(bold)
    A, ones = -bold.new_ones(len(log_tau), 1), bold.new_ones(1, 1, bold.shape[2])
    # B is shared by all channels, so what makes the average's gain 1 goes into u
    return weight[:, None] * selective_scan(-bold * torch.expm1(-delta) / delta, delta, A, ones, ones)


def prediction_error(bold, prediction):
    """Mean squared error of the next frame."""
    return F.mse_loss(prediction[..., :-1], bold[..., 1:])


log_tau = torch.full((series[0].shape[1],), np.log(10.0).item()).requires_grad_()
weight = torch.ones_like(log_tau).requires_grad_()
# the same by the reference in float64
loss = prediction_error(series[0], predict(series[0], log_tau, weight))
fast = torch.autograd.grad(loss, [log_tau, weight])
bold = series[0].double()
parameters = [x.detach().double().requires_grad_() for x in (log_tau, weight)]
with use_backend("reference"):
    slow = torch.autograd.grad(prediction_error(bold, predict(bold, *parameters)), parameters)
gradient_error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(fast, slow, strict=True))
print(f"gradients differ from float64 by {gradient_error:.0e}")

optimizer = torch.optim.Adam([log_tau, weight], lr=0.05)
losses = []
for _ in range(150):
    optimizer.zero_grad()
    loss = prediction_error(series[0], predict(series[0], log_tau, weight))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

unseen = {}
with torch.no_grad():
    for number in (2, 3):
        bold = series[number - 1]
        unseen[number] = [
            prediction_error(bold, guess).item() for guess in (predict(bold, log_tau, weight), bold, 0 * bold)
        ]
        learned, like_last, zero = unseen[number]
        print(f"run {number}: learned {learned:.2f}, as the last frame {like_last:.2f}, zero {zero:.2f}")
taus = log_tau.detach().exp()
print(f"time constants learned: median {taus.median():.1f} s, 10th and 90th percentile ", end="")
print(f"{taus.quantile(0.1):.1f} and {taus.quantile(0.9):.1f} s")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), width_ratios=[1, 1.5], layout="constrained")
left.plot(losses, color=ORANGE, label="learned, run 1")
left.axhline(prediction_error(series[0], series[0]), color=BLUE, linestyle="--", label="as the last frame")
left.axhline(prediction_error(series[0], 0 * series[0]), color=GREY, linestyle=":", label="zero")
left.set(
    title="predicting the next frame",
    xlabel="step of training",
    ylabel="squared error of the next frame",
    ylim=(0, None),
)
left.legend(frameon=False, fontsize=9, loc="lower left")
slice_of_taus = torch.full(brain.shape, torch.nan)
slice_of_taus[brain] = taus
shown = right.imshow(slice_of_taus[:, :, 0].T, origin="lower", cmap="viridis", vmin=0, vmax=taus.quantile(0.95).item())
figure.colorbar(shown, label="time constant (s)", extend="max")
right.set(title="the time constant that each voxel chose", xlabel="H (voxels)", ylabel="W (voxels)")
plt.show()

# %% [markdown]
# ## 9. How fast it is
#
# A chunk of another recording, a whole brain at rest with TR 1.5 s, is the sequence: 200 frames of 2000 voxels, each
# with averages over 16 time constants. The loop of section 1, `torch` and `numba` do the same work, in turns, on one
# thread, with the gradients of all five inputs.

# %%
rest = rest_run()
rest_bold = load_bold(rest.bold)
rest_series = zscore_voxels(rest_bold).as_tensor()[:, voxels_that_vary(rest_bold)].T
chunk = rest_series[:: len(rest_series) // 2000][None, :2000]
rest_taus = torch.logspace(0.5, 2, 16)
rest_tr = rest_bold.meta["tr"]
rest_inputs = [
    chunk,
    torch.full_like(chunk, rest_tr),
    (-1 / rest_taus).expand(chunk.shape[1], -1),
    (-torch.expm1(-rest_tr / rest_taus) / rest_tr)[None, :, None].expand(1, -1, chunk.shape[2]),
    torch.full((1, 16, chunk.shape[2]), 1 / 16),
]
rest_inputs = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in rest_inputs]
contestants = {
    "plain loop": plain_scan,
    "torch": lambda *x: selective_scan(*x, backend="torch"),
    "numba": lambda *x: selective_scan(*x, backend="numba"),
}
smoothed = {name: scan(*rest_inputs).detach() for name, scan in contestants.items()}
taken = {name: {"forward": [], "forward + backward": []} for name in contestants}
for _ in range(5):
    for name, scan in contestants.items():
        with torch.no_grad():
            taken[name]["forward"].append(seconds(lambda scan=scan: scan(*rest_inputs)))
        taken[name]["forward + backward"].append(seconds(lambda scan=scan: scan(*rest_inputs).sum().backward()))
milliseconds = {
    name: {part: 1e3 * statistics.median(times) for part, times in parts.items()} for name, parts in taken.items()
}


def kept_megabytes(scan):
    """What a forward pass keeps for its backward pass, inputs included."""
    kept = {}

    def note(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        y = scan(*rest_inputs)
    del y
    return sum(kept.values()) / 1e6


megabytes = {name: kept_megabytes(scan) for name, scan in contestants.items()}
updates = chunk.numel() * len(rest_taus)
for name, parts in milliseconds.items():
    both = parts["forward + backward"]
    print(f"{name:>10}: forward {parts['forward']:6.1f} ms, with backward {both:6.1f} ms, ", end="")
    print(f"{1e6 * both / updates:5.2f} ns a state update, {megabytes[name]:4.0f} MB kept, ", end="")
    print(f"{milliseconds['plain loop']['forward + backward'] / both:.1f} x the loop's speed")

figure, axes = plt.subplots(figsize=(9, 2.4), layout="constrained")
for place, parts in enumerate(milliseconds.values()):
    for shift, (part, colour) in enumerate(zip(parts, (BLUE, ORANGE), strict=True)):
        at = place + 0.36 * (shift - 0.5)
        axes.barh(at, parts[part], 0.34, color=colour, label=part if place == 0 else None)
        axes.text(parts[part], at, f" {parts[part]:.0f} ms", va="center", fontsize=9)
axes.set_yticks(range(len(milliseconds)), list(milliseconds))
axes.invert_yaxis()
axes.set(xlabel="milliseconds, median of 5", title="16 time constants of 2000 voxels, 200 frames")
axes.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# The loop keeps all states of all tokens for its backward pass; `torch` and `numba` keep the states of every 32nd token
# and compute the others again. Time grows linearly with length, channels, states and sequences. `python -m
# benchmarks.scan` measures it with care, beside other packages, on sizes as in a network, where the loop falls further
# behind.
#
# ## 10. What to change for your data
#
# | | |
# |---|---|
# | TR | pass yours as the step: time constants stay in seconds; where sampling is uneven, one step a frame |
# | scrubbed frames | `token_mask=~bad`; add the time they took to the step of the next frame |
# | several runs | one sequence with `reset`, or a batch of sequences; never one behind the other without either |
# | long runs | cut them and hand on `initial_state`; detach it to cut the gradients too |
# | as they arrive | `MambaMixer.step(frame, state)`, or a scan of length 1 |
# | lag | a scan is causal; for offline data scan it reversed too (`bold.flip(-1)`) and average both |
# | a network | `MambaMixer` learns step, B and C from the tokens; `WindowLayout` makes sequences of 4D grids |
# | float64, GPU | nothing: `auto` passes to `torch`; `nstorm info` shows the choice |
# | first call | call once before you measure or serve; keep numba's cache (`NUMBA_CACHE_DIR`) on a disk that stays |
#
# ## Proof
#
# What was said above, checked by code.

# %%
assert formula_error < 1e-4
assert torch.allclose(decay[:, 10:], torch.exp(-steps[:, None] * torch.arange(length - 10)), atol=1e-5)
last_marked = torch.where(marked, torch.arange(length), -1).cummax(0).values
seen = last_marked >= 0
assert torch.allclose(held[seen], noisy[0, 0][last_marked[seen]], atol=1e-3)

assert max(errors.values()) < 1e-5
assert wide.dtype == torch.float64
assert "float64" in refusal

assert torch.allclose(halves, whole, atol=1e-5)
assert torch.allclose(halves_gradient, whole_gradient, atol=1e-4)
assert torch.allclose(streamed, at_once, atol=1e-5)

assert torch.allclose(careful[:, :, ~bad[0]], absent, atol=1e-5)
poisoned = spoiled.masked_fill(bad[:, None], torch.nan)
assert torch.equal(averages(poisoned, [10.0], [1.0], tr, token_mask=~bad), careful)
assert (careless - careful).abs().max() > 1
assert torch.allclose(separate[..., boundary:], alone, atol=1e-5)
assert (leaking[..., boundary:] - alone).abs().max() > 1
assert changes[0, 0].tolist() == [1, 1, 2, 4, 8]
assert changes_over_gap[0, 0].tolist() == [1, 1, 0, 6, 8]

assert losses[-1] < losses[0]
assert all(learned < min(rest) for learned, *rest in unseen.values())
assert gradient_error < 1e-4
assert all(torch.allclose(y, smoothed["plain loop"], atol=1e-4) for y in smoothed.values())
assert megabytes["numba"] < megabytes["plain loop"] / 5
print("all claims hold")
