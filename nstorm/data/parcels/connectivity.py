"""Functional connectivity between parcels, through nilearn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.parcels.series import ParcelSeries
from nstorm.data.wording import some_of

if TYPE_CHECKING:
    import sklearn.base

# how many parcels, and their names where these are known
_Parcels = tuple[int, tuple[str, ...]]


def connectivity(
    series: ParcelSeries | Tensor,
    kind: str = "correlation",
    *,
    estimator: "sklearn.base.BaseEstimator | None" = None,
    vectorize: bool = False,
) -> Float[Tensor, "..."]:
    """Compute the connectivity of a run: the correlation of every two parcels, or their partial correlation.

    A partial correlation is what two parcels share beyond all other parcels. Signals are standardised first, so that
    their units do not matter. Connectivity in the tangent space of several subjects is a matter of fit and transform:
    :class:`TangentSpace`.

    Args:
        series: Signals of shape ``(T, P)``, or the result of :func:`nstorm.data.parcel_time_series`.
        kind: ``correlation`` or ``partial correlation``.
        estimator: An estimator of the covariance from scikit-learn. By default Pearson's correlation as it is, and
            Ledoit and Wolf's shrinkage for partial correlation, which has no solution without one where a run has
            fewer frames than parcels.
        vectorize: Whether to give the values below the diagonal, row by row, in place of the matrix.

    Returns:
        Float32, or float64 for float64 signals: a matrix of shape ``(P, P)``, 1 on its diagonal, or a vector of
        ``P (P - 1) / 2`` values.

    Raises:
        ValueError: The series has another shape, fewer than 3 frames or 2 parcels, or a parcel that is constant or has
            NaN or infinite values; ``kind`` is unknown.

    Example:
        >>> import torch
        >>> from nstorm.data.parcels.connectivity import connectivity
        >>> time = torch.arange(8.0)
        >>> connectivity(torch.stack([time, -2 * time + 1, (time - 3.5) ** 2], dim=1)).round(decimals=3).abs()
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    if kind not in ("correlation", "partial correlation"):
        raise ValueError(
            f"kind is {kind!r}, but it has to be 'correlation' or 'partial correlation'; "
            "for 'tangent' fit a TangentSpace to the training subjects"
        )
    signals = _standardized(series, "the series")
    if estimator is None and kind == "correlation":
        estimator = EmpiricalCovariance(store_precision=False)
    measure = ConnectivityMeasure(estimator, kind=kind, vectorize=vectorize, discard_diagonal=True)
    return _tensor(measure.fit_transform([signals])[0], series)


