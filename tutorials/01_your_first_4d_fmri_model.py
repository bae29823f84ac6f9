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
# # Your first 4D fMRI model
#
# You will read a BOLD recording, cut it into clips, put one shifted-window Mamba block into a network of your own,
# train it, and compare it with linear classifiers on runs that none of them has seen. Everything runs on a CPU in less
# than a minute. You need a little PyTorch, and nstorm installed.

# %%
import warnings

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from einops import rearrange
from matplotlib.patches import Rectangle
from nibabel.affines import voxel_sizes
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

from nstorm.data import HAXBY_DELAY, event_clips, haxby_runs, load_bold, read_events, voxels_that_vary, zscore_voxels
from nstorm.layers import (
    ClassificationHead,
    MambaMixer,
    PatchEmbed4D,
    PositionEmbedding4D,
    RegressionHead,
    ShiftedWindowBlock,
)
from nstorm.scan import WindowLayout
from nstorm.workflows import WithinClassNoise, bootstrap_mean, train_classifier

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")
# the tensors are small: a second thread gains little, and slows everything down on a busy machine
torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1. Look at the data
#
# A small part of Haxby et al. (2001) ships with nstorm: one person who looked at pictures of eight categories in twelve
# runs. `load_bold` reads a run as a MONAI `MetaTensor` with time first, `(T, H, W, D)`. The affine and the repetition
# time (TR, in seconds) travel with it.

# %%
runs = haxby_runs()
bold = load_bold(runs[0].bold)
events = read_events(runs[0].events)
labels = sorted({event.trial_type for event in events})

print("runs:          ", len(runs))
print("shape:         ", tuple(bold.shape), "= (T, H, W, D)")
print("TR:            ", bold.meta["tr"], "s")
print("voxel size:    ", np.round(voxel_sizes(bold.affine.numpy()), 2), "mm")
print("axes point to: ", nib.aff2axcodes(bold.affine.numpy()))
print("in the brain:  ", int(voxels_that_vary(bold).sum()), "of", bold[0].numel(), "voxels")
print("categories:    ", ", ".join(labels))
print("affine:\n", np.round(bold.affine.numpy(), 1))

# %% [markdown]
# Know what you are looking at:
#
# * It is **one person**, and **half of one slice** over ventral and occipital cortex. It can show that a pipeline works
#   and that categories can be told apart in this person. It says nothing about other people or the whole brain.
# * The events were made from a label for every volume, and these labels already contain the haemodynamic lag. The
#   **delay of this recording is therefore 0 s**. Where onsets are the times of the stimuli, it is about 5 s.
#
# The figure shows the mean image of the first run, and the voxel that responds most during its block of houses. The
# voxel is picked for that response, so take the curve as an illustration and not as a result.

# %%
z = zscore_voxels(bold).as_tensor()
house = event_clips(bold, [e for e in events if e.trial_type == "house"], delay=HAXBY_DELAY)[0]["image"]
first, length = house.meta["start_frame"], house.shape[-1]
h, w = divmod(int(z[first : first + length].mean(0).argmax()), z.shape[2])

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[1, 2.6], layout="constrained")
size = voxel_sizes(bold.affine.numpy())
left.imshow(bold.as_tensor().mean(0)[:, :, 0].T, origin="lower", cmap="gray", aspect=size[1] / size[0])
left.add_patch(Rectangle((h - 0.5, w - 0.5), 1, 1, fill=False, edgecolor="#e4572e", linewidth=2))
left.set(title="mean image and the voxel", xlabel="H (voxels, to the left)", ylabel="W (voxels, to the front)")

seconds = (np.arange(len(z)) + 0.5) * bold.meta["tr"]
right.plot(seconds, z[:, h, w, 0], color="#222222", linewidth=1.2)
for event in events:
    colour = f"C{labels.index(event.trial_type)}"
    right.axvspan(event.onset, event.onset + event.duration, color=colour, alpha=0.3, linewidth=0)
    middle = event.onset + event.duration / 2
    right.text(middle, 1.02, event.trial_type, transform=right.get_xaxis_transform(), ha="center", fontsize=8)
right.set(xlabel="time (s)", ylabel="signal (z-score)", xlim=(0, seconds[-1]))
right.set_title("its time course in run 1, blocks shaded", pad=20)
plt.show()

