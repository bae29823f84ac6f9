"""Random crops and shifts of time."""

import math

import torch
from torch import Tensor

from nstorm.data.layout import as_float, time_axis
from nstorm.data.time.timing import keep_frames, repetition_time_of, start_time_of, with_meta
from nstorm.data.transforms.base import RandBOLDTransform, RandOnKeys


class RandTemporalCrop(RandBOLDTransform):
    """Cut a clip of ``num_frames`` frames out of a run, from a start drawn with equal probability.

    ``meta["start_frame"]`` and ``meta["start_time"]`` move along. The clip is a copy. To read
    only the clip's frames from a file, draw where the file is read instead.

    Args:
        num_frames: Length of the clip.

    Raises:
        ValueError: ``num_frames`` is below 1, or the run is shorter.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.rand_temporal import RandTemporalCrop
        >>> RandTemporalCrop(20)(load_bold(rest_run().bold)).shape
        torch.Size([20, 48, 56, 48])
    """

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}, but a clip has at least 1 frame")
        self.num_frames = num_frames

    def draw(self, img: Tensor) -> None:
        """Draw the start."""
        self.start = int(self.R.randint(self._last_start(img) + 1))

    def apply(self, img: Tensor) -> Tensor:
        """Cut the clip that starts at the frame drawn last."""
        if self.start > self._last_start(img):
            raise ValueError(
                f"the clip drawn last is frames {self.start} to {self.start + self.num_frames}, but this run has "
                f"{img.shape[time_axis(img)]}: keys that share a draw have to be equally long"
            )
        frames = torch.arange(img.shape[time_axis(img)])
        keep = (frames >= self.start) & (frames < self.start + self.num_frames)
        return keep_frames(img, keep)

    def _last_start(self, img: Tensor) -> int:
        frames = img.shape[time_axis(img)]
        if frames < self.num_frames:
            raise ValueError(f"num_frames ({self.num_frames}) has to be at most the run's number of frames, {frames}")
        return frames - self.num_frames


class RandTemporalJitter(RandBOLDTransform):
    """Shift the times at which a run is sampled by less than a frame, as if it had been started earlier or later.

    Values between frames are those of a cubic through the four frames around them; beyond the ends the first and last
    frame are repeated. ``meta["start_time"]`` moves along; ``meta["start_frame"]`` is no longer true and goes.

    Args:
        prob: Probability that the transform is applied.
        max_shift: Largest shift in seconds, less than the repetition time. By default half of it.

    Attributes:
        shift: The shift drawn last, in seconds. Above 0 everything is seen earlier.

    Raises:
        ValueError: ``max_shift`` is negative, or the repetition time or longer, or the image has no repetition time.

    References:
        Keys 1981, doi:10.1109/TASSP.1981.1163711 (cubic convolution).

    Example:
        >>> import torch
        >>> from monai.data.meta_tensor import MetaTensor
        >>> from nstorm.data.transforms.rand_temporal import RandTemporalJitter
        >>> run = MetaTensor(torch.arange(6.0).view(1, 1, 1, 1, 6), meta={"tr": 2.0, "start_time": 10.0})
        >>> jittered = RandTemporalJitter().set_random_state(0)(run)
        >>> round(jittered.meta["start_time"], 2), round(float(jittered[..., 3]), 2)
        (10.43, 3.22)
    """

    def __init__(self, prob: float = 1.0, *, max_shift: float | None = None) -> None:
        super().__init__(prob)
        if max_shift is not None and not max_shift >= 0:
            raise ValueError(f"max_shift is {max_shift} s, but it has to be 0 or more")
        self.max_shift = max_shift

    def draw(self, img: Tensor) -> None:
        """Draw the shift."""
        tr = repetition_time_of(img)
        largest = tr / 2 if self.max_shift is None else self.max_shift
        if largest >= tr:
            raise ValueError(
                f"max_shift is {largest:g} s, but it has to be less than the repetition time, {tr:g} s: "
                "RandTemporalCrop draws whole frames"
            )
        self.shift = float(self.R.uniform(-largest, largest))

    def apply(self, img: Tensor) -> Tensor:
        """Shift an image by what was drawn last."""
        tr = repetition_time_of(img)
        values = as_float(img)
        axis = time_axis(img)
        frames = values.shape[axis]
        whole = math.floor(self.shift / tr)
        f = self.shift / tr - whole
        weights = (
            (-f + 2 * f**2 - f**3) / 2,
            (2 - 5 * f**2 + 3 * f**3) / 2,
            (f + 4 * f**2 - 3 * f**3) / 2,
            (-(f**2) + f**3) / 2,
        )
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, frames - 1, 1)
        padded = torch.cat([first, first, values, last, last], dim=axis)
        result = torch.zeros_like(values)
        for offset, weight in enumerate(weights, start=whole + 1):
            result.add_(padded.narrow(axis, offset, frames), alpha=weight)
        return with_meta(result, img, start_time=start_time_of(img) + self.shift, start_frame=None)


class RandTemporalCropd(RandOnKeys):
    """Dictionary form of :class:`RandTemporalCrop`: the same frames of all keys."""

    array_class = RandTemporalCrop


class RandTemporalJitterd(RandOnKeys):
    """Dictionary form of :class:`RandTemporalJitter`: one shift for all keys."""

    array_class = RandTemporalJitter
