"""Two processes on one machine; :mod:`tests.workflows.pretrain_processes` is what they do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.workflows.pretrain_processes import deterministic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of what two processes did, and what was said where one of them was told to end, and otherwise."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.workflows.pretrain_processes"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stopped, done = (
        subprocess.run(
            [*command, work, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
        )
        for work in ("terminated", "all")
    )
    assert done.returncode == 0, done.stderr
    return folder, stopped, done


def last_of(folder):
    return torch.load(max((folder / "checkpoints").glob("step-*.pt")), weights_only=True)


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_with_all_clips(trained, tmp_path):
    folder, _, done = trained
    deterministic(tmp_path)
    two, one = last_of(folder / "deterministic"), last_of(tmp_path)
    assert two["step"] == one["step"] == 3
    assert two["net"].keys() == one["net"].keys()
    for name, value in one["net"].items():
        torch.testing.assert_close(two["net"][name], value, rtol=1e-5, atol=1e-6, msg=name)
    for there, here in zip(history(folder / "deterministic"), history(tmp_path), strict=True):
        assert there == pytest.approx(here, rel=1e-5)
    assert len(two["processes"]) == 2
    # only the first one prints (gloo's own lines, which older versions print, may be torn by each other)
    assert done.stdout.count("epoch 1 of 3: loss ") == 4
    assert done.stdout.count(" of 3: loss ") == 3 * 4


def assert_same_training(folder, whole):
    found, expected = last_of(folder), last_of(whole)
    for name, value in expected["net"].items():
        assert torch.equal(found["net"][name], value), name
    assert history(folder) == history(whole)


def test_two_processes_go_on_where_they_were(trained):
    folder, *_ = trained
    assert_same_training(folder / "resumed", folder / "whole")
    # they draw differently
    first, second = last_of(folder / "whole")["processes"]
    assert not torch.equal(first["generators"]["masks"], second["generators"]["masks"])


def test_both_processes_stop_if_one_is_told_to(trained):
    folder, stopped, _ = trained
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped by SIGTERM after step 2: the same command goes on from there") == 2
    assert "exitcode  : 143" in stopped.stderr
    assert_same_training(folder / "terminated", folder / "whole")


def test_all_processes_stop_at_a_loss_that_is_no_number(trained):
    folder, *_ = trained
    said = [(folder / f"not-finite-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("the loss is nan in epoch 1, step 1 (learning rate ")
    assert not (folder / "not finite" / "checkpoints").exists()


def test_a_loader_that_gives_all_the_same_is_refused(trained):
    folder, *_ = trained
    for rank in range(2):
        said = (folder / f"not-divided-{rank}.txt").read_text()
        assert said.startswith("each of 2 processes would train on the same clips: give the loader a sampler")
