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
# # From fMRIPrep to clips
#
# Your lab has a folder of fMRIPrep outputs. One command prepares it over night into a *store*: in-brain voxels, int8
# with a scale for each voxel, in chunks of a few seconds. Then you stream clips from it to a network.
#
# Here you go all the way, with what goes wrong on it: a mask that is lost, a table that lacks people, files that break
# off, a job that is killed, a bit that flips on the disk. It takes about a minute on a CPU. You need to know what a
# BOLD run and a PyTorch `DataLoader` are.

# %%
import warnings

# about widgets for progress bars, which this notebook does not use
warnings.filterwarnings("ignore", message="IProgress")

import base64
import io
import logging
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from monai.data import DataLoader
from PIL import Image
from torch import nn

from nstorm.data import (
    HAXBY_DELAY,
    PRESETS,
    BalancedSampler,
    ClipDataset,
    ClipSampler,
    GroupBatchSampler,
    Store,
    Study,
    check_leakage,
    collate_brain,
    convert_published,
    event_clips,
    example_study,
    load_bold,
    load_mask,
    load_published,
    open_study,
    prepare,
    prepare_published,
    rest_run,
    split_by_subject,
    split_runs_within_subject,
    stored_runs,
    to_dense,
)
from nstorm.nets import ShiftedWindowNet
from nstorm.workflows import train_classifier

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})
TRAP, OURS, GREY, GOLD = "#e4572e", "#1f6f8b", "#9aa5ab", "#c9a227"
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def say(text):
    """Print lines that fit the page, and files as they are named below our folder."""
    for line in str(text).replace(f"{folder}/lab/derivatives/", "").replace(f"{folder}/", "").splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        print(textwrap.fill(line, 112, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False))


def refused(call, *args, **kwargs):
    """Say why a call is refused, and give the reason."""
    try:
        call(*args, **kwargs)
    except (ValueError, OSError, RuntimeError) as error:
        say(f"{type(error).__name__}: {error}")
        return str(error)
    raise AssertionError("nothing was refused")


def terminal(command, kill_when=lambda: False):
    """Run a command in a terminal, say what stays on its screen, and kill it (kill -9) when it is time for that."""
    say(f"$ {command}")
    screen, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 110))
    program, *arguments = shlex.split(command)
    program = Path(sys.executable).with_name(program)
    job = subprocess.Popen([program, *arguments], cwd=folder, stdout=end, stderr=end)
    os.close(end)
    written = b""
    while True:
        if select.select([screen], [], [], 0.02)[0]:
            try:
                piece = os.read(screen, 4096)
            except OSError:
                break
            if not piece:
                break
            written += piece
        if job.poll() is None and kill_when():
            job.kill()
    os.close(screen)
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written.decode()).replace("\r\n", "\n").split("\n")
    # a bar is drawn again and again on its line
    shown = [[state for state in line.split("\r") if state.strip()][-1:] for line in lines]
    say("\n".join(state for line in shown for state in line))
    return job.wait()


# %% [markdown]
# ## 1. A folder becomes a study
#
# `example_study` writes the recordings that ship with nstorm as fMRIPrep leaves them: twelve task runs of one person
# (half of one slice, native space), and a run at rest of another (whole brain, MNI152 at 4 mm). With your data, start
# at the next cell.

# %%
derivatives = example_study(folder / "lab")
func = derivatives / "sub-001" / "func"
for file in sorted(func.iterdir())[:3]:
    print(file.relative_to(folder))

# %% [markdown]
# `Study.from_bids` finds the runs, and for each of them its mask, confounds, events and sidecar, also those in the raw
# tree above. Labels come from `participants.tsv`, and from tables that you `join`. A run is an *item*, a dictionary as
# MONAI takes it. No image is read so far.

# %%
table = pd.DataFrame({"participant_id": ["sub-001", "sub-RAPIDTIDETEST"], "site": ["A", "B"]})
study = Study.from_bids(derivatives).join(table)
say(study)
print()
say("\n".join(f"{key:11} {value}" for key, value in study[0].items() if value))

# %% [markdown]
# A filter takes a value, several, or a function. Filters that `from_bids` is given save time in large trees, as folders
# of other subjects are not opened: `Study.from_bids(folder, space="MNI152NLin2009cAsym", task="rest")`.

# %%
print(len(study.where(task="rest")), "run at rest")
print(len(study.where(subject="sub-001", run=lambda run: int(run) > 8)), "runs from the ninth on")
nothing = refused(study.where, task="faces")

