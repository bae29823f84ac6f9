"""Work on the time axis, as transforms."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

from monai.config.type_definitions import KeysCollection
from torch import Tensor

from nstorm.data.time.clean import clean
from nstorm.data.time.resample_time import remove_dummy_scans, resample_time
from nstorm.data.time.scrub import scrub
from nstorm.data.transforms.base import BOLDTransform, OnKeys, OnKeysInMask, entry


class ResampleTime(BOLDTransform):
    """Resample a run to another repetition time, without aliasing (:func:`nstorm.data.resample_time`).

    Args:
        tr: The new repetition time in seconds.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.transforms.temporal import ResampleTime
        >>> ResampleTime(2.0)(load_bold(haxby_runs()[0].bold)).shape
        torch.Size([151, 40, 20, 1])
    """

    def __init__(self, tr: float) -> None:
        self.tr = tr

    def __call__(self, img: Tensor) -> Tensor:
        """Resample a run."""
        return resample_time(img, self.tr)


class RemoveDummyScans(BOLDTransform):
    """Remove the first frames of a run (:func:`nstorm.data.remove_dummy_scans`).

    Args:
        num_frames: How many frames to remove.
        seconds: How much time to remove instead.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.transforms.temporal import RemoveDummyScans
        >>> RemoveDummyScans(4)(load_bold(haxby_runs()[0].bold)).meta["start_time"]
        10.0
    """

    def __init__(self, num_frames: int | None = None, *, seconds: float | None = None) -> None:
        self.num_frames = num_frames
        self.seconds = seconds

    def __call__(self, img: Tensor) -> Tensor:
        """Remove the first frames."""
        return remove_dummy_scans(img, self.num_frames, seconds=self.seconds)


class Clean(BOLDTransform):
    """Remove drifts, frequencies and confounds (:func:`nstorm.data.clean`).

    Args:
        detrend: The highest order of the polynomials in time to remove; 0 removes none.
        low_pass: Keep frequencies below this one, in Hz.
        high_pass: Keep frequencies above this one, in Hz.
        standardize: Give every voxel zero mean and unit variance in the end.
        keep_mean: Give every voxel its mean back.

    Example:
        >>> from nstorm.data import haxby_runs, load_bold
        >>> from nstorm.data.transforms.temporal import Clean
        >>> Clean(high_pass=0.01, low_pass=0.1)(load_bold(haxby_runs()[0].bold)).shape
        torch.Size([121, 40, 20, 1])
    """

    def __init__(
        self,
        *,
        detrend: int = 1,
        low_pass: float | None = None,
        high_pass: float | None = None,
        standardize: bool = False,
        keep_mean: bool = True,
    ) -> None:
        self.options = {
            "detrend": detrend,
            "low_pass": low_pass,
            "high_pass": high_pass,
            "standardize": standardize,
            "keep_mean": keep_mean,
        }

    def __call__(
        self, img: Tensor, mask: Tensor | None = None, confounds: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Clean the voxels of a mask; regress confounds ``(T, K)``; drop the frames that are not kept."""
        return clean(img, confounds=confounds, keep=keep, mask=mask, **self.options)  # type: ignore[arg-type]


class Scrub(BOLDTransform):
    """Replace or drop frames that are not to be trusted (:func:`nstorm.data.scrub`).

    Args:
        mode: ``"interpolate"`` or ``"drop"``.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.temporal import Scrub
        >>> keep = torch.tensor([True, True, False, True, True])
        >>> Scrub()(torch.arange(5.0).expand(1, 1, 1, 1, 5) * keep, keep).flatten()
        tensor([0., 1., 2., 3., 4.])
    """

    def __init__(self, *, mode: Literal["interpolate", "drop"] = "interpolate") -> None:
        self.mode: Literal["interpolate", "drop"] = mode

    def __call__(self, img: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        """Scrub a run of which ``keep`` marks the frames to trust."""
        return scrub(img, keep, mode=self.mode)


class ResampleTimed(OnKeys):
    """Dictionary form of :class:`ResampleTime`."""

    array_class = ResampleTime


class RemoveDummyScansd(OnKeys):
    """Dictionary form of :class:`RemoveDummyScans`."""

    array_class = RemoveDummyScans


class Cleand(OnKeysInMask):
    """Dictionary form of :class:`Clean`, inside the mask under ``mask_key`` if it is given.

    Args:
        confounds_key: Key of the confounds, ``(T, K)``. By default none are regressed out.
        keep_key: Key of the frames to trust, boolean of shape ``(T,)``. By default all are.
    """

    array_class = Clean

    def __init__(
        self,
        keys: KeysCollection,
        *,
        confounds_key: Hashable | None = None,
        keep_key: Hashable | None = None,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, mask_key=mask_key, allow_missing_keys=allow_missing_keys, **kwargs)
        self.item_keys = {"confounds": confounds_key, "keep": keep_key}

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the mask, the confounds and the frames to trust of an item."""
        asked = {name: item_key for name, item_key in self.item_keys.items() if item_key is not None}
        return super().arguments(data, key) | {name: entry(data, at, f"{name}_key") for name, at in asked.items()}


class Scrubd(OnKeys):
    """Dictionary form of :class:`Scrub`.

    Args:
        keep_key: Key of the frames to trust, boolean of shape ``(T,)``.
    """

    array_class = Scrub

    def __init__(
        self, keys: KeysCollection, *, keep_key: Hashable = "keep", allow_missing_keys: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **kwargs)
        self.keep_key = keep_key

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the frames to trust of an item."""
        return {"keep": entry(data, self.keep_key, "keep_key")}
