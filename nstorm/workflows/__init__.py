"""What MONAI's engines need to train and judge models of 4D fMRI."""

from nstorm.workflows.evaluate import Estimate, bootstrap_mean
from nstorm.workflows.noise import WithinClassNoise
from nstorm.workflows.train import History, train_classifier

__all__ = ["Estimate", "History", "WithinClassNoise", "bootstrap_mean", "train_classifier"]