# %% [markdown]
# ## 2. All that is wrong, before any work
#
# Now we spoil the folder as real ones are spoiled: a mask is lost; the run at rest is there in a second space; two
# copies broke off, one in the header, one in the middle of the frames; and the table of labels lacks one person and
# has another who was never scanned.


# %%
def bold_file(run):
    return func / f"sub-001_task-objectviewing_run-{run:02d}_desc-preproc_bold.nii.gz"


originals = {run: bold_file(run).read_bytes() for run in (5, 9)}
(func / "sub-001_task-objectviewing_run-03_desc-brain_mask.nii.gz").unlink()
for file in (derivatives / "sub-RAPIDTIDETEST" / "func").iterdir():
    shutil.copyfile(file, file.with_name(file.name.replace("space-MNI152_res-4", "space-T1w")))
bold_file(5).write_bytes(originals[5][:200])
bold_file(9).write_bytes(originals[9][: len(originals[9]) // 2])
wrong_table = pd.DataFrame({"participant_id": ["sub-001", "sub-007"], "site": ["A", "A"]})

spoiled = Study.from_bids(derivatives).join(wrong_table)
report = spoiled.check(errors="report", progress=False)
say(report)

# %% [markdown]
# Every line has the kind of the problem, what is wrong, an example, and what to do. `check()` without
# `errors="report"` raises, and so does `prepare`, so that a job does not fail at four in the morning of what could have
# been known the evening before. One fault is not in the list: run 9 breaks off behind its header, and `check` reads
# nothing but headers. We will meet it again.
#
# Different TRs and grids are right here, so we accept them by their kind, `ignore=("tr", "grid")`. The rest we mend:
# the right table, one space, run 3 left out, run 5 copied again. What we have decided goes into a manifest, a table
# that can be read, kept and sent.

# %%
bold_file(5).write_bytes(originals[5])
study = Study.from_bids(derivatives).join(table).where(space=["MNI152", ""], run=lambda run: run != "03")
say(study.check(ignore=("tr", "grid"), progress=False))
study.to_manifest(folder / "study.tsv")
print()
print(pd.read_csv(folder / "study.tsv", sep="\t", dtype=str)[["subject", "task", "run", "site"]].tail(3).to_string())

# %% [markdown]
# ## 3. One command over night
#
# `nstorm prepare STUDY STORE` takes a folder or a manifest. The preset `native`, the default, leaves every run on its
# own grid and with its own TR; `4mm` puts all on one small MNI152 grid; `published` does what published weights
# expect. We kill the job (`kill -9`, as a cluster does) while it writes the sixth run.

# %%
command = "nstorm prepare study.tsv store --preset native --ignore tr grid"
killed = terminal(command, kill_when=lambda: len(list(folder.glob("store/runs/*/*/bold"))) >= 6)
print("exit code", killed)

# %% [markdown]
# A run is in the store when it is whole, and not before. Whoever opens the store now sees whole runs only.

# %%
store = Store(folder / "store")
num_before = len(store)
say(store)

# %% [markdown]
# The same command goes on where it was. This time it ends by itself, with one failure: run 9, which broke off.

# %%
exit_code = terminal(command)
print("exit code", exit_code)

# %% [markdown]
# The others are done, the reason is in the list, and on the next morning also in the folder `failures` of the store.
# (`--strict` stops at the first failure instead.) We copy run 9 again and start the same, in Python this time.

# %%
bold_file(9).write_bytes(originals[9])
store = prepare(folder / "study.tsv", folder / "store", ignore=("tr", "grid"), progress=False)
say(store)

# %% [markdown]
# Is what was killed and went on the same as what was never killed? We prepare the study once more into another store:
# in two parts, as jobs of a cluster would (`--part 1/2` and `--part 2/2`), and compare the checksums of all arrays.

# %%
for part in (1, 2):
    never_killed = prepare(
        folder / "study.tsv", folder / "parts", part=(part, 2), ignore=("tr", "grid"), progress=False
    )
    say(never_killed)
identical = [
    store.records[key].checksums == other.checksums and store.records[key].labels == other.labels
    for key, other in never_killed.records.items()
]
print(f"{sum(identical)} of {len(store)} runs are identical")

# %% [markdown]
# ## 4. Is it whole?
#
# `nstorm verify STORE`, or `store.verify()`, reads everything and compares it with checksums. We flip one bit in one
# chunk, as an old disk may.

# %%
say(store.verify(progress=False))
key = "sub-001_task-objectviewing_run-02"
chunk = folder / "store" / store.records[key].folder / "bold" / "c" / "1" / "0"
flipped = bytearray(chunk.read_bytes())
flipped[1000] ^= 1
chunk.write_bytes(flipped)

print()
damages = store.verify(progress=False)
say(damages)
print()
unread = refused(store[key].read, 20, 40)
print("frames 0 to 20 can be read:", tuple(store[key].read(0, 20).shape))

# %% [markdown]
# A clip with a wrong value is never handed out in silence. We do what the message says, and the store is whole again.

# %%
store.remove([damages[0].key])
store = prepare(folder / "study.tsv", store, ignore=("tr", "grid"), progress=False)
whole_again = store.verify(progress=False)
say(whole_again)

# %% [markdown]
# What killed jobs had begun and what was replaced stays on the disk for a week, for who reads it still.
# `nstorm clean STORE` removes what is older.
#
# ## 5. What int8 costs
#
# `nstorm export STORE DIR`, or `store.export(DIR)`, writes NIfTI again, with mask, sidecar and events. We compare the
# run at rest with its source. Every voxel has a step of its own, its range over the run divided by 254, and no value is
# farther from the source than half a step. (The peak at 0 is the largest and the smallest value of every voxel, which
# are kept as they are.)

# %%
key = "sub-RAPIDTIDETEST_task-rest"
(exported,) = store.export(folder / "nifti", [key], progress=False)
say("\n".join(sorted(file.name for file in exported.parent.iterdir())))
source, again = load_bold(rest_run().bold), load_bold(exported)
brain = load_mask(rest_run().mask).as_tensor()[0]
before, after = (run.as_tensor()[:, brain].double() for run in (source, again))
step = (before.max(0).values - before.min(0).values) / 254
error = (after - before) / step
correlation = torch.stack([torch.corrcoef(pair)[0, 1] for pair in torch.stack([before, after]).permute(2, 0, 1)])
same_frame = torch.allclose(source.affine, again.affine) and source.meta["tr"] == again.meta["tr"]
print(f"affine and TR the same: {same_frame}; largest error {error.abs().max():.2f} steps")
print(f"temporal correlation with the source: worst voxel {correlation.min():.6f}, median {correlation.median():.6f}")
stored = folder / "store" / store.records[key].folder / "bold"
size = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file()) / len(source)
print(f"{size:,.0f} bytes a frame; as float32, air and all, {source[0].numel() * 4:,.0f}")

voxel = int(correlation.argmin())
seconds = np.arange(len(source)) * source.meta["tr"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), width_ratios=[2, 1, 1], layout="constrained")
panels[0].plot(seconds, before[:, voxel], color=GREY, linewidth=4, label="source")
panels[0].plot(seconds, after[:, voxel], color=OURS, linewidth=1, label="store")
panels[0].set(xlabel="time (s)", ylabel="signal (scanner units)", title="the voxel that is kept worst", xlim=(0, 300))
panels[0].legend(frameon=False, ncols=2)
panels[1].hist(error.flatten(), 60, range=(-0.75, 0.75), color=OURS)
panels[1].axvline(-0.5, color="black", linestyle=":", linewidth=1)
panels[1].axvline(0.5, color="black", linestyle=":", linewidth=1)
panels[1].set(xlabel="error (steps)", yticks=[], title="all voxels and frames")
panels[2].hist(np.log10((1 - correlation).clamp(1e-9).numpy()), 60, range=(-5.5, -3.8), color=OURS)
panels[2].axvline(-4, color="black", linestyle=":", linewidth=1)
panels[2].text(-4.03, panels[2].get_ylim()[1], "0.9999", ha="right", va="top", rotation=90, fontsize=8)
panels[2].set(xlabel="$\\log_{10}$ (1 - correlation)", yticks=[], title="all voxels")
plt.show()

