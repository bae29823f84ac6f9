"""The simple baselines: linear classifiers of voxels, on the same folds, delay and normalisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from nstorm.demo.recording import Fold, Recording

# the covariance of more voxels than this would not fit a laptop's memory
_MANY_VOXELS = 5000


@dataclass(frozen=True)
class Baseline:
    """A linear classifier, of single frames (log-probabilities averaged over a block) or of the mean of a block.

    `make` builds it from a setting and the number of voxels. `candidates` are the settings to choose from, `default`
    is the one to take where there is nothing to choose on.
    """

    make: Callable[[float, int], BaseEstimator]
    candidates: tuple[float, ...] = (0.0,)
    default: float = 0.0
    block_means: bool = False


def _logistic(strength: float, num_voxels: int) -> BaseEstimator:
    return LogisticRegression(C=strength, max_iter=5000)


def _lda(_: float, num_voxels: int) -> BaseEstimator:
    if num_voxels > _MANY_VOXELS:
        return make_pipeline(PCA(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2))
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


BASELINES = {
    "logistic regression": Baseline(_logistic, (0.001, 0.01, 0.1, 1.0), 0.01),
    "shrinkage LDA": Baseline(_lda),
    "LDA of block means": Baseline(_lda, block_means=True),
}


def baselines_for(recording: Recording, fold: Fold) -> list[str]:
    """Name the baselines that can be fitted: LDA needs more samples than categories, so block means more blocks."""
    num_blocks = len(fold.train)
    return [name for name, each in BASELINES.items() if not each.block_means or num_blocks > len(recording.labels)]


def _samples(
    recording: Recording, indices: Sequence[int], block_means: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The frames of the blocks, or their means, as rows of in-mask voxels, and the label of each."""
    rows = [recording.blocks[i].image[0][recording.mask].T.numpy() for i in indices]
    if block_means:
        rows = [frames.mean(0, keepdims=True) for frames in rows]
    labels = [[recording.blocks[i].label] * len(frames) for i, frames in zip(indices, rows, strict=True)]
    return np.concatenate(rows), np.concatenate(labels)


def fit_baseline(name: str, recording: Recording, fold: Fold) -> tuple[Float[np.ndarray, "blocks classes"], float]:
    """Fit a baseline and give its log-probabilities for every test block.

    The setting is the candidate with the best mean log-probability on the runs to choose on; the classifier is then
    fitted on these and the training runs together.

    Returns:
        One row of log-probabilities for each test block, averaged over its frames, and the setting.
    """
    baseline = BASELINES[name]

    def log_probabilities(train: Sequence[int], test: Sequence[int], setting: float) -> NDArray[np.float64]:
        samples, labels = _samples(recording, train, baseline.block_means)
        classifier = baseline.make(setting, samples.shape[1]).fit(samples, labels)
        probabilities = [classifier.predict_proba(_samples(recording, [i], baseline.block_means)[0]) for i in test]
        return np.stack([np.log(np.maximum(p, 1e-12, dtype=np.float64)).mean(0) for p in probabilities])

    setting = baseline.default
    if fold.choose and len(baseline.candidates) > 1:
        labels = [recording.blocks[i].label for i in fold.choose]
        scores = [
            log_probabilities(fold.train, fold.choose, candidate)[np.arange(len(labels)), labels].mean()
            for candidate in baseline.candidates
        ]
        setting = baseline.candidates[int(np.argmax(scores))]
    return log_probabilities(fold.train + fold.choose, fold.test, setting), setting
