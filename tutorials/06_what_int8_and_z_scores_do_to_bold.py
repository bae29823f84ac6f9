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
# # What int8 and z-scores do to BOLD
#
# `nstorm.data.prepare` stores a run as int8 and normalises it when it is read. Both lose something. Here you measure
# how much, on the recordings that ship with nstorm: on single voxels, task responses, decoding and connectivity, side
# by side with the format and the z-score of the published NeuroSTORM models. Two results may surprise you: coarse int8
# harms less than it looks, and the choice of the z-score decides more than any number format.
# Everything runs on a CPU in less than a minute.

# %%
import warnings

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import ttest_rel
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nstorm.data import (
    PRESETS,
    Study,
    clean,
    connectivity,
    example_study,
    load_bold,
    parcel_time_series,
    prepare,
    save_bold,
    schaefer_atlas,
    zscore_voxels,
)
from nstorm.workflows import bootstrap_mean

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
TRAP, OURS, SAND, GREY = "#e4572e", "#1f6f8b", "#c9a227", "#9aa5ab"

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
study = Study.from_bids(example_study(folder / "study"))


def stored(name, runs, **changes):
    recipe = PRESETS["native"].but(**changes)
    return prepare(runs, folder / name, recipe=recipe, ignore=("tr", "grid"), progress=False)


int8 = stored("int8", study)
exact = stored("float32", study, dtype="float32")
float16 = stored("float16", study.where(task="rest"), dtype="float16")
*task, rest = int8
print(int8[task[0]], f"and {len(task) - 1} more", int8[rest], sep="\n")

# %% [markdown]
# The float32 store holds the values of the files, which is what we compare with. The task runs are half a slice of one
# person who looked at pictures of eight categories, in blocks of 22.5 s.

# %%
source = {key: run.read_brain(0, run.num_frames) for key, run in exact.items()}


def one_step(values, times=1):
    """One step for all voxels and frames: 127 of them reach the value that lies farthest from the mean."""
    positive = values.clip(0).astype(np.float64)
    step = times * np.abs(positive - positive.mean()).max() / 127
    return np.rint((positive - positive.mean()) / step) * step + positive.mean(), step


def correlation(one, other):
    """Of the courses of each voxel."""
    one, other = (values - values.mean(0, dtype=np.float64) for values in (one, other))
    return (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))


# %% [markdown]
# ## 1. BOLD changes against steps
#
# The published format counts all voxels and frames in one step. It has to reach from the darkest voxel to the
# brightest, and BOLD changes are half a percent to one percent of a voxel's mean. nstorm divides the range of **each
# voxel** over time into 254 steps. float16 has steps too: values between 8192 and 16384, as in the rest run, are
# rounded to multiples of 8 (up to 2048, as in most of the task runs, whole numbers are exact). nstorm's float16 holds
# the distance from the middle of the voxel's range, which is small.

# %%
NAMES = ("one step a run (published int8)", "float16 of the values", "a step a voxel (nstorm int8)")
COLOURS = dict(zip(NAMES, (TRAP, SAND, OURS), strict=True))
AROUND = "float16 around the middle (nstorm)"


def coded(key):
    """A run in each way, and the steps of its voxels where they are steps."""
    values = source[key]
    published, step = one_step(values)
    ways = {
        NAMES[0]: (published, np.full(values.shape[1], step)),
        NAMES[1]: (values.astype(np.float16).astype(np.float32), np.spacing(values.mean(0).astype(np.float16))),
        NAMES[2]: (int8[key].read_brain(0, len(values)), np.ptp(values, 0) / 254),
    }
    return ways | ({AROUND: (float16[key].read_brain(0, len(values)), None)} if key in float16 else {})


ways, alike = coded(rest), {}
num_frames, num_voxels = source[rest].shape
cube = int(np.prod(int8[rest].mask.shape))
bytes_a_frame = {
    name: sum(file.stat().st_size for file in Path(store[rest].name).rglob("*") if file.is_file()) / num_frames
    for name, store in {NAMES[2]: int8, AROUND: float16}.items()
} | {NAMES[0]: cube, NAMES[1]: 2 * cube}
percent = source[rest].std(0) / source[rest].mean(0) * 100
print(f"changes of a voxel in the rest run: median {np.median(percent):.2f} % of its mean\n")
print(f"correlation with the source    {'median':>9} {'1st pct.':>9} {'worst':>9} {'< 0.9999':>9} {'bytes/frame':>12}")
for name, (values, _) in ways.items():
    alike[name] = correlation(source[rest], values)
    median, low, worst = np.percentile(alike[name], [50, 1, 0])
    share = (alike[name] < 0.9999).mean()
    print(f"{name:34} {median:.6f}  {low:.6f}  {worst:.6f} {share:9.1%} {bytes_a_frame[name]:12,.0f}")