# %% [markdown]
# ## 6. Look at the report
#
# `nstorm prepare` has written `store/report.html`; `nstorm report STORE` writes it again. It is one file without any
# others: open it in a browser, copy it from the cluster, send it. It has the runs that are unlike the others and why, a
# table of all, and pictures. Here are those of the run at rest, taken out of the page. (In Python,
# `quality_report(store, path)` writes it and `webbrowser.open` opens it.)

# %%
page = (folder / "store" / "report.html").read_text()
embedded = dict(re.findall(r'alt="(\w+ \w* ?of [^"]+)"\s+src="data:image/webp;base64,([^"]+)"', page))
figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for axes, name in zip(panels, (f"Carpet plot of {key}", f"Slices of {key}"), strict=True):
    axes.imshow(Image.open(io.BytesIO(base64.b64decode(embedded[name]))))
    axes.set_title(name, fontsize=9)
    axes.axis("off")
plt.show()

# %% [markdown]
# ## 7. Clips
#
# A `ClipDataset` reads a clip when it is asked for, and nothing of its run beside it: random clips of some frames or
# seconds, or with `stride=` all of them one after another. All runs of a batch need one grid, so we take the runs of
# one person. Values are normalised as they are read, with the mean and the standard deviation of the whole run.

# %%
haxby = [item for item in store.run_items() if item["subject"] == "001"]
clips = ClipDataset(store, seconds=50, runs=haxby, clips_per_run=4, normalize="zscore", seed=0)
print(clips)
for name, value in clips[0].items():
    say(f"  {name:11} {tuple(value.shape) if name in ('image', 'mask') else repr(value)}")

