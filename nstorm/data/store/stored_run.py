"""One run of a store, opened."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.frame_range import check_range
from nstorm.data.store.dense import background_values, fill_dense
from nstorm.data.store.encoding import is_absent
from nstorm.data.store.folded import Folded, Normalization, folded
from nstorm.data.store.place import Place
from nstorm.data.store.placement import Placement, Size, placed
from nstorm.data.store.record import RunRecord
from nstorm.data.store.write import checksum

if TYPE_CHECKING:
    import monai.data.meta_tensor

REMEDY = "take the run out with Store.remove, and prepare it again"


def said_of(error: Exception) -> str:
    """Give what zarr says of a damaged chunk, without the bytes of its checksums."""
    return str(error).partition(". Stored")[0]


class StoredRun:
    """A run of a store, of which only the frames that are asked for are read; it can be sent to other processes.

    Values are normalised as they are read, with the mean and the standard deviation of the whole run, but for frames
    that lie far from the others, such as those before the steady state:

    - ``"zscore"``: every voxel has zero mean and unit variance over the run; constant voxels are 0.
    - ``"percent"``: percent of the voxel's mean over the run; voxels without a baseline are 0.
    - ``"global"``: one mean and one standard deviation for all voxels of the brain, as the published models have it;
      voxels outside the brain have the lowest value inside.
    - ``"none"``: the values as they were prepared.

    Attributes:
        record: What the store says of the run.
    """

    def __init__(self, place: Place, record: RunRecord) -> None:
        self.place = place
        self.record = record
        self._opened: dict[tuple[int, str], zarr.Array[Any]] = {}
        self._folded: dict[Normalization, Folded] = {}
        self._placed: dict[int | tuple[int, ...] | None, Placement] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(StoredRun(self.place, self.record))

    @property
    def name(self) -> str:
        """Where the run lies."""
        return self.place.below(self.record.folder)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.record.num_frames

    @property
    def tr(self) -> float:
        """The repetition time in seconds."""
        return self.record.tr

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Parameters, versions, source and what else was kept of the run."""
        return dict(
            self._read(lambda: zarr.open_group(self.place.zarr(self.record.folder), mode="r").attrs, "zarr.json")
        )

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The brain, ``(H, W, D)``."""
        bits = self.array("mask")
        return np.unpackbits(bits, count=math.prod(self.record.shape)).astype(bool).reshape(self.record.shape)

    @property
    def places(self) -> NDArray[np.int32]:
        """Where on the grid, in C order, the voxels of the brain lie."""
        return self.placement().places

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Mean of each voxel over the run ``(V,)``."""
        return self._statistics[0]

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """Population standard deviation of each voxel over the run ``(V,)``."""
        return self._statistics[1]

    def array(self, name: str) -> NDArray[Any]:
        """Read a whole array that belongs to the run, and compare it with its checksum.

        Raises:
            KeyError: The run has none of that name.
            ValueError: It is damaged.
            FileNotFoundError: It is not there.
        """
        if name not in self.record.checksums:
            raise KeyError(f"{self.name} has no {name!r}; it has {', '.join(self.record.checksums)}")
        array = self._read(lambda: self.open(name)[...], name)
        if checksum(array) != self.record.checksums[name]:
            raise ValueError(f"{self.name}/{name} is damaged (it is not what was written): {REMEDY}")
        return array

    def codes(self, start: int, stop: int) -> NDArray[np.generic]:
        """Read the codes of frames ``(T, V)``.

        Raises:
            ValueError: There are no such frames, or a chunk is damaged.
            FileNotFoundError: A chunk is not there.
        """
        check_range(start, stop, self.num_frames, self.name)
        codes = self._read(lambda: self.open("bold")[start:stop], f"bold, frames {start} to {stop},")
        lost = is_absent(codes[:, 0])
        if lost.any():
            frame = start + int(lost.argmax())
            raise FileNotFoundError(f"{self.name}/bold has no chunk with frame {frame}: {REMEDY}")
        return codes

    def read_brain(
        self, start: int = 0, stop: int | None = None, normalize: Normalization = "none"
    ) -> NDArray[np.float32]:
        """Read frames ``(T, V)``: the voxels of the brain, in the order of :attr:`places`.

        Raises:
            ValueError: There are no such frames or no such normalisation, or a chunk is damaged.
            FileNotFoundError: A chunk is not there.
        """
        stop = self.num_frames if stop is None else stop
        made = self._made(normalize)
        values = self.codes(start, stop).astype(np.float32)
        values *= made.scale
        values += made.offset
        for index, codes in self._far(start, stop):
            values[index] = codes * made.scale + made.offset
        return values

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        normalize: Normalization = "none",
        *,
        size: Size | None = None,
        out: Tensor | None = None,
    ) -> "monai.data.meta_tensor.MetaTensor":
        """Read frames on the whole grid, ``(1, H, W, D, T)`` float32, with affine, TR and time of the first frame.

        Args:
            start: The first frame.
            stop: One past the last frame; by default that of the run.
            normalize: What values are normalised by.
            size: The number of voxels along all axes, or each, to which the grid is cut or filled up, as by
                :func:`nstorm.data.crop_or_pad`: networks need multiples of their patches. It costs nothing here.
            out: Zeros of the shape of the result, contiguous float32, that the frames are put into.

        Raises:
            ValueError: There are no such frames or no such normalisation, a chunk is damaged, or no voxel of the brain
                fits into the size.
            FileNotFoundError: A chunk is not there.
        """
        from monai.data.meta_tensor import MetaTensor

        stop = self.num_frames if stop is None else stop
        made, where = self._made(normalize), self.placement(size)
        codes = self.codes(start, stop)
        shape = (math.prod(where.shape), stop - start)
        if out is None:
            dense = background_values(shape, made.background)
        else:
            dense = out.view(shape).numpy()
            if made.background:
                dense.fill(made.background)
        fill_dense(codes, made.scale, made.offset, where.places, dense)
        for index, far in self._far(start, stop):
            inside = where.places >= 0
            dense[where.places[inside], index] = (far * made.scale + made.offset)[inside]
        values = torch.from_numpy(dense).view(1, *where.shape, stop - start) if out is None else out
        return MetaTensor(values, affine=where.affine.clone(), meta=self.meta(start))

    def placement(self, size: Size | None = None) -> Placement:
        """Say where the voxels of the brain lie on the grid, or on the grid with a size."""
        key = tuple(size) if isinstance(size, Sequence) else size
        if key not in self._placed:
            affine = torch.tensor(self.record.affine, dtype=torch.float64)
            self._placed[key] = placed(self.mask, affine, size)
        return self._placed[key]

    def meta(self, start: int = 0) -> dict[str, Any]:
        """What a clip that starts at a frame says of itself."""
        return {
            "filename_or_obj": self.name,
            "tr": self.tr,
            "start_frame": start,
            "start_time": self.record.start_time + start * self.tr,
            "space_code": self.record.space_code,
        }

    def open(self, name: str) -> "zarr.Array[Any]":
        """Open an array that belongs to the run, as zarr has it, to read it in pieces."""
        # a remote file system does not live through a fork
        process = os.getpid()
        if (process, name) not in self._opened:
            folder = self.place.zarr(self.record.folder)
            self._opened[process, name] = zarr.open_array(folder, path=name, mode="r")
        return self._opened[process, name]

    def background(self, normalize: Normalization = "none") -> float:
        """The value of voxels outside the brain."""
        return self._made(normalize).background

    def _made(self, normalize: Normalization) -> Folded:
        if normalize not in self._folded:
            scale, offset = self._encoding
            self._folded[normalize] = folded(normalize, scale, offset, lambda: (self.mean, self.std), self._together)
        return self._folded[normalize]

    def _together(self) -> Mapping[str, float]:
        found: Mapping[str, float] | None = self.attributes.get("global")
        if found is None or not found["std"] > 0:
            what = "no statistics of all voxels together" if found is None else "one value throughout the brain"
            raise ValueError(f"{self.name} has {what}, so that normalize cannot be 'global': take 'zscore', or 'none'")
        return found

    @cached_property
    def _encoding(self) -> NDArray[np.float32]:
        return self._rows(0)

    @cached_property
    def _statistics(self) -> NDArray[np.float32]:
        return self._rows(2)

    def _rows(self, first: int) -> NDArray[np.float32]:
        rows = self._read(lambda: self.open("voxels")[first : first + 2], "voxels")
        if np.isnan(rows).any():
            raise FileNotFoundError(f"{self.name}/voxels has lost a chunk: {REMEDY}")
        return rows

    def _far(self, start: int, stop: int) -> list[tuple[int, NDArray[np.float32]]]:
        found = []
        for row, frame in enumerate(self.record.far):
            if start <= frame < stop:
                codes = self._read(partial(self._far_row, row), "far").astype(np.float32)
                if np.isnan(codes[0]):
                    raise FileNotFoundError(f"{self.name}/far has no chunk with frame {frame}: {REMEDY}")
                found.append((frame - start, codes))
        return found

    def _far_row(self, row: int) -> Any:
        return self.open("far")[row]

    def _read(self, reading: Callable[[], Any], name: str) -> Any:
        try:
            return reading()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.name}/{name} is not there: list the runs again if the store was cleaned meanwhile, or {REMEDY}"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # what zarr raises of damaged files names no file
            raise ValueError(f"{self.name}/{name} is damaged ({said_of(error)}): {REMEDY}") from error
        except OSError as error:
            raise OSError(f"{self.name}/{name} cannot be read: {error}") from error

    def __repr__(self) -> str:
        record = self.record
        return (
            f"StoredRun({record.key!r}, {record.num_frames} frames, {record.num_voxels} voxels of "
            f"{record.shape}, {record.dtype}, tr={record.tr:g})"
        )
