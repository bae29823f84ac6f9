"""Random noise, smoothing and bias fields."""

import math

import numpy as np
import torch
from numpy.polynomial.legendre import leggrid3d
from torch import Tensor

from nstorm.data.layout import as_float, over_space
from nstorm.data.normalize import voxels_inside
from nstorm.data.space.grid import grid_of
from nstorm.data.time.timing import with_meta
from nstorm.data.transforms.base import OnKeysInMask, RandBOLDTransform, RandOnKeys
from nstorm.data.transforms.ranges import checked_range

# Values that are smoothed at a time: few enough to stay near the processor while the kernel passes over them.
_SLAB = 1 << 18


def in_mask(mask: Tensor, img: Tensor) -> Tensor:
    """View a mask such that it broadcasts over an image.

    Raises:
        ValueError: The mask is not boolean, is empty, or is on another grid.
    """
    return over_space(voxels_inside(img, mask), img)


class RandBOLDNoise(RandBOLDTransform):
    """Add Gaussian noise, fresh for every voxel of every frame.

    Args:
        prob: Probability that the transform is applied.
        std_range: Bounds of the standard deviation that is drawn for an image, in the image's own units: of a
            z-scored image 1 is its standard deviation. ``(0.0, 0.1)`` is what MONAI's ``RandGaussianNoise`` does.

    Raises:
        ValueError: ``std_range`` is none, or the mask does not fit.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_intensity import RandBOLDNoise
        >>> noisy = RandBOLDNoise(std_range=(0.5, 0.5)).set_random_state(0)(torch.zeros(1, 16, 16, 16, 20))
        >>> round(float(noisy.std()), 2)
        0.5
    """

    def __init__(self, prob: float = 1.0, *, std_range: tuple[float, float] = (0.0, 0.1)) -> None:
        super().__init__(prob)
        self.std_range = checked_range("std_range", std_range, at_least=0.0)

    def draw(self, img: Tensor) -> None:
        """Draw the standard deviation and the seed of the noise."""
        self.std = self.R.uniform(*self.std_range)
        self.seed = int(self.R.randint(2**31))

    def apply(self, img: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Add the noise drawn last, in the mask if there is one."""
        values = as_float(img)
        generator = torch.Generator(values.device).manual_seed(self.seed)
        noise = values.new_empty(values.shape).normal_(std=self.std, generator=generator)
        if mask is not None:
            noise.mul_(in_mask(mask, img))
        return with_meta(noise.add_(values), img)


class RandBOLDSmooth(RandBOLDTransform):
    """Smooth in space with a Gaussian, the same for all frames.

    At the edges of the volume, and at those of the mask, the kernel is normalised to what lies inside, so that a
    constant stays one and the background does not bleed into the brain.

    Args:
        prob: Probability that the transform is applied.
        fwhm_range: Bounds, in mm, of the full width at half maximum that is drawn for an image.

    Raises:
        ValueError: ``fwhm_range`` is none, the image is a plain tensor, or the mask does not fit.

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.rand_intensity import RandBOLDSmooth
        >>> RandBOLDSmooth(fwhm_range=(4.0, 8.0))(load_bold(rest_run().bold)[:10]).shape
        torch.Size([10, 48, 56, 48])
    """

    def __init__(self, prob: float = 1.0, *, fwhm_range: tuple[float, float] = (0.0, 6.0)) -> None:
        super().__init__(prob)
        self.fwhm_range = checked_range("fwhm_range", fwhm_range, at_least=0.0)

    def draw(self, img: Tensor) -> None:
        """Draw the width of the kernel."""
        self.fwhm = self.R.uniform(*self.fwhm_range)

    def apply(self, img: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Smooth with the width drawn last, in the mask if there is one."""
        values = as_float(img)
        sigmas = [self.fwhm / math.sqrt(8 * math.log(2)) / size for size in grid_of(img).spacing]
        everywhere = torch.ones(img.shape[1:4], dtype=torch.bool, device=img.device)
        inside = over_space(everywhere, img) if mask is None else in_mask(mask, img)
        smooth, weight = torch.where(inside, values, 0).contiguous(), inside.to(values).contiguous()
        for axis, sigma in enumerate(sigmas, start=1):
            _smooth_axis_(smooth, axis, sigma)
            _smooth_axis_(weight, axis, sigma)
        smooth.div_(weight)
        return with_meta(smooth if mask is None else smooth.where(inside, values), img)


def _smooth_axis_(values: Tensor, axis: int, sigma: float) -> None:
    """Convolve along an axis, in place, with a Gaussian of height 1 cut at four standard deviations; zero outside."""
    size = values.shape[axis]
    across = 2 if axis == 1 else 1
    steps = range(1, min(math.ceil(4 * sigma), size - 1) + 1)
    for slab in values.split(max(1, _SLAB * values.shape[across] // values.numel()), dim=across):
        given = slab.clone()
        for step in steps:
            weight = math.exp(-0.5 * (step / sigma) ** 2)
            slab.narrow(axis, step, size - step).add_(given.narrow(axis, 0, size - step), alpha=weight)
            slab.narrow(axis, 0, size - step).add_(given.narrow(axis, step, size - step), alpha=weight)


class RandBOLDBiasField(RandBOLDTransform):
    """Multiply with a smooth field that is constant in time, as an uneven receive coil does.

    The field is the exponential of Legendre polynomials over the volume, as MONAI's ``RandBiasField``, but without
    the constant, which would be a gain.

    Args:
        prob: Probability that the transform is applied.
        degree: Highest degree of the polynomials.
        coeff_range: Bounds of their coefficients, drawn one by one.

    Raises:
        ValueError: ``degree`` is below 1, ``coeff_range`` is none, or the mask does not fit.

    Example:
        >>> import torch
        >>> from nstorm.data.transforms.rand_intensity import RandBOLDBiasField
        >>> field = RandBOLDBiasField().set_random_state(0)(torch.ones(1, 16, 16, 16, 20))
        >>> bool((field.std(dim=-1) == 0).all()), 0.9 < float(field.mean()) < 1.1
        (True, True)
    """

    def __init__(self, prob: float = 1.0, *, degree: int = 3, coeff_range: tuple[float, float] = (-0.1, 0.1)) -> None:
        super().__init__(prob)
        if degree < 1:
            raise ValueError(f"degree is {degree}, but a field that is not constant has degree 1 or more")
        self.degree = degree
        self.coeff_range = checked_range("coeff_range", coeff_range)

    def draw(self, img: Tensor) -> None:
        """Draw the coefficients."""
        count = self.degree + 1
        total = np.indices((count, count, count)).sum(axis=0)
        kept = (total > 0) & (total <= self.degree)
        self.coefficients = np.where(kept, self.R.uniform(*self.coeff_range, kept.shape), 0)

    def apply(self, img: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Multiply with the field drawn last, in the mask if there is one."""
        values = as_float(img)
        x, y, z = (np.linspace(-1, 1, size) for size in img.shape[1:4])
        field = torch.from_numpy(np.exp(leggrid3d(x, y, z, self.coefficients))).to(values)
        scale = over_space(field, img)
        if mask is not None:
            scale = scale.where(in_mask(mask, img), 1)
        return with_meta(values * scale, img)


class RandOnKeysInMask(RandOnKeys, OnKeysInMask):
    """Base of dictionary forms of random transforms that work inside a mask."""


class RandBOLDNoised(RandOnKeysInMask):
    """Dictionary form of :class:`RandBOLDNoise`."""

    array_class = RandBOLDNoise


class RandBOLDSmoothd(RandOnKeysInMask):
    """Dictionary form of :class:`RandBOLDSmooth`."""

    array_class = RandBOLDSmooth


class RandBOLDBiasFieldd(RandOnKeysInMask):
    """Dictionary form of :class:`RandBOLDBiasField`."""

    array_class = RandBOLDBiasField