class TangentSpace:
    """Connectivity of subjects as their deviation from the mean of a group, in the tangent space at that mean.

    The mean is a parameter that is learned: fit it to the training subjects alone, or what it knows of the test
    subjects leaks into the result. Signals are standardised; the covariances of the subjects have a geometric mean, C,
    and a subject with the covariance S becomes log(C^(-1/2) S C^(-1/2)), which is 0 for a subject like the mean.

    Args:
        estimator: An estimator of the covariance from scikit-learn. By default Ledoit and Wolf's shrinkage.
        vectorize: Whether to give vectors in place of matrices: the lower triangle row by row, its diagonal divided by
            the square root of 2, so that distances are those between the matrices but for that factor.

    References:
        Varoquaux et al. 2010, MICCAI, doi:10.1007/978-3-642-15705-9_25.

    Example:
        >>> import torch
        >>> from nstorm.data.parcels.connectivity import TangentSpace
        >>> runs = [torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
        >>> space = TangentSpace().fit(runs[:4])
        >>> space.transform(runs[4:]).shape
        torch.Size([2, 4, 4])
    """

    def __init__(self, *, estimator: "sklearn.base.BaseEstimator | None" = None, vectorize: bool = False) -> None:
        from nilearn.connectome import ConnectivityMeasure

        self._measure = ConnectivityMeasure(estimator, kind="tangent", vectorize=vectorize)
        self._like: _Parcels | None = None

    def fit(self, series: Sequence[ParcelSeries | Tensor]) -> "TangentSpace":
        """Find the mean of the training subjects.

        Args:
            series: Signals of shape ``(T, P)`` of each subject; ``T`` may differ.

        Raises:
            ValueError: There are fewer than 2 subjects, their parcels differ in number or name, or a series is
                refused as by :func:`connectivity`.
        """
        if isinstance(series, ParcelSeries) or len(series) < 2:
            raise ValueError("series has to be a list with the signals (T, P) of 2 training subjects or more")
        like = _parcels_of(series[0])
        self._measure.fit(_standardized_group(series, like))
        self._like = like
        return self

    def transform(self, series: Sequence[ParcelSeries | Tensor]) -> Float[Tensor, "subjects ..."]:
        """Compute the connectivity of subjects, as deviations from the mean that was fitted.

        Args:
            series: Signals of shape ``(T, P)`` of each subject, with the parcels of the training subjects.

        Returns:
            Matrices ``(S, P, P)``, or vectors ``(S, P (P + 1) / 2)``; float32, or float64 for float64 signals.

        Raises:
            ValueError: Nothing was fitted, there are no subjects, or a series is refused as by :meth:`fit`.
        """
        if self._like is None:
            raise ValueError("this TangentSpace has no mean: fit it to the training subjects first")
        if isinstance(series, ParcelSeries) or len(series) == 0:
            raise ValueError("series has to be a list with the signals (T, P) of one subject or more")
        group = _standardized_group(series, self._like)
        # nilearn refuses one subject alone, although the mean is fitted: it is given twice
        return _tensor(self._measure.transform([*group, group[0]])[: len(group)], series[0])


def _standardized_group(series: Sequence[ParcelSeries | Tensor], like: _Parcels) -> list[NDArray[np.float64]]:
    group = [_standardized(one, f"series[{k}]") for k, one in enumerate(series)]
    for k, one in enumerate(series):
        number, labels = _parcels_of(one)
        if number != like[0]:
            raise ValueError(f"series[{k}] has {number} parcels, but the first training subject has {like[0]}")
        if labels and like[1] and labels != like[1]:
            raise ValueError(
                f"series[{k}] has other parcels than the first training subject, though as many: give all of them the "
                "same atlas, and leave out the same parcels"
            )
    return group


def _parcels_of(series: ParcelSeries | Tensor) -> _Parcels:
    return (len(series.labels), series.labels) if isinstance(series, ParcelSeries) else (series.shape[-1], ())


def _standardized(series: ParcelSeries | Tensor, name: str) -> NDArray[np.float64]:
    signals, labels = (series.series, series.labels) if isinstance(series, ParcelSeries) else (series, None)
    if signals.ndim != 2 or signals.shape[0] < 3 or signals.shape[1] < 2:
        raise ValueError(
            f"{name} has shape {tuple(signals.shape)}, but it has to be (T, P), with 3 frames and 2 parcels or more"
        )
    values = signals.as_subclass(Tensor).double().numpy(force=True)
    for problem, bad in {
        "NaN or infinite values in": ~np.isfinite(values).all(axis=0),
        "no change over time in": values.min(axis=0) == values.max(axis=0),
    }.items():
        if bad.any():
            found = [labels[k] if labels else k for k in np.flatnonzero(bad)]
            raise ValueError(
                f"{name} has {problem} {len(found)} of {len(bad)} parcels: {some_of(found)}; "
                "leave these parcels out, or check the run's mask and field of view"
            )
    return (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)


def _tensor(values: NDArray[np.float64], series: ParcelSeries | Tensor) -> Tensor:
    signals = series.series if isinstance(series, ParcelSeries) else series
    dtype = torch.promote_types(signals.dtype, torch.float32)
    return torch.from_numpy(np.asarray(values)).to(signals.device, dtype)