# %% [markdown]
# What is random hangs on the seed, the epoch and the clip, and on nothing else: the same with any number of workers.
# A `ClipSampler` begins a new epoch, with new clips, each time it is iterated over.


# %%
def starts(workers, epochs=2):
    """First frames of the clips of some epochs, as a loader gives them."""
    loader = DataLoader(clips, batch_size=8, sampler=ClipSampler(clips, seed=0), num_workers=workers)
    return [[int(start) for batch in loader for start in batch["start_frame"]] for _ in range(epochs)]


alone, with_workers = starts(0), starts(2)
print("epoch 1:", alone[0][:8], "...   epoch 2:", alone[1][:8], "...")
print("the same with two workers:", alone == with_workers)

# %% [markdown]
# `BalancedSampler` deals out people (or sites, `by="site"`) equally often, whatever the number of their runs.
# `GroupBatchSampler` makes batches of several clips of each person, for contrastive learning; here we take runs as
# groups. All samplers know their part in distributed training.

# %%
everyone = ClipDataset(store, 20, clips_per_run=2, output="brain")  # their grids differ
counts = Counter(everyone.data[index]["subject"] for index, _ in BalancedSampler(everyone, num_samples=24))
print("subjects of the runs:", dict(Counter(item["subject"] for item in store.run_items())))
print("subjects of clips from a BalancedSampler:", dict(counts))
pairs = GroupBatchSampler(clips, by="run", groups=3, clips=2, num_batches=1)
batch = next(iter(DataLoader(clips, batch_sampler=pairs)))
print("a batch of a GroupBatchSampler: runs", batch["run"], "first frames", batch["start_frame"].tolist())

# %% [markdown]
# Clips around events: `event_clips` plans them on the runs of the store, and the dataset reads them. The delay from
# stimulus to response is 0 s in this recording, since the lag is in its labels; about 5 s in most.

# %%
blocks = event_clips(stored_runs(store, haxby), delay=HAXBY_DELAY)
of_events = ClipDataset(store, runs=blocks)
print(of_events)
first = of_events[0]
print(
    {name: first[name] for name in ("run", "trial_type", "label", "frames", "start_time")}, tuple(first["image"].shape)
)

# %%
strided = ClipDataset(store, 20, runs=[key for key in store if key.endswith("run-01")], stride=20)
of_run = ClipDataset(store, 20, runs=[key for key in store if key.endswith("run-01")], clips_per_run=4)
rows = []
for epoch in range(3):
    of_run.set_epoch(epoch)
    rows.append((f"random, epoch {epoch}", [clip["frames"] for clip in of_run], OURS))
rows.append(("stride=20", [clip["frames"] for clip in strided], GREY))
rows.append(("events", [block["frames"] for block in blocks if block["run"] == "01"], GOLD))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[1.3, 1], layout="constrained")
for row, (_, frames, colour) in enumerate(rows):
    for place, (start, stop) in enumerate(sorted(frames)):
        height = row + 0.18 * (place % 2) - 0.09
        left.barh(
            height, (stop - start) * 2.5, left=start * 2.5, height=0.5, color=colour, alpha=0.75, edgecolor="white"
        )
