import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from nilearn.maskers import NiftiLabelsMasker

from nstorm.data import load_bold, rest_run, time_last
from nstorm.data.files.masks import load_mask
from nstorm.data.parcels.atlas import Atlas, schaefer_atlas
from nstorm.data.parcels.connectivity import connectivity
from nstorm.data.parcels.series import parcel_time_series

SHAPE = (5, 4, 3)


def small_atlas():
    labels = torch.zeros(1, *SHAPE, dtype=torch.int32)
    labels[:, 0], labels[:, 1:3], labels[:, 4, 0, 0] = 1, 2, 3
    return Atlas("small", MetaTensor(labels, affine=torch.eye(4, dtype=torch.float64)), ("a", "b", "c"))


def small_run(dtype=torch.float32, **meta):
    values = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MetaTensor((100 * values).to(dtype), affine=torch.eye(4, dtype=torch.float64), meta=meta)


@pytest.fixture(scope="module")
def rest():
    run = rest_run()
    return load_bold(run.bold), load_mask(run.mask)


@pytest.fixture(scope="module")
def rest_parcels(rest):
    bold, mask = rest
    return parcel_time_series(bold, schaefer_atlas(100), mask=mask)


def test_agrees_with_nilearn_from_the_1_mm_atlas_on(rest):
    bold, mask = rest
    atlas = schaefer_atlas(100)
    found = parcel_time_series(bold[:9], atlas, mask=mask)
    affine = bold.affine.numpy()
    masker = NiftiLabelsMasker(
        nibabel.Nifti1Image(atlas.image[0].numpy(), atlas.image.affine.numpy()),
        mask_img=nibabel.Nifti1Image(mask[0].numpy().astype(np.uint8), affine),
        resampling_target="data",
        standardize=None,
        reports=False,
    )
    expected = masker.fit_transform(nibabel.Nifti1Image(bold[:9].permute(1, 2, 3, 0).numpy(), affine))
    assert found.labels == atlas.labels
    np.testing.assert_allclose(found.series.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.bfloat16])
def test_is_the_mean_of_each_parcel(dtype):
    atlas, run = small_atlas(), small_run(dtype)
    found = parcel_time_series(run, atlas)
    assert found.series.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    values, labels = run.as_tensor().double().flatten(1), atlas.image.flatten()
    membership = torch.stack([labels == k for k in (1, 2, 3)]).double()
    expected = values @ (membership / membership.sum(1, keepdim=True)).T
    torch.testing.assert_close(found.series.as_tensor().double(), expected, rtol=1e-5, atol=1e-4)
    assert found.coverage.tolist() == [1, 1, 1]


def test_more_voxels_than_an_axis_of_nifti_holds():
    image = MetaTensor(torch.ones(1, 40, 41, 42, dtype=torch.int32))
    run = MetaTensor(torch.randn(3, 40, 41, 42))
    found = parcel_time_series(run, Atlas("all", image, ("all",))).series
    torch.testing.assert_close(found.as_tensor(), run.as_tensor().flatten(1).mean(1, keepdim=True))


def test_layouts_and_meta():
    given = {"tr": 0.8, "start_time": 4.0, "start_frame": 5, "filename_or_obj": "run.nii", "history": ["scanned"]}
    run = small_run(**given)
    clip = time_last(run)
    before = run.as_tensor().clone()
    first, last = (parcel_time_series(image, small_atlas()).series for image in (run, clip))
    assert torch.equal(first, last)
    for series in (first, last):
        assert {key: series.meta[key] for key in given} == given
        assert torch.equal(series.affine, torch.eye(4, dtype=torch.float64))
        series.meta["history"].append("reduced")
        assert run.meta["history"] == ["scanned"]
    assert torch.equal(run.as_tensor(), before)


@pytest.mark.parametrize(
    ("strategy", "reduce"),
    [("median", np.median), ("sum", np.sum), ("minimum", np.min), ("maximum", np.max), ("standard_deviation", np.std)],
)
def test_strategies(strategy, reduce):
    run, atlas = small_run(torch.float64), small_atlas()
    expected = [reduce(run.numpy()[:, atlas.image[0].numpy() == k], axis=1) for k in (1, 2, 3)]
    found = parcel_time_series(run, atlas, strategy=strategy).series
    np.testing.assert_allclose(found.numpy(), np.stack(expected, 1), rtol=1e-9)


def test_unknown_strategy():
    with pytest.raises(ValueError, match="mode"):
        parcel_time_series(small_run(), small_atlas(), strategy="mode")


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    turn=st.booleans(),
)
def test_the_same_brain_stored_in_any_way_gives_the_same_series(order, flips, turn):
    atlas, run = small_atlas(), small_run()
    rotation = np.eye(4)
    if turn:
        rotation[:3, :3] = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
        image = MetaTensor(atlas.image.as_tensor(), affine=torch.from_numpy(rotation))
        atlas = Atlas(atlas.name, image, atlas.labels)
    stored = np.stack([order, flips], axis=1)
    frames = [nibabel.orientations.apply_orientation(frame, stored) for frame in run.numpy()]
    affine = rotation @ nibabel.orientations.inv_ornt_aff(stored, SHAPE)
    turned = MetaTensor(torch.from_numpy(np.stack(frames)), affine=torch.from_numpy(affine))
    found = parcel_time_series(turned, atlas)
    torch.testing.assert_close(
        found.series.as_tensor(), parcel_time_series(run, small_atlas()).series.as_tensor(), rtol=1e-6, atol=1e-5
    )
    assert found.coverage.tolist() == [1, 1, 1]


