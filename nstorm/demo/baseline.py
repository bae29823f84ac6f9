"""The simple baselines: linear classifiers of single frames, on the same folds, delay and normalisation."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from nstorm.demo.recording import Fold, Recording

# name: (maker of a classifier from its setting, settings to choose from, setting where there is nothing to choose on)
BASELINES: dict[str, tuple[Callable[[float], BaseEstimator], tuple[float, ...], float]] = {
    "logistic regression": (
        lambda strength: LogisticRegression(C=strength, max_iter=5000),
        (0.001, 0.01, 0.1, 1.0),
        0.01,
    ),
    "shrinkage LDA": (
        lambda shrinkage: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage),
        (0.05, 0.1, 0.2, 0.4),
        0.2,
    ),
}


def _frames(recording: Recording, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All frames of the blocks as rows of in-mask voxels, and the label of each."""
    rows = [recording.blocks[i].image[0][recording.mask].T.numpy() for i in indices]
    labels = [[recording.blocks[i].label] * len(frames) for i, frames in zip(indices, rows, strict=True)]
    return np.concatenate(rows), np.concatenate(labels)


def fit_baseline(name: str, recording: Recording, fold: Fold) -> tuple[Float[np.ndarray, "blocks classes"], float]:
    """Fit on single frames and average the log-probabilities over the frames of each test block.

    The setting is the candidate with the best mean log-probability on the runs to choose on; the classifier is then
    fitted on these and the training runs together.

    Returns:
        One row of mean log-probabilities for each test block, and the setting.
    """
    make, candidates, setting = BASELINES[name]

    def log_probabilities(train: Sequence[int], test: Sequence[int], setting: float) -> NDArray[np.float64]:
        classifier = make(setting).fit(*_frames(recording, train))
        probabilities = [classifier.predict_proba(_frames(recording, [i])[0]) for i in test]
        return np.stack([np.log(np.maximum(p, 1e-12, dtype=np.float64)).mean(0) for p in probabilities])

    if fold.choose:
        labels = [recording.blocks[i].label for i in fold.choose]
        scores = [
            log_probabilities(fold.train, fold.choose, candidate)[np.arange(len(labels)), labels].mean()
            for candidate in candidates
        ]
        setting = candidates[int(np.argmax(scores))]
    return log_probabilities(fold.train + fold.choose, fold.test, setting), setting