left.set(
    yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows], xlabel="time in run 1 (s)", xlim=(0, 302.5)
)
left.invert_yaxis()
place = (10, 30, 25)
for row, (normalize, unit) in enumerate({"none": "scanner units", "zscore": "z-score", "percent": "%"}.items()):
    values = store["sub-RAPIDTIDETEST_task-rest"].read(40, 80, normalize)[0, *place]
    axes = right.inset_axes([0, 0.68 - 0.34 * row, 1, 0.3])
    axes.plot(60 + 1.5 * np.arange(40), values, color=OURS)
    axes.set_ylabel(unit, fontsize=8)
    axes.set_title(f'normalize="{normalize}"', fontsize=8, loc="right", y=0.75)
    if row < 2:
        axes.set_xticklabels([])
    else:
        axes.set_xlabel("time (s)")
right.axis("off")
plt.show()

# %% [markdown]
# Brains fill a third of their grid. With `output="brain"` only their voxels go from the workers to the device, and
# `to_dense` puts them into the grid there.

# %%
rest = [key for key in store if "rest" in key]
dense, in_brain = (ClipDataset(store, 20, runs=rest, clips_per_run=8, output=output) for output in ("dense", "brain"))
batch = next(iter(DataLoader(in_brain, batch_size=4, collate_fn=collate_brain)))
whole = to_dense(batch["image"], batch["places"], batch["shape"], batch["background"])
print("in the brain", tuple(batch["image"].shape), "= (B, T, V); dense", tuple(whole.shape), "= (B, C, H, W, D, T)")
as_read = next(iter(DataLoader(dense, batch_size=4)))["image"].as_tensor()
print("the same as read densely:", torch.equal(whole, as_read))


