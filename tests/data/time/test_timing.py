import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from nstorm.data import strided_clips
from nstorm.data.normalize import zscore_global, zscore_voxels
from nstorm.data.published import prepare_published
from nstorm.data.time.clean import clean
from nstorm.data.time.resample_time import remove_dummy_scans, resample_time
from nstorm.data.time.timing import checked_frames, keep_frames, repetition_time_of, with_meta

KEEP_MIDDLE = torch.tensor([False, False, True, True, True, False])
KEEP_SOME = torch.tensor([False, True, True, False, True, True])


def run(**meta):
    return MetaTensor(torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 3, 1).clone(), meta={"tr": 2.0, **meta})


@pytest.mark.parametrize(
    ("meta", "start_time", "start_frame"),
    [
        ({}, 4.0, 2),
        ({"start_frame": 10, "start_time": 20.0}, 24.0, 12),
        ({"start_frame": 10}, 24.0, 12),
        ({"start_time": 7.5}, 11.5, None),
    ],
    ids=["whole run", "clip", "clip by frame", "resampled"],
)
def test_frames_that_follow_each_other_stay_regular(meta, start_time, start_frame):
    kept = keep_frames(run(**meta), KEEP_MIDDLE)
    assert kept[:, 0, 0, 0].tolist() == [2.0, 3.0, 4.0]
    assert kept.meta["start_time"] == start_time
    assert kept.meta.get("start_frame") == start_frame
    assert repetition_time_of(kept) == 2.0


def test_other_frames_have_times_and_no_repetition_time():
    kept = keep_frames(run(start_frame=10, subject="01"), KEEP_SOME)
    assert kept.meta["frame_times"].tolist() == [22.0, 24.0, 28.0, 30.0]
    assert kept.meta["start_time"] == 22.0
    assert kept.meta["subject"] == "01"
    assert not {"tr", "start_frame"} & set(kept.meta)
    with pytest.raises(ValueError, match=r"not evenly spaced.* or scrub with mode='interpolate'"):
        repetition_time_of(kept)
    again = keep_frames(kept, torch.tensor([False, True, False, True]))
    assert again.meta["frame_times"].tolist() == [24.0, 30.0]
    assert again.meta["start_time"] == 24.0


@pytest.mark.parametrize(
    "call",
    [
        lambda run: zscore_voxels(run, torch.zeros(2, 3, 1) > 0),
        lambda run: zscore_voxels(run * torch.nan),
        lambda run: zscore_global(run * 0),
        lambda run: clean(run * torch.nan),
        lambda run: clean(run, low_pass=0.1),
        lambda run: clean(run, detrend=5),
        lambda run: clean(run, confounds=torch.rand(5, 1)),
        lambda run: clean(run, keep=torch.zeros(6, dtype=torch.bool)),
        lambda run: resample_time(run[:1], 1.0),
        lambda run: remove_dummy_scans(run, 6),
        lambda run: repetition_time_of(keep_frames(run, KEEP_SOME)),
        lambda run: prepare_published(run * 0),
        lambda run: prepare_published(run * torch.nan),
        lambda run: prepare_published(run * 0 + 7),
    ],
)
def test_messages_name_the_file(call):
    bold = run(filename_or_obj="/data/sub-07_bold.nii.gz")
    with pytest.raises(ValueError, match=r"sub-07_bold\.nii\.gz") as raised:
        call(bold)
    assert "\n" not in str(raised.value)


def test_both_layouts_and_plain_tensors():
    bold = torch.rand(6, 2, 3, 1)
    last = bold.movedim(0, -1)[None]
    assert torch.equal(keep_frames(bold, KEEP_SOME), bold[KEEP_SOME])
    assert torch.equal(keep_frames(last, KEEP_SOME), last[..., KEEP_SOME])


def test_meta_is_a_copy():
    bold = run(history=["scanned"])
    changed = with_meta(bold.as_tensor() + 1, bold, tr=1.0, history=None)
    same = with_meta(bold.as_tensor() + 1, bold)
    same.meta["history"].append("smoothed")
    same.affine[0, 0] = 5
    assert (changed.meta["tr"], "history" in changed.meta) == (1.0, False)
    assert bold.meta["history"] == ["scanned"]
    assert bold.meta["tr"] == 2.0
    assert bold.affine[0, 0] == 1


@pytest.mark.parametrize("bold", [torch.zeros(6, 2, 3, 1), MetaTensor(torch.zeros(6, 2, 3, 1))])
def test_without_repetition_time(bold):
    with pytest.raises(ValueError, match=r"bold has no repetition time: read it with nstorm\.data\.load_bold"):
        repetition_time_of(bold)


@pytest.mark.parametrize("keep", [torch.ones(5, dtype=torch.bool), torch.ones(6)])
def test_frames_to_keep_that_do_not_fit(keep):
    with pytest.raises(ValueError, match=r"boolean tensor with one value for each of the 6 frames"):
        checked_frames(keep, run())


def test_no_frame_to_keep():
    with pytest.raises(ValueError, match="keep leaves none of the 6 frames"):
        checked_frames(torch.zeros(6, dtype=torch.bool), run())


def test_what_is_said_of_each_frame_goes_with_the_frames():
    meta = {"tr": 2.0, "motion": torch.arange(12.0).view(6, 2), "dropped": torch.tensor([0, 1, 0, 0, 1, 0]) > 0}
    run = MetaTensor(torch.rand(6, 2, 2, 2), affine=torch.eye(4), meta=meta)
    kept = keep_frames(run, torch.tensor([True, True, False, False, False, True]))
    assert kept.meta["motion"].tolist() == [[0, 1], [2, 3], [10, 11]]
    assert kept.meta["dropped"].tolist() == [False, True, False]
    clip = strided_clips(run, 2)[1]["image"]
    assert clip.meta["motion"].tolist() == [[4, 5], [6, 7]]
    assert "motion" not in resample_time(run, 1.0).meta
    assert len(run.meta["motion"]) == 6
