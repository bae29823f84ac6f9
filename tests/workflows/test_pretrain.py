"""The trainer as a whole; see test_pretrain_resume.py and test_pretrain_processes.py for what takes longer."""

import json

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from nstorm.data import ClipDataset, ClipSampler, collate_brain, haxby_runs, prepare
from nstorm.workflows import pretrainer
from tests.workflows.tiny_autoencoder import NoisyClips, TinyAutoencoder


def training(folder, loader=None, net=None, **changes):
    torch.manual_seed(0)
    loader = DataLoader(NoisyClips(), 2, shuffle=True) if loader is None else loader
    options = {"max_epochs": 2, "lr": 1e-2, **changes}
    return pretrainer(TinyAutoencoder() if net is None else net, loader, folder, **options)


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_it_learns_and_says_so(tmp_path, capsys):
    training(tmp_path, max_epochs=40, lr=3e-2).run()
    losses = [line["loss"] for line in history(tmp_path)]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 40
    assert lines[-1].startswith("epoch 40 of 40: loss 0.")


def test_the_learning_rate_warms_up_and_falls(tmp_path):
    training(tmp_path, max_epochs=5, warmup_steps=4, lr=1e-2).run()
    rates = [line["learning_rate"] for line in history(tmp_path)]
    assert len(rates) == 20
    assert rates[:5] == pytest.approx([0.0025, 0.004375, 0.00625, 0.008125, 0.01])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 2e-4


def test_an_optimizer_and_schedule_of_ones_own(tmp_path):
    net = TinyAutoencoder()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    training(tmp_path, net=net, lr=None, optimizer=optimizer, scheduler=scheduler, max_epochs=1).run()
    assert [line["learning_rate"] for line in history(tmp_path)] == [0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(tmp_path, precision, device):
    net = TinyAutoencoder().to(device)
    if (precision, device) == ("float16", "cpu"):
        with pytest.raises(ValueError, match="precision float16 needs a CUDA device, but the device is cpu"):
            training(tmp_path, net=net, precision=precision)
        return
    trainer = training(tmp_path, net=net, precision=precision)
    types = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: types.append(trainer.state.output["pred"].prediction.dtype)
    )
    trainer.run()
    assert set(types) == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert all(line["loss"] > 0 for line in history(tmp_path))


def test_what_is_not_finite_gets_into_no_checkpoint(tmp_path):
    clips = NoisyClips(noise=0)
    clips.clips[3, 0, 1, 1, 1, 2] = torch.nan
    with pytest.raises(
        ValueError, match=r"the loss is nan in epoch 1, step 4 \(.*\) with clips of subject 03 run 1, of"
    ):
        training(tmp_path, DataLoader(clips), checkpoint_every=1).run()
    (*_, last) = sorted((tmp_path / "checkpoints").iterdir())
    content = torch.load(last, weights_only=True)
    assert content["step"] == 3
    assert all(torch.isfinite(value).all() for value in content["net"].values())
    # what was learned is not lost where that run is left out
    assert len(history(tmp_path)) == 3


def test_masks_come_from_their_own_generator(tmp_path):
    def masks(folder, seed, **changes):
        trainer = training(folder, mask_generator=torch.Generator().manual_seed(seed), **changes)
        found = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: found.append(trainer.state.output["pred"].token_mask.sum().item())
        )
        trainer.run()
        return found

    assert masks(tmp_path / "a", 1) == masks(tmp_path / "b", 1) != masks(tmp_path / "c", 2)
    # whatever else is drawn
    assert masks(tmp_path / "d", 1, net=TinyAutoencoder(dropout=0.0)) == masks(tmp_path / "e", 1)


def test_pictures_and_tensorboard(tmp_path):
    drawn = []

    def draw(net, epoch, folder):
        drawn.append((type(net), epoch, folder.relative_to(tmp_path).as_posix()))
        # its checkpoint is there already
        assert len(list((tmp_path / "checkpoints").glob("*.pt"))) >= 1

    training(tmp_path, max_epochs=4, pictures=draw, pictures_every=2, tensorboard=True).run()
    assert drawn == [(TinyAutoencoder, 2, "pictures"), (TinyAutoencoder, 4, "pictures")]
    assert list((tmp_path / "tensorboard").glob("events.out.*"))


def test_pictures_change_no_weight(tmp_path):
    def weights(folder, pictures):
        trainer = training(folder, pictures=pictures)
        trainer.run()
        return trainer.network.mix[0].weight

    plain = weights(tmp_path / "a", None)
    assert torch.equal(weights(tmp_path / "b", lambda net, *_: net(torch.randn(1, 1, 5, 4, 3, 6))), plain)


def test_no_checkpoint_is_written_into_a_package_of_pickles(tmp_path):
    """They load with nothing but tensors and plain values allowed."""
    training(tmp_path, mask_generator=torch.Generator()).run()
    content = torch.load(next((tmp_path / "checkpoints").iterdir()), weights_only=True)
    assert set(content) == {
        "step",
        "iteration",
        "epoch",
        "settings",
        "net",
        "optimizer",
        "scaler",
        "also",
        "processes",
    }


@pytest.mark.parametrize("output", ["dense", "brain"])
def test_clips_of_a_store(tmp_path, output):
    store = prepare([{"image": run.bold} for run in haxby_runs()[:3]], tmp_path / "store", progress=False)
    clips = ClipDataset(store, 6, output=output)
    loader = DataLoader(clips, 2, sampler=ClipSampler(clips), collate_fn=collate_brain if output == "brain" else None)
    trainer = training(tmp_path, loader if output == "brain" else DataLoader(clips, sampler=ClipSampler(clips)))
    masks = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: masks.append(trainer.state.output["pred"].token_mask))
    trainer.run()
    assert not masks[0].any(0)[0, :, :, 0].all()
    assert masks[0].any()


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(NoisyClips())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loader": DataLoader(Endless())}, "the loader, a DataLoader, does not know how many batches it has"),
        ({"loader": DataLoader(NoisyClips(), 9, drop_last=True)}, "the loader has no batches"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)}, r"an optimizer is given, and lr 0\.01 "),
        ({"warmup_steps": 9}, "warmup_steps is 9, but there are 8 steps in all"),
        ({"checkpoint_every": 0}, "every is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"clip": 0.0}, "max_norm is 0"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0"),
        ({"max_epochs": 0}, "max_epochs is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        training(tmp_path, **change)
    assert not list(tmp_path.iterdir())


def test_a_scheduler_needs_its_optimizer(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match="a scheduler is given: give the optimizer that it belongs to"):
        training(tmp_path, scheduler=scheduler)