# %% [markdown]
# ## 2. Clips: the samples of the model
#
# Every voxel of every run is z-scored over time. Then `event_clips` cuts one clip from each block of pictures,
# `(1, H, W, D, T)`; the 1 is the channel. A batch of clips is `(B, C, H, W, D, T)`, the layout of all nstorm networks.

# %%
clips = []
for number, run in enumerate(runs, start=1):
    standardised = zscore_voxels(load_bold(run.bold))
    for clip in event_clips(standardised, read_events(run.events), delay=HAXBY_DELAY, labels=labels):
        clips.append({"image": clip["image"].as_tensor(), "label": clip["label"], "run": number})

images = torch.stack([clip["image"] for clip in clips])
targets = torch.tensor([clip["label"] for clip in clips])
run_of = np.array([clip["run"] for clip in clips])
print("a clip:        ", tuple(clips[0]["image"].shape), "=", labels[clips[0]["label"]])
print("all clips:     ", tuple(images.shape), "= (B, C, H, W, D, T)")

# %% [markdown]
# Split by run, before anything is learned. Volumes of one run share its noise and drift, so neighbours must not end up
# on both sides. Here runs 1 to 6 train, runs 7 and 8 choose settings, and runs 9 to 12 test. The settings below were
# chosen on runs 1 to 8 alone.

# %%
TRAIN, CHOOSE, TEST = range(1, 7), range(7, 9), range(9, 13)
train, choose, test = (np.flatnonzero(np.isin(run_of, list(part))) for part in (TRAIN, CHOOSE, TEST))
chance = float(targets[test].bincount().max()) / len(test)
print(f"blocks to train on {len(train)}, to choose on {len(choose)}, to test on {len(test)}; chance {chance:.3f}")

# %% [markdown]
# ## 3. The layers, one by one
#
# **PatchEmbed4D** cuts a clip into patches and maps each one linearly to a *token* of `dim` numbers. Here a patch is
# 2 x 2 x 1 voxels and 3 frames. **PositionEmbedding4D** adds a learned vector for each place and each time.

# %%
batch = images[train[:4]]
embed = PatchEmbed4D(in_channels=1, embed_dim=16, patch_size=(2, 2, 1, 3))
tokens = embed(batch)
grid = tuple(tokens.shape[2:])
position = PositionEmbedding4D(16, grid_size=grid)

print("batch:                ", tuple(batch.shape), "= (B, C, H, W, D, T)")
print("PatchEmbed4D:         ", tuple(tokens.shape))
print("PositionEmbedding4D:  ", tuple(position(tokens).shape))

# %% [markdown]
# **ShiftedWindowBlock** cuts the grid of tokens into windows and runs a *mixer* over the tokens of each window, so that
# they exchange information; a small MLP then transforms each token on its own. The mixer sees plain sequences
# `(windows, tokens, dim)`. **MambaMixer** reads them one after another and keeps a running summary (a selective
# state-space model), at a cost that grows linearly with the number of tokens.
#
# Blocks take tokens channels-last, `(B, H, W, D, T, C)`: one `rearrange` away.

# %%
block = ShiftedWindowBlock(16, MambaMixer(16), window_size=(5, 5, 1, 3))
channels_last = rearrange(position(tokens), "b c h w d t -> b h w d t c")
mixed = block(channels_last)
layout = WindowLayout(grid, window_size=(5, 5, 1, 3), shift_size=(0, 0, 0, 0))
windows = layout.partition(channels_last)

print("tokens, channels last:", tuple(channels_last.shape))
print("windows of a clip:    ", layout.num_windows, "of", layout.num_tokens, "tokens")
print("what the mixer sees:  ", tuple(windows.shape), "= (B x windows, tokens, C)")
print("ShiftedWindowBlock:   ", tuple(mixed.shape))

# %% [markdown]
# Tokens of different windows never meet within a block. A second block with *shifted* windows joins them across the
# old borders. The figure asks `WindowLayout` which tokens share a window: one colour is one window, and the outlined
# tokens share theirs with the star. The shifted grid is rolled, so a window at the border holds tokens from opposite
# ends.

# %%
shifted = WindowLayout(grid, window_size=(5, 5, 1, 3), shift_size=(2, 2, 0, 0))


def window_of_every_token(layout):
    """Number the windows, and put each number where the tokens of its window are."""
    numbers = torch.arange(layout.num_windows).view(-1, 1, 1).expand(-1, layout.num_tokens, 1)
    return layout.reverse(numbers.float())[0, :, :, 0, 0, 0].int()


