"""Random smooth deformations of space, the same for all frames."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.space.grid import grid_of
from nstorm.data.transforms.rand_affine import Mode, RandOnKeysWithMode, RandWarp
from nstorm.data.transforms.ranges import AxisRange, checked_range, checked_spacing
from nstorm.data.transforms.smooth_field import bspline_field, control_points

# Below this share of their spacing, control points cannot fold space (Choi and Lee 2000, doi:10.1006/gmod.2000.0531).
_LARGEST_SHARE = 0.403


class RandBOLDElastic(RandWarp):
    """Deform a run smoothly, all frames alike, and turn, shift and scale it in the same interpolation.

    Displacements in mm are drawn at control points, ``spacing`` mm apart, and joined by a cubic B-spline. Voxels are
    read at ``matrix @ place + displacement``. The affine of the result follows the matrix; no affine can tell the
    deformation, and there is no inverse.

    Args:
        prob: Probability that the transform is applied.
        magnitude_range: Bounds, in mm, of a number that is drawn for each image and that no displacement along an
            axis exceeds; most stay below half of it.
        spacing: Distance between control points in mm. Larger is smoother.
        rotate_range: As in :class:`RandBOLDAffine`, like all others.
        shear_range: Shearing factors.
        translate_range: Shifts in mm.
        scale_range: Scaling factors less 1.
        mode: How to interpolate.
        padding_mode: What lies outside the volume.

    Raises:
        ValueError: A range is none, ``spacing`` is not above 0, ``magnitude_range`` reaches so far that space would
            fold, or the image is a plain tensor.

    References:
        Rueckert et al. 1999, doi:10.1109/42.796284 (deformations by B-splines).

    Example:
        >>> from nstorm.data import load_bold, rest_run
        >>> from nstorm.data.transforms.rand_elastic import RandBOLDElastic
        >>> bold = load_bold(rest_run().bold)[:10]
        >>> RandBOLDElastic(magnitude_range=(2.0, 6.0), rotate_range=0.1).set_random_state(0)(bold).shape
        torch.Size([10, 48, 56, 48])
    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        magnitude_range: tuple[float, float] = (0.0, 5.0),
        spacing: float = 30.0,
        rotate_range: AxisRange = None,
        shear_range: AxisRange = None,
        translate_range: AxisRange = None,
        scale_range: AxisRange = None,
        mode: Mode | None = None,
        padding_mode: Literal["border", "zeros"] = "border",
    ) -> None:
        super().__init__(
            prob,
            rotate_range=rotate_range,
            shear_range=shear_range,
            translate_range=translate_range,
            scale_range=scale_range,
            mode=mode,
            padding_mode=padding_mode,
        )
        self.magnitude_range = checked_range("magnitude_range", magnitude_range, at_least=0.0)
        self.spacing = checked_spacing(spacing)
        if magnitude_range[1] > _LARGEST_SHARE * spacing:
            raise ValueError(
                f"magnitude_range reaches {magnitude_range[1]:g} mm, but above {_LARGEST_SHARE * spacing:g} mm space "
                f"can fold where control points are {spacing:g} mm apart: lower it, or raise spacing"
            )

    def draw(self, img: Tensor) -> None:
        """Draw the matrix and the displacements at the control points."""
        super().draw(img)
        magnitude = self.R.uniform(*self.magnitude_range)
        self.control = self.R.uniform(-magnitude, magnitude, (*control_points(img, self.spacing), 3))

    def places(self, img: Tensor, voxel_matrix: NDArray[np.float64]) -> Tensor:
        """Where the voxels of the result lie in the image, ``(H, W, D, 3)`` as voxel indices."""
        to_voxels = torch.from_numpy(np.linalg.inv(grid_of(img).affine.numpy()[:3, :3]).T).float().to(img.device)
        return super().places(img, voxel_matrix).add_(bspline_field(self.control, img, self.spacing) @ to_voxels)


class RandBOLDElasticd(RandOnKeysWithMode):
    """Dictionary form of :class:`RandBOLDElastic`: one matrix and one deformation for all keys."""

    array_class = RandBOLDElastic
