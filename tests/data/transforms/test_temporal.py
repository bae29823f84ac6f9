import pickle

import pytest
import torch
from monai.transforms import Compose

from nstorm.data import haxby_runs, load_bold, voxels_that_vary
from nstorm.data.time.clean import clean
from nstorm.data.time.resample_time import remove_dummy_scans, resample_time
from nstorm.data.time.scrub import scrub
from nstorm.data.transforms.confounds import LoadConfoundsd
from nstorm.data.transforms.temporal import (
    Clean,
    Cleand,
    RemoveDummyScans,
    RemoveDummyScansd,
    ResampleTime,
    ResampleTimed,
    Scrub,
    Scrubd,
)
from tests.data.fmriprep import BAD_FRAMES, write_derivatives


@pytest.fixture(scope="module")
def bold():
    return load_bold(haxby_runs()[0].bold)


@pytest.fixture
def item(bold):
    keep = torch.ones(121, dtype=torch.bool)
    keep[[30, 31]] = False
    return {
        "image": bold,
        "mask": voxels_that_vary(bold)[None] & (torch.arange(40) > 5)[:, None, None],
        "confounds": torch.randn(121, 4),
        "keep": keep,
        "label": 1,
    }


def check(transform, item, expected):
    for each in (transform, pickle.loads(pickle.dumps(transform))):
        result = each(item)
        assert torch.equal(result["image"], expected)
        assert result["image"].meta.get("tr") == expected.meta.get("tr")
        assert result["label"] == 1
    assert item["image"].shape[0] == 121


def test_resample_time(item, bold):
    expected = resample_time(bold, 2.0)
    check(ResampleTimed("image", 2.0), item, expected)
    check(ResampleTimed("image", tr=2.0), item, expected)
    assert torch.equal(ResampleTime(2.0)(bold), expected)


def test_remove_dummy_scans(item, bold):
    expected = remove_dummy_scans(bold, 4)
    check(RemoveDummyScansd("image", 4), item, expected)
    check(RemoveDummyScansd("image", seconds=10.0), item, expected)
    assert torch.equal(RemoveDummyScans(4)(bold), expected)


def test_clean(item, bold):
    options = {"low_pass": 0.1, "detrend": 2, "keep_mean": False}
    check(Cleand("image", **options), item, clean(bold, **options))
    check(Cleand("image", mask_key="mask", **options), item, clean(bold, mask=item["mask"], **options))
    check(
        Cleand("image", confounds_key="confounds", keep_key="keep", mask_key="mask", **options),
        item,
        expected := clean(bold, confounds=item["confounds"], keep=item["keep"], mask=item["mask"], **options),
    )
    array = Clean(**options)
    assert torch.equal(array(bold, item["mask"], item["confounds"], item["keep"]), expected)


@pytest.mark.parametrize("mode", ["interpolate", "drop"])
def test_scrub(item, bold, mode):
    expected = scrub(bold, item["keep"], mode=mode)
    check(Scrubd("image", mode=mode), item, expected)
    check(Scrubd("image", mode=mode, keep_key="frames"), {**item, "frames": item["keep"]}, expected)
    assert torch.equal(Scrub(mode=mode)(bold, item["keep"]), expected)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Cleand("image", confounds_key="motion"), "confounds_key is 'motion'"),
        (Cleand("image", keep_key="frames"), "keep_key is 'frames'"),
        (Cleand("image", mask_key="brain"), "mask_key is 'brain'"),
        (Scrubd("image", keep_key="frames"), "keep_key is 'frames'"),
        (LoadConfoundsd(image_key="bold"), "image_key is 'bold'"),
    ],
)
def test_missing_entries(item, transform, message):
    with pytest.raises(KeyError, match=f"{message}, but the item has only the keys"):
        transform(item)


def test_confounds_of_a_run_go_into_its_item(tmp_path):
    item = {"image": load_bold(write_derivatives(tmp_path))}
    steps = [
        LoadConfoundsd("scrubbing", scrub=0),
        Cleand("image", confounds_key="confounds", keep_key="keep", low_pass=0.1),
    ]
    result = Compose(steps)(item)
    assert result["confounds"].shape[0] == 121
    assert (~result["keep"]).nonzero()[:, 0].tolist() == [0, 1, *BAD_FRAMES]
    assert len(result["image"]) == 115
    assert set(item) == {"image"}


def test_confounds_follow_the_frames_of_the_run(tmp_path):
    whole = {"image": load_bold(write_derivatives(tmp_path))}
    confounds = LoadConfoundsd()(whole)["confounds"]
    steady = Compose([RemoveDummyScansd("image", 6), LoadConfoundsd()])(whole)
    assert torch.equal(steady["confounds"], confounds[6:])
    assert steady["keep"].shape == (115,)


def test_confounds_of_frames_that_nobody_knows(tmp_path):
    item = ResampleTimed("image", 2.0)({"image": load_bold(write_derivatives(tmp_path))})
    with pytest.raises(ValueError, match="nobody knows which frames these are: load the confounds before"):
        LoadConfoundsd()(item)
    with pytest.raises(ValueError, match="'image' does not know its file"):
        LoadConfoundsd()({"image": torch.zeros(121, 40, 20, 1)})
