"""The confounds that fMRIPrep has estimated for a run, chosen by a published strategy."""

import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from nstorm.data.files.nifti import open_nifti

Strategy = Literal["simple", "scrubbing", "compcor", "ica_aroma"]


@dataclass(frozen=True, eq=False, slots=True)
class Confounds:
    """Confounds of a run.

    Attributes:
        values: One row for each frame, one column for each regressor.
        names: fMRIPrep's names of the columns.
        keep: The frames to trust: neither taken before a steady state nor, if the strategy scrubs, spoilt by motion.
    """

    values: Float64[Tensor, "t k"]
    names: tuple[str, ...]
    keep: Bool[Tensor, " t"]


def load_confounds(path: str | PathLike[str], strategy: Strategy = "simple", **options: Any) -> Confounds:
    """Choose confounds of a run that fMRIPrep has preprocessed, from the table beside it.

    This is :func:`nilearn.interfaces.fmriprep.load_confounds_strategy`; its documentation tells what each strategy
    holds and cites. All contain slow cosines, so that :func:`nstorm.data.clean` needs no ``high_pass``; all but
    ``"ica_aroma"``, whose images have lost it already, contain motion.

    Args:
        path: The image, named as by fMRIPrep (``*_desc-preproc_bold.nii.gz``; for ``"ica_aroma"``
            ``*_desc-smoothAROMAnonaggr_bold.nii.gz``), with ``*_desc-confounds_timeseries.tsv`` and its ``.json`` in
            the same folder.
        strategy: ``"simple"`` (motion, white matter and CSF), ``"scrubbing"`` (also marks frames of much motion),
            ``"compcor"`` or ``"ica_aroma"``.
        options: What nilearn lets one change in the strategy, such as ``motion="basic"``, ``global_signal="basic"``,
            ``fd_threshold=0.5``.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: There is no such strategy or option; there is no table or more than one, it lacks what the strategy
            needs, or it has another number of rows than the image has frames.

    Example:
        ``confounds = load_confounds("sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", "scrubbing")``
        and then ``clean(load_bold(path), confounds=confounds.values, keep=confounds.keep)``.
    """
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    num_frames = open_nifti(Path(path)).shape[-1]
    try:
        with warnings.catch_warnings():
            # nilearn warns where no frame is left; checked when the frames are used
            warnings.filterwarnings("ignore", message="All volumes were marked", category=RuntimeWarning)
            table, kept = load_confounds_strategy(str(path), denoise_strategy=strategy, **options)
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no confounds for {path} by the strategy {strategy!r} ({reason}): give a strategy and options that "
            "nilearn knows, keep fMRIPrep's names, and its *_desc-confounds_timeseries.tsv and .json beside the image"
        ) from error
    if len(table) != num_frames:
        raise ValueError(
            f"the confounds of {Path(path).name} have {len(table)} rows, but the image has {num_frames} frames: give "
            "the table of this run"
        )
    keep = torch.full((num_frames,), kept is None)
    if kept is not None:
        keep[torch.as_tensor(kept, dtype=torch.int64)] = True
    return Confounds(torch.tensor(table.to_numpy(dtype="float64")), tuple(map(str, table.columns)), keep)
