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
# # Masked pre-training on real BOLD
#
# Hide part of a brain from a network, and have it fill in what is missing: it can only do so by learning how BOLD hangs
# together in space and time, and it needs no labels for that. NeuroSTORM is pre-trained like this on 50,000 people.
# Here you do it on one: draw masks, build an autoencoder from blocks, train it with MONAI's engine, watch
# reconstructions improve, judge it on frames it has never seen beside two simple ways to fill them in, and save an
# encoder to go on with. Everything runs on a CPU in a minute or two.

# %%
import warnings

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")

import json
import tempfile
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader

from nstorm.data import (
    ClipDataset,
    ClipSampler,
    Recipe,
    Study,
    prepare,
    resample_atlas,
    rest_run,
    run_item,
    schaefer_atlas,
)
from nstorm.layers import AtlasMask, BlockMask, FrameMask, PatchUnembed4D, RandomMask, TubeMask, WindowMask
from nstorm.losses import MaskedReconstructionLoss, spread_tokens
from nstorm.nets import (
    MaskedAutoencoder,
    NeuroSTORM,
    NeuroSTORMMAE,
    ShiftedWindowDecoder,
    load_pretrained,
    pool_mask,
    save_pretrained,
)
from nstorm.plots import plot_reconstruction, plot_token_mask
from nstorm.workflows import pretrainer, reconstruction_errors

plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
OURS, SAND, RUST, GREY = "#1f6f8b", "#e08e45", "#b5542e", "#9aa5ab"
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
torch.manual_seed(0)

# %% [markdown]
# ## A store of one run
#
# 200 frames of one person at rest, the whole brain at 4 mm, TR 1.5 s. Slow drifts are taken out while it is prepared: a
# line through the visible frames would reconstruct them, and nothing would be learned. Clips are z-scored voxel by
# voxel when they are read; so 0 is the mean of a voxel, and an error of 1 is what you make by always saying so.
#
# The network learns from the first 135 frames. It is judged on the last 60; five in between belong to neither, because
# neighbouring frames of BOLD are alike.

# %%
run = rest_run()
store = prepare(Study([run_item(run.bold, mask=run.mask)]), folder / "store", recipe=Recipe(detrend=2), progress=False)
(rest,) = store.run_items()
NUM_FRAMES, PATCH = 12, (6, 6, 6, 1)
training = ClipDataset(store, NUM_FRAMES, runs=[{**rest, "frames": (0, 135)}], clips_per_run=36, seed=0)
unseen = ClipDataset(store, NUM_FRAMES, runs=[{**rest, "frames": (140, 200)}], stride=NUM_FRAMES)
clip, brain = unseen[0]["image"].as_tensor(), unseen[0]["mask"].as_tensor()[0]
brain_tokens = pool_mask(brain, PATCH[:3])
print(training, unseen, f"{int(brain_tokens.sum())} of {brain_tokens.numel()} patches have brain in them", sep="\n")

# %% [markdown]
# ## What to hide
#
# A mask is a small module: give it the shape of the token grid, and it says which tokens to hide. It hides tokens of
# the brain only, if it is told which these are, and exactly as many as asked. All six on the same brain; above, the
# slice in some frames, below, the row in the yellow frame over all of time.

# %%
grid = (1, *brain_tokens.shape, NUM_FRAMES)
parcels = resample_atlas(schaefer_atlas(100), unseen[0]["image"]).image[0].long()
masks = {
    "random tokens": RandomMask(0.5),
    "windows (published)": WindowMask(0.5, (4, 4, 4, 4)),
    "tubes: hidden all along": TubeMask(0.5),
    "runs of 3 frames": FrameMask(0.5, span=3),
    "boxes anywhere": BlockMask(0.5, (3, 3, 3, 6)),
    "parcels of an atlas": AtlasMask.from_volume(0.5, parcels, PATCH),
}
drawn = {name: mask(grid, brain_tokens, generator=torch.Generator().manual_seed(3)) for name, mask in masks.items()}


