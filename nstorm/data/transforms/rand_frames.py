"""Random faults of whole frames: spikes, and frames that are lost."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nstorm.data.layout import as_float, over_time, time_axis
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import RandBOLDTransform, RandOnKeys
from nstorm.data.transforms.ranges import checked_range


class RandSpikes(RandBOLDTransform):
    """Brighten or darken whole frames, as spikes of the scanner do.

    A spike adds a share of a voxel's mean over time to the frame. A voxel whose mean is 0, as after z-scoring, shows
    none: apply it before.

    Args:
        prob: Probability that the transform is applied.
        num_spikes: Fewest and most frames with a spike.
        amplitude_range: Bounds of the size of a spike in percent of a voxel's mean. Half of the spikes are dark.

    Attributes:
        spikes: The spikes drawn last, ``(T,)`` in percent of the mean, 0 where there is none. The result also carries
            them as ``meta["spikes"]``.

    Raises:
        ValueError: A range is none, or an image that shares the draw has another number of frames.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_frames import RandSpikes
        >>> spiked = RandSpikes(num_spikes=(1, 1)).set_random_state(0)(torch.ones(1, 4, 5, 6, 20))
        >>> spiked[0, 0, 0, 0].ne(1).sum()
        tensor(1)
    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        num_spikes: tuple[int, int] = (1, 3),
        amplitude_range: tuple[float, float] = (5.0, 20.0),
    ) -> None:
        super().__init__(prob)
        fewest, most = num_spikes
        checked_range("num_spikes", (float(fewest), float(most)), at_least=0.0)
        self.num_spikes = num_spikes
        self.amplitude_range = checked_range("amplitude_range", amplitude_range, at_least=0.0)

    def draw(self, img: Tensor) -> None:
        """Draw the frames and their spikes."""
        frames = img.shape[time_axis(img)]
        count = min(self.R.randint(self.num_spikes[0], self.num_spikes[1] + 1), frames)
        self.spikes = np.zeros(frames)
        signs = self.R.choice([-1, 1], count)
        self.spikes[self.R.choice(frames, count, replace=False)] = signs * self.R.uniform(*self.amplitude_range, count)

    def apply(self, img: Tensor) -> Tensor:
        """Add the spikes drawn last."""
        values = as_float(img)
        axis = time_axis(img)
        _check_length(len(self.spikes), img)
        share = over_time(torch.from_numpy(self.spikes / 100).to(values), img)
        spiked = values.mean(axis, keepdim=True) * share + values
        return with_meta(spiked, img, spikes=torch.from_numpy(self.spikes.copy()))


class RandFrameDropout(RandBOLDTransform):
    """Lose frames, each with the same probability; at least one frame stays.

    Args:
        prob: Probability that the transform is applied.
        frame_prob: Probability that a frame is lost.
        fill: What takes the place of lost frames: ``"zero"``; ``"previous"``, the last frame before them that was
            kept; or ``"interpolate"``, the line between the kept frames around them. Where there is no kept frame on
            the one side, the nearest one on the other side.

    Attributes:
        dropped: Which frames were lost in the last draw, boolean ``(T,)``. The result also carries it as
            ``meta["dropped"]``.

    Raises:
        ValueError: ``frame_prob`` is outside 0 to 1, ``fill`` is unknown, or an image that shares the draw has
            another number of frames.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_frames import RandFrameDropout
        >>> clip = torch.arange(1.0, 7.0).view(1, 1, 1, 1, 6)
        >>> RandFrameDropout(frame_prob=0.5, fill="zero").set_random_state(4)(clip).flatten()
        tensor([1., 2., 3., 4., 0., 6.])
    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        frame_prob: float = 0.1,
        fill: Literal["zero", "previous", "interpolate"] = "previous",
    ) -> None:
        super().__init__(prob)
        if not 0 <= frame_prob <= 1:
            raise ValueError(f"frame_prob is {frame_prob}, but a probability lies between 0 and 1")
        if fill not in ("zero", "previous", "interpolate"):
            raise ValueError(f"fill is {fill!r}, but it has to be 'zero', 'previous' or 'interpolate'")
        self.frame_prob = frame_prob
        self.fill = fill

    def draw(self, img: Tensor) -> None:
        """Draw which frames are lost."""
        frames = img.shape[time_axis(img)]
        self.dropped = self.R.rand(frames) < self.frame_prob
        self.dropped[self.R.randint(frames)] &= not self.dropped.all()

    def apply(self, img: Tensor) -> Tensor:
        """Take the frames drawn last away."""
        axis = time_axis(img)
        _check_length(len(self.dropped), img)
        result = as_float(img).clone(memory_format=torch.contiguous_format)
        lost, kept = np.flatnonzero(self.dropped), np.flatnonzero(~self.dropped)
        after = np.searchsorted(kept, lost)
        left, right = kept[(after - 1).clip(min=0)], kept[after.clip(max=len(kept) - 1)]
        for frame, before, behind in zip(lost.tolist(), left.tolist(), right.tolist(), strict=True):
            place, first, last = (result.select(axis, index) for index in (frame, before, behind))
            if self.fill == "zero":
                place.zero_()
            elif self.fill == "previous" or before == behind:
                place.copy_(first)
            else:
                torch.lerp(first, last, (frame - before) / (behind - before), out=place)
        return with_meta(result, img, dropped=torch.from_numpy(self.dropped.copy()))


def _check_length(drawn: int, img: Tensor) -> None:
    frames = img.shape[time_axis(img)]
    if frames != drawn:
        raise ValueError(
            f"the image has {frames} frames, but {drawn} were drawn for: leave keys that are not clips of that "
            "length out, masks too"
        )


class RandSpikesd(RandOnKeys):
    """Dictionary form of :class:`RandSpikes`: spikes in the same frames of all keys."""

    array_class = RandSpikes


class RandFrameDropoutd(RandOnKeys):
    """Dictionary form of :class:`RandFrameDropout`: the same frames of all keys are lost."""

    array_class = RandFrameDropout
