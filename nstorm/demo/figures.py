"""The demo's figures."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nstorm.demo.experiment import Results
from nstorm.demo.recording import Recording

_COLOURS = ("#1f6f8b", "#e08e45", "#b5542e", "#8c6d46")
_GREY = "#888888"


def accuracy_figure(results: Results) -> Figure:
    """Accuracy of every method with its interval, and chance."""
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axes = figure.subplots()
    for place, (method, colour) in enumerate(zip(results.methods, _COLOURS, strict=False)):
        estimate = results.accuracy(method)
        reach = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
        axes.barh(-place, estimate.mean, 0.7, color=colour, xerr=reach, error_kw={"capsize": 4, "ecolor": "#333333"})
        axes.text(estimate.high + 0.015, -place, f"{estimate.mean:.2f}", va="center")
    axes.axvline(results.chance, color=_GREY, linestyle="--")
    axes.text(results.chance, 0.42, f" chance {results.chance:.2f}", color=_GREY, va="bottom")
    axes.set(xlim=(0, 1.08), ylim=(0.4 - len(results.methods), 0.75))
    axes.set_yticks([-place for place in range(len(results.methods))], results.methods)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"share of {len(results.tested)} unseen blocks classified correctly, 95 % interval over blocks")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def confusion_figure(results: Results) -> Figure:
    """Confusion matrix of every method: counts, coloured by their share of the blocks shown."""
    rows = -(-len(results.methods) // 2)
    figure = Figure(figsize=(9.5, 4.4 * rows), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(rows, 2, sharex=True, sharey=True).flat
    true = results.true[results.tested]
    ticks = range(len(results.labels))
    for axes in panels[len(results.methods) :]:
        axes.remove()
    for axes, method in zip(panels[: len(results.methods)], results.methods, strict=True):
        counts = np.zeros((len(ticks),) * 2, int)
        np.add.at(counts, (true, results.predicted(method)), 1)
        share = counts / counts.sum(1, keepdims=True).clip(min=1)
        image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
        for row, column in np.argwhere(counts > 0):
            colour = "white" if share[row, column] > 0.5 else "#222222"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(ticks, results.labels, rotation=45, ha="right")
        axes.set_yticks(ticks, results.labels)
        axes.set(title=method, xlabel="predicted", ylabel="shown")
        axes.label_outer()
    figure.colorbar(image, ax=list(panels[: len(results.methods)]), label="share of the blocks shown", shrink=0.6)
    return figure


def loss_figure(results: Results) -> Figure:
    """Loss of every network while it trains: on its training blocks, and on those it holds out to choose on."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for index, fold in enumerate(results.folds):
        for member, history in enumerate(fold.histories):
            colour, first = f"C{index % 10}", member == 0
            label = f"fold {index + 1}" if first else None
            axes.plot(range(1, len(history.train_loss) + 1), history.train_loss, color=colour, alpha=0.45, label=label)
            if history.choose_loss:
                axes.plot(history.choose_epochs, history.choose_loss, "--", color=colour)
                kept = history.choose_epochs.index(history.kept_epoch)
                axes.plot(history.kept_epoch, history.choose_loss[kept], "o", color=colour, markersize=5)
    axes.axhline(np.log(len(results.labels)), color=_GREY, linestyle=":")
    axes.text(1, np.log(len(results.labels)), " guessing", color=_GREY, va="bottom")
    axes.set(xlabel="epoch", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def recording_figure(recording: Recording) -> Figure:
    """One slice of the recording: its mean image with the mask, and what the two strongest categories change in it."""
    at = int(recording.mask.sum((0, 1)).argmax())
    aspect = recording.voxel_size[1] / recording.voxel_size[0]
    responses = torch.stack([block.image[0].mean(-1) for block in recording.blocks])
    labels = torch.tensor(recording.block_labels)
    contrasts = [responses[labels == k].mean(0) - responses[labels != k].mean(0) for k in labels.unique()]
    strength = [float(contrast[recording.mask].abs().square().mean()) for contrast in contrasts]
    strongest = sorted(range(len(contrasts)), key=lambda k: -strength[k])[:2]

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 3)
    for axes in panels:
        axes.imshow(recording.mean_image[:, :, at].T.numpy(), origin="lower", cmap="gray", aspect=aspect)
        axes.set(xticks=[], yticks=[])
    panels[0].contour(recording.mask[:, :, at].float().T.numpy(), levels=[0.5], colors=_COLOURS[1], linewidths=1)
    panels[0].set_title(f"mean BOLD and mask, slice {at + 1} of {recording.mask.shape[2]}", fontsize=10)
    for axes, k in zip(panels[1:], strongest, strict=True):
        image = axes.imshow(
            _inside(contrasts[k], recording, at), origin="lower", cmap="RdBu_r", vmin=-1.2, vmax=1.2, aspect=aspect
        )
        axes.set_title(f"{recording.labels[k]} blocks minus the others", fontsize=10)
    figure.colorbar(image, ax=list(panels), label="difference of the mean z", shrink=0.8)
    return figure


def _inside(volume: Tensor, recording: Recording, at: int) -> Float[np.ndarray, "w h"]:
    return volume.where(recording.mask, torch.nan)[:, :, at].T.numpy()
