import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from nstorm.data import haxby_runs, load_bold, read_events, rest_run, voxels_that_vary

CATEGORIES = {"bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe"}


def test_haxby_runs():
    runs = haxby_runs()
    assert len(runs) == 12
    for number, run in enumerate(runs, start=1):
        assert f"_run-{number:02d}_" in run.bold.name
        assert f"_run-{number:02d}_" in run.events.name
        bold = load_bold(run.bold)
        assert bold.shape == (121, 40, 20, 1)
        assert bold.meta["tr"] == 2.5
        assert nibabel.aff2axcodes(bold.affine.numpy()) == ("L", "A", "S")
        assert {event.trial_type for event in read_events(run.events)} == CATEGORIES


def test_rest_run():
    run = rest_run()
    bold = load_bold(run.bold)
    assert bold.shape == (200, 48, 56, 48)
    assert bold.meta["tr"] == 1.5
    mask = nibabel.load(run.mask)
    np.testing.assert_array_equal(mask.affine, bold.affine.numpy())
    assert torch.equal(voxels_that_vary(bold), torch.from_numpy(np.asarray(mask.dataobj) > 0))


@pytest.mark.parametrize("bold", [haxby_runs()[0].bold, rest_run().bold], ids=["haxby2001", "rapidtide_rest"])
def test_recording_has_its_licence_and_its_description(bold):
    licence = (bold.parent / "LICENSE").read_text()
    readme = (bold.parent / "README.md").read_text()
    name = {"haxby2001": "Attribution-ShareAlike 3.0", "rapidtide_rest": "Apache License"}[bold.parent.name]
    assert name in licence
    assert "**Licence.**" in readme
    assert "**Cite.**" in readme


def test_recordings_stay_small():
    folder = rest_run().bold.parent.parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 14.5e6


def test_import_does_not_load_monai():
    code = "import sys, nstorm.data; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
