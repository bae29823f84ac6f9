"""What of MONAI is right for runs: where time is a channel, and where it is the last axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import OneOf, RandomOrder, SomeOf
from monai.transforms.transform import MapTransform, Transform

# Transforms that treat every value of (1, H, W, D, T) by itself, apart from statistics of the whole image; that draw
# fresh values for each; or that do not look at values.
_VALUE_BY_VALUE = frozenset(
    """
    AdjustContrast ClipIntensityPercentiles HistogramNormalize NormalizeIntensity RandAdjustContrast
    RandGaussianNoise RandHistogramShift RandRicianNoise RandScaleIntensity RandScaleIntensityFixedMean
    RandShiftIntensity RandStdShiftIntensity ScaleIntensity ScaleIntensityFixedMean ScaleIntensityRange
    ScaleIntensityRangePercentiles ShiftIntensity StdShiftIntensity ThresholdIntensity
    Activations AsDiscrete CastToType DataStats EnsureType Identity IntensityStats LabelFilter LabelToMask Lambda
    MapLabelValue RandIdentity RandLambda RepeatChannel SimulateDelay SpatialCrop ToDevice ToNumpy ToTensor
    ConcatItems CopyItems DeleteItems FlattenSubKeys FromMetaTensor Invert SelectItems ToMetaTensor
    """.split()  # noqa: SIM905
)
# Where these have four numbers for their size, the user has said what becomes of time.
_SIZES = {
    "BorderPad": "spatial_border",
    "CenterScaleCrop": "roi_scale",
    "CenterSpatialCrop": "roi_size",
    "DivisiblePad": "k",
    "RandCoarseDropout": "spatial_size",
    "RandScaleCrop": "roi_scale",
    "RandSpatialCrop": "roi_size",
    "RandSpatialCropSamples": "roi_size",
    "ResizeWithPadOrCrop": "spatial_size",
    "SpatialPad": "spatial_size",
}
_FLIPS = {"Flip", "RandFlip"}
_STANDARDISE = {"ClipIntensityPercentiles", "NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRangePercentiles"}


def refuse_wrong_layout(transform: Any, data: Any) -> None:
    """Raise where a transform of MONAI would do to a run what it should not, in the layout that the run has.

    On ``(1, H, W, D, T)`` only those pass that are known to leave time alone, or say what they do to it. On
    ``(T, H, W, D)``, where time is a channel, those are refused that would standardise every frame by itself, if it
    is a run of several frames, which is told by its repetition time. What MONAI did not write passes.

    Args:
        transform: The transform that comes next.
        data: What it is given.

    Raises:
        ValueError: The transform is wrong for the layout; the sentence says what it would do, and what to do instead.
    """
    if isinstance(transform, OneOf | RandomOrder | SomeOf):
        for choice in transform.transforms:
            refuse_wrong_layout(choice, data)
    elif isinstance(transform, Transform) and type(transform).__module__.startswith("monai."):
        for image in _images(transform, data):
            if image.ndim == 5:
                _check_time_last(transform, tuple(image.shape))
            elif image.ndim == 4:
                _check_time_first(transform, image)


def _images(transform: Transform, data: Any) -> list[Any]:
    if isinstance(data, list | tuple):
        return [image for item in data for image in _images(transform, item)]
    if isinstance(transform, MapTransform) and isinstance(data, Mapping):
        return [data[key] for key in transform.keys if hasattr(data.get(key), "ndim")]
    return [data] if hasattr(data, "ndim") else []


def _check_time_last(transform: Transform, shape: tuple[int, ...]) -> None:
    name = _name(transform)
    called = f"{type(transform).__name__} on an image of shape {shape}, whose last axis is time,"
    if name in _VALUE_BY_VALUE:
        return
    if name == "SaveImage":
        raise ValueError(f"{called} would write the first frame only: use SaveBOLDd")
    if name in _FLIPS:
        axes = _argument(transform, "spatial_axis")
        if axes is None or any(axis not in (0, 1, 2) for axis in (axes if isinstance(axes, Sequence) else [axes])):
            raise ValueError(f"{called} with spatial_axis={axes} would flip time too: pass axes among 0, 1 and 2")
        return
    if name in _SIZES:
        size = _argument(transform, _SIZES[name])
        if not isinstance(size, Sequence) or len(size) < 4:
            raise ValueError(
                f"{called} with {_SIZES[name]}={size} would take time for a fourth axis of space: give four numbers, "
                "(H, W, D, T)"
            )
        return
    raise ValueError(
        f"{called} would mix time into space, or is not known not to: put it before TimeToLastd, wrap it in "
        f"TimeAsChannel{'d' if isinstance(transform, MapTransform) else ''}, or use one of nstorm.data.transforms"
    )


def _check_time_first(transform: Transform, image: Any) -> None:
    is_run = isinstance(image, MetaTensor) and "tr" in image.meta and len(image) > 1
    if is_run and _name(transform) in _STANDARDISE and _argument(transform, "channel_wise"):
        raise ValueError(
            f"{type(transform).__name__} with channel_wise=True on a run of shape {tuple(image.shape)} would "
            "standardise every frame by itself and lose what all voxels share over time: leave channel_wise out, or "
            "use GlobalZScored or ZScoreVoxelsd"
        )


def _name(transform: Transform) -> str:
    name = type(transform).__name__
    return name.removesuffix("d") if isinstance(transform, MapTransform) else name


def _argument(transform: Any, name: str) -> Any:
    """Find an argument where MONAI keeps it: on the transform, or on the array form or the parts that it is made of."""
    if name in vars(transform):
        return vars(transform)[name]
    parts = [part for part in vars(transform).values() if isinstance(part, Transform)]
    return next((found for part in parts if (found := _argument(part, name)) is not None), None)
