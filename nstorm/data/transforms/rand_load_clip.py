"""Clips drawn at random from runs on disk."""

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Randomizable

from nstorm.data.files.reader import BOLDFile
from nstorm.data.transforms.base import RandOnKeys
from nstorm.data.transforms.io import LoadBOLD, LoadBOLDd


class RandLoadClip(LoadBOLD, Randomizable):
    """Read a clip of ``num_frames`` frames that starts anywhere in a run, and nothing behind it.

    Every start is equally likely. MONAI's ``CacheDataset`` and ``PersistentDataset`` keep nothing from here on, so
    that every epoch sees other clips. A compressed run is unpacked up to the clip each time:
    :func:`nstorm.data.decompress` spares that.

    Args:
        num_frames: Length of the clip.
        tr: The repetition time in seconds; it overrides the files.
        dtype: ``torch.float32`` or ``torch.float64``.
        fill_nan: The value to put in place of NaN. By default NaN is an error.

    Raises:
        ValueError: ``num_frames`` is below 1, or a run is shorter.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.transforms.rand_load_clip import RandLoadClip
        >>> clip = RandLoadClip(20).set_random_state(0)(haxby_runs()[0].bold)
        >>> clip.shape, clip.meta["start_frame"]
        (torch.Size([20, 40, 20, 1]), 44)
    """

    def __init__(
        self,
        num_frames: int,
        tr: float | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        fill_nan: float | None = None,
    ) -> None:
        super().__init__(tr, dtype=dtype, fill_nan=fill_nan)
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}, but a clip has at least 1 frame")
        self.num_frames = num_frames
        self.frames = (0, num_frames)

    def randomize(self, data: Sequence[int]) -> None:
        """Draw a clip between two frames."""
        first, last = data
        start = int(self.R.randint(first, last - self.num_frames + 1))
        self.frames = (start, start + self.num_frames)

    def __call__(
        self,
        path: str | PathLike[str],
        frames: Sequence[int] | None = None,
        tr: float | None = None,
        randomize: bool = True,
    ) -> MetaTensor:
        """Draw a clip, within ``(start, stop)`` if given, unless told to use the last draw again, and read it."""
        run = BOLDFile(path, tr=self.tr if self.tr is not None else tr)
        if randomize:
            first, last = (0, run.num_frames) if frames is None else run.checked_frames(frames)
            if last - first < self.num_frames:
                raise ValueError(
                    f"{path} has {last - first} frames to choose from, fewer than num_frames={self.num_frames}: "
                    "leave the run out, or give a smaller num_frames"
                )
            self.randomize((first, last))
        return run.read(*self.frames, dtype=self.dtype, fill_nan=self.fill_nan)


class RandLoadClipd(LoadBOLDd, RandOnKeys):
    """Dictionary form of :class:`RandLoadClip`: one draw for all keys, whose files have the same frames.

    The item gains what clip items say: the ``frames`` that were read, ``start_frame``, ``start_time`` and ``tr``. Where
    it names frames already, the clip lies within them.

    Args:
        keys: Keys of the paths; the clips take their place.
        frames_key: Key of ``(start, stop)``.
        tr_key: Key of the repetition time in seconds. An item without it takes it from the files.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.transforms.rand_load_clip import RandLoadClipd
        >>> load = RandLoadClipd("image", num_frames=20).set_random_state(0)
        >>> item = load({"image": haxby_runs()[0].bold})
        >>> item["image"].shape, item["frames"]
        (torch.Size([20, 40, 20, 1]), (44, 64))
    """

    array_class = RandLoadClip
    transform: RandLoadClip  # type: ignore[assignment]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the same clip for all keys; the given dictionary stays as it is."""
        d = dict(data)
        drawn = False
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], randomize=not drawn, **self.arguments(data, key))
            drawn = True
        if drawn:
            meta = d[key].meta
            d |= {name: meta[name] for name in ("start_frame", "start_time")}
            d |= {self.tr_key: meta["tr"], self.frames_key: self.transform.frames}
        return d