def milliseconds(function):
    """The fastest of a few calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


# it warns that frames of a .nii.gz take long to unpack, which is what we measure
logging.getLogger("nstorm").setLevel(logging.ERROR)
ways = {
    "a .nii.gz": lambda: load_bold(rest_run().bold, frames=(150, 170)),
    "the store": lambda: dense[0],
    "the store, in the brain": lambda: in_brain[0],
}
for name, read in ways.items():
    print(f"20 frames from {name:24} {milliseconds(read):6.1f} ms")

# %% [markdown]
# ## 8. Into a network
#
# A split, a check that nothing leaks, two loaders, a network. One person's blocks of pictures, split by run; with many
# people, `split_by_subject(store.run_items())`. Eight epochs of a small network: this shows the plumbing and is no
# result. For results, see the first tutorial.

# %%
split = split_runs_within_subject(blocks, {"train": 0.7, "choose": 0.3})
parts = {part: ClipDataset(store, runs=items) for part, items in split.apply(blocks).items()}
check_leakage(**parts, unit="run")
too_few = refused(split_by_subject, haxby)

torch.manual_seed(0)
net = ShiftedWindowNet(
    (40, 20, 1, 9),
    num_classes=8,
    patch_size=(2, 2, 1, 3),
    feature_size=16,
    depths=(2,),
    window_size=(5, 5, 1, 3),
    full_last_stage=False,
)
train, choose = parts["train"], parts["choose"]
history = train_classifier(
    net,
    DataLoader(train, batch_size=8, sampler=ClipSampler(train), num_workers=2, persistent_workers=True),
    loss=nn.CrossEntropyLoss(),
    optimizer=torch.optim.AdamW(net.parameters(), lr=3e-3),
    max_epochs=8,
    choose_on=DataLoader(choose, batch_size=24),
    unit="run",
)

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.plot(range(1, 9), history.train_loss, "o-", color=GOLD, label=f"{len(train)} clips to train on")
axes.plot(history.choose_epochs, history.choose_loss, "o-", color=OURS, label=f"{len(choose)} clips of other runs")
axes.plot(history.kept_epoch, min(history.choose_loss), "o", color=OURS, markersize=11, label="epoch kept")
axes.axhline(np.log(8), color="black", linestyle=":", linewidth=1, label="guessing")
axes.set(xlabel="epoch", ylabel="loss (nats)")
axes.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# ## 9. Other folders
#
# Folders outside BIDS are described by a pattern, here those of the HCP (made up from the run at rest). On the command
# line: `nstorm prepare /hcp store --pattern "..." --mask-pattern "..."`.

# %%
for subject, direction in ((100307, "LR"), (100307, "RL"), (100408, "LR")):
    results = folder / "hcp" / str(subject) / "MNINonLinear" / "Results" / f"rfMRI_REST1_{direction}"
    results.mkdir(parents=True)
    shutil.copyfile(rest_run().bold, results / f"rfMRI_REST1_{direction}.nii.gz")
    shutil.copyfile(rest_run().mask, results / "brainmask_fs.2.nii.gz")
hcp = Study.from_pattern(
    folder / "hcp",
    r"{subject:\d{6}}/MNINonLinear/Results/{task}_{dir:LR|RL}/{task}_{dir}.nii.gz",
    mask="{subject}/MNINonLinear/Results/{task}_{dir}/brainmask_fs.2.nii.gz",
    site="HCP",
)
say(hcp)

# %% [markdown]
# Runs of the published format, `data.pt` or `frame_*.pt`, are converted (`nstorm convert DIR STORE`). Nothing in such
# files is executed. Read with `normalize="global"`, a converted run has the values of the files, and
# `normalize="zscore"` has what the files have kept of each voxel's course.

# %%
frames, scale = prepare_published(source[:16], quantize=True)
(folder / "img" / "100307").mkdir(parents=True)
torch.save(
    {"frames": frames.as_tensor(), "scale": scale, "num_frames": len(frames)}, folder / "img" / "100307" / "data.pt"
)
converted = convert_published(folder / "img", folder / "converted", affine=frames.affine, progress=False)
say(converted)
theirs = load_published(folder / "img" / "100307", affine=frames.affine).as_tensor()
ours = converted["sub-100307"].read(normalize="global")[0].movedim(-1, 0).as_tensor()
print(f"largest difference {float((ours - theirs).abs().max()):.4f}, the step of the file {scale:.4f}")

# %% [markdown]
# ## 10. What to change for your data
#
# | | |
# |---|---|
# | one grid for all | `--preset 4mm`, also with `--spacing 3`; images have to be in MNI152 space |
# | one TR for all | `--tr 0.8` |
# | confounds | `--confounds simple`, which contains a high-pass filter |
# | more than the options say | a recipe: `prepare(..., recipe=PRESETS["4mm"].but(detrend=1))` |
# | one machine | `--workers 16`; each holds one run in memory |
# | an array of cluster jobs | `nstorm prepare STUDY STORE --part $SLURM_ARRAY_TASK_ID/16` in each |
# | a Dask cluster | `--scheduler tcp://node1:8786` (needs `nstorm[cluster]`) |
# | file systems that count files | `--one-file` |
# | an object store | `s3://bucket/store` as STORE, where s3fs is installed |
# | labels that change | `--labels table.tsv`, and the same command again: no voxel is touched |
# | new subjects | the same command again; readers see them at the next `Store(...)` or `store.refresh()` |
# | workers in a script | on macOS and Windows, put the loop below `if __name__ == "__main__":` |
# | length of clips | `seconds=` where TRs differ between people, `num_frames=` otherwise |
# | split | `split_by_subject(store.run_items())`, `split_by_site`, `k_folds` |
#
# ## Proof

# %%
# 1: runs, files and labels
assert PRESETS["native"].dtype == "int8"
assert len(study) == 12
assert all(Path(item["mask"]).is_file() for item in study)
assert {item["site"] for item in study} == {"A", "B"}
assert "objectviewing" in nothing

# 2: all faults but the one behind a header are listed at once
kinds = [problem.kind for problem in report.problems]
assert sorted(kinds) == ["duplicate", "grid", "image", "label", "mask", "runs", "tr"]
assert all(problem.remedy for problem in report.problems)
assert [item["image"] for item in open_study(folder / "study.tsv")] == [item["image"] for item in study]

# 3: killed, gone on, and the same as what was never killed
assert killed == -9
assert 5 <= num_before < 12
assert exit_code == 1
assert len(store) == len(never_killed) == 12
assert all(identical)

# 4: a flipped bit is found, and named
assert [damage.key for damage in damages] == ["sub-001_task-objectviewing_run-02"]
assert "sub-001_task-objectviewing_run-02" in unread
assert not whole_again

# 5: half a step
assert same_frame
assert error.abs().max() < 0.501
assert correlation.min() > 0.9999

# 7: clips follow from the seed, and dense is dense
assert alone == with_workers
assert alone[0] != alone[1]
assert set(counts.values()) == {12}
assert len(set(batch["subject"])) == 1
assert torch.equal(whole, as_read)
assert {clip["label"] for clip in blocks} == set(range(8))

# 8: no run is on both sides, and the loss falls
assert "subject" in too_few
assert not {clip["run"] for clip in train.data} & {clip["run"] for clip in choose.data}
assert history.train_loss[-1] < history.train_loss[0]

# 9: patterns and published files
assert {item["direction"] for item in hcp} == {"LR", "RL"}
assert len(hcp.check(progress=False).headers) == 3
assert float((ours - theirs).abs().max()) <= 0.51 * scale
temporary.cleanup()
print("all claims hold")
