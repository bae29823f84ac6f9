import pickle

import numpy as np
import pytest
import torch
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import EmpiricalCovariance, GraphicalLasso

from nstorm.data.parcels.connectivity import TangentSpace, connectivity
from nstorm.data.parcels.series import ParcelSeries

KINDS = ["correlation", "partial correlation"]


def signals(num_frames=60, num_parcels=7, seed=0, dtype=torch.float64):
    """Correlated signals in units that differ from parcel to parcel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_frames, num_parcels, generator=generator, dtype=torch.float64)
    mixed = noise @ (torch.eye(num_parcels, dtype=torch.float64) + 0.4 * torch.ones(num_parcels).diag(0).roll(1, 0))
    return (mixed * torch.logspace(-2, 3, num_parcels) + 1000).to(dtype)


def named(series, labels=None):
    labels = labels or tuple(f"parcel {k}" for k in range(series.shape[1]))
    return ParcelSeries(series, labels, torch.ones(series.shape[1]))


def standardized(series):
    return ((series - series.mean(0)) / series.std(0)).numpy()


@pytest.mark.parametrize(("num_frames", "num_parcels"), [(60, 7), (5, 9)])
def test_correlation_is_pearsons(num_frames, num_parcels):
    series = signals(num_frames, num_parcels)
    np.testing.assert_allclose(connectivity(series), np.corrcoef(series.numpy().T), atol=1e-12)


def test_partial_correlation_from_the_inverse_covariance():
    series = signals()
    precision = np.linalg.inv(np.cov(series.numpy().T))
    scale = np.sqrt(np.diag(precision))
    expected = -precision / np.outer(scale, scale)
    np.fill_diagonal(expected, 1)
    found = connectivity(series, "partial correlation", estimator=EmpiricalCovariance())
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_partial_correlation_sees_through_a_common_cause():
    generator = torch.Generator().manual_seed(3)
    cause, one, other = torch.randn(3, 5000, generator=generator)
    series = torch.stack([cause + 0.5 * one, cause, cause + 0.5 * other], dim=1)
    assert connectivity(series)[0, 2] > 0.7
    assert connectivity(series, "partial correlation")[0, 2].abs() < 0.05


def test_partial_correlation_with_fewer_frames_than_parcels():
    found = connectivity(signals(20, 50), "partial correlation")
    assert found.isfinite().all()
    assert (torch.linalg.eigvalsh(2 * torch.eye(50) - found) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_matter(kind):
    series = signals(30, 12)
    torch.testing.assert_close(connectivity(3 + 100 * series, kind), connectivity(series, kind))
    units = torch.logspace(-3, 3, 12)
    torch.testing.assert_close(connectivity(series * units, kind), connectivity(series, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_estimators_of_scikit_learn(kind):
    series = signals()
    estimator = GraphicalLasso(alpha=0.1)
    expected = ConnectivityMeasure(estimator, kind=kind, standardize=None).fit_transform([standardized(series)])[0]
    np.testing.assert_allclose(connectivity(series, kind, estimator=estimator), expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_vector_is_the_lower_triangle(kind):
    matrix = connectivity(signals(), kind)
    assert torch.equal(matrix, matrix.T) or torch.allclose(matrix, matrix.T, atol=1e-12)
    assert torch.allclose(matrix.diagonal(), torch.ones(7, dtype=matrix.dtype))
    rows, columns = torch.tril_indices(7, 7, offset=-1)
    torch.testing.assert_close(connectivity(signals(), kind, vectorize=True), matrix[rows, columns])


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.int32, torch.float32)],
)
def test_dtypes_and_input(given, returned):
    series = signals(dtype=given) if given.is_floating_point else (signals() * 100).to(given)
    before = series.clone()
    assert connectivity(series).dtype == returned
    assert TangentSpace().fit([series, series + 1]).transform([series]).dtype == returned
    assert torch.equal(series, before)


def test_named_parcels():
    assert torch.equal(connectivity(named(signals())), connectivity(signals()))


def broken(column, value):
    series = signals()
    series[:, column] = value
    return series


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (named(broken(2, 5.0)), r"the series has no change over time in 1 of 7 parcels: parcel 2; leave these"),
        (broken([1, 4], 5.0), r"no change over time in 2 of 7 parcels: 1, 4"),
        (named(broken(6, torch.nan)), r"NaN or infinite values in 1 of 7 parcels: parcel 6"),
        (signals()[:2], r"has shape \(2, 7\), but it has to be \(T, P\), with 3 frames"),
        (signals()[:, :1], r"has shape \(60, 1\)"),
        (signals()[None], r"has shape \(1, 60, 7\)"),
    ],
)
def test_series_that_have_no_connectivity(series, message):
    with pytest.raises(ValueError, match=message):
        connectivity(series)
    good = named(signals()) if isinstance(series, ParcelSeries) else signals()
    if (series.series if isinstance(series, ParcelSeries) else series).shape[-1] == 7:
        with pytest.raises(ValueError, match=message.replace("the series", r"series\[1\]")):
            TangentSpace().fit([good, series])


def test_tangent_is_no_matter_of_one_run():
    with pytest.raises(ValueError, match=r"kind is 'tangent', but .* fit a TangentSpace to the training subjects"):
        connectivity(signals(), "tangent")


@pytest.mark.parametrize("vectorize", [False, True])
def test_tangent_agrees_with_nilearn(vectorize):
    train = [signals(40 + seed, seed=seed) for seed in range(5)]
    test = [signals(50, seed=seed) for seed in range(5, 8)]
    measure = ConnectivityMeasure(kind="tangent", vectorize=vectorize).fit([standardized(one) for one in train])
    space = TangentSpace(vectorize=vectorize).fit(train)
    found = space.transform(test)
    assert found.shape == ((3, 28) if vectorize else (3, 7, 7))
    np.testing.assert_allclose(found, measure.transform([standardized(one) for one in test]), atol=1e-10)


def test_the_mean_is_that_of_the_training_subjects():
    train = [signals(seed=seed) for seed in range(4)]
    test = [signals(seed=seed) for seed in range(4, 9)]
    space = TangentSpace().fit(train)
    together = space.transform(test)
    alone = torch.cat([space.transform([one]) for one in test])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    assert (TangentSpace().fit(train + test).transform(test) - together).abs().max() > 0.01
    # the geometric mean of the training subjects is where their deviations cancel
    assert space.transform(train).mean(0).abs().max() < 1e-6


def test_a_subject_like_the_mean_is_zero():
    series = signals()
    assert TangentSpace().fit([series, 2 * series]).transform([series]).abs().max() < 1e-9


def test_distances_between_vectors_are_those_between_matrices():
    train = [signals(seed=seed) for seed in range(3)]
    matrices = TangentSpace().fit(train).transform(train)
    vectors = TangentSpace(vectorize=True).fit(train).transform(train)
    expected = (matrices[0] - matrices[1]).norm() / 2**0.5
    torch.testing.assert_close((vectors[0] - vectors[1]).norm(), expected)


def test_tangent_space_pickles():
    train = [named(signals(seed=seed)) for seed in range(3)]
    space = TangentSpace().fit(train)
    assert torch.equal(pickle.loads(pickle.dumps(space)).transform(train), space.transform(train))


def test_what_tangent_space_refuses():
    train = [named(signals(seed=seed)) for seed in range(3)]
    with pytest.raises(ValueError, match="has no mean: fit it to the training subjects first"):
        TangentSpace().transform(train)
    for few in (train[:1], []):
        with pytest.raises(ValueError, match=r"the signals \(T, P\) of 2 training subjects or more"):
            TangentSpace().fit(few)
    space = TangentSpace().fit(train)
    with pytest.raises(ValueError, match=r"the signals \(T, P\) of one subject or more"):
        space.transform([])
    with pytest.raises(ValueError, match=r"series\[1\] has 5 parcels, but the first training subject has 7"):
        space.transform([signals(), signals(60, 5)])
    others = named(signals(), tuple("abcdefg"))
    with pytest.raises(ValueError, match=r"series\[0\] has other parcels than the first training subject"):
        space.transform([others])
    with pytest.raises(ValueError, match=r"series\[1\] has other parcels"):
        TangentSpace().fit([train[0], others])
