import inspect
import pickle

import nibabel
import nibabel.processing
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import Compose

from nstorm.data import haxby_runs, load_bold, rest_run
from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import BOLDFile
from nstorm.data.transforms import TimeToLastd
from nstorm.data.transforms.io import (
    LoadBOLD,
    LoadBOLDd,
    LoadMask,
    LoadMaskd,
    SaveBOLD,
    SaveBOLDd,
)
from nstorm.data.transforms.rand_load_clip import RandLoadClip, RandLoadClipd

RUNS = [str(run.bold) for run in haxby_runs()[:3]]


def write(path, *, num_frames=9, tr=None):
    voxels = np.random.default_rng(0).random((3, 4, 5, num_frames)).astype(np.float32)
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1]))
    if tr is not None:
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = tr
    nibabel.save(image, path)
    return path


def test_item_names_its_frames():
    item = {"image": RUNS[0], "frames": (30, 50), "label": 1}
    out = LoadBOLDd("image")(item)
    assert torch.equal(out["image"], load_bold(RUNS[0], frames=(30, 50)))
    assert out["image"].meta["start_time"] == 75.0
    assert item == {"image": RUNS[0], "frames": (30, 50), "label": 1}
    assert LoadBOLDd("image", frames_key="clip")({**item, "clip": (0, 2)})["image"].shape[0] == 2


@pytest.mark.parametrize("item", [{"image": RUNS[0]}, {"image": RUNS[0], "frames": None}])
def test_item_without_frames_is_the_run(item):
    assert torch.equal(LoadBOLDd("image")(item)["image"], load_bold(RUNS[0]))
    assert torch.equal(LoadBOLD()(RUNS[0]), load_bold(RUNS[0]))


@pytest.mark.parametrize("load", [LoadBOLDd("image"), RandLoadClipd("image", 3)])
def test_repetition_time_of_the_item_or_of_the_transform(tmp_path, load):
    path = write(tmp_path / "bold.nii")
    assert load({"image": path, "tr": 0.8})["image"].meta["tr"] == 0.8
    load.transform.tr = 2.0
    assert load({"image": path, "tr": 0.8})["image"].meta["tr"] == 2.0
    load.transform.tr = None
    with pytest.raises(ValueError, match=r"bold\.nii gives the repetition time 1 without a unit"):
        load({"image": path})


