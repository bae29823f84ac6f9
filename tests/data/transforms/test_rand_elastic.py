import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.transforms.rand_affine import RandBOLDAffine
from nstorm.data.transforms.rand_elastic import RandBOLDElastic
from tests.data.transforms.affines import AFFINES, SHAPE, positions


def coordinates_as_frames(affine):
    world = torch.from_numpy(positions(affine))
    return MetaTensor(world[None], affine=torch.from_numpy(affine), meta={"tr": 1.0})


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_elastic_displaces_by_at_most_its_magnitude_and_does_not_fold(affine):
    clip = coordinates_as_frames(affine)
    deform = RandBOLDElastic(magnitude_range=(8.0, 8.0), spacing=20.0).set_random_state(0)
    inner = (slice(None), *(slice(5, -5),) * 3)
    read_from = deform(clip).as_tensor()[inner][0]
    displacement = (read_from - clip.as_tensor()[inner][0]).abs().amax((0, 1, 2))
    assert (displacement > 2).all()
    assert (displacement <= 8 + 1e-4).all()
    gradient = torch.stack(torch.gradient(read_from, dim=(0, 1, 2)), dim=-1) @ torch.from_numpy(
        np.linalg.inv(affine[:3, :3])
    )
    assert torch.linalg.det(gradient).min() > 0


def test_elastic_is_smooth():
    affine = AFFINES["isotropic"]
    clip = coordinates_as_frames(affine)
    rough, smooth = (
        (RandBOLDElastic(magnitude_range=(4.0, 4.0), spacing=spacing).set_random_state(0)(clip) - clip)
        .as_tensor()[:, 4:-4, 4:-4, 4:-4]
        .diff(n=2, dim=1)
        .abs()
        .mean()
        for spacing in (12.0, 36.0)
    )
    assert rough > 4 * smooth


def test_elastic_without_magnitude_is_affine():
    clip = MetaTensor(torch.rand(1, *SHAPE, 3), affine=torch.from_numpy(AFFINES["oblique, LAS"]))
    arguments = {"rotate_range": 0.3, "translate_range": 5.0}
    elastic = RandBOLDElastic(magnitude_range=(0.0, 0.0), **arguments).set_random_state(0)(clip)
    affine = RandBOLDAffine(**arguments).set_random_state(0)(clip)
    torch.testing.assert_close(elastic.as_tensor(), affine.as_tensor())
    torch.testing.assert_close(elastic.affine, affine.affine)


def test_elastic_refuses_to_fold():
    with pytest.raises(ValueError, match=r"magnitude_range reaches 9 mm, but above 8\.06 mm space can fold"):
        RandBOLDElastic(magnitude_range=(0.0, 9.0), spacing=20.0)
