"""The repetition time (TR) of a run, from the user, its BIDS sidecar or its NIfTI header."""

from pathlib import Path

from nibabel.nifti1 import Nifti1Header

from nstorm.data.files.sidecar import inherited_value

SHORTEST, LONGEST = 0.1, 20.0
TOLERANCE = 1e-3

# NIfTI keeps the unit of time in bits 3 to 5 of xyzt_units: 8 seconds, 16 milliseconds, 24 microseconds.
_TIME_UNIT_BITS = 0b111000
_UNITS_PER_SECOND = {8: 1, 16: 1_000, 24: 1_000_000}


def repetition_time(path: Path, header: Nifti1Header, *, tr: float | None = None) -> float:
    """Determine the repetition time of a run in seconds.

    ``tr`` wins. Otherwise the BIDS sidecar and the header (``pixdim[4]`` in its unit of time) are read; where
    both give a value they have to agree to 1 ms.

    Args:
        path: The image, whose name and folder lead to the sidecar.
        header: The header of the image.
        tr: The repetition time in seconds, where the files lack it or are wrong.

    Raises:
        ValueError: No source gives a repetition time, the header gives it without a unit of time, the sources
            disagree, or the value lies outside 0.1 to 20 s.
    """
    if tr is not None:
        return _plausible(float(tr), f"tr, as given for {path},")
    # float32 0.72 is 0.72000003 as a float; its shortest decimal is what was meant.
    stored = float(str(header["pixdim"][4]))
    units_per_second = _UNITS_PER_SECOND.get(int(header["xyzt_units"]) & _TIME_UNIT_BITS)
    inherited = inherited_value(path, "RepetitionTime")

    if inherited is None:
        if stored == 0:
            raise ValueError(
                f"{path} has no repetition time (pixdim[4] of its header is 0 and no BIDS sidecar gives "
                "RepetitionTime): pass tr= in seconds"
            )
        if units_per_second is None:
            meant = " (1 is what stands there if it was never set)" if stored == 1 else _example(stored)
            raise ValueError(
                f"{path} gives the repetition time {stored:g} without a unit of time (xyzt_units is "
                f"{int(header['xyzt_units'])}): pass tr= in seconds{meant}, or set the unit in the header"
            )
        return _plausible(stored / units_per_second, f"the repetition time in the header of {path}")

    sidecar, value = inherited
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"RepetitionTime in {sidecar} is {value!r}, not a number of seconds: correct it, or pass tr=")
    seconds = _plausible(float(value), f"RepetitionTime in {sidecar}")
    if stored != 0 and units_per_second is not None:
        in_header = stored / units_per_second
        # Written so that a NaN in the header disagrees too.
        if not abs(in_header - seconds) <= TOLERANCE:
            raise ValueError(
                f"the header of {path} gives a repetition time of {in_header:g} s and its sidecar {sidecar} "
                f"one of {seconds:g} s: pass the right one as tr=, or correct the wrong file"
            )
    return seconds


def _plausible(seconds: float, source: str) -> float:
    if SHORTEST <= seconds <= LONGEST:
        return seconds
    raise ValueError(
        f"{source} is {seconds:g} s, which is outside {SHORTEST:g} to {LONGEST:g} s: pass the right value as tr= in "
        f"seconds{_example(seconds)}"
    )


def _example(value: float) -> str:
    for seconds, condition in (
        (value, "these are seconds"),
        (value / 1000, "these are milliseconds"),
        (value * 1000, "it was divided by 1000 once too often"),
    ):
        if SHORTEST <= seconds <= LONGEST:
            return f" (tr={seconds:g}, if {condition})"
    return ""