def side_by_side(figures, columns, size):
    """Several figures as one picture."""
    _, panels = plt.subplots(-(-len(figures) // columns), columns, figsize=size, layout="constrained", squeeze=False)
    for panel, (title, figure) in zip(panels.flat, figures.items(), strict=True):
        figure.savefig(buffer := BytesIO(), dpi=110)
        buffer.seek(0)
        panel.imshow(plt.imread(buffer))
        panel.set_title(title)
        panel.axis("off")
    plt.show()


anatomy = store["sub-RAPIDTIDETEST_task-rest"].read(0, 20, normalize="none").as_tensor()[0].mean(-1)
side_by_side(
    {name: plot_token_mask(hidden[0], anatomy, brain_tokens, (0, 4, 8)) for name, hidden in drawn.items()}, 3, (12, 7.4)
)

# %% [markdown]
# What is hidden decides what can be learned. Next to a random token its neighbours are visible, in space and in time; a
# whole window, a box or a run of frames takes these away; a tube or a parcel leaves other places only.
#
# ## An autoencoder from blocks
#
# Any encoder, any decoder, a mask, a loss. The encoder here is a small NeuroSTORM: hidden tokens are replaced by a
# learned one, and all are encoded. The decoder goes back through the encoder's stages; one linear layer,
# `PatchUnembed4D`, would do as well. The loss counts hidden voxels in the brain. `NeuroSTORMMAE()` is the published
# model in one line; an encoder of your own, a plain `nn.Module`, has its hidden voxels set to 0 instead.

# %%
shared = {"patch_size": PATCH, "feature_size": 48, "depths": (2, 2), "boundary": "reset"}
encoder = NeuroSTORM((*brain.shape, NUM_FRAMES), full_last_stage=False, **shared)
mae = MaskedAutoencoder(encoder, ShiftedWindowDecoder(**shared), RandomMask(0.5), MaskedReconstructionLoss(PATCH))
made = mae(clip[None], brain)
print(f"loss {made.loss:.2f}, prediction {tuple(made.prediction.shape)}, hidden {made.token_mask.float().mean():.2f}")
print(f"features with nothing hidden: {tuple(mae.encode(clip[None], brain).shape)}")

# %% [markdown]
# ## Train, and watch
#
# `pretrainer` gives MONAI's trainer with what pre-training needs: AdamW that spares norms, biases and the state-space
# parameters from weight decay, warm-up and cosine, clipped gradients, mixed precision and several processes if wanted,
# and checkpoints that hold everything: killed anywhere and started again, the same program ends with the same weights
# to the last bit. A function of yours may draw as it goes. Here it keeps what becomes of one clip whose hidden tokens
# stay the same.

# %%
watched = drawn["random tokens"]
course = {}


def watch(net, epoch, _):
    with torch.no_grad():
        course[epoch] = net(clip[None], brain, watched)


watch(mae.eval(), 0, folder)
trainer = pretrainer(
    mae,
    DataLoader(training, batch_size=2, sampler=ClipSampler(training, seed=0)),
    folder / "pretraining",
    max_epochs=8,
    lr=2e-3,
    mask_generator=torch.Generator().manual_seed(0),
    pictures=watch,
)
trainer.run()

# %%
hidden = spread_tokens(watched[:, None], PATCH, clip.shape[1:])[0, 0]
reconstructed = {epoch: made.prediction[0, 0] for epoch, made in course.items()}
side_by_side(
    {
        f"after epoch {epoch}": plot_reconstruction(clip[0], reconstructed[epoch], hidden, brain, frames=(2, 9))
        for epoch in (1, 8)
    },
    2,
    (12, 4.6),
)

# %% [markdown]
# The picture of the last epoch shows what was learned and what was not: broad patterns come back, from one place to the
# others; noise of single voxels does not, and should not. Is that any good? Two simple ways to fill in hidden voxels
# need no network: the mean of the voxel, and straight lines in time between its visible frames.

# %%
judged = DataLoader(unseen, batch_size=1)
errors = reconstruction_errors(mae, judged, num_masks=4)
better = {baseline: errors.saved(baseline) for baseline in ("voxel_mean", "interpolation")}
print(errors, *(f"below {baseline} by {value}" for baseline, value in better.items()), sep="\n")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", width_ratios=(1.2, 1))
history = [json.loads(line) for line in (folder / "pretraining" / "history.jsonl").read_text().splitlines()]
left.plot([line["loss"] for line in history], color=OURS, linewidth=1)
left.axhline(1, color=GREY, linestyle="--")
left.text(len(history), 1, "mean of each voxel ", color=GREY, va="bottom", ha="right")
left.set(xlabel="step", ylabel="error of hidden voxels, z²", title="training", ylim=(0.5, 1.3))
names = {"model": "autoencoder", "interpolation": "lines between\nvisible frames", "voxel_mean": "mean of\neach voxel"}
for at, (method, colour) in enumerate(zip(names, (OURS, SAND, RUST), strict=True)):
    value = errors.mean(method)
    reach = [[value.mean - value.low], [value.high - value.mean]]
    right.bar(at, value.mean, 0.6, color=colour, yerr=reach, error_kw={"capsize": 4})
    right.text(at, 0.05, f"{value.mean:.2f}", ha="center", color="white")
right.set_xticks(range(3), names.values())
right.set(ylabel="error of hidden voxels, z²", title="frames never trained on")
plt.show()

# %% [markdown]
# ## One line to change the mask
#
# The same network, judged on other masks it was not trained with. Where neighbours in time are hidden too, less can be
# told; where a place is never seen, lines in time tell nothing at all.

# %%
by_mask = {}
for name, mask in masks.items():
    mae.mask = mask
    by_mask[name] = reconstruction_errors(mae, judged, num_masks=2)
    found = {method: by_mask[name].mean(method).mean for method in ("model", "interpolation", "voxel_mean")}
    print(f"{name:>24}: " + ", ".join(f"{method} {value:.2f}" for method, value in found.items()))
mae.mask = masks["random tokens"]

# %% [markdown]
# ## Keep the encoder
#
# Weights are saved as safetensors, with what it takes to build the net again, and load with a report of what became of
# every one of them. The published checkpoints load in the same way, from a path or a hub id.

# %%
path = save_pretrained(mae.encoder, folder / "encoder.safetensors")
again, report = load_pretrained(path)
print(*str(report).splitlines()[1:], sep="\n")

# %% [markdown]
# ## What to change for your data
#
# - `prepare("fmriprep/", "store/", preset="4mm", workers=8)` for a study, and `runs=` of a split for the parts to learn
#   from and to judge on: other people, not other frames.
# - More frames, smaller patches, more stages: all blocks take any. `use_checkpoint=True` trades time for memory.
# - On a GPU: `mae.cuda()` and `precision="bfloat16"`. On several: the same program under `torchrun`.
# - The whole recipe as a MONAI bundle: `bundles/neurostorm_pretrain`.

# %%
plain = drawn["random tokens"]
assert int(plain.sum()) == round(0.5 * int(brain_tokens.sum()) * NUM_FRAMES)
assert all(not (hidden & ~brain_tokens[None, ..., None]).any() for hidden in drawn.values())
assert (drawn["tubes: hidden all along"].float().std(-1) == 0).all()
assert list(course) == list(range(9))
assert course[8].loss < 0.9 * course[0].loss
# clearly below both, on frames it has not learned from
assert better["voxel_mean"].low > 0.05
assert better["interpolation"].low > 0.1
assert (
    by_mask["tubes: hidden all along"].mean("interpolation").mean
    == by_mask["tubes: hidden all along"].mean("voxel_mean").mean
)
assert torch.equal(again.eval()(clip[None], brain), mae.encoder.eval()(clip[None], brain))
with torch.device("meta"):
    assert sum(p.numel() for p in NeuroSTORMMAE().parameters()) == 7_712_964
    assert PatchUnembed4D(96, 1, (12, 12, 12, 1)).proj.out_features == 12**3
temporary.cleanup()
print("all claims hold")
