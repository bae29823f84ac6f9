import json

import pytest
import torch

from nstorm.data import Study, example_study, load_bold, load_mask, rest_run


def test_the_example_is_found_as_a_study_of_fmriprep(tmp_path):
    folder = example_study(tmp_path / "study")
    study = Study.from_bids(folder)
    assert len(study) == 13
    assert all(run["mask"] and run["sidecar"] for run in study)
    assert len(study.where(task="objectviewing", events=lambda path: path.endswith("_events.tsv"))) == 12
    assert {problem.kind for problem in study.check(errors="report", progress=False).problems} == {"tr", "grid"}
    rest = study.where(task="rest")[0]
    assert torch.equal(load_bold(rest["image"]).as_tensor(), load_bold(rest_run().bold).as_tensor())
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_masks_of_the_example_fit_their_runs(tmp_path):
    for run in Study.from_bids(example_study(tmp_path / "study")):
        bold = load_bold(run["image"])
        mask = load_mask(run["mask"])
        assert torch.allclose(mask.affine, bold.affine.to(mask.affine), atol=1e-4)
        assert mask.shape[1:] == bold.shape[1:]


def test_the_example_is_not_written_over(tmp_path):
    with pytest.raises(FileExistsError):
        example_study(tmp_path)