by_run = [{name: correlation(source[key], values) for name, (values, _) in coded(key).items()} for key in task]
in_task = {name: np.concatenate([run[name] for run in by_run]) for name in NAMES}
for name, found in in_task.items():
    print(f"task: {name:28} {np.median(found):.6f}  {np.percentile(found, 1):.6f}  {found.min():.6f}")

# %% [markdown]
# One number decides: how large a step is beside the standard deviation (SD) of the voxel. Rounding adds noise of
# variance step²/12, and the curve follows from it. The published step is as large as the changes themselves; nstorm's
# is 2 % of them in every voxel. On the right are the voxel in the middle of the published ones, and the worst.

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
some = np.random.default_rng(0).choice(num_voxels, 2000, replace=False)
ratio = np.logspace(-2.2, 0.8, 100)
panels[0].loglog(ratio, 1 - 1 / np.sqrt(1 + ratio**2 / 12), color="black", linewidth=1, zorder=3)
for name, colour in COLOURS.items():
    steps = ways[name][1][some] / source[rest][:, some].std(0)
    panels[0].loglog(steps, 1 - alike[name][some], ".", markersize=2, color=colour, label=name)
panels[0].axhline(1e-4, color="black", linestyle=":", linewidth=1)
panels[0].text(0.15, 6e-5, "correlation 0.9999", fontsize=8)
panels[0].set(xlabel="step / SD of the voxel", ylabel="1 - correlation with the source", ylim=(1e-6, 1))
panels[0].legend(frameon=False, fontsize=7.5, markerscale=5, loc="lower right", handletextpad=0)
order = np.argsort(alike[NAMES[0]])
for axes, voxel, title in zip(panels[1:], order[[num_voxels // 2, 0]], ("the middle voxel", "the worst"), strict=True):
    seconds, mean = np.arange(60) * int8[rest].tr, source[rest][:, voxel].mean()
    for values, style in (
        (source[rest], {"color": GREY, "linewidth": 5, "label": "source"}),
        (ways[NAMES[0]][0], {"color": TRAP, "linewidth": 1.2, "label": "one step a run"}),
        (ways[NAMES[2]][0], {"color": OURS, "linewidth": 1.2, "label": "a step a voxel"}),
    ):
        axes.plot(seconds, 100 * (values[:60, voxel] / mean - 1), **style)
    axes.set(xlabel="time (s)", title=f"{title}: r = {alike[NAMES[0]][voxel]:.2f}", ylabel="signal change (%)")
handles = panels[1].get_legend_handles_labels()
figure.legend(*handles, frameon=False, ncols=3, loc="outside upper right")
plt.show()

# %% [markdown]
# ## 2. What it does to results
#
# A voxel's course is one thing, a result another. We take the difference between houses and faces (a t-value for each
# voxel, over the 12 runs), and a linear discriminant analysis (LDA) that names the category of a block in a run that it
# has not seen.

# %%
tr = int8[task[0]].tr
blocks = {}
for key in task:
    blocks[key] = [
        (round(event["onset"] / tr), round((event["onset"] + event["duration"]) / tr), event["trial_type"])
        for event in int8[key].attributes["events"]
    ]
labels = np.array([category for key in task for *_, category in blocks[key]])
run_of_block = np.repeat(np.arange(len(task)), [len(blocks[key]) for key in task])
CHANCE = 1 / len(set(labels))


def zscored(values):
    deviation = values.std(0)
    return (values - values.mean(0)) / np.where(deviation > 0, deviation, 1)


def block_means(runs):
    """The mean of each block, one row a block."""
    return np.stack([runs[key][start:stop].mean(0) for key in task for start, stop, _ in blocks[key]])


def house_minus_face(runs):
    means = block_means(runs)
    return ttest_rel(means[labels == "house"], means[labels == "face"]).statistic


def right(probe, means):
    """The share of blocks that are named right in each run by a probe that was fitted to the other runs."""
    named = cross_val_predict(probe, means, labels, groups=run_of_block, cv=LeaveOneGroupOut())
    return np.array([(named == labels)[run_of_block == run].mean() for run in range(len(task))])


lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
in_percent = {
    "source": {key: exact[key].read_brain(0, 121, "percent") for key in task},
    "a step a voxel": {key: int8[key].read_brain(0, 121, "percent") for key in task},
    "one step a run": {key: 100 * (one_step(source[key])[0] / source[key].mean(0) - 1) for key in task},
}
maps = {name: house_minus_face(runs) for name, runs in in_percent.items()}
for name, found in maps.items():
    off = np.abs(found - maps["source"]).max()
    same = np.corrcoef(found, maps["source"])[0, 1]
    print(f"{name:15} largest t {found.max():5.2f}; off by at most {off:.2f}; correlation of the maps {same:.6f}")

# %% [markdown]
# How coarse may steps become? We multiply the published step by 2, 4, ... 32. Intervals (95 %) are bootstrapped over
# runs; those of differences are paired.

# %%
reference = right(lda, block_means({key: zscored(source[key]) for key in task}))


def with_bars(per_run):
    """Means over runs, and how far their intervals reach to both sides."""
    estimates = [bootstrap_mean(values) for values in per_run]
    means = np.array([estimate.mean for estimate in estimates])
    return means, np.abs([[estimate.low, estimate.high] for estimate in estimates] - means[:, None]).T


ours = right(lda, block_means({key: int8[key].read_brain(0, 121, "zscore") for key in task}))
times, coarse, coarse_steps = (1, 2, 4, 8, 16, 32), [], []
for factor in times:
    rounded = {key: one_step(source[key], factor) for key in task}
    coarse_steps.append(np.median(np.concatenate([step / source[key].std(0) for key, (_, step) in rounded.items()])))
    coarse.append(right(lda, block_means({key: zscored(values) for key, (values, _) in rounded.items()})))
our_step = np.median(np.concatenate([np.ptp(source[key], 0) / 254 / source[key].std(0) for key in task]))
print(f"source                              {bootstrap_mean(reference)} of the blocks are named right")
for step, found in zip((our_step, *coarse_steps), (ours, *coarse), strict=True):
    print(f"step of {step:5.2f} SD: {bootstrap_mean(found)}; minus source {bootstrap_mean(found - reference)}")

# %%
figure = plt.figure(figsize=(11, 4.6), layout="constrained")
left, middle = figure.subfigures(1, 2, width_ratios=[1, 1.5])
grid = int8[task[0]].mask[:, :, 0]
drawn = {
    "source": (maps["source"], 10),
    "a step a voxel, minus source": (maps["a step a voxel"] - maps["source"], 1),
    "one step a run, minus source": (maps["one step a run"] - maps["source"], 1),
}
for axes, (title, (values, limit)) in zip(left.subplots(3, 1), drawn.items(), strict=True):
    plane = np.full(grid.shape, np.nan)
    plane[grid] = values
    shown = axes.imshow(plane.T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.set_title(title, fontsize=9)
    left.colorbar(shown, ax=axes, label="t", shrink=0.9)
axes = middle.subplots()
for steps, found, style in (
    (coarse_steps, coarse, {"color": TRAP, "label": "one step a run, and 2 to 32 times it"}),
    ([our_step], [ours], {"color": OURS, "label": "a step a voxel"}),
):
    means, bars = with_bars(found)
    axes.errorbar(steps, means, bars, marker="o", markersize=5, capsize=2, **style)
axes.axhline(reference.mean(), color=GREY, linewidth=3, zorder=0, label="source")
axes.axhline(CHANCE, color="black", linestyle=":", linewidth=1)
axes.text(0.02, CHANCE + 0.02, "chance", fontsize=8)
axes.set(xscale="log", xlabel="step / SD, median over voxels", ylabel="blocks named right", ylim=(0, 1))
axes.set_xticks([0.02, 0.1, 0.6, 1.2, 2.4, 4.8, 9.6, 19], ["0.02", "0.1", "0.6", "1.2", "2.4", "4.8", "9.6", "19"])
axes.set_xticks([], minor=True)
axes.legend(frameon=False, fontsize=8, loc="center left")
plt.show()

# %% [markdown]
# nstorm's int8 changes nothing, but the published step changes little, too. Rounding works like noise that is
# independent between voxels and frames: a mean over the frames of a block, over 12 runs or many voxels removes most of
# it. Only steps of several SD lose the categories. What suffers is what rests on **single voxels**, such as
# connectivity between them. We filter the rest run to 0.01-0.1 Hz and correlate parcels, and 1500 voxels. Weak edges
# are those below 0.1.

# %%
atlas = schaefer_atlas(100)
brain = torch.from_numpy(exact[rest].mask)
template = exact[rest].read()
picked = np.random.default_rng(0).choice(num_voxels, 1500, replace=False)
upper = {100: np.triu_indices(100, 1), 1500: np.triu_indices(1500, 1)}


def networks(values):
    """The correlations of parcels, and of voxels."""
    run = template.clone()
    run[0, brain] = torch.from_numpy(values.T.astype(np.float32))
    run = clean(run, low_pass=0.1, high_pass=0.01, mask=brain)
    parcels = connectivity(parcel_time_series(run, atlas, mask=brain)).numpy()
    return parcels, np.corrcoef(run.as_tensor()[0, brain].numpy()[picked])


true = networks(source[rest])
found = {name: networks(ways[name][0]) for name in NAMES}
weak_error = {}
for name, matrices in found.items():
    for what, matrix, truth in zip(("parcels", "voxels"), matrices, true, strict=True):
        off, weak = np.abs(matrix - truth), np.abs(truth) < 0.1
        number = weak.sum(1)
        weak_error[name, what] = mean = bootstrap_mean((off * weak).sum(1)[number > 0] / number[number > 0])
        edges = upper[len(truth)]
        same = np.corrcoef(matrix[edges], truth[edges])[0, 1]
        turned = (np.sign(matrix) != np.sign(truth))[edges].mean()
        text = f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]"
        print(f"{name:32} {what:7} r {same:.5f}; weak edges off by {text}; other sign {turned:.2%}")

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained", sharex=True, sharey=True)
edges = upper[100]
for name in (NAMES[0], NAMES[2]):
    panels[0].plot(true[0][edges], found[name][0][edges], ".", markersize=2, color=COLOURS[name])
for axes, name in zip(panels[1:], (NAMES[0], NAMES[2]), strict=True):
    edges = upper[1500]
    axes.hexbin(true[1][edges], found[name][1][edges], gridsize=60, bins="log", cmap="Greys", extent=(-1, 1, -1, 1))
    axes.set_title(f"voxels, {name.split(' (')[0]}", color=COLOURS[name])
panels[0].set_title("parcels, both")
for axes in panels:
    axes.plot([-1, 1], [-1, 1], color="black", linewidth=0.6)
    axes.set(xlabel="correlation in the source", xlim=(-0.8, 1), ylim=(-0.8, 1))
panels[0].set_ylabel("correlation as stored")
plt.show()

# %% [markdown]
# A parcel is a mean of 100 to 400 voxels, and hardly notices. Between voxels, one step a run shrinks correlations
# towards 0, moves weak ones by as much as they are large, and turns the sign of one in twelve. And float16 of the plain
# values, which looks generous, is worse than int8 with a step a voxel.
#
# ## 3. Frames that lie far from the others
#
# Before the magnetisation is steady, frames are brighter, and fMRIPrep keeps them. The shipped runs have none, so we
# add them: the first frame 30 % brighter, the second 3 %, as a T1 of 1.3 s and a flip angle of 70° make them at this
# TR. A range that holds them leaves few steps for the rest. nstorm's int8 keeps frames apart that lie far from all
# others, in float16. In another copy 100 voxels have a lone spike of 20 SD. Their 254 steps would not do for 0.9999,
# and the run is stored as int16.


# %%
def changed(name, values, **changes):
    """The rest run with other values, prepared."""
    run = template.clone()
    run[0, brain] = torch.from_numpy(values.T)
    item = dict(study.where(task="rest")[0])
    item["image"] = save_bold(folder / name / Path(item["image"]).name, run)
    return stored(f"{name}-store", Study([item]), **changes)[rest]


def one_range(values):
    """254 steps a voxel over all of its frames, whatever they hold."""
    low, high = values.min(0), values.max(0)
    return np.rint((values - low) / (high - low) * 254) / 254 * (high - low) + low


steady = np.ones((num_frames, 1), np.float32)
steady[:2, 0] = 1.3, 1.03
brighter = source[rest] * steady
spiky, rng = source[rest].copy(), np.random.default_rng(0)
where = rng.integers(0, num_frames, 100), rng.choice(num_voxels, 100, replace=False)
spiky[where] += 20 * spiky[:, where[1]].std(0)
runs = {"as recorded": int8[rest], "bright frames": changed("bright", brighter), "spikes": changed("spikes", spiky)}
given = {"as recorded": source[rest], "bright frames": brighter, "spikes": spiky}
print(f"{'':14} {'stored':7} {'far frames':11} worst voxel, frames from 2 on; with one range over all frames")
least = {}
for name, run in runs.items():
    both = run.read_brain(0, num_frames), one_range(given[name])
    least[name] = tuple(correlation(given[name][2:], values[2:]).min() for values in both)
    print(f"{name:14} {run.record.dtype:7} {run.record.far!s:11} {least[name][0]:.6f}; {least[name][1]:.6f}")

# %% [markdown]
# The z-score needs the same care: with the bright frames in the mean and SD of the run, all others come out small. The
# mean and SD that a store keeps are without far frames. The frames themselves stay; `dummy_scans=` removes them.

# %%
scores = {
    "as recorded": int8[rest].read_brain(0, num_frames, "zscore")[2:],
    "mean and SD of all frames": zscored(brighter)[2:],
    "nstorm's": runs["bright frames"].read_brain(0, num_frames, "zscore")[2:],
}
spread = {name: float(values.std(0).mean()) for name, values in scores.items()}
print(", ".join(f"{name}: SD {value:.2f}" for name, value in spread.items()))

# %%
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
plain = one_range(brighter)
voxel = np.argmin(correlation(brighter[2:], plain[2:]))
seconds = np.arange(2, 62) * int8[rest].tr
for values, style in (
    (brighter, {"color": GREY, "linewidth": 5, "label": "source"}),
    (plain, {"color": TRAP, "linewidth": 1.2, "label": "one range over all frames"}),
    (runs["bright frames"].read_brain(0, num_frames), {"color": OURS, "linewidth": 1.2, "label": "nstorm's int8"}),
):
    left.plot(seconds, 100 * (values[2:62, voxel] / source[rest][:, voxel].mean() - 1), **style)
left.set(
    xlabel="time (s)", ylabel="signal change (%)", title="a voxel after two bright frames, as stored", ylim=(-1.15, 0.5)
)
left.legend(frameon=False, fontsize=8, ncols=3, loc="lower center")
for (name, values), colour in zip(list(scores.items())[1:], (TRAP, OURS), strict=True):
    right_panel.plot(seconds, values[:60, voxel], color=colour, label=name)
right_panel.set(xlabel="time (s)", ylabel="z-score over the run", title="and as read", ylim=(-5, 4))
right_panel.legend(frameon=False, fontsize=8, ncols=2, loc="lower center")
plt.show()

# %% [markdown]
# ## 4. Which z-score
#
# Formats matter less than the normalisation after them. A store keeps intensities, and the mean and SD of each voxel,
# so that you choose when you read. We compare what linear probes can tell from block means: LDA, which estimates how
# voxels vary together; logistic regression, with scikit-learn's defaults, which sees large numbers first; and the same
# after standardising each voxel over the training runs. In the last row each clip is normalised by itself.

# %%
decoded = {key: int8[key].read_brain(0, 121) for key in task}
LENGTH = 9


def clip_means(length):
    """Block means out of clips around the middle of each block, or inside it, that are z-scored by themselves."""
    means = []
    for key in task:
        for start, stop, _ in blocks[key]:
            begin = min(max(start - (length - LENGTH) // 2, 0), 121 - length)
            clip = zscored(decoded[key][begin : begin + length])
            means.append(clip[max(start - begin, 0) : stop - begin].mean(0))
    return np.stack(means)


def from_store(normalize):
    return block_means({key: int8[key].read_brain(0, 121, normalize) for key in task})


def robustly():
    ways = {key: zscore_voxels(int8[key].read(), robust=True)[0] for key in task}
    return block_means({key: run[torch.from_numpy(int8[key].mask)].numpy().T for key, run in ways.items()})


normalised = {
    "global (published)": from_store("global"),
    "percent of the mean": from_store("percent"),
    "z-score of the run": from_store("zscore"),
    "the same, robust": robustly(),
    "z-score of a 50 s clip": clip_means(20),
}
logistic = LogisticRegression(max_iter=5000)
probes = {"LDA": lda, "logistic": logistic, "standardised": make_pipeline(StandardScaler(), logistic)}
for name, values in {"rest run": source[rest], "a task run": source[task[0]]}.items():
    print(f"{name}: {values.mean(0).var() / values.var():.2%} of what a global z-score leaves is anatomy")
read = {name: {probe: right(model, means) for probe, model in probes.items()} for name, means in normalised.items()}
print(f"\n{'blocks named right':24}", "".join(f"{probe:20}" for probe in probes))
for name, row in read.items():
    print(f"{name:24}", "".join(f"{bootstrap_mean(values)!s:20}" for values in row.values()))
gains = {name: bootstrap_mean(row["LDA"] - read["z-score of the run"]["LDA"]) for name, row in read.items()}
print("\nLDA, minus z-score of the run: ", "; ".join(f"{name} {gain}" for name, gain in gains.items() if gain.mean))

# %% [markdown]
# The global z-score hides the task: what it gives differs by anatomy, and by how the head lay in each run, more than by
# what the person saw. Standardising the voxels afterwards does not make up for it, as the offsets of the runs stay.
# Percent of the mean is as good as the z-score for LDA; for logistic regression it is not, as it gives vessels and
# edges the largest numbers. The robust z-score (median and median absolute deviation) is no better in these clean runs.
#
# A clip of 50 s that is z-scored by itself reads as well as the run. But such a clip loses what lasts as long as it
# does. We vary its length; the slope of its block means on those of the run says how much of the response is left.

# %%
lengths = np.array([5, 9, 10, 12, 14, 16, 20, 30, 40, 60, 90, 121])
whole = normalised["z-score of the run"]
kept, by_length = [], []
for length in lengths:
    means = clip_means(length)
    kept.append((means * whole).sum() / (whole**2).sum())
    by_length.append(right(logistic, means))
for length in (5, 9, 12, 20, 40):
    index = lengths.tolist().index(length)
    print(
        f"{length * tr:5.1f} s: {abs(kept[index]):4.0%} of the response; named right {bootstrap_mean(by_length[index])}"
    )

# %%
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[1.1, 1], layout="constrained")
for k, (probe, colour) in enumerate(zip(probes, (OURS, TRAP, SAND), strict=True)):
    means, bars = with_bars([row[probe] for row in read.values()])
    label = {"standardised": "logistic, standardised voxels", "logistic": "logistic regression"}.get(probe, probe)
    height = np.arange(len(means)) + 0.2 * (k - 1)
    left.errorbar(means, height, xerr=bars, fmt="o", markersize=5, capsize=2, color=colour, label=label)
left.axvline(CHANCE, color="black", linestyle=":", linewidth=1)
left.set_yticks(range(len(read)), read)
left.invert_yaxis()
left.text(CHANCE + 0.01, 0.5, "chance", fontsize=8, va="center")
left.set(xlabel="blocks named right", xlim=(0, 1))
left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.13, 0))
named, bars = with_bars(by_length)
right_panel.plot(lengths * tr, kept, "o-", color="black", markersize=4, label="response, of that in the run")
right_panel.plot(lengths * tr, named, "o-", color=TRAP, markersize=4, label="blocks named right (logistic)")
right_panel.fill_between(lengths * tr, named - bars[0], named + bars[1], color=TRAP, alpha=0.15, linewidth=0)
for seconds, text, side in ((16, "published\nclip ", "right"), (LENGTH * tr, " block", "left")):
    right_panel.axvline(seconds, color=GREY, linewidth=1)
    right_panel.text(seconds, 0.93, text, fontsize=8, ha=side, va="center")
right_panel.set(xscale="log", xlabel="length of the clip (s)", xlim=(10, 320), ylim=(-0.03, 1.03))
right_panel.set_xticks([12.5, 25, 50, 100, 200], ["12.5", "25", "50", "100", "200"], minor=False)
right_panel.set_xticks([], minor=True)
right_panel.legend(frameon=False, fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# A block that fills its clip is gone, and the published clips last 16 s, less than most blocks. In clips of half a
# minute the category can be read again, from a response that is 16 % as large; from 50 s on they are as good as the
# run, as their z-score also removes slow drift. Our default stays the z-score of the run, in which no length of clip
# erases anything. Remove drift when you prepare (`Recipe(high_pass=0.008)`).
#
# **Is that a leak?** The mean and SD of a run come from all of its frames, later ones among them, but from no label. As
# long as a run lies within one part of the split, as `check_leakage(..., unit="run")` makes sure, nothing passes from
# one part to another. Where you predict the later frames of a run from its earlier ones, it does: normalise with the
# frames that you have.
#
# ## 5. Our defaults, and what they cost
#
# | default | what it costs here | otherwise |
# |---|---|---|
# | int8, a step a voxel | r = 0.99994 in the worst voxel; nothing in results | `dtype="float16"`: twice the bytes |
# | far frames apart | the bytes of these frames; int16 for spikes: twice the bytes | `dummy_scans=` |
# | `normalize="zscore"` of the run | amplitudes in %; drift stays | `"percent"`; `high_pass=` |
#
# | not the default | why | what for |
# |---|---|---|
# | one step a run | r = 0.95 in the middle voxel, 0.66 in the worst, four times the bytes | files that are there |
# | `"global"` | 0.64 of the blocks with LDA instead of 0.89, 0.30 instead of 0.75 with the other | published weights |
# | z-score of a clip | all of a block that fills the clip | clips of twice a block and more |
#
# All of this is half a slice of one person, and one run of another. The step beside the SD of your voxels says where
# your data lie on the curve of section 1: small voxels and little smoothing make the SD large, and one step a run
# harmless; averaged and smoothed data have a small one.
#
# ## Proof

# %%
# the float32 store has what the file has; every voxel as int8 keeps 0.9999, at a quarter of the bytes
item = study.where(task="rest")[0]
assert np.array_equal(load_bold(item["image"]).numpy()[:, exact[rest].mask], source[rest])
for found_in in (alike, in_task):
    assert found_in[NAMES[2]].min() > 0.9999 > found_in[NAMES[0]].max()
assert alike[AROUND].min() > 0.999999
assert np.median(alike[NAMES[0]]) < 0.96
assert np.median(alike[NAMES[1]]) < np.median(alike[NAMES[2]])
assert bytes_a_frame[NAMES[2]] < 0.26 * cube

# the curve of rounding noise is right
for name in (NAMES[0], NAMES[2]):
    values, steps = ways[name]
    expected = 1 / np.sqrt(1 + (steps / source[rest].std(0, dtype=np.float64)) ** 2 / 12)
    assert abs(np.median((1 - alike[name]) / (1 - expected)) - 1) < 0.05

# results: the same with nstorm's int8, and with one step a run for what is averaged
assert np.abs(maps["a step a voxel"] - maps["source"]).max() < 0.1
assert np.abs(ours - reference).mean() < 0.02
assert bootstrap_mean(coarse[2] - reference).low > -0.1
assert bootstrap_mean(coarse[3] - reference).high < -0.05
assert weak_error[NAMES[0], "parcels"].high < 0.01 < 0.04 < weak_error[NAMES[0], "voxels"].low
assert weak_error[NAMES[2], "voxels"].high < 0.002

# far frames and spikes
assert runs["bright frames"].record.far == (0, 1)
assert [run.record.dtype for run in runs.values()] == ["int8", "int8", "int16"]
assert all(stored_apart > 0.9999 for stored_apart, _ in least.values())
assert least["bright frames"][1] < 0.995
assert abs(spread["nstorm's"] - 1) < 1e-3
assert spread["mean and SD of all frames"] < 0.5

# the z-score of the run reads the task; the global one, or that of a clip no longer than the block, does not
for probe in ("LDA", "logistic"):
    assert bootstrap_mean(read["global (published)"][probe] - read["z-score of the run"][probe]).high < -0.1
assert abs(gains["z-score of a 50 s clip"].mean) < 0.05
assert np.abs(kept[:2]).max() < 0.01
assert kept[-1] > 0.99
assert by_length[1].mean() <= CHANCE < by_length[3].mean() < by_length[6].mean()
temporary.cleanup()
print("all claims hold")
