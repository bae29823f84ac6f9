"""Clips of a store as a dataset of PyTorch."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from nstorm.data.clips.clip_plan import plan_clips
from nstorm.data.clips.draws import drawn
from nstorm.data.clips.opened_runs import OpenedRuns
from nstorm.data.clips.shared_batch import shared_zeros
from nstorm.data.clips.shared_epoch import SharedEpoch
from nstorm.data.clips.stored_runs import Runs, chosen_runs
from nstorm.data.space.crop_or_pad import centred
from nstorm.data.store.folded import Normalization
from nstorm.data.store.placement import Size
from nstorm.data.store.record import RunRecord
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.wording import counted, some_of

if TYPE_CHECKING:
    import monai.data.meta_tensor

    from nstorm.data.clips.seeded import Seeded

Output = Literal["dense", "brain"]


class _Where(NamedTuple):
    """The frames of a clip, and the seed of what random transforms draw for it."""

    run: int
    start: int
    stop: int
    seed: int


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of the runs of a store: random ones, all of them one after another, or those that items name.

    A clip is read when it is asked for, and nothing of its run beside it. It is a dictionary as MONAI's transforms and
    loaders take it:

    - ``image``: the clip ``(1, H, W, D, T)`` float32, a MetaTensor with affine and, in its meta, ``tr``,
      ``start_frame``, ``start_time`` and ``filename_or_obj``;
    - ``mask``: the brain ``(1, H, W, D)``, a boolean MetaTensor;
    - ``key``, the name of the run in the store, and all labels of the run;
    - ``frames``, first and one past the last frame in the store, and ``start_frame``; ``start_time`` and ``tr`` in
      seconds.

    Nothing hangs on the process that reads a clip: which frames a random clip has, and what random transforms draw,
    follows from the seed, the epoch and the index. It is the same with any number of workers and of processes. The
    samplers of this package (:class:`ClipSampler`, :class:`BalancedSampler`, :class:`GroupBatchSampler`) begin a new
    epoch each time they are iterated over. With other samplers, and with the loader's ``shuffle``, call
    :meth:`set_epoch` before each epoch; otherwise all epochs have the same clips, and a warning says so.

    Args:
        store: The store, or where it lies.
        num_frames: Length of a clip in frames.
        seconds: Length of a clip in seconds, in place of ``num_frames``: the whole frames that fit.
        runs: Which runs: their keys, or items (``store.run_items()``, a :class:`nstorm.data.Study` or a part of a split
            of them), whose labels win over those of the store. Of an item that names ``frames``, as those of
            :func:`nstorm.data.event_clips` do (see :func:`stored_runs`), the clips lie within these; without a length
            they are the clip. By default all runs.
        stride: All clips of every run, this far from start to start, in frames, or in seconds if the length is in
            seconds; as for an evaluation. By default clips are random, with every start equally likely.
        clips_per_run: Number of random clips of each run in an epoch.
        normalize: What values are normalised by: see :class:`nstorm.data.StoredRun`.
        size: Number of voxels along all axes of space, or each, to which clips are cut or filled up
            (:func:`nstorm.data.crop_or_pad`): networks need multiples of their patches, the published ones 96. It takes
            no time.
        output: ``"dense"``, or ``"brain"`` for the voxels of the brain only, which are read several times as fast:
            ``image`` is then a tensor ``(T, V)``, and in place of the mask there are ``places`` ``(V,)``, ``shape``,
            ``background`` and ``affine`` ``(4, 4)``. :func:`collate_brain` makes batches of them, and :func:`to_dense`
            makes these dense on the device.
        transform: A dictionary transform, or a Compose of several, that items are passed through; or a function, which
            may draw from the global generators of torch, numpy and Python.
        seed: Seed of the draws.

    Raises:
        FileNotFoundError: There is no such store.
        ValueError: The store lacks some of the runs; runs are shorter than a clip; ``seconds`` are different numbers of
            frames in different runs; clips were not planned on the store; or an argument makes no sense.

    Example:
        >>> import tempfile
        >>> from nstorm.data import ClipDataset, Study, haxby_runs, prepare
        >>> study = Study({"image": run.bold} for run in haxby_runs()[:2])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clips = ClipDataset(prepare(study, folder, progress=False), 20)
        ...     item = clips[1]
        >>> clips
        ClipDataset of 2 clips of 20 frames from 2 runs of 1 subject
        >>> item["image"].shape, item["key"], item["tr"]
        (torch.Size([1, 40, 20, 1, 20]), 'sub-001_task-objectviewing_run-02', 2.5)
    """

    def __init__(
        self,
        store: Store | str | PathLike[str],
        num_frames: int | None = None,
        *,
        seconds: float | None = None,
        runs: Runs = None,
        stride: int | float | None = None,
        clips_per_run: int = 1,
        normalize: Normalization = "zscore",
        size: Size | None = None,
        output: Output = "dense",
        transform: Callable[[dict[str, Any]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, choices in (("normalize", normalize, Normalization), ("output", output, Output)):
            if value not in get_args(choices):
                raise ValueError(f"{name} is {value!r}, but it has to be one of {', '.join(get_args(choices))}")
        store = store if isinstance(store, Store) else Store(store)
        chosen = chosen_runs(store, runs)
        self._plan = plan_clips(
            [run.planned() for run in chosen],
            [run.span() for run in chosen],
            num_frames=num_frames,
            seconds=seconds,
            stride=stride,
            clips_per_run=clips_per_run,
        )
        if size is None and output == "dense":
            _warn_of_grids([run.record for run in chosen])
        self._labels = [run.labels for run in chosen]
        self._opened = OpenedRuns(store.place, [run.record for run in chosen])
        self._transform = _seeded(transform)
        self._normalize = normalize
        self._size = None if size is None else tuple(centred(torch.empty(1, 1, 1, 1), size, None)[1])
        self._output = output
        self.seed = seed
        self._epoch = SharedEpoch(len(self._plan))
        self._draws = self._plan.draws or (self._transform is not None and self._transform.draws)

    @property
    def data(self) -> Sequence[Mapping[str, Any]]:
        """What is known of each clip without reading it: ``key``, ``image``, where its run lies, and its labels."""
        return [self._labels[run] for run in self._plan.run]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, here and in the workers of loaders, those that persist among them."""
        self._epoch.begin(epoch)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "ClipDataset":
        """Change nothing: MONAI's loaders give each worker another state, and clips are not to hang on that."""
        return self

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """Read a clip; ``dataset[index, n]`` is another draw of it for each ``n``, and ``dataset[index, 0]`` the first.

        Samplers ask so for several clips of one run in an epoch.
        """
        return self._item(self._where(index))

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[Any]:
        """Read the clips of a batch; in a loader's worker dense ones next to each other, for :func:`collate_clips`."""
        if self._draws:
            # samplers that give draws too begin epochs themselves
            self._epoch.note([range(len(self))[index] for index in indices if not isinstance(index, tuple)])
        wanted = list(map(self._where, indices))
        if get_worker_info() is None or self._output != "dense" or self._transform is not None:
            return list(map(self._item, wanted))
        shapes = {self._shape(where) for where in wanted}
        if len(shapes) > 1:
            return list(map(self._item, wanted))
        batch = shared_zeros((len(wanted), *shapes.pop()))
        return [self._item(where, out) for where, out in zip(wanted, batch, strict=True)]

    def _where(self, index: int | tuple[int, int]) -> "_Where":
        index, draw = index if isinstance(index, tuple) else (index, 0)
        index = range(len(self))[index]
        plan = self._plan
        position, seed = drawn(self.seed, int(self._epoch), index, draw)
        length = int(plan.length[index])
        start = int(plan.first[index]) + int(position * (plan.last[index] - plan.first[index] - length + 1))
        return _Where(int(plan.run[index]), start, start + length, seed)

    def _shape(self, where: "_Where") -> tuple[int, ...]:
        # without opening the run: a batch may have more of them than stay open
        return (1, *(self._size or self._opened.records[where.run].shape), where.stop - where.start)

    def _item(self, where: "_Where", out: Tensor | None = None) -> Any:
        run = self._opened[where.run]
        meta = run.meta(where.start)
        item = {
            **self._labels[where.run],
            **self._read(run, where.start, where.stop, out),
            "frames": (where.start, where.stop),
            **{name: meta[name] for name in ("start_frame", "start_time", "tr")},
        }
        return item if self._transform is None else self._transform(item, where.seed)

    def __repr__(self) -> str:
        lengths = sorted(set(self._plan.length.tolist()))
        frames = "-".join(map(str, lengths[:1] + lengths[1:][-1:]))
        runs = {labels["key"] for labels in self._labels}
        subjects = {labels.get("subject") for labels in self._labels}
        return (
            f"ClipDataset of {counted(len(self), 'clip')} of {frames} frames from {counted(len(runs), 'run')} of "
            f"{counted(len(subjects), 'subject')}"
        )

    def _read(self, run: StoredRun, start: int, stop: int, out: Tensor | None) -> dict[str, Any]:
        if self._output == "dense":
            image = run.read(start, stop, self._normalize, size=self._size, out=out)
            return {"image": image, "mask": _mask_of(run, self._size)}
        where = run.placement(self._size)
        return {
            "image": torch.from_numpy(run.read_brain(start, stop, self._normalize)),
            "places": torch.tensor(where.places),
            "shape": where.shape,
            "background": run.background(self._normalize),
            "affine": where.affine.clone(),
        }


def _warn_of_grids(records: Sequence[RunRecord]) -> None:
    first = {record.shape: record.key for record in reversed(records)}
    if len(first) > 1:
        grids = some_of([f"{' x '.join(map(str, shape))} of {key}" for shape, key in first.items()], 3)
        warnings.warn(
            f"the grids of the runs differ ({grids}), so that their clips share no batch: give size=, choose runs=, or "
            "prepare them on one grid",
            stacklevel=3,
        )


def _mask_of(run: StoredRun, size: Size | None) -> "monai.data.meta_tensor.MetaTensor":
    from monai.data.meta_tensor import MetaTensor

    where = run.placement(size)
    # a copy: the run keeps its own for other clips
    mask = torch.tensor(where.mask[None])
    return MetaTensor(mask, affine=where.affine.clone(), meta={"filename_or_obj": f"{run.name}/mask"})


def _seeded(transform: Callable[[dict[str, Any]], Any] | None) -> "Seeded | None":
    if transform is None:
        return None
    from nstorm.data.clips.seeded import Seeded

    return Seeded(transform)