star = (10, 5)
figure, panels = plt.subplots(1, 2, figsize=(11, 3.3), layout="constrained")
for axes, (title, cut) in zip(panels, {"windows": layout, "shifted by (2, 2)": shifted}.items(), strict=True):
    number = window_of_every_token(cut)
    axes.imshow(number.T, origin="lower", cmap="Set3", vmin=0, vmax=11)
    for h, w in (number == number[star]).nonzero().tolist():
        axes.add_patch(Rectangle((h - 0.5, w - 0.5), 1, 1, fill=False, edgecolor="#222222", linewidth=1.5, zorder=3))
    axes.plot(*star, "*", color="#222222", markersize=10)
    axes.set_xticks(np.arange(-0.5, grid[0]), minor=True)
    axes.set_yticks(np.arange(-0.5, grid[1]), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set(title=title, xlabel="H (tokens)", ylabel="W (tokens)", xticks=range(0, 20, 5), yticks=range(0, 10, 5))
plt.show()

# %% [markdown]
# **Heads** turn tokens into predictions. Both shipped heads average all tokens and map the mean linearly, to logits or
# to a target such as age. That suits questions about people, whose brains differ in detail. Here, within one person,
# what tells a face from a house is *where* the cortex responds, and an average over places blurs that. You will write
# a readout of your own.

# %%
channels_first = rearrange(mixed, "b h w d t c -> b c h w d t")
print("ClassificationHead:   ", tuple(ClassificationHead(16, num_classes=len(labels))(channels_first).shape))
print("RegressionHead:       ", tuple(RegressionHead(16, mean=28.8, std=3.7)(channels_first).shape))

# %% [markdown]
# ## 4. A model of your own
#
# nstorm's layers are ordinary `nn.Module`s. This decoder takes three of them and adds its own last layer: the mean over
# time, and a linear readout that keeps a weight for every place.


# %%
class Decoder(nn.Module):
    """Patches, positions, one shifted-window block, and a linear readout that keeps location."""

    def __init__(self, image_size, num_classes, mixer, dim=16, patch_size=(2, 2, 1, 3), window_size=(5, 5, 1, 3)):
        super().__init__()
        grid = [-(-size // patch) for size, patch in zip(image_size, patch_size, strict=True)]
        self.embed = PatchEmbed4D(1, dim, patch_size)
        self.position = PositionEmbedding4D(dim, grid)
        self.block = ShiftedWindowBlock(dim, mixer(dim), window_size, mlp_ratio=2.0)
        self.readout = nn.Linear(dim * grid[0] * grid[1] * grid[2], num_classes)

    def forward(self, x):
        x = self.position(self.embed(x))  # (b, c, h, w, d, t)
        x = self.block(rearrange(x, "b c h w d t -> b h w d t c"))
        return self.readout(x.mean(4).flatten(1))  # (b, classes)


net = Decoder(images.shape[2:], len(labels), MambaMixer)
print("logits:    ", tuple(net(batch).shape))
print("parameters:", sum(p.numel() for p in net.parameters()))

# %% [markdown]
# ## 5. Train, choose, test
#
# `train_classifier` runs MONAI's `SupervisedTrainer`. With `choose_on` it measures the loss on runs 7 and 8 after every
# epoch, and the network ends with the weights of its best epoch.
#
# There are few blocks and many weights, so the network can learn the training blocks by heart. What helps is noise of
# the recording's own kind. Noise in fMRI is strongly correlated between voxels. `WithinClassNoise` adds more of it to
# every training batch, drawn from what remains of the training clips after the mean of their category is taken off.
# This teaches the network which directions not to trust. We train with and without it.


# %%
def fit(mixer, *, noise, max_epochs=40, seed=0):
    """Train a decoder on the training runs; with equal arguments, it comes out equal."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Decoder(images.shape[2:], len(labels), mixer)
    history = train_classifier(
        net,
        DataLoader([clips[i] for i in train], batch_size=8, shuffle=True, generator=generator),
        loss=nn.CrossEntropyLoss(label_smoothing=0.2),
        optimizer=torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1.0),
        max_epochs=max_epochs,
        prepare_batch=WithinClassNoise(images[train], targets[train], 2.0, generator) if noise else None,
        choose_on=DataLoader([clips[i] for i in choose], batch_size=len(choose)),
    )
    return net, history


fits = {
    "without noise": fit(MambaMixer, noise=False),
    "with noise": fit(MambaMixer, noise=True),
}
for name, (_, history) in fits.items():
    print(f"{name:>13}: epoch {history.kept_epoch} kept, loss on runs 7 and 8 is {min(history.choose_loss):.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 3.3), sharey=True, layout="constrained")
for axes, (name, (_, history)) in zip(panels, fits.items(), strict=True):
    axes.plot(
        range(1, len(history.train_loss) + 1), history.train_loss, color="#e08e45", label="runs 1 to 6 (training)"
    )
    axes.plot(history.choose_epochs, history.choose_loss, color="#1f6f8b", label="runs 7 and 8 (choosing)")
    axes.plot(history.kept_epoch, min(history.choose_loss), "o", color="#1f6f8b", label="epoch kept")
    axes.axhline(np.log(len(labels)), color="#888888", linestyle=":", label="guessing")
    axes.set(title=name, xlabel="epoch", ylim=(0, None))
panels[0].set_ylabel("loss (cross-entropy, nats)")
panels[1].legend(frameon=False, fontsize=9, loc="lower left")
plt.show()

# %% [markdown]
# Label smoothing keeps even a perfect network's loss above 0. Without noise the training blocks are soon learned by
# heart; with noise that takes longer, and the loss on runs 7 and 8 falls further.
#
# Now the competitors: logistic regression and linear discriminant analysis (LDA) on the voxels of single frames. They
# train on the same runs and choose their one setting on the same runs as the network. A block goes to the category
# with the highest mean log-probability over its frames. Shrinkage LDA estimates the covariance of the noise between
# voxels and weights noisy directions down, which is what the noise above teaches the network by example.

# %%
brain = torch.stack([voxels_that_vary(load_bold(runs[number - 1].bold)) for number in TRAIN]).all(0)
frames = rearrange(images[:, 0][:, brain], "b voxels t -> b t voxels").numpy()


def log_probabilities(model, blocks):
    """Mean over the frames of each block."""
    values = model.predict_log_proba(frames[blocks].reshape(-1, frames.shape[2]))
    return values.reshape(len(blocks), frames.shape[1], -1).mean(1)


def fit_linear(candidates):
    """Fit all candidates on the training runs; keep the one with the highest log-probability on the choosing runs."""
    rows, row_labels = frames[train].reshape(-1, frames.shape[2]), targets[train].repeat_interleave(frames.shape[1])
    fitted = [model.fit(rows, row_labels.numpy()) for model in candidates]
    return max(fitted, key=lambda m: log_probabilities(m, choose)[np.arange(len(choose)), targets[choose]].mean())


logistic = fit_linear([LogisticRegression(C=c, max_iter=2000) for c in (0.001, 0.01, 0.1, 1.0)])
lda = fit_linear([LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s) for s in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)])
print("chosen: C =", logistic.C, "and shrinkage =", lda.shrinkage)

# %% [markdown]
# All settings are fixed now, and the models meet the test runs for the first time. Intervals come from a bootstrap over
# blocks, since the frames of one block are not independent.


# %%
@torch.no_grad()
def correct(net):
    """Whether the network names each test block correctly."""
    return (net(images[test]).argmax(1) == targets[test]).numpy()


hits = {
    "shrinkage LDA": log_probabilities(lda, test).argmax(1) == targets[test].numpy(),
    "logistic regression": log_probabilities(logistic, test).argmax(1) == targets[test].numpy(),
    "network": correct(fits["with noise"][0]),
    "network, no noise": correct(fits["without noise"][0]),
}
accuracy = {name: bootstrap_mean(values) for name, values in hits.items()}

print(f"{len(test)} blocks of runs 9 to 12, 8 categories; accuracy and its 95 % interval over blocks")
for name, estimate in accuracy.items():
    print(f"{name:>20}: {estimate}")
print(f"{'chance':>20}: {chance:.2f}")

for rival in ("shrinkage LDA", "logistic regression"):
    difference = bootstrap_mean(hits["network"].astype(float) - hits[rival])
    verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "too close to call"
    print(f"network minus {rival}: {difference}: {verdict}")

# %%
figure, axes = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
for place, (name, estimate) in enumerate(accuracy.items()):
    colour = "#1f6f8b" if name.startswith("network") else "#9aa5ab"
    reach = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
    axes.barh(-place, estimate.mean, 0.7, color=colour, xerr=reach, error_kw={"capsize": 4, "ecolor": "#222222"})
    axes.text(estimate.high + 0.02, -place, f"{estimate.mean:.2f}", va="center")
axes.axvline(chance, color="#222222", linestyle="--", linewidth=1)
axes.text(chance + 0.01, 0.45, "chance", va="bottom", fontsize=9)
axes.set(xlim=(0, 1.1), ylim=(0.5 - len(accuracy), 0.85), xticks=np.arange(0, 1.01, 0.2))
axes.set_yticks([-place for place in range(len(accuracy))], list(accuracy))
axes.set_xlabel(f"share of {len(test)} unseen blocks named correctly, 95 % interval")
plt.show()

# %% [markdown]
# Read the intervals before the means: with so few test blocks, only large differences can be told from luck. A linear
# model that knows the noise covariance is hard to beat on one person and half a slice. `nstorm demo` runs the full
# recipe: two blocks, two networks a fold, and every run tested once. Whatever your model, report such a baseline
# beside it.

# %% [markdown]
# ## 6. Swap the mixer
#
# A mixer is any module that maps `(N, L, dim)` to `(N, L, dim)`. This one gives each token the mean of itself and those
# before it in its window (tokens are read along h, w, d and then t, time fastest). The swap is one word in one line.


# %%
class CausalMean(nn.Module):
    """The mean of a token and those before it, then a linear map."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        counts = torch.arange(1, x.shape[1] + 1, device=x.device)
        return self.linear(x.cumsum(1) / counts[:, None])


swapped, _ = fit(CausalMean, noise=True)

swapped_hits = correct(swapped)
print("MambaMixer:", accuracy["network"])
print("CausalMean:", bootstrap_mean(swapped_hits))
print("MambaMixer minus CausalMean:", bootstrap_mean(hits["network"].astype(float) - swapped_hits))

# %% [markdown]
# If the last interval includes 0, this recording cannot tell the two mixers apart. Ask that question of your own data
# before you pay for a larger mixer.

# %% [markdown]
# ## 7. What to change for your data
#
# | | |
# |---|---|
# | files | `load_bold` takes a NIfTI file, `read_events` its `events.tsv`; `zscore_voxels(bold, mask)` applies a mask |
# | TR | read from the BIDS sidecar or the header; pass `tr=` if both lack it |
# | delay | about 5 s where onsets are stimulus times; choose it on training runs, one value for all models |
# | short events | `merge_events` joins single trials into blocks; without events, `strided_clips` cuts equal clips |
# | patch | whole brains need larger ones, such as `(6, 6, 6, 1)`; fewer tokens are faster and coarser |
# | window | 4 or 5 tokens an axis; use two or more blocks, the second shifted by half a window (`ShiftedWindowStage`) |
# | head | a readout for each place when *where* matters in one person; `ClassificationHead` across people |
# | split | one person: by run. Many people: **by subject**, all runs of a person on one side; bootstrap over subjects |
# | baseline | keep the linear one: same split, same delay, same normalisation |
#
# ## Proof
#
# The shapes, the split, the gain and the seed, checked by code.

# %%
assert tuple(bold.shape) == (121, 40, 20, 1)
assert tuple(images.shape) == (96, 1, 40, 20, 1, 9)
assert tuple(tokens.shape) == (4, 16, 20, 10, 1, 3)
assert mixed.shape == channels_last.shape == (4, 20, 10, 1, 3, 16)
assert torch.equal(layout.reverse(windows), channels_last)
assert tuple(net(batch).shape) == (4, len(labels))

assert HAXBY_DELAY == 0
assert not set(run_of[test]) & set(run_of[train])
assert not set(run_of[test]) & set(run_of[choose])
assert not set(run_of[train]) & set(run_of[choose])
assert len({*train, *choose, *test}) == len(clips)

losses = {name: min(history.choose_loss) for name, (_, history) in fits.items()}
assert losses["with noise"] < losses["without noise"]
assert accuracy["network"].low > chance
assert accuracy["shrinkage LDA"].low > chance

once, again = (fit(MambaMixer, noise=True, max_epochs=2)[0].state_dict() for _ in range(2))
assert all(torch.equal(once[name], again[name]) for name in once)
print("all claims hold")
