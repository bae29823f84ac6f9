"""Random slow drift of the signal."""

import torch
from torch import Tensor

from nstorm.data.layout import as_float, time_axis
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import RandBOLDTransform, RandOnKeys
from nstorm.data.transforms.ranges import checked_range, checked_spacing
from nstorm.data.transforms.smooth_field import bspline_field, control_points


class RandDrift(RandBOLDTransform):
    """Add a slow drift, as of a scanner that warms up.

    The drift of a voxel is a sum of the ``order`` slowest cosines over the frames, times the voxel's mean. It leaves
    the mean as it is. A voxel whose mean is 0, as after z-scoring, does not drift: apply it before.

    Args:
        prob: Probability that the transform is applied.
        amplitude_range: Bounds, in percent of a voxel's mean, of a number that is drawn for each image and that no
            drift exceeds.
        order: Number of cosines; the fastest has ``order`` half periods in the run. A run of fewer frames has fewer.
        spacing: Smoothness in space, in mm: drifts are drawn at control points so far apart and joined by a cubic
            B-spline. By default the whole volume drifts alike.

    Raises:
        ValueError: ``amplitude_range`` is none, ``order`` is below 1, ``spacing`` is not above 0, or there is one and
            the image is a plain tensor.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_drift import RandDrift
        >>> drifted = RandDrift(amplitude_range=(2.0, 2.0)).set_random_state(0)(torch.full((1, 4, 5, 6, 20), 100.0))
        >>> round(float(drifted.mean()), 3), bool((drifted - 100).abs().max() <= 2)
        (100.0, True)
    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        amplitude_range: tuple[float, float] = (0.0, 2.0),
        order: int = 3,
        spacing: float | None = None,
    ) -> None:
        super().__init__(prob)
        self.amplitude_range = checked_range("amplitude_range", amplitude_range, at_least=0.0)
        if order < 1:
            raise ValueError(f"order is {order}, but a drift has 1 cosine or more")
        self.order = order
        self.spacing = None if spacing is None else checked_spacing(spacing)

    def draw(self, img: Tensor) -> None:
        """Draw the amplitudes of the cosines."""
        largest = self.R.uniform(*self.amplitude_range) / 100 / self.order
        points = () if self.spacing is None else control_points(img, self.spacing)
        self.amplitudes = self.R.uniform(-largest, largest, (*points, self.order))

    def apply(self, img: Tensor) -> Tensor:
        """Add the drift drawn last."""
        values = as_float(img)
        axis = time_axis(img)
        if self.spacing is None:
            amplitudes = torch.from_numpy(self.amplitudes).to(values)
        else:
            amplitudes = bspline_field(self.amplitudes, img, self.spacing).to(values)
        frames = values.shape[axis]
        half_periods = torch.arange(1, self.order + 1)[:, None]
        phase = half_periods * (torch.arange(frames).double() + 0.5) * (torch.pi / frames)
        # faster ones are aliases of slower ones, or constant
        cosines = (phase.cos() * (half_periods < frames)).to(values)
        # amplitudes are (H, W, D, order), or (order) where the volume drifts alike
        scaled = values.mean(axis)[..., None] * amplitudes
        drift = torch.einsum("hwdk,kt->thwd", scaled, cosines) if axis == 0 else scaled @ cosines
        # older versions of PyTorch give the sum another order of axes in memory
        return with_meta(drift.contiguous().add_(values), img)


class RandDriftd(RandOnKeys):
    """Dictionary form of :class:`RandDrift`."""

    array_class = RandDrift
