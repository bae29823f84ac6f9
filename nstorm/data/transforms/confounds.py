"""The confounds that fMRIPrep has estimated, put into the item of a run."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms.transform import Transform

from nstorm.data.layout import time_axis
from nstorm.data.time.confounds import Strategy, load_confounds
from nstorm.data.transforms.base import entry


class LoadConfoundsd(Transform):
    """Put fMRIPrep's confounds of a run into its item, for :class:`Cleand` (:func:`nstorm.data.load_confounds`).

    Of a run that was read in part, or whose dummy scans were removed, the item gets the rows of the frames it has.

    Args:
        strategy: ``"simple"``, ``"scrubbing"``, ``"compcor"`` or ``"ica_aroma"``.
        image_key: Key of the run, as :func:`nstorm.data.load_bold` read it from fMRIPrep's folder.
        confounds_key: Where to put the confounds, ``(T, K)``.
        keep_key: Where to put the frames to trust, boolean of shape ``(T,)``.
        options: What nilearn lets one change in the strategy, such as ``motion="basic"``.

    Example:
        ``Compose([LoadBOLDd("image"), LoadConfoundsd("scrubbing"), Cleand("image", confounds_key="confounds",
        keep_key="keep", low_pass=0.1)])``
    """

    def __init__(
        self,
        strategy: Strategy = "simple",
        *,
        image_key: Hashable = "image",
        confounds_key: Hashable = "confounds",
        keep_key: Hashable = "keep",
        **options: Any,
    ) -> None:
        self.strategy = strategy
        self.image_key = image_key
        self.confounds_key = confounds_key
        self.keep_key = keep_key
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the confounds; the given dictionary stays as it is.

        Raises:
            KeyError: The item has no image.
            ValueError: There are no confounds for the run (:func:`nstorm.data.load_confounds`), or it does not know
                which frames of its file it holds.
        """
        img = entry(data, self.image_key, "image_key")
        meta = getattr(img, "meta", {})
        if "filename_or_obj" not in meta:
            raise ValueError(f"{self.image_key!r} does not know its file: read it with nstorm.data.load_bold")
        confounds = load_confounds(meta["filename_or_obj"], self.strategy, **self.options)
        first = meta.get("start_frame")
        rows = slice(first or 0, (first or 0) + img.shape[time_axis(img)])
        num_rows = len(confounds.keep)
        if rows.stop > num_rows or (first is None and rows.stop < num_rows):
            raise ValueError(
                f"{meta['filename_or_obj']} has {num_rows} frames and {self.image_key!r} has shape {tuple(img.shape)}, "
                "and nobody knows which frames these are: load the confounds before frames are resampled or dropped"
            )
        return {**data, self.confounds_key: confounds.values[rows], self.keep_key: confounds.keep[rows]}


LoadConfoundsD = LoadConfoundsDict = LoadConfoundsd