@pytest.mark.parametrize("flipped", [False, True], ids=["RAS", "LAS"])
def test_a_marker_on_the_left_is_seen_by_parcels_of_the_left(rest, flipped):
    affine = rest[0].affine.numpy()
    shape = rest[1].shape[1:]
    places = nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    marker = (np.linalg.norm(places - (-45, -20, 50), axis=-1) < 12).astype(np.float32)
    if flipped:
        marker = marker[::-1].copy()
        affine = affine @ nibabel.orientations.inv_ornt_aff([[0, -1], [1, 1], [2, 1]], shape)
    run = MetaTensor(torch.from_numpy(marker)[None], affine=torch.from_numpy(affine))
    atlas = schaefer_atlas(400)
    found = parcel_time_series(run, atlas)
    seen = {atlas.hemispheres[k] for k in found.series[0].nonzero().flatten().tolist()}
    assert seen == {"LH"}


def test_field_of_view_over_part_of_the_brain(rest, rest_parcels):
    bold, mask = rest
    atlas = schaefer_atlas(100)
    affine = bold.affine.clone()
    affine[2, 3] += 4 * 24
    upper = MetaTensor(bold.as_tensor()[:5, :, :, 24:], affine=affine, meta={"tr": 1.5})
    inside = mask.as_tensor()[..., 24:]
    with pytest.raises(ValueError, match=r"\d+ of the 100 parcels of Schaefer2018_100.* have no voxel in the run"):
        parcel_time_series(upper, atlas, mask=inside)

    kept = parcel_time_series(upper, atlas, mask=inside, missing="nan")
    absent = kept.series.isnan().all(0).as_tensor()
    assert kept.labels == atlas.labels
    assert 10 < int(absent.sum()) < 60
    assert kept.coverage[absent].max() < 0.1
    assert ((kept.coverage > 0) & (kept.coverage < 0.9)).any()
    whole = kept.coverage == rest_parcels.coverage
    assert whole.sum() > 20
    # a parcel that is as much in view as before has the same signal
    torch.testing.assert_close(
        kept.series[:, whole].as_tensor(), rest_parcels.series[:5, whole].as_tensor(), rtol=1e-6, atol=0
    )

    dropped = parcel_time_series(upper, atlas, mask=inside, missing="drop")
    assert dropped.labels == tuple(label for label, gone in zip(atlas.labels, absent, strict=True) if not gone)
    assert torch.equal(dropped.series, kept.series[:, ~absent])
    assert torch.equal(dropped.coverage, kept.coverage[~absent])


def test_mask_leaves_voxels_out():
    atlas, run = small_atlas(), small_run()
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[1] = False
    found = parcel_time_series(run, atlas, mask=mask)
    torch.testing.assert_close(found.series[:, 1].as_tensor(), run.as_tensor()[:, 2].mean((1, 2)))
    assert found.coverage.tolist() == [1, 0.5, 1]
    with pytest.raises(ValueError, match="3 of the 3 parcels of small have no voxel"):
        parcel_time_series(run, atlas, mask=torch.zeros(SHAPE, dtype=torch.bool), missing="nan")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite(bad):
    atlas, run = small_atlas(), small_run()
    expected = parcel_time_series(run, atlas).series
    run.as_tensor()[3, 3, 0, 0] = bad  # outside of all parcels
    assert torch.equal(parcel_time_series(run, atlas).series, expected)
    run.as_tensor()[3, 0, 0, :2] = bad
    with pytest.raises(ValueError, match=r"NaN or infinite values in 2 voxels of parcels: a; leave these voxels out"):
        parcel_time_series(run, atlas)


def test_what_is_refused():
    atlas, run = small_atlas(), small_run()
    with pytest.raises(ValueError, match=r"missing is 'zero', but it has to be 'raise', 'nan' or 'drop'"):
        parcel_time_series(run, atlas, missing="zero")
    with pytest.raises(ValueError, match="plain tensor"):
        parcel_time_series(run.as_tensor(), atlas)
    with pytest.raises(ValueError, match=r"bold has shape \(5, 4, 3\)"):
        parcel_time_series(run[0], atlas)
    with pytest.raises(ValueError, match=r"mask has dtype torch\.float32"):
        parcel_time_series(run, atlas, mask=torch.ones(SHAPE))


def test_real_parcels_correlate_as_brains_do(rest_parcels):
    atlas = schaefer_atlas(100)
    matrix = connectivity(rest_parcels).numpy()
    labels = rest_parcels.labels
    pairs = [
        (k, labels.index(label.replace("_LH_", "_RH_")))
        for k, label in enumerate(labels)
        if "_LH_" in label and label.replace("_LH_", "_RH_") in labels
    ]
    assert len(pairs) > 30
    homologous = np.mean([matrix[pair] for pair in pairs])
    assert homologous > matrix[:50, 50:].mean() + 0.2
    default = np.array(atlas.networks) == "Default"
    within = matrix[np.ix_(default, default)][np.triu_indices(default.sum(), 1)].mean()
    assert within > matrix[np.ix_(default, ~default)].mean() + 0.1