def test_arguments_reach_the_reader(tmp_path):
    path = write(tmp_path / "bold.nii", tr=2)
    image = nibabel.load(path)
    voxels = image.get_fdata()
    voxels[0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
    for load in (LoadBOLDd("image", fill_nan=0.0, dtype=torch.float64), RandLoadClipd("image", 9, fill_nan=0.0)):
        out = load({"image": path})["image"]
        assert out.dtype == load.transform.dtype
        assert (out[:, 0] == 0).all()
    assert list(inspect.signature(LoadBOLDd).parameters)[:4] == ["keys", "tr", "dtype", "fill_nan"]


def test_random_clip_lies_within_the_run_and_every_start_is_drawn(tmp_path):
    path = write(tmp_path / "bold.nii", tr=2.0)
    load = RandLoadClip(7).set_random_state(0)
    run = load_bold(path)
    starts = []
    for _ in range(40):
        clip = load(path)
        starts.append(clip.meta["start_frame"])
        assert torch.equal(clip, run[starts[-1] : starts[-1] + 7])
        assert load(path, randomize=False).meta["start_frame"] == starts[-1]
    assert set(starts) == {0, 1, 2}
    load.set_random_state(0)
    assert [load(path).meta["start_frame"] for _ in range(40)] == starts


def test_random_clip_lies_within_the_frames_of_the_item():
    load = RandLoadClipd("image", 5).set_random_state(0)
    item = {"image": RUNS[0], "frames": (10, 17)}
    drawn = {load(item)["frames"] for _ in range(40)}
    assert drawn == {(10, 15), (11, 16), (12, 17)}
    assert item["frames"] == (10, 17)


def test_one_draw_for_all_keys():
    load = RandLoadClipd(("image", "other"), 5).set_random_state(3)
    out = load({"image": RUNS[0], "other": RUNS[1]})
    assert out["image"].meta["start_frame"] == out["other"].meta["start_frame"] == out["frames"][0]
    assert torch.equal(out["other"], load_bold(RUNS[1], frames=out["frames"]))


def test_random_clip_that_does_not_fit(tmp_path):
    path = write(tmp_path / "short.nii", tr=2.0)
    with pytest.raises(ValueError, match=r"short\.nii has 9 frames to choose from, fewer than num_frames=10"):
        RandLoadClip(10)(path)
    with pytest.raises(ValueError, match=r"short\.nii has 4 frames to choose from, fewer than num_frames=5"):
        RandLoadClipd("image", 5)({"image": path, "frames": (1, 5)})
    for seed in range(5):
        with pytest.raises(ValueError, match=r"frames -4 to 9 of .*short\.nii are asked for, but it has 9"):
            RandLoadClip(2).set_random_state(seed)(path, frames=(-4, 9))
    with pytest.raises(ValueError, match="num_frames is 0, but a clip has at least 1 frame"):
        RandLoadClip(0)


def test_cache_holds_what_is_the_same_in_every_epoch(tmp_path):
    items = [{"image": run, "frames": (0, 10)} for run in RUNS]
    fixed = CacheDataset(items, Compose([LoadBOLDd("image"), TimeToLastd("image")]), progress=False)
    assert fixed._cache[0]["image"].shape == (1, 40, 20, 1, 10)

    draw = RandLoadClipd("image", 5)
    for dataset in (
        CacheDataset(items, Compose([draw, TimeToLastd("image")]), progress=False),
        PersistentDataset(items, Compose([draw, TimeToLastd("image")]), tmp_path, track_meta=True, weights_only=False),
    ):
        dataset.transform.set_random_state(0)
        assert len({dataset[0]["frames"] for _ in range(20)}) > 2
    assert CacheDataset(items, draw, progress=False)._cache[0]["image"] == RUNS[0]


def test_batches_of_a_loader_with_workers():
    items = [{"image": run, "frames": (start, start + 4)} for run in RUNS for start in (0, 60)]
    dataset = Dataset(items, Compose([LoadBOLDd("image"), TimeToLastd("image")]))
    loader = DataLoader(dataset, batch_size=3, num_workers=2)
    batches = [batch["image"] for batch in loader]
    assert [batch.shape for batch in batches] == [(3, 1, 40, 20, 1, 4)] * 2
    assert torch.equal(batches[1].meta["start_frame"], torch.tensor([60, 0, 60]))
    assert torch.equal(batches[1].meta["tr"], torch.full((3,), 2.5, dtype=torch.float64))
    assert torch.equal(batches[0][1, 0, ..., 2], load_bold(RUNS[0])[62])


def test_saved_under_the_name_of_its_source(tmp_path):
    bold = LoadBOLD()(write(tmp_path / "sub-01_bold.nii", tr=0.8), frames=(2, 6))
    assert SaveBOLD(tmp_path / "out")(bold) is bold
    assert SaveBOLDd("image", tmp_path / "out", "clip", output_ext=".nii", dtype=torch.float64)({"image": bold})
    names = ["sub-01_bold.nii.gz", "sub-01_bold_clip.nii"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name, dtype in zip(names, ("<f4", "<f8"), strict=True):
        again = BOLDFile(tmp_path / "out" / name)
        assert (again.tr, again.dtype) == (0.8, np.dtype(dtype))
        assert torch.equal(again.read(), bold)


def test_files_of_one_name_keep_their_folders(tmp_path):
    study, out = tmp_path / "hcp", tmp_path / "out"
    for subject in ("100307", "100408"):
        (study / subject / "Results").mkdir(parents=True)
        bold = LoadBOLD()(write(study / subject / "Results" / "rfMRI_REST1_LR.nii.gz", tr=0.72))
        SaveBOLDd("image", out, data_root_dir=study)({"image": bold})
        assert torch.equal(load_bold(out / subject / "Results" / "rfMRI_REST1_LR.nii.gz"), bold)
    with pytest.raises(
        ValueError, match=r"rfMRI_REST1_LR\.nii\.gz does not lie in data_root_dir .*out: name a folder above"
    ):
        SaveBOLD(tmp_path / "other", data_root_dir=out)(bold)


def test_what_is_there_is_kept(tmp_path):
    bold = LoadBOLD()(write(tmp_path / "bold.nii.gz", tr=0.8))
    with pytest.raises(ValueError, match=r"bold\.nii\.gz is the file the image was read from: give another output_dir"):
        SaveBOLD(tmp_path, overwrite=True)(bold)
    SaveBOLD(tmp_path / "out")(bold)
    with pytest.raises(FileExistsError, match="is there already"):
        SaveBOLD(tmp_path / "out")(bold)
    SaveBOLD(tmp_path / "out", overwrite=True)(bold)


def test_image_that_came_from_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"the image has no meta\['filename_or_obj'\] .* nstorm\.data\.save_bold"):
        SaveBOLD(tmp_path)(torch.zeros(2, 3, 4, 5))


def test_mask_gets_the_grid_of_the_image(tmp_path):
    run = rest_run()
    coarse = nibabel.processing.resample_to_output(nibabel.load(run.mask), 7, order=0)
    nibabel.save(coarse, tmp_path / "mask.nii")
    expected = load_mask(tmp_path / "mask.nii", run.bold)
    item = {"image": run.bold, "mask": tmp_path / "mask.nii", "frames": (0, 2)}
    for image_first in (True, False):
        steps = [LoadBOLDd("image"), LoadMaskd("mask")]
        out = Compose(steps if image_first else steps[::-1])(item)
        assert torch.equal(out["mask"], expected)
        assert out["mask"].shape[1:] == out["image"].shape[1:]
    assert LoadMaskd("mask", image_key=None)(item)["mask"].shape[1:] == coarse.shape
    assert torch.equal(LoadMask(threshold=0.5)(run.mask), load_mask(run.mask))
    with pytest.raises(
        KeyError, match=r"image_key is 'bold', but the item has only the keys \['image', 'mask', 'frames"
    ):
        LoadMaskd("mask", image_key="bold")(item)


def test_missing_keys():
    for transform in (LoadBOLDd, LoadMaskd):
        assert transform("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
        with pytest.raises(KeyError):
            transform("image")({"label": 1})
    assert RandLoadClipd("image", 5, allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_pickled_transform_does_the_same(tmp_path):
    transform = RandLoadClipd("image", 5).set_random_state(1)
    again = pickle.loads(pickle.dumps(transform))
    assert [again({"image": RUNS[0]})["frames"] for _ in range(3)] == [
        transform({"image": RUNS[0]})["frames"] for _ in range(3)
    ]
    pickle.loads(pickle.dumps(Compose([LoadBOLDd("image"), LoadMaskd("mask"), SaveBOLDd("image", tmp_path)])))
