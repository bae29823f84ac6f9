import hashlib
import pickle
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data.parcels.atlas import Atlas, load_atlas, schaefer_atlas
from nstorm.data.parcels.atlas_space import resample_atlas

FOLDER = Path(str(files("nstorm.data"))) / "atlases" / "schaefer2018"
PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "atlases"
NETWORKS = {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"}
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 0, 2, -4], [0, 2, 0, 1], [0, 0, 0, 1]])


def centroids(atlas):
    """Mean position of each parcel in mm."""
    labels = atlas.image[0].numpy()
    voxels = np.nonzero(labels)
    values = labels[voxels]
    sums = [np.bincount(values, axis, minlength=len(atlas.labels) + 1)[1:] for axis in voxels]
    return nibabel.affines.apply_affine(atlas.image.affine.numpy(), np.stack(sums, 1) / atlas.sizes.numpy()[:, None])


def write(path, values, affine=AFFINE):
    nibabel.Nifti1Image(values, affine).to_filename(path)
    return path


@pytest.fixture
def values():
    values = np.zeros((3, 4, 5), dtype=np.int16)
    values[0], values[1, :2], values[2, 3] = 2001, 7, 40
    return values


@pytest.mark.parametrize("num_parcels", [100, 200, 400])
def test_schaefer(num_parcels):
    atlas = schaefer_atlas(num_parcels)
    half = num_parcels // 2
    assert len(atlas.labels) == num_parcels
    assert atlas.name == f"Schaefer2018_{num_parcels}Parcels_7Networks"
    assert set(atlas.networks) == NETWORKS
    assert atlas.hemispheres == ("LH",) * half + ("RH",) * half
    assert atlas.labels[0] == "7Networks_LH_Vis_1"
    assert (atlas.sizes > 0).all()
    x = centroids(atlas)[:, 0]
    assert (x[:half] < 0).all()
    assert (x[half:] > 0).all()


# published centroids in mm, one of each stretch of the table where other editions have other names
@pytest.mark.parametrize(
    ("num_parcels", "label", "place"),
    [
        (100, "7Networks_LH_Default_pCunPCC_2", (-6, -53, 33)),
        (100, "7Networks_RH_DorsAttn_PrCv_1", (49, 10, 27)),
        (200, "7Networks_LH_Cont_OFC_1", (-32, 42, -13)),
        (200, "7Networks_LH_Default_Par_4", (-46, -66, 38)),
        (200, "7Networks_RH_Cont_Cing_2", (5, 3, 30)),
        (200, "7Networks_RH_Default_PFCdPFCm_7", (23, 24, 53)),
    ],
)
def test_names_are_at_their_places(num_parcels, label, place):
    atlas = schaefer_atlas(num_parcels)
    assert np.linalg.norm(centroids(atlas)[atlas.labels.index(label)] - place) < 2


@pytest.mark.parametrize("num_parcels", [100, 200])
def test_networks_agree_between_numbers_of_parcels(num_parcels):
    fine, coarse = schaefer_atlas(400), schaefer_atlas(num_parcels)
    fine = resample_atlas(fine, coarse.image)
    both = (fine.image > 0) & (coarse.image > 0)
    agree = [
        fine.networks[a - 1] == coarse.networks[b - 1]
        for a, b in zip(fine.image[both].tolist(), coarse.image[both].tolist(), strict=True)
    ]
    assert np.mean(agree) > 0.75


def test_other_numbers_of_parcels():
    with pytest.raises(ValueError, match=r"num_parcels is 300, but nstorm ships 100, 200, 400: fetch others"):
        schaefer_atlas(300)


def test_shipped_files_are_whole_small_and_licensed():
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split()) for line in lines)
    assert set(sums) == {path.name for path in FOLDER.iterdir()} - {"README.md", "LICENSE", "SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 0.45e6
    assert "Permission is hereby granted" in (FOLDER / "LICENSE").read_text()
    assert "**Cite.**" in (FOLDER / "README.md").read_text()


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"the published images are not in {PUBLISHED}")
@pytest.mark.parametrize("num_parcels", [100, 400])
def test_cut_images_are_the_published_ones(num_parcels):
    published = nibabel.load(PUBLISHED / f"Schaefer2018_{num_parcels}Parcels_7Networks_order_FSLMNI152_1mm.nii.gz")
    values = torch.from_numpy(np.asanyarray(published.dataobj).astype(np.int32))
    whole = resample_atlas(schaefer_atlas(num_parcels), published)
    assert torch.equal(whole.image[0].as_tensor(), values)


