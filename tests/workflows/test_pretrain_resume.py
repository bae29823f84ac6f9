"""Trainings that end before they are done, and go on; those of :mod:`tests.workflows.pretrain_jobs` are killed."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch.utils.data import DataLoader

from nstorm.nets import NeuroSTORMMAE
from nstorm.workflows import CheckpointEverything, pretrainer
from tests.workflows.tiny_autoencoder import NoisyClips, TinyAutoencoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    command = [sys.executable, "-m", "tests.workflows.pretrain_jobs", str(tmp_path_factory.mktemp("jobs"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def last_of(folder, python=False):
    content = torch.load(max((Path(folder) / "checkpoints").glob("step-*.pt")), weights_only=True)
    for process in content["processes"]:
        # beartype, which looks at calls in this process, draws from Python's global generator
        python or process["random"].pop("python")
    return content


def assert_same(found, expected):
    """Bit for bit, in all that a checkpoint holds."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("where", ["in the main process", "of a store, by workers"])
@pytest.mark.parametrize("end", ["killed", "terminated"])
def test_it_ends_with_the_very_weights_whenever_it_was_ended(jobs, where, end):
    whole, again = Path(jobs[where]["whole"]), Path(jobs[where][end]["folder"])
    assert_same(last_of(again, python=True), last_of(whole, python=True))
    assert (again / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()
    assert not list((again / "checkpoints").glob(".*"))
    assert len(list((again / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("where", ["in the main process", "of a store, by workers"])
def test_kills_met_the_work(jobs, where):
    kills = jobs[where]["killed"]["kills"]
    assert len(kills) == 7
    half_written = [any(name.startswith(".") for name in names) for _, moment, names in kills if moment == "writing"]
    assert half_written == [True, True]
    # and some in the middle of an epoch, after a checkpoint in it
    assert len({tuple(names) for _, _, names in kills}) > 4


@pytest.mark.parametrize("where", ["in the main process", "of a store, by workers"])
def test_sigterm_to_all_processes_ends_it_in_good_order(jobs, where):
    said = jobs[where]["terminated"]
    assert said["code"] == 143
    assert said["checkpoints"][-1] == f"step-{said['steps'][-1]:09}.pt"
    # before its end
    assert 3 <= said["steps"][-1] < 12


def settings(**changes):
    return {"max_epochs": 2, "lr": 1e-2, "accumulation_steps": 2, "checkpoint_every": 1, **changes}


def training(folder, net=None, loader=None, **changes):
    torch.manual_seed(0)
    net = TinyAutoencoder() if net is None else net
    loader = DataLoader(NoisyClips(), shuffle=True) if loader is None else loader
    return pretrainer(net, loader, folder, **settings(**changes))


class StopAfter:
    """Ends a training in an iteration, once."""

    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        if engine.state.iteration == self.iteration:
            self.iteration = -1
            engine.terminate()


def test_a_training_that_is_done_has_nothing_left_to_do(tmp_path):
    training(tmp_path).run()
    before = last_of(tmp_path)
    again = training(tmp_path)
    again.run()
    again.run()
    assert again.state.iteration == 14
    assert_same(last_of(tmp_path), before)
    assert torch.equal(again.network.mix[0].weight, before["net"]["mix.0.weight"])


def test_the_trainer_itself_goes_on_too(tmp_path):
    training(tmp_path / "whole").run()
    trainer = training(tmp_path / "stopped", train_handlers=[StopAfter(5)])
    trainer.run()
    # in the middle of two batches of one step: the first comes again
    assert trainer.state.iteration == 5
    assert last_of(tmp_path / "stopped")["iteration"] == 4
    trainer.run()
    assert_same(last_of(tmp_path / "stopped"), last_of(tmp_path / "whole"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neurostorm_goes_on_where_it_was(tmp_path, precision):
    """With dropout, dropped paths, masks of windows, and a brain."""
    size = (7, 6, 5, 6)
    brain = torch.zeros(1, *size[:3], dtype=torch.bool)
    brain[:, 1:6, 1:5, 1:4] = True
    clips = NoisyClips(5, size=size)

    class Masked(torch.utils.data.Dataset):
        def __len__(self):
            return len(clips)

        def __getitem__(self, index):
            return {**clips[index], "mask": brain}

    def trainer(folder, **changes):
        torch.manual_seed(0)
        shared = {"feature_size": 6, "depths": (1, 1), "patch_size": (2, 2, 2, 1), "window_size": (2, 2, 2, 2)}
        net = NeuroSTORMMAE(size, dropout_rate=0.1, drop_path_rate=0.2, **shared)
        return training(folder, net, DataLoader(Masked(), shuffle=True), precision=precision, **changes)

    trainer(tmp_path / "whole").run()
    for stop in (2, 7):
        trainer(tmp_path / "parts", train_handlers=[StopAfter(stop)]).run()
    trainer(tmp_path / "parts").run()
    assert_same(last_of(tmp_path / "parts"), last_of(tmp_path / "whole"))


def test_batches_that_are_done_are_not_read_again(tmp_path):
    read = []

    class Watched(NoisyClips):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    training(tmp_path, loader=DataLoader(Watched(), shuffle=True), train_handlers=[StopAfter(4)]).run()
    begun = list(read)
    assert len(begun) == 4
    read.clear()
    training(tmp_path, loader=DataLoader(Watched(), shuffle=True)).run()
    assert len(read) == 3 + 7
    assert sorted(begun + read[:3]) == list(range(7))


@pytest.mark.parametrize("damage", ["cut off", "a bit", "empty", "not one at all"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, damage):
    training(tmp_path / "whole").run()
    training(tmp_path / "stopped", train_handlers=[StopAfter(6)]).run()
    path = tmp_path / "stopped" / "checkpoints" / "step-000000003.pt"
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        # in the numbers of a weight
        where = content.index(last_of(tmp_path / "stopped")["net"]["mix.0.weight"].numpy().tobytes())
        content[where + 9] ^= 0x10
    path.write_bytes({"cut off": content[:-900], "a bit": content, "empty": b"", "not one at all": b"text"}[damage])
    again = training(tmp_path / "stopped")
    with pytest.warns(UserWarning, match=r"step-000000003\.pt is damaged .* and step-000000002\.pt is used") as warned:
        again.run()
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert_same(last_of(tmp_path / "stopped"), last_of(tmp_path / "whole"))
    assert path.with_name("step-000000003.pt.damaged").exists()


def test_nothing_but_damaged_checkpoints_is_no_beginning(tmp_path):
    training(tmp_path).run()
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-900])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"holds 2 checkpoints, but none that can be read .* to begin anew"):
            training(tmp_path).run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2e-2}, r"initial_lr of the optimizer is 0\.01 there and 0\.02 here"),
        ({"max_epochs": 3}, r"max_epochs is 2 there and 3 here"),
        ({"accumulation_steps": 1}, r"accumulation_steps is 2 there and 1 here"),
        ({"weight_decay": 0.5}, r"weight_decay of the optimizer is \[0\.01, 0\.0\] there and \[0\.5, 0\.0\] here"),
        ({"clip": None}, r"clip is 1\.0 there and None here"),
        ({"precision": "bfloat16"}, r"precision is float32 there and bfloat16 here"),
        ({"warmup_steps": 3}, r"warmup_steps of the scheduler is 1 there and 3 here"),
        ({"mask_generator": torch.Generator()}, r"masks is not there and saved here"),
        ({"net": TinyAutoencoder(num_frames=9)}, r"mix\.0\.weight is \(8, 6\) there and \(8, 9\) here"),
        ({"loader": DataLoader(NoisyClips(9), shuffle=True)}, r"batches in an epoch is 7 there and 9 here"),
        ({"loader": DataLoader(NoisyClips(14), 2, shuffle=True)}, r"items is 7 there and 14 here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_training_is_refused(tmp_path, change, message):
    training(tmp_path).run()
    before = last_of(tmp_path)
    with pytest.raises(ValueError, match=rf"that of another.*{message}"):
        training(tmp_path, **change).run()
    assert_same(last_of(tmp_path), before)


def test_what_a_checkpoint_cannot_give_back_is_refused_before_it_is_relied_on(tmp_path):
    class Odd:
        def state_dict(self):
            return {"path": Path("x")}

    trainer = training(tmp_path, checkpoint_every=None)
    CheckpointEverything(tmp_path / "other", every=1, also={"odd": Odd()}).attach(trainer)
    with pytest.raises(ValueError, match=r"a checkpoint would hold what .* does not read again"):
        trainer.run()
    assert not list((tmp_path / "other").iterdir())


def test_all_kinds_of_generators_go_on(tmp_path):
    class Draws:
        def __init__(self):
            self.generators = {
                "torch": torch.Generator().manual_seed(1),
                "numpy": np.random.default_rng(1),
                "old numpy": np.random.RandomState(1),
                "python": random.Random(1),
            }
            self.drawn = []

        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

        def draw(self, engine):
            torch_, numpy, old, python = self.generators.values()
            # of normal numbers, of which some generators keep one for later
            numbers = [torch.randn(3, generator=torch_).sum().item(), numpy.normal(), old.normal(), python.gauss(0, 1)]
            self.drawn.append([*numbers, np.random.normal()])  # noqa: NPY002

    np.random.seed(3)  # noqa: NPY002
    whole = Draws()
    training(tmp_path / "whole", generators=whole.generators, train_handlers=[whole]).run()
    np.random.seed(3)  # noqa: NPY002
    for stop in (4, 11):
        part = Draws()
        training(tmp_path / "parts", generators=part.generators, train_handlers=[part, StopAfter(stop)]).run()
        np.random.seed(99)  # noqa: NPY002
    last = Draws()
    training(tmp_path / "parts", generators=last.generators, train_handlers=[last]).run()
    assert last.drawn == whole.drawn[11:]
