"""Reading and writing of runs and masks, as transforms of their paths."""

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from torch import Tensor

from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import load_bold
from nstorm.data.files.sidecar import stem
from nstorm.data.files.writer import save_bold
from nstorm.data.transforms.base import OnKeys


class LoadBOLD(Transform):
    """Read a run, or some of its frames, as ``(T, H, W, D)``; see :func:`nstorm.data.load_bold`.

    MONAI's ``LoadImage`` overwrites the repetition time and always reads the whole file.

    Args:
        tr: The repetition time in seconds; it overrides the files.
        dtype: ``torch.float32`` or ``torch.float64``.
        fill_nan: The value to put in place of NaN. By default NaN is an error.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.transforms.io import LoadBOLD
        >>> LoadBOLD()(haxby_runs()[0].bold, frames=(100, 120)).shape
        torch.Size([20, 40, 20, 1])
    """

    def __init__(
        self, tr: float | None = None, *, dtype: torch.dtype = torch.float32, fill_nan: float | None = None
    ) -> None:
        self.tr = tr
        self.dtype = dtype
        self.fill_nan = fill_nan

    def __call__(
        self, path: str | PathLike[str], frames: Sequence[int] | None = None, tr: float | None = None
    ) -> MetaTensor:
        """Read the frames ``(start, stop)``, by default all; ``tr`` counts where the transform was given none."""
        tr = self.tr if self.tr is not None else tr
        return load_bold(path, tr=tr, frames=frames, dtype=self.dtype, fill_nan=self.fill_nan)


class SaveBOLD(Transform):
    """Write a run or clip into a folder under the name of the file it came from; see :func:`nstorm.data.save_bold`.

    The image is handed on as it is. MONAI's ``SaveImage`` loses the repetition time of ``(T, H, W, D)``, and all
    frames but the first of ``(1, H, W, D, T)``.

    Args:
        output_dir: The folder; it is made.
        output_postfix: Put behind the name, after an underscore.
        output_ext: ``".nii.gz"`` or ``".nii"``.
        data_root_dir: The folder below which the folders of the files are kept, for studies such as HCP's whose files
            have the same name in the folder of every subject. By default all are written into one folder.
        dtype: The type to store. By default that of the image.
        sidecar: Whether to write the repetition time also to a BIDS sidecar.
        overwrite: Whether to replace files that are there.

    Raises:
        FileExistsError: There is such a file, and it is not to be overwritten.
        ValueError: The image has no ``meta["filename_or_obj"]``, or that is the very file to be written, or does not
            lie in ``data_root_dir``.

    Example:
        >>> import tempfile
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.transforms.io import LoadBOLD, SaveBOLD
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bold = SaveBOLD(folder, "copy")(LoadBOLD()(haxby_runs()[0].bold))
        ...     print([path.name for path in Path(folder).iterdir()])
        ['sub-001_task-objectviewing_run-01_res-1slice_bold_copy.nii.gz']
    """

    def __init__(
        self,
        output_dir: str | PathLike[str],
        output_postfix: str = "",
        *,
        output_ext: str = ".nii.gz",
        data_root_dir: str | PathLike[str] | None = None,
        dtype: torch.dtype | None = None,
        sidecar: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.ending = (f"_{output_postfix}" if output_postfix else "") + output_ext
        self.data_root_dir = data_root_dir
        self.dtype = dtype
        self.sidecar = sidecar
        self.overwrite = overwrite

    def __call__(self, img: Tensor) -> Tensor:
        """Write the image."""
        if not isinstance(img, MetaTensor) or "filename_or_obj" not in img.meta:
            raise ValueError(
                "the image has no meta['filename_or_obj'] to be named after: write it with nstorm.data.save_bold"
            )
        source = Path(img.meta["filename_or_obj"])
        folder = self.output_dir
        if self.data_root_dir is not None:
            if not source.is_relative_to(self.data_root_dir):
                raise ValueError(f"{source} does not lie in data_root_dir {self.data_root_dir}: name a folder above it")
            folder /= source.parent.relative_to(self.data_root_dir)
        path = folder / f"{stem(source)}{self.ending}"
        if path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"{path} is the file the image was read from: give another output_dir, or output_postfix")
        save_bold(path, img, dtype=self.dtype, sidecar=self.sidecar, overwrite=self.overwrite)
        return img


class LoadMask(Transform):
    """Read a mask as boolean ``(1, H, W, D)``; see :func:`nstorm.data.load_mask`.

    Args:
        threshold: Voxels above it are in the mask. By default 0 for labels and 0.5 for probabilities.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.transforms.io import LoadMask
        >>> LoadMask()(rest_run().mask).shape
        torch.Size([1, 48, 56, 48])
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def __call__(self, path: str | PathLike[str], like: Tensor | str | PathLike[str] | None = None) -> MetaTensor:
        """Read the mask, onto the grid of ``like`` if given."""
        return load_mask(path, like, threshold=self.threshold)


class LoadBOLDd(OnKeys):
    """Dictionary form of :class:`LoadBOLD`, which reads the clip that an item names.

    Args:
        keys: Keys of the paths; the runs take their place.
        frames_key: Key of ``(start, stop)``. An item without it, or with None, gives the whole run.
        tr_key: Key of the repetition time in seconds. An item without it takes it from the files.

    Example:
        >>> from nstorm.data import haxby_runs
        >>> from nstorm.data.transforms.io import LoadBOLDd
        >>> item = LoadBOLDd("image")({"image": haxby_runs()[0].bold, "frames": (100, 120), "label": 3})
        >>> item["image"].shape, item["image"].meta["start_time"]
        (torch.Size([20, 40, 20, 1]), 250.0)
    """

    array_class: ClassVar[type[Transform]] = LoadBOLD

    def __init__(
        self,
        keys: KeysCollection,
        *args: Any,
        frames_key: Hashable = "frames",
        tr_key: Hashable = "tr",
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, *args, allow_missing_keys=allow_missing_keys, **kwargs)
        self.frames_key = frames_key
        self.tr_key = tr_key

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the frames and the repetition time of the item."""
        return {"frames": data.get(self.frames_key), "tr": data.get(self.tr_key)}


class SaveBOLDd(OnKeys):
    """Dictionary form of :class:`SaveBOLD`."""

    array_class = SaveBOLD


class LoadMaskd(OnKeys):
    """Dictionary form of :class:`LoadMask`, which puts the mask on the grid of an image.

    Args:
        keys: Keys of the paths; the masks take their place.
        image_key: Key of the image whose grid the mask gets: a run, or its path. None leaves the mask on its own grid.

    Raises:
        KeyError: An item lacks the image.

    Example:
        >>> from nstorm.data import rest_run
        >>> from nstorm.data.transforms.io import LoadMaskd
        >>> run = rest_run()
        >>> LoadMaskd("mask")({"image": run.bold, "mask": run.mask})["mask"].dtype
        torch.bool
    """

    array_class = LoadMask

    def __init__(
        self,
        keys: KeysCollection,
        *args: Any,
        image_key: Hashable | None = "image",
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, *args, allow_missing_keys=allow_missing_keys, **kwargs)
        self.image_key = image_key

    def arguments(self, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Give the image of the item, which has to be there if it was asked for."""
        if self.image_key is None:
            return {}
        if self.image_key not in data:
            raise KeyError(
                f"image_key is {self.image_key!r}, but the item has only the keys {list(data)}: name the image whose "
                "grid the mask gets, or pass image_key=None"
            )
        return {"like": data[self.image_key]}
