"""Atlases: images whose voxels say which parcel of the brain they belong to, and the names of the parcels."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from nstorm.data.files.nifti import NiftiFile, open_nifti
from nstorm.data.parcels.label_table import read_label_names
from nstorm.data.space.grid import grid_of
from nstorm.data.wording import some_of

if TYPE_CHECKING:
    import monai.data.meta_tensor

_SCHAEFER = {100: "1mm", 200: "4mm", 400: "1mm"}


@dataclass(frozen=True, eq=False)
class Atlas:
    """Parcels of the brain: the voxels of parcel ``k`` have the value ``k + 1``, and its name is ``labels[k]``.

    A parcel keeps its place even where the image has no voxel of it, so that column ``k`` means the same parcel in
    every run.

    Attributes:
        name: Name of the atlas.
        image: Integers of shape ``(1, H, W, D)``, 0 for background, with the ``affine`` of a MetaTensor.
        labels: Names of the parcels, each different.
        networks: The network of each parcel; empty where the atlas has none.
        hemispheres: The hemisphere of each parcel, ``LH`` or ``RH``; empty where the atlas has none.

    Raises:
        ValueError: The image has another shape or type, no affine, or values outside 0 to the number of parcels; a name
            is given twice; or networks or hemispheres are not as many as the parcels.

    Example:
        >>> import torch
        >>> from monai.data.meta_tensor import MetaTensor
        >>> from nstorm.data.parcels.atlas import Atlas
        >>> image = MetaTensor(torch.tensor([0, 1, 1, 2]).view(1, 4, 1, 1), affine=torch.eye(4, dtype=torch.float64))
        >>> Atlas("halves", image, ("front", "back")).sizes
        tensor([2, 1])
    """

    name: str
    image: "monai.data.meta_tensor.MetaTensor"
    labels: tuple[str, ...]
    networks: tuple[str, ...] = ()
    hemispheres: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        is_integer = not self.image.is_floating_point() and self.image.dtype != torch.bool
        if self.image.ndim != 4 or self.image.shape[0] != 1 or not is_integer:
            raise ValueError(
                f"the image of atlas {self.name} is {self.image.dtype} of shape {tuple(self.image.shape)}, "
                "but it has to be integers of shape (1, H, W, D)"
            )
        grid_of(self.image)
        low, high = (int(value) for value in torch.aminmax(self.image.as_tensor()))
        if low < 0 or high > len(self.labels):
            raise ValueError(
                f"the image of atlas {self.name} has values from {low} to {high}, but {len(self.labels)} labels name "
                "the values from 1: give every parcel a name"
            )
        if repeated := [label for label, times in Counter(self.labels).items() if times > 1]:
            raise ValueError(
                f"atlas {self.name} gives the name {some_of(repeated)} more than once: give each parcel its own"
            )
        for attribute, given in (("networks", self.networks), ("hemispheres", self.hemispheres)):
            if len(given) not in (0, len(self.labels)):
                raise ValueError(
                    f"atlas {self.name} has {len(self.labels)} parcels, but {len(given)} {attribute}: "
                    "give one for each parcel, or none"
                )

    @property
    def sizes(self) -> Int[Tensor, " parcels"]:
        """The number of voxels of each parcel; 0 for a parcel that the image lacks."""
        return torch.bincount(self.image.as_tensor().flatten(), minlength=len(self.labels) + 1)[1:]


def schaefer_atlas(num_parcels: int = 100) -> Atlas:
    """Load the cortical parcels of Schaefer et al. 2018 with their 7 networks, in MNI152 space.

    The 100 and the 400 parcels are the published 1 mm images. The 200 parcels come on a 4 mm grid, that of
    :func:`nstorm.data.rest_run`, and are exact there; on another grid about a quarter of their voxels, those at
    borders, get another label than the published image would give. Licence MIT.

    Args:
        num_parcels: 100, 200 or 400. Other numbers can be fetched through nilearn and read with :func:`load_atlas`.

    Raises:
        ValueError: nstorm has no atlas with this number of parcels.

    References:
        Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179.

    Example:
        >>> from nstorm.data.parcels.atlas import schaefer_atlas
        >>> atlas = schaefer_atlas(100)
        >>> atlas.labels[37], atlas.networks[37], atlas.hemispheres[37], int(atlas.sizes[37])
        ('7Networks_LH_Default_Temp_1', 'Default', 'LH', 16703)
    """
    if num_parcels not in _SCHAEFER:
        raise ValueError(
            f"num_parcels is {num_parcels}, but nstorm ships {', '.join(map(str, _SCHAEFER))}: fetch others with "
            "nilearn.datasets.fetch_atlas_schaefer_2018 and read them with nstorm.data.load_atlas"
        )
    folder = Path(str(files("nstorm.data"))) / "atlases" / "schaefer2018"
    stem = f"Schaefer2018_{num_parcels}Parcels_7Networks"
    atlas = load_atlas(folder / f"{stem}_{_SCHAEFER[num_parcels]}.nii.gz", folder / f"{stem}.tsv")
    # 7Networks_LH_Default_PFC_1
    parts = [label.split("_") for label in atlas.labels]
    return replace(
        atlas, name=stem, networks=tuple(part[2] for part in parts), hemispheres=tuple(part[1] for part in parts)
    )


def load_atlas(path: str | PathLike[str], labels: str | PathLike[str] | Mapping[int, str]) -> Atlas:
    """Read an atlas of one's own, such as AAL or a subject's segmentation: a label image and the names of its values.

    The values need not be consecutive: the parcels are put in the order of their values and numbered from 1. Names
    whose value the image lacks stay, as parcels without voxels.

    Args:
        path: A 3D NIfTI image of integers, 0 for background.
        labels: The name of every value: a mapping, or a text file. That is a table with the columns ``index`` and
            ``name`` (BIDS ``dseg.tsv``; tabs or commas), or lines that begin with a value and a name (look-up tables
            of FreeSurfer, AAL). Of an atlas that nilearn fetched it is
            ``dict(zip(fetched.lut["index"], fetched.lut["name"]))``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The image is damaged, not 3D, empty or holds other than whole numbers, a value has no name, or the
            names cannot be read.

    Example:
        >>> from importlib.resources import files
        >>> from nstorm.data.parcels.atlas import load_atlas
        >>> folder = files("nstorm.data") / "atlases" / "schaefer2018"
        >>> image, table = (folder / f"Schaefer2018_200Parcels_7Networks{end}" for end in ("_4mm.nii.gz", ".tsv"))
        >>> atlas = load_atlas(image, table)
        >>> atlas.image.shape, atlas.labels[-1]
        (torch.Size([1, 38, 47, 35]), '7Networks_RH_Default_pCunPCC_3')
    """
    from monai.data.meta_tensor import MetaTensor

    path = Path(path)
    names = dict(labels) if isinstance(labels, Mapping) else read_label_names(Path(labels))
    names.pop(0, None)
    file = open_nifti(path)
    values = _read_values(file)
    order = np.array(sorted(names), dtype=np.int64)
    present = np.unique(values)
    if nameless := sorted(set(present.tolist()) - set(names) - {0}):
        raise ValueError(
            f"{path} has voxels with the value{'s' * (len(nameless) > 1)} {some_of(nameless)}, which labels does not "
            "name: name every value but 0"
        )
    parcels = np.where(values == 0, 0, np.searchsorted(order, values) + 1).astype(np.int32)
    image = MetaTensor(
        torch.from_numpy(parcels)[None], affine=torch.from_numpy(file.affine), meta={"filename_or_obj": str(path)}
    )
    return Atlas(path.name.removesuffix(".gz").removesuffix(".nii"), image, tuple(names[k] for k in order.tolist()))


def _read_values(file: NiftiFile) -> NDArray[np.int64]:
    # SPM's and others' images of one volume may have a fourth axis of length 1
    if len(file.shape) < 3 or 0 in file.shape or math.prod(file.shape[3:]) != 1:
        raise ValueError(
            f"{file.path} has shape {file.shape}, but an atlas is one 3D image of labels: "
            "turn maps of probabilities into labels with argmax first"
        )
    (values,) = file.volumes(0, 1)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        raise ValueError(
            f"{file.path} has values that are not whole numbers: give the labels themselves, "
            "resampled by nearest neighbour if at all"
        )
    if not values.any():
        raise ValueError(f"{file.path} has no voxel with a label: all of its values are 0")
    return values.astype(np.int64)
