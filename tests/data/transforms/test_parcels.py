import pickle

import pytest
import torch
from monai.data import Dataset, list_data_collate
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose, CopyItemsd
from sklearn.covariance import OAS

from nstorm.data import time_last
from nstorm.data.parcels.atlas import Atlas
from nstorm.data.parcels.connectivity import connectivity
from nstorm.data.parcels.series import parcel_time_series
from nstorm.data.space.grid import same_grid
from nstorm.data.transforms.parcels import Connectivity, Connectivityd, ParcelTimeSeries, ParcelTimeSeriesd

SHAPE = (5, 4, 3)


def atlas():
    labels = torch.arange(60, dtype=torch.int32).view(1, *SHAPE) % 5
    return Atlas("small", MetaTensor(labels, affine=torch.eye(4, dtype=torch.float64)), tuple("abcd"))


def run(seed=0, num_frames=11, offset=0.0, **meta):
    values = torch.randn(num_frames, *SHAPE, generator=torch.Generator().manual_seed(seed))
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 3] = offset
    return MetaTensor(values, affine=affine, meta={"tr": 0.8, **meta})


def mask():
    inside = torch.ones(1, *SHAPE, dtype=torch.bool)
    inside[:, :2] = False
    return inside


def test_parcels_are_channels():
    found = ParcelTimeSeries(atlas())(run(start_time=3.2), mask())
    expected = parcel_time_series(run(), atlas(), mask=mask()).series
    assert found.is_contiguous()
    assert torch.equal(found.as_tensor(), expected.as_tensor().T)
    assert (found.meta["tr"], found.meta["start_time"]) == (0.8, 3.2)
    assert torch.equal(ParcelTimeSeries(atlas())(time_last(run()), mask()), found)
    median = ParcelTimeSeries(atlas(), strategy="median")(run())
    assert torch.equal(median.T, parcel_time_series(run(), atlas(), strategy="median").series)


def test_runs_on_grids_that_alternate():
    transform = ParcelTimeSeries(atlas())
    for offset in (0.0, 1.0, 0.0, -1.0, 1.0):
        expected = parcel_time_series(run(offset=offset), atlas()).series
        assert torch.equal(transform(run(offset=offset)).T, expected)


def test_threads_that_share_a_transform(monkeypatch):
    """As in a CacheDataset of MONAI: between two lines of one thread another may bring a run on another grid."""
    transform = ParcelTimeSeries(atlas())

    def disturbed(img, placed, **options):
        if img.affine[0, 3] == 1:
            transform(run(offset=-1.0))
        return parcel_time_series(img, placed, **options)

    def same(placed, img):
        answer = same_grid(placed, img)
        if img.affine[0, 3] == 0:
            transform(run(offset=1.0))
        return answer

    monkeypatch.setattr("nstorm.data.transforms.parcels.parcel_time_series", disturbed)
    monkeypatch.setattr("nstorm.data.transforms.parcels.same_grid", same)
    for offset in (0.0, 1.0):
        expected = parcel_time_series(run(offset=offset), atlas()).series
        assert torch.equal(transform(run(offset=offset)).T, expected)


def test_missing_parcels():
    inside = torch.as_tensor(atlas().image == 2)
    with pytest.raises(ValueError, match="3 of the 4 parcels of small have no voxel in the run and its mask: a, c, d"):
        ParcelTimeSeries(atlas())(run(), inside)
    found = ParcelTimeSeries(atlas(), missing="nan")(run(), inside)
    assert found.isnan().all(1).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="missing is 'drop', but it has to be 'raise' or 'nan'"):
        ParcelTimeSeries(atlas(), missing="drop")


@pytest.mark.parametrize("kind", ["correlation", "partial correlation"])
def test_connectivity(kind):
    signals = ParcelTimeSeries(atlas())(run())
    matrix = Connectivity(kind)(signals)
    assert matrix.shape == (1, 4, 4)
    assert matrix.meta["tr"] == 0.8
    assert torch.equal(matrix[0].as_tensor(), connectivity(signals.as_tensor().T, kind))
    matrix.meta["subject"] = "01"
    assert "subject" not in signals.meta
    vector = Connectivity(kind, estimator=OAS(), vectorize=True)(signals.as_tensor())
    assert type(vector) is torch.Tensor
    assert torch.equal(vector, connectivity(signals.as_tensor().T, kind, estimator=OAS(), vectorize=True))


def test_signals_that_have_no_connectivity():
    for signals in (torch.randn(1, 5, 40), torch.randn(40)):
        with pytest.raises(ValueError, match=r"has shape \(40,.*\), but it has to be \(T, P\)"):
            Connectivity()(signals)


def test_dictionary_forms_make_features_beside_the_image():
    steps = [
        CopyItemsd("image", names="parcels"),
        ParcelTimeSeriesd("parcels", atlas(), mask_key="mask"),
        CopyItemsd("parcels", names="connectivity"),
        Connectivityd("connectivity", vectorize=True),
    ]
    items = [{"image": run(seed), "mask": mask(), "label": seed} for seed in range(3)]
    dataset = Dataset(items, pickle.loads(pickle.dumps(Compose(steps))))
    batch = list_data_collate([dataset[k] for k in range(3)])
    assert batch["image"].shape == (3, 11, *SHAPE)
    assert batch["parcels"].shape == (3, 4, 11)
    assert batch["connectivity"].shape == (3, 6)
    assert batch["parcels"].meta["tr"].tolist() == pytest.approx([0.8] * 3)
    expected = parcel_time_series(run(2), atlas(), mask=mask())
    assert torch.equal(batch["parcels"][2].as_tensor(), expected.series.as_tensor().T)
    assert torch.equal(batch["connectivity"][2].as_tensor(), connectivity(expected, vectorize=True))
    assert set(items[0]) == {"image", "mask", "label"}


def test_missing_keys():
    with pytest.raises(KeyError, match="mask"):
        ParcelTimeSeriesd("image", atlas(), mask_key="mask")({"image": run()})
    assert Connectivityd("parcels", allow_missing_keys=True)({"label": 1}) == {"label": 1}
