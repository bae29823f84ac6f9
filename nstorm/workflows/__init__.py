"""What MONAI's engines need to train and judge models of 4D fMRI."""

from nstorm.workflows.autocast import AutocastInferer
from nstorm.workflows.evaluate import Estimate, bootstrap_mean
from nstorm.workflows.handlers.epoch_lines import EpochLines
from nstorm.workflows.handlers.gradient_clipper import GradientClipper
from nstorm.workflows.handlers.history_writer import HistoryWriter
from nstorm.workflows.handlers.local_accumulation import LocalAccumulation
from nstorm.workflows.handlers.pictures import Pictures
from nstorm.workflows.handlers.step_records import StepRecords
from nstorm.workflows.handlers.step_schedule import StepSchedule
from nstorm.workflows.handlers.stop_on_non_finite import StopOnNonFinite
from nstorm.workflows.handlers.stop_on_signal import StopOnSignal, Stopped
from nstorm.workflows.handlers.tensorboard_writer import TensorBoardWriter
from nstorm.workflows.loss_from_output import LossFromOutput
from nstorm.workflows.noise import WithinClassNoise
from nstorm.workflows.prepare_clips import prepare_clips
from nstorm.workflows.pretrain import pretrainer
from nstorm.workflows.reconstruction import ReconstructionErrors, reconstruction_errors
from nstorm.workflows.reconstruction_pictures import ReconstructionPictures
from nstorm.workflows.resuming.checkpoint import CheckpointEverything
from nstorm.workflows.resuming.resumable_loader import ResumableLoader
from nstorm.workflows.train import History, train_classifier
from nstorm.workflows.weight_decay import weight_decay_groups

__all__ = [
    "AutocastInferer",
    "CheckpointEverything",
    "EpochLines",
    "Estimate",
    "GradientClipper",
    "History",
    "HistoryWriter",
    "LocalAccumulation",
    "LossFromOutput",
    "Pictures",
    "ReconstructionErrors",
    "ReconstructionPictures",
    "ResumableLoader",
    "StepRecords",
    "StepSchedule",
    "StopOnNonFinite",
    "StopOnSignal",
    "Stopped",
    "TensorBoardWriter",
    "WithinClassNoise",
    "bootstrap_mean",
    "prepare_clips",
    "pretrainer",
    "reconstruction_errors",
    "train_classifier",
    "weight_decay_groups",
]
