"""What is done with each run of a study."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from nstorm.data.files.repetition_time import LONGEST, SHORTEST
from nstorm.data.store.encoding import Stored
from nstorm.data.time.confounds import Strategy

STEPS = 1
"""Version of what the steps compute: another one makes stored runs those of another recipe."""

# of each two opposite sides one has to be named
_SIDES = "LRPAIS"
# what the published preparation leaves open
_FREE_IF_PUBLISHED = ("published", "axcodes", "fill_nan", "dtype")


@dataclass(frozen=True)
class Recipe:
    """What is done with each run, in this order; by default it is only turned to RAS.

    A run in a store is what its recipe makes of its files: intensities in the units of the file, negative values among
    them, that are normalised when they are read.

    Args:
        fill_nan: The value to put in place of NaN, such as 0 for SPM's images, which are NaN outside the brain. By
            default NaN is an error.
        axcodes: The directions in which voxels are numbered (:func:`nstorm.data.reorient`).
        grid: ``"own"`` stays with the field of view of each run; ``"mni152"`` puts all on
            :func:`nstorm.data.mni152_grid`, for which they have to be in MNI152 space. Refused are runs whose label
            ``space`` is that of one person (T1w, func), or that have none and a header of scanner space (code 1), as
            raw and native images. Code 2, another image, is what SPM and nilearn write whatever the space: it is taken.
        spacing: The size of the voxels in mm (:func:`nstorm.data.resample_space`). By default that of the run.
        dummy_scans: How many frames to remove at the start.
        confounds: A strategy of :func:`nstorm.data.load_confounds`, whose confounds are regressed out. Frames that it
            does not trust take no part in that. At the ends of the run they are removed, in its middle replaced by a
            spline through the others.
        confound_options: Options of the strategy, as ``{"global_signal": "basic"}``.
        detrend: The highest order of the polynomials in time to remove (:func:`nstorm.data.clean`); 0 removes none.
        low_pass: Keep frequencies below this one, in Hz.
        high_pass: Keep frequencies above this one, in Hz. The strategies for confounds contain slow cosines for the
            same purpose: do not use both.
        tr: The repetition time in seconds (:func:`nstorm.data.resample_time`). By default that of the run. The first
            frame stays at its time, and there are as many as fit into the time of those that are left: of 100 frames of
            2 s without 5 dummy scans, 237 of 0.8 s, the first one 10 s after the start of the recording.
        dtype: How values are stored; ``"int8"`` with a scale and an offset for each voxel keeps a temporal correlation
            above 0.9999.
        published: Whether to prepare runs as those of the published models were: :func:`nstorm.data.prepare_published`
            up to its normalisation, which is that of reading with ``normalize="global"``. It fixes voxels, TR and all
            other steps.

    Raises:
        ValueError: A value has no meaning, or contradicts another.

    Example:
        >>> from nstorm.data.preparation.presets import PRESETS
        >>> from nstorm.data.preparation.recipe import Recipe
        >>> Recipe(grid="mni152", spacing=4.0) == PRESETS["4mm"]
        True
        >>> PRESETS["4mm"].but(tr=2.0, high_pass=0.01)
        Recipe(grid='mni152', spacing=4.0, high_pass=0.01, tr=2.0)
    """

    fill_nan: float | None = None
    axcodes: str = "RAS"
    grid: Literal["own", "mni152"] = "own"
    spacing: float | None = None
    dummy_scans: int = 0
    confounds: Strategy | None = None
    confound_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    detrend: int = 0
    low_pass: float | None = None
    high_pass: float | None = None
    tr: float | None = None
    dtype: Stored = "int8"
    published: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "axcodes", self.axcodes.upper())
        # 4 and 4.0 are one recipe
        for name in ("fill_nan", "spacing", "low_pass", "high_pass", "tr"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))
        _check_space(self)
        _check_time(self)
        _check_choice("dtype", self.dtype, get_args(Stored))
        if self.fill_nan is not None and not math.isfinite(self.fill_nan):
            raise ValueError(f"fill_nan is {self.fill_nan}, but it has to be a number, such as 0")
        if self.published and (steps := [name for name in self._changed() if name not in _FREE_IF_PUBLISHED]):
            raise ValueError(
                f"{steps[0]} is {getattr(self, steps[0])!r}, but the published preparation fixes voxels, TR and steps: "
                f"leave out {', '.join(steps)}, or published=True"
            )

    def but(self, **changes: Any) -> "Recipe":
        """Give the recipe with some of its values changed."""
        return replace(self, **changes)

    @property
    def cleans(self) -> bool:
        """Whether anything is removed from the time series."""
        return bool(self.confounds or self.detrend or self.low_pass is not None or self.high_pass is not None)

    @property
    def digest(self) -> str:
        """Tell recipes apart: the same one for all that make the same of a run.

        What is as by default is left out, so that a step that nstorm learns later changes no recipe without it.
        """
        values = asdict(self)
        parameters = json.dumps({"steps": STEPS, **{name: values[name] for name in self._changed()}}, sort_keys=True)
        return hashlib.sha256(parameters.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{name}={getattr(self, name)!r}' for name in self._changed())})"

    def _changed(self) -> list[str]:
        defaults: dict[str, Any] = {f.name: {} if f.name == "confound_options" else f.default for f in fields(self)}
        return [name for name, default in defaults.items() if getattr(self, name) != default]


def _check_space(recipe: Recipe) -> None:
    if sorted(_SIDES.find(side) // 2 for side in recipe.axcodes) != [0, 1, 2]:
        raise ValueError(
            f"axcodes is {recipe.axcodes!r}, but it has to name one of L and R, one of P and A and one of I and S, as "
            "'RAS'"
        )
    if recipe.spacing is not None and not 0 < recipe.spacing < math.inf:
        raise ValueError(f"spacing is {recipe.spacing}, but it has to be a number of mm above 0")
    _check_choice("grid", recipe.grid, ("own", "mni152"))
    if recipe.grid == "mni152" and recipe.spacing is None:
        raise ValueError("grid is 'mni152', but spacing is not given: give the size of its voxels in mm, such as 4.0")


def _check_time(recipe: Recipe) -> None:
    for name, what in (("dummy_scans", "a number of frames"), ("detrend", "the order of a polynomial")):
        if (value := getattr(recipe, name)) < 0:
            raise ValueError(f"{name} is {value}, but it has to be {what}, 0 or more")
    for name in ("low_pass", "high_pass"):
        if (hz := getattr(recipe, name)) is not None and not 0 < hz < math.inf:
            raise ValueError(f"{name} is {hz} Hz, but it has to be a frequency above 0")
    if recipe.low_pass is not None and recipe.high_pass is not None and recipe.low_pass <= recipe.high_pass:
        raise ValueError(f"low_pass ({recipe.low_pass:g} Hz) has to be above high_pass ({recipe.high_pass:g} Hz)")
    if recipe.tr is not None and not SHORTEST <= recipe.tr <= LONGEST:
        raise ValueError(
            f"tr is {recipe.tr} s, but it has to lie between {SHORTEST:g} and {LONGEST:g} s: give it in seconds"
        )
    if recipe.confounds is not None:
        _check_choice("confounds", recipe.confounds, get_args(Strategy))
    elif recipe.confound_options:
        raise ValueError("confound_options are given, but no confounds: name the strategy that they belong to")
    try:
        json.dumps(dict(recipe.confound_options), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"confound_options hold what JSON cannot ({error}): give text and numbers") from error


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but it has to be one of {', '.join(map(repr, choices))}")
