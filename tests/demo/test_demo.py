"""The demo at tiny size, end to end, and what its honesty rests on."""

import json

import nibabel
import numpy as np
import pytest
import torch

from nstorm.cli import main
from nstorm.demo.baseline import BASELINES, fit_baseline
from nstorm.demo.experiment import FoldResult, Recipe, Results, cropped_images, run_experiment
from nstorm.demo.model import BlockDecoder, FrameCrossEntropy
from nstorm.demo.pretraining import PretrainingRecipe
from nstorm.demo.recording import Fold, haxby_recording, recording_from_file
from nstorm.demo.report import verdict
from nstorm.nets import load_pretrained
from nstorm.workflows import WithinClassNoise

TINY = Recipe(num_steps=12, num_networks=1)
TINY_PRETRAINING = PretrainingRecipe(
    num_frames=10, patch_size=(8, 8, 8, 1), feature_size=16, depths=(1, 1), clips_per_epoch=8, max_epochs=2
)


@pytest.fixture(scope="session")
def haxby():
    return haxby_recording()


@pytest.fixture
def run_on_disk(tmp_path):
    """A run of 3 categories, 2 blocks of single pictures each, in which one voxel tells the category."""
    rng = np.random.default_rng(0)
    tr, num_frames = 2.0, 120
    voxels = 500 + rng.normal(0, 5, (9, 8, 5, num_frames))
    voxels += np.linspace(0, 40, num_frames)
    rows = ["onset\tduration\ttrial_type"]
    for block, kind in enumerate("abcbca"):
        onset = 10 + 36 * block
        rows += [f"{onset + 2 * i}\t1.5\t{kind}" for i in range(8)]
        first = (onset + 5) / tr
        where = 2 + 2 * "abc".index(kind)
        voxels[where, 2:6, 1:4, int(np.ceil(first)) : int(np.ceil(first)) + 8] += 25
    voxels[0] = 0
    image = nibabel.Nifti1Image(voxels.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = tr
    path = tmp_path / "sub-1_task-x_space-MNI_bold.nii.gz"
    image.to_filename(path)
    (tmp_path / "sub-1_task-x_events.tsv").write_text("\n".join(rows) + "\n")
    return path


def test_haxby_splits_hold_runs_apart(haxby):
    assert len(haxby.blocks) == 96
    assert sorted(i for fold in haxby.folds for i in fold.test) == list(range(96))
    for fold in haxby.folds:
        runs = [{haxby.blocks[i].run for i in part} for part in (fold.train, fold.choose, fold.test)]
        assert [len(part) for part in runs] == [7, 2, 3]
        assert len(set.union(*runs)) == 12


def test_nothing_of_a_test_block_reaches_training(haxby):
    """Test blocks replaced by noise must leave the course of the networks and the baselines' settings unchanged."""
    import dataclasses

    fold = haxby.folds[0]
    short = dataclasses.replace(haxby, folds=[fold])
    poisoned = [
        dataclasses.replace(block, image=torch.randn_like(block.image)) if i in fold.test else block
        for i, block in enumerate(haxby.blocks)
    ]
    first, second = (
        run_experiment(recording, recipe=TINY, seed=0).folds[0]
        for recording in (short, dataclasses.replace(short, blocks=poisoned))
    )
    assert first.histories == second.histories
    assert first.settings == second.settings
    for method, values in first.log_probabilities.items():
        assert not np.allclose(values, second.log_probabilities[method])


def test_tiny_demo_writes_a_whole_report_and_repeats_exactly(haxby, tmp_path, monkeypatch, capsys):
    import dataclasses

    short = dataclasses.replace(haxby, folds=haxby.folds[:1])
    monkeypatch.setattr("nstorm.demo.haxby_recording", lambda: short)
    monkeypatch.setattr("nstorm.demo.run.Recipe", lambda: TINY)
    monkeypatch.setattr("nstorm.demo.PretrainingRecipe", lambda: TINY_PRETRAINING)
    numbers = []
    for name in ("one", "two"):
        folder = tmp_path / name
        assert main(["demo", "--out", str(folder), "--seed", "7"]) == 0
        numbers.append(json.loads((folder / "results.json").read_text()))
    assert numbers[0] == numbers[1]
    assert {file.name for file in folder.iterdir()} == {
        "report.html", "results.json", "config.json", "accuracy.png", "confusion.png", "loss.png", "recording.png",
        "reconstruction.png", "pretraining.jsonl", "pretrained_encoder.safetensors",
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "://" not in page
    assert numbers[0]["verdict"] in page.replace("&#43;", "+").split("<h1>")[0]
    assert set(numbers[0]["accuracy"]) == {"nstorm", *BASELINES}
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 7
    found = numbers[0]["pretraining"]
    assert found["judged_on_frames"] == [140, 200]
    assert found["squared_error"]["interpolation"]["mean"] > found["squared_error"]["voxel_mean"]["mean"]
    assert found["below"]["interpolation"]["low"] > 0
    assert "Masked pre-training on a whole brain at rest" in page
    encoder, _ = load_pretrained(folder / "pretrained_encoder.safetensors")
    assert encoder.arguments["patch_size"] == [8, 8, 8, 1]
    assert config["recipe"]["num_steps"] == TINY.num_steps
    assert "unseen blocks" in capsys.readouterr().out


def test_recording_of_ones_own(run_on_disk, tmp_path):
    recording = recording_from_file(run_on_disk)
    assert recording.labels == ("a", "b", "c")
    assert [block.label for block in recording.blocks] == [0, 1, 2, 1, 2, 0]
    assert recording.folds == [Fold((3, 4, 5), (), (0, 1, 2)), Fold((0, 1, 2), (), (3, 4, 5))]
    assert cropped_images(recording).shape[2:5] == (8, 8, 5)
    results = run_experiment(recording, recipe=Recipe(num_steps=60, num_networks=1), seed=0)
    # with one block of a category to train on there is no covariance of block means
    assert results.methods == ["nstorm", "logistic regression", "shrinkage LDA"]
    for method in results.methods:
        assert results.correct(method).all(), method


def test_recording_needs_events_two_blocks_and_a_fitting_mask(run_on_disk, tmp_path, capsys):
    events = run_on_disk.with_name("sub-1_task-x_events.tsv")
    rows = events.read_text().splitlines()
    (tmp_path / "one.tsv").write_text("\n".join(rows[:25]))
    with pytest.raises(ValueError, match="has a category with a single block"):
        recording_from_file(run_on_disk, events=tmp_path / "one.tsv")
    mask = nibabel.Nifti1Image(np.ones((9, 8, 4), np.uint8), np.eye(4))
    mask.to_filename(tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match=r"mask\.nii\.gz is on another grid"):
        recording_from_file(run_on_disk, mask=tmp_path / "mask.nii.gz")
    events.unlink()
    assert main(["demo", "--recording", str(run_on_disk), "--out", str(tmp_path / "out")]) == 2
    assert "has no events.tsv beside it: name one with --events" in capsys.readouterr().err
    assert main(["demo", "--delay", "4"]) == 2
    assert "--delay belongs to a recording of your own" in capsys.readouterr().err


def test_noise_has_the_within_class_covariance_and_leaves_the_batch_alone():
    images = torch.randn(6, 1, 2, 1, 1, 50) * torch.tensor([3.0, 0.5]).view(2, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 2, 2, 2])
    images[labels == 2] += 10
    noise = WithinClassNoise(images, labels, 2.0, torch.Generator().manual_seed(0))
    batch = {"image": torch.zeros(400, 1, 2, 1, 1, 20), "label": torch.zeros(400, dtype=torch.long)}
    noisy, label = noise(batch, "cpu")
    assert (batch["image"] == 0).all()
    assert torch.equal(label, batch["label"])
    spread = noisy.movedim(2, 0).flatten(1).std(1)
    torch.testing.assert_close(spread, torch.tensor([6.0, 1.0]), rtol=0.1, atol=0.0)


def test_loss_and_decoder():
    logits, label = torch.randn(3, 4, 5), torch.tensor([0, 4, 2])
    expected = torch.stack([torch.nn.functional.cross_entropy(logits[:, g], label) for g in range(4)]).mean()
    torch.testing.assert_close(FrameCrossEntropy()(logits, label), expected)
    net = BlockDecoder((37, 45, 36, 7), 6)
    assert net.patch_size == (4, 4, 4, 2)
    assert net(torch.randn(1, 1, 37, 45, 36, 7)).shape == (1, 4, 6)


def test_baseline_chooses_on_the_runs_to_choose_on(haxby):
    fold = haxby.folds[0]
    log_probabilities, setting = fit_baseline("logistic regression", haxby, fold)
    assert setting in BASELINES["logistic regression"].candidates
    assert log_probabilities.shape == (24, 8)
    labels = np.array(haxby.block_labels)[list(fold.test)]
    assert (log_probabilities.argmax(1) == labels).mean() > 0.5


@pytest.mark.parametrize(
    ("model_right", "baseline_right", "begins"),
    [
        (90, 60, "The nstorm model wins"),
        (83, 80, "The nstorm model and the best baseline are level"),
        (81, 80, "The nstorm model and the best baseline are level"),
        (78, 80, "The baseline is ahead, by less than can be told apart"),
        (60, 90, "The baseline wins"),
    ],
)
def test_the_verdict_tells_the_truth(model_right, baseline_right, begins):
    true = np.zeros(100, np.int64)

    def log_probabilities(right):
        wrong_first = np.arange(100) < 100 - right
        return np.where(wrong_first[:, None], [[-2.0, -1.0]], [[-1.0, -2.0]])

    methods = {
        "nstorm": log_probabilities(model_right), "weak": log_probabilities(10),
        "strong": log_probabilities(baseline_right),
    }  # fmt: skip
    results = Results(("a", "b"), true, [FoldResult(tuple(range(100)), methods, {}, [])], seed=0)
    assert verdict(results).startswith(begins)
    assert f"{baseline_right} for the best linear baseline (strong)" in verdict(results)
    assert results.chance == 1.0


def test_a_few_blocks_win_nothing():
    """12 of 12 against 8 of 12 blocks: the bootstrap excludes 0, the exact test does not."""
    right = np.tile([[-1.0, -2.0]], (12, 1))
    some = right.copy()
    some[:4] = [-2.0, -1.0]
    fold = FoldResult(tuple(range(12)), {"nstorm": right, "linear": some}, {}, [])
    results = Results(("a", "b"), np.zeros(12, np.int64), [fold], seed=0)
    assert results.advantage("linear").low > 0
    assert results.sign_test("linear") == pytest.approx(0.125)
    assert "are level" in verdict(results)
    assert results.count("linear", (0, 3, 4, 11)) == 2


def test_masks_are_found_by_their_bids_names(run_on_disk, tmp_path):
    preprocessed = run_on_disk.rename(tmp_path / "sub-1_task-x_space-MNI_desc-preproc_bold.nii.gz")
    shape = nibabel.load(preprocessed).shape[:3]
    mask = np.zeros(shape, np.uint8)
    mask[2:8, 2:6] = 1
    nibabel.Nifti1Image(mask, np.diag([4.0, 4.0, 4.0, 1.0])).to_filename(
        tmp_path / "sub-1_task-x_space-MNI_desc-brain_mask.nii.gz"
    )
    recording = recording_from_file(preprocessed)
    assert int(recording.mask.sum()) == mask.sum()
    assert "desc-brain_mask" in recording.about


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no", "cannot be read as a NIfTI mask"), (None, "no voxel of .* varies over time inside the mask")],
)
def test_bad_masks(run_on_disk, tmp_path, content, message):
    path = tmp_path / "mask.nii.gz"
    if content is None:
        nibabel.Nifti1Image(np.zeros((9, 8, 5), np.uint8), np.diag([4.0, 4.0, 4.0, 1.0])).to_filename(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recording_from_file(run_on_disk, mask=path)


def test_one_category_is_refused(run_on_disk, tmp_path):
    rows = run_on_disk.with_name("sub-1_task-x_events.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([rows[0], *(row for row in rows if row.endswith("\ta"))]))
    with pytest.raises(ValueError, match="has the single category 'a'"):
        recording_from_file(run_on_disk, events=tmp_path / "a.tsv")


def test_a_negative_seed_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--seed", "-1"])
    assert "-1 is no seed" in capsys.readouterr().err
