"""Model and baselines on the same folds of a recording."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader

from nstorm.demo.baseline import baselines_for, fit_baseline
from nstorm.demo.model import BlockDecoder, FrameCrossEntropy
from nstorm.demo.recording import Fold, Recording
from nstorm.workflows import Estimate, History, WithinClassNoise, bootstrap_mean, train_classifier

# values of a clip up to which one thread trains fastest
_SMALL = 50_000


@dataclass(frozen=True)
class Recipe:
    """Every number of the training. The defaults were chosen on runs 1 to 8 of the Haxby recording."""

    num_steps: int = 600
    max_epochs: int = 200
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    label_smoothing: float = 0.2
    noise: float = 2.0
    num_networks: int = 2


@dataclass(frozen=True)
class FoldResult:
    """What came out of one fold: log-probabilities of the test blocks by method, and the course of training."""

    test: tuple[int, ...]
    log_probabilities: dict[str, Float[np.ndarray, "blocks classes"]]
    settings: dict[str, float]
    histories: list[History]


@dataclass(frozen=True)
class Results:
    """All folds of a recording."""

    labels: tuple[str, ...]
    true: Int64[np.ndarray, " blocks"]
    folds: list[FoldResult]
    seed: int

    @property
    def methods(self) -> list[str]:
        """The names of the methods, the model first."""
        return list(self.folds[0].log_probabilities)

    @property
    def tested(self) -> NDArray[np.int64]:
        """Indices of the blocks in the order in which they were tested."""
        return np.concatenate([np.array(fold.test) for fold in self.folds])

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent category."""
        return float(np.bincount(self.true[self.tested]).max() / len(self.tested))

    def predicted(self, method: str) -> NDArray[np.int64]:
        """The class of the highest log-probability for every tested block."""
        return np.concatenate([fold.log_probabilities[method].argmax(1) for fold in self.folds])

    def correct(self, method: str) -> NDArray[np.bool_]:
        """Whether each tested block was classified correctly."""
        return self.predicted(method) == self.true[self.tested]

    def accuracy(self, method: str) -> Estimate:
        """Share of blocks classified correctly, with its interval over blocks."""
        return bootstrap_mean(self.correct(method), seed=self.seed)

    def count(self, method: str, among: tuple[int, ...]) -> int:
        """How many of some blocks were classified correctly."""
        return int(self.correct(method)[np.isin(self.tested, among)].sum())

    def sign_test(self, baseline: str) -> float:
        """Two-sided p of the exact sign test (McNemar) on the blocks that one of model and baseline gets right."""
        model, other = self.correct(self.methods[0]), self.correct(baseline)
        only_model, only_other = int((model & ~other).sum()), int((other & ~model).sum())
        if only_model + only_other == 0:
            return 1.0
        return float(scipy.stats.binomtest(only_model, only_model + only_other).pvalue)

    def advantage(self, baseline: str) -> Estimate:
        """Accuracy of the model minus that of a baseline on the same blocks, with its paired interval."""
        difference = self.correct(self.methods[0]).astype(float) - self.correct(baseline)
        return bootstrap_mean(difference, seed=self.seed)


def run_experiment(recording: Recording, *, recipe: Recipe, seed: int) -> Results:
    """Train and test the model and every baseline on every fold."""
    images = cropped_images(recording)
    labels = torch.tensor(recording.block_labels)
    threads = torch.get_num_threads()
    few = num_threads(images)
    try:
        torch.set_num_threads(few)
        with threadpool_limits(few):
            folds = _run_folds(recording, images, labels, recipe, seed)
    finally:
        torch.set_num_threads(threads)
    return Results(recording.labels, labels.numpy(), folds, seed)


def num_threads(images: Tensor) -> int:
    """Threads to train with: small clips make short operations, which more threads slow down on a busy machine."""
    return 1 if images[0].numel() <= _SMALL else torch.get_num_threads()


def _run_folds(recording: Recording, images: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> list[FoldResult]:
    folds = []
    for index, fold in enumerate(recording.folds):
        name = f"fold {index + 1} of {len(recording.folds)}"
        model, histories = _fit_networks(images, labels, fold, recipe, seed, len(recording.labels), name)
        log_probabilities, settings = {"nstorm": model}, {}
        for baseline in baselines_for(recording, fold):
            log_probabilities[baseline], settings[baseline] = fit_baseline(baseline, recording, fold)
        folds.append(FoldResult(fold.test, log_probabilities, settings, histories))
    return folds


def cropped_images(recording: Recording) -> Float[Tensor, "n 1 h w d t"]:
    """All blocks, cropped to the smallest box that holds the mask: voxels outside it are 0 everywhere."""
    box = (slice(int(axis.min()), int(axis.max()) + 1) for axis in recording.mask.nonzero().T)
    return torch.stack([block.image for block in recording.blocks])[:, :, *box]


def _fit_networks(
    images: Tensor, labels: Tensor, fold: Fold, recipe: Recipe, seed: int, num_classes: int, name: str
) -> tuple[Float[np.ndarray, "blocks classes"], list[History]]:
    """Choose how long to train, then average the probabilities of networks fitted on all blocks but the test's.

    Where there are runs to choose on, a first network trains on the rest and finds the epoch that reads them best;
    the networks that count then train for so many epochs on both, as the baselines do with their setting.
    """
    histories = []
    num_epochs = min(-(-recipe.num_steps // -(-len(fold.train) // recipe.batch_size)), recipe.max_epochs)

    def fit(train: tuple[int, ...], choose: tuple[int, ...], number: int, what: str) -> BlockDecoder:
        torch.manual_seed(seed + number)
        generator = torch.Generator().manual_seed(seed + number)
        net = BlockDecoder(images.shape[2:], num_classes)
        batches = _batches(images, labels, train, recipe.batch_size, generator)
        optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.learning_rate,
            total_steps=num_epochs * len(batches) + 1,
            pct_start=0.1,
            cycle_momentum=False,
        )
        history = train_classifier(
            net,
            batches,
            loss=FrameCrossEntropy(recipe.label_smoothing),
            optimizer=optimizer,
            max_epochs=num_epochs,
            scheduler=scheduler,
            prepare_batch=WithinClassNoise(images[list(train)], labels[list(train)], recipe.noise, generator),
            choose_on=_batches(images, labels, choose, len(choose), None) if choose else None,
            choose_every=max(1, num_epochs // 30),
            description=f"{name}, {what}",
        )
        histories.append(history)
        print(f"{name}, {what}: loss {history.train_loss[-1]:.2f} after {num_epochs} epochs")
        return net

    if fold.choose:
        fit(fold.train, fold.choose, 0, "to choose the number of epochs")
        num_epochs = histories[0].kept_epoch
    probabilities = []
    for member in range(1, recipe.num_networks + 1):
        net = fit(fold.train + fold.choose, (), member, f"network {member} of {recipe.num_networks}")
        with torch.no_grad():
            logits = torch.cat([net(clip) for clip in images[list(fold.test)].split(recipe.batch_size)])
        # one block: the mean over its groups of frames, as for the baselines
        probabilities.append(logits.log_softmax(-1).mean(1).softmax(-1))
    return torch.stack(probabilities).mean(0).log().numpy(), histories


def _batches(
    images: Tensor, labels: Tensor, indices: tuple[int, ...], batch_size: int, generator: torch.Generator | None
) -> DataLoader[dict[str, Tensor]]:
    clips: Any = [{"image": images[i], "label": labels[i]} for i in indices]
    return DataLoader(clips, batch_size=batch_size, shuffle=generator is not None, generator=generator)