def test_load_atlas_numbers_the_parcels_in_the_order_of_their_values(tmp_path, values):
    path = write(tmp_path / "aal.nii.gz", values)
    atlas = load_atlas(path, {2001: "c", 7: "a", 40: "b", 0: "background", 41: "absent"})
    assert atlas.name == "aal"
    assert atlas.labels == ("a", "b", "absent", "c")
    assert atlas.sizes.tolist() == [10, 5, 0, 20]
    for value, parcel in {0: 0, 7: 1, 40: 2, 2001: 4}.items():
        np.testing.assert_array_equal(atlas.image[0].numpy() == parcel, values == value)
    np.testing.assert_array_equal(atlas.image.affine.numpy(), AFFINE)
    assert atlas.image.meta["filename_or_obj"] == str(path)
    assert (atlas.networks, atlas.hemispheres) == ((), ())


def test_load_atlas_with_whole_numbers_stored_as_floats_and_a_table(tmp_path, values):
    path = write(tmp_path / "atlas.nii", values.astype(np.float64))
    (tmp_path / "atlas.tsv").write_text("index\tname\n7\ta\n40\tb\n2001\tc\n")
    atlas = load_atlas(str(path), str(tmp_path / "atlas.tsv"))
    assert atlas.labels == ("a", "b", "c")
    assert atlas.sizes.tolist() == [10, 5, 20]


def test_load_atlas_with_an_axis_of_time(tmp_path, values):
    path = write(tmp_path / "atlas.nii.gz", values[..., None])
    atlas = load_atlas(path, {7: "a", 40: "b", 2001: "c"})
    assert atlas.image.shape == (1, 3, 4, 5)
    assert atlas.sizes.tolist() == [10, 5, 20]


def test_values_without_a_name(tmp_path, values):
    path = write(tmp_path / "aal.nii", values)
    with pytest.raises(ValueError, match=r"aal\.nii has voxels with the values 40, 2001, which labels does not name"):
        load_atlas(path, {7: "a"})
    values[0, 0, 0] = -3
    with pytest.raises(ValueError, match=r"the value -3, which labels does not name"):
        load_atlas(write(path, values), {7: "a", 40: "b", 2001: "c"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values + 0.25, "has values that are not whole numbers"),
        (lambda values: np.where(values == 7, np.nan, values), "has values that are not whole numbers"),
        (lambda values: np.stack([values, values], 3), r"has shape \(3, 4, 5, 2\), but an atlas is one 3D image"),
        (lambda values: values * 0, "has no voxel with a label"),
    ],
    ids=["fractions", "nan", "4d", "empty"],
)
def test_images_that_are_no_atlas(tmp_path, values, change, message):
    path = write(tmp_path / "atlas.nii", change(values))
    with pytest.raises(ValueError, match=message):
        load_atlas(path, {7: "a", 40: "b", 2001: "c"})


def test_damaged_file(tmp_path, values):
    path = write(tmp_path / "atlas.nii.gz", values)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"atlas\.nii\.gz is damaged"):
        load_atlas(path, {7: "a", 40: "b", 2001: "c"})
    with pytest.raises(FileNotFoundError):
        load_atlas(tmp_path / "none.nii", {7: "a"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("a",)}, "values from 0 to 2, but 1 labels"),
        ({"labels": ("a", "b", "a")}, "gives the name a more than once"),
        ({"networks": ("Vis",)}, "has 2 parcels, but 1 networks"),
        ({"hemispheres": ("LH",) * 3}, "has 2 parcels, but 3 hemispheres"),
        ({"image": MetaTensor(torch.zeros(1, 2, 2, 2))}, r"is torch\.float32 of shape \(1, 2, 2, 2\)"),
        ({"image": MetaTensor(torch.zeros(2, 2, 2, dtype=torch.int32))}, r"is torch\.int32 of shape \(2, 2, 2\)"),
        ({"image": MetaTensor(torch.zeros(1, 2, 2, 2) > 0)}, r"is torch\.bool of shape \(1, 2, 2, 2\)"),
        ({"image": MetaTensor(torch.full((1, 2, 2, 2), -1))}, "values from -1 to -1"),
    ],
)
def test_atlases_that_do_not_fit_together(changes, message):
    atlas = Atlas("two", MetaTensor(torch.tensor([0, 1, 2, 2]).view(1, 2, 2, 1)), ("a", "b"))
    with pytest.raises(ValueError, match=message):
        replace(atlas, **changes)


def test_pickle():
    atlas = schaefer_atlas(200)
    copy = pickle.loads(pickle.dumps(atlas))
    assert copy.labels == atlas.labels
    assert torch.equal(copy.image, atlas.image)
    assert torch.equal(copy.image.affine, atlas.image.affine)
