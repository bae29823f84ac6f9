"""The ``.pt`` files of the published preparations, of which nothing but numbers is taken."""

import math
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

DATA = "data.pt"
FRAME = re.compile(r"frame_(0|[1-9]\d*)\.pt")
ENTRIES = ("frames", "scale", "num_frames")
AGAIN = "copy it again from where it came, or prepare the run from its NIfTI image"


def is_of_run(name: str) -> bool:
    """Whether a file of this name makes its folder the folder of a run."""
    return name == DATA or FRAME.fullmatch(name) is not None


def read_data(path: Path) -> tuple[Shaped[Tensor, "T H W D"], float]:
    """Open ``data.pt``, without reading its frames yet; give them and their step.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, something else, or holds more than numbers.
    """
    entries = _read(path)
    if not isinstance(entries, dict) or (missing := [name for name in ENTRIES if name not in entries]):
        found = f"lacks {', '.join(missing)}" if isinstance(entries, dict) else f"holds a {type(entries).__name__}"
        raise _foreign(path, found)
    frames, scale, num_frames = (entries[name] for name in ENTRIES)
    if not _is_plain(frames) or frames.dtype != torch.int8 or frames.ndim != 4 or not frames.numel():
        raise _foreign(path, f"has frames that are {_described(frames)}, not int8 (T, H, W, D)")
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
        raise _foreign(path, f"has the scale {scale!r}, not a number above 0")
    if num_frames != len(frames):
        raise _foreign(path, f"has {len(frames)} frames, but says that it has {num_frames!r}")
    return frames.detach().as_subclass(Tensor), float(scale)


def frame_files(folder: Path) -> tuple[Path, ...]:
    """List the files of the frames in the order of their numbers.

    Raises:
        FileNotFoundError: There are none, or some are missing.
    """
    numbers = sorted(int(match[1]) for path in folder.iterdir() if (match := FRAME.fullmatch(path.name)))
    if not numbers:
        raise FileNotFoundError(f"{folder} holds no run: it has no {DATA}, and no frame_0.pt, frame_1.pt and on")
    if missing := sorted(set(range(numbers[-1])).difference(numbers)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{folder} has frames up to {numbers[-1]}, but no frame_{missing[0]}.pt{more}: {AGAIN}")
    return tuple(folder / f"frame_{number}.pt" for number in numbers)


def read_frame(path: Path) -> Shaped[Tensor, "H W D"]:
    """Read the file of one frame.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, something else, or holds more than numbers.
    """
    frame = _read(path)
    if not _is_plain(frame) or not frame.is_floating_point() or frame.ndim != 4 or frame.shape[3] != 1:
        raise _foreign(path, f"is {_described(frame)}, not floating-point numbers (H, W, D, 1)")
    # float16 takes its time to add; NaN shows in the sum
    if not frame.numel() or not math.isfinite(frame.sum(dtype=torch.float32)):
        raise ValueError(f"{path} has NaN or infinite values, or none at all: prepare the run from its NIfTI image")
    return frame.detach().as_subclass(Tensor)[..., 0]


def _read(path: Path) -> Any:
    try:
        # a mapped file has to be of torch's zip format: nothing is unpickled of any other
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds {named[1] if named else 'something'} beside numbers, which could run any code, and was "
            "refused: prepare the run from its NIfTI image"
        ) from error
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no file of torch.save: {AGAIN}") from error


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _foreign(path: Path, found: str) -> ValueError:
    return ValueError(f"{path} {found}, so the published preparation did not write it: prepare the run from its image")
