"""Each handler in a trainer of MONAI's own."""

import json
import signal
import sys

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from nstorm.workflows import (
    AutocastInferer,
    EpochLines,
    GradientClipper,
    HistoryWriter,
    LossFromOutput,
    Pictures,
    ResumableLoader,
    StepSchedule,
    StopOnNonFinite,
    StopOnSignal,
    Stopped,
    TensorBoardWriter,
)


def linear():
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    return net


def batches(*values, **more):
    """The gradient of (w x)^2 / 2 at w = (1, 1) is x (x1 + x2)."""
    return [{"image": torch.tensor([value]), "label": torch.zeros(1, 1), **more} for value in values]


def trainer(net, data, *handlers, lr=0.1, epochs=1, **kwargs):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    options = {"loss_function": lambda output, target: (output - target).square().mean() / 2, **kwargs}
    made = SupervisedTrainer("cpu", epochs, data, net, optimizer, train_handlers=[], **options)
    for handler in handlers:
        handler.attach(made)
    return made


def test_the_gradient_is_clipped_once_a_step_as_a_sum():
    # gradients (3, 0) and (0, 4) of two batches: (1.5, 2) on average, of norm 2.5
    data = batches((3**0.5, 0.0), (0.0, 2.0))
    net = linear()
    made = trainer(net, data, GradientClipper(0.5), lr=1.0, accumulation_steps=2)
    made.run()
    assert float(made.state.gradient_norm) == pytest.approx(2.5)
    torch.testing.assert_close(net.weight, torch.tensor([[1 - 0.3, 1 - 0.4]]))


def test_a_small_gradient_is_left_alone():
    net, free = linear(), linear()
    data = batches((0.1, 0.0), (0.0, 0.2), (0.1, 0.1))
    trainer(net, data, GradientClipper(10.0), accumulation_steps=2).run()
    trainer(free, data, accumulation_steps=2).run()
    assert torch.equal(net.weight, free.weight)
    with pytest.raises(ValueError, match="max_norm is 0"):
        GradientClipper(0.0)


def test_the_schedule_steps_with_the_optimizer():
    net = linear()
    rates = []
    made = trainer(net, batches(*[(0.1, 0.1)] * 5), lr=1.0, epochs=2, accumulation_steps=2)
    StepSchedule(LambdaLR(made.optimizer, lambda step: 1 / (1 + step))).attach(made)
    made.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: rates.append(round(1 / made.optimizer.param_groups[0]["lr"]))
    )
    made.run()
    # an epoch of five batches is three steps
    assert rates == [1, 2, 2, 3, 4, 4, 5, 5, 6, 7]


class Scaler:
    """Of a trainer with amp=True, as far as handlers look at it."""

    def __init__(self, scales):
        self.scales, self.unscaled = scales, 0

    def get_scale(self):
        return self.scales.pop(0)

    def unscale_(self, optimizer):
        self.unscaled += 1


def test_steps_that_the_scaler_leaves_out_do_not_count():
    made = trainer(linear(), batches((0.1, 0.1)) * 3)
    schedule = StepSchedule(LambdaLR(made.optimizer, lambda step: 1 / (1 + step)))
    schedule.attach(made)
    scaler = Scaler([4.0, 2.0, 2.0, 2.0, 2.0, 4.0])
    clipper = GradientClipper(1.0)
    clipper.attach(made)
    # after run() has made none
    made.add_event_handler(Events.STARTED, lambda: setattr(made, "scaler", scaler))
    made.run()
    assert schedule.scheduler.last_epoch == 2
    assert scaler.unscaled == 3


def test_a_loss_that_is_no_number_stops_before_the_step():
    net = linear()
    data = batches((0.1, 0.2), subject=["03"], run=["1"]) + batches((float("nan"), 0.1), subject=["05"], run=["2"])
    made = trainer(net, data, StopOnNonFinite())
    with pytest.raises(
        ValueError,
        match=r"the loss is nan in epoch 1, step 2 \(learning rate 0\.1\) with clips of subject 05 run 2, of which "
        r"these hold values that are not finite: subject 05 run 2\. Prepare these runs again",
    ):
        made.run()
    assert torch.isfinite(net.weight).all()
    assert not torch.equal(net.weight, linear().weight)


def test_a_loss_that_overflows_is_no_fault_of_the_data():
    made = trainer(linear(), batches((1e30, 0.1), key=["sub-1_run-1"]), StopOnNonFinite(), accumulation_steps=2)
    with pytest.raises(ValueError, match=r"the loss is inf .* with clips of sub-1_run-1: lower the learning rate"):
        made.run()


def test_a_gradient_that_is_no_number_stops_before_the_step():
    net = linear()

    def loss(output, target):
        # finite, but its derivative at 0 is not
        return (output * 0).abs().sqrt().sum()

    made = trainer(net, batches((0.1, 0.2)), StopOnNonFinite(), loss_function=loss)
    with pytest.raises(ValueError, match=r"the gradient's norm is nan in epoch 1, step 1 \(learning rate 0\.1\):"):
        made.run()
    assert torch.equal(net.weight, linear().weight)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history_has_a_line_for_each_step(tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    made = trainer(linear(), batches((1.0, 0.0), (0.0, 0.0), (0.0, 2.0)), accumulation_steps=2, epochs=2, lr=0.0)
    GradientClipper(0.5).attach(made)
    # before the writer: the rate of a step is the one it was taken with
    StepSchedule(LambdaLR(made.optimizer, lambda step: 1.0)).attach(made)
    HistoryWriter(path).attach(made)
    made.run()
    lines = read(path)
    assert [(line["epoch"], line["step"], line["loss"]) for line in lines] == [
        (1, 1, 0.25),
        (1, 2, 2),
        (2, 3, 0.25),
        (2, 4, 2),
    ]
    # MONAI divides by accumulation_steps, also where fewer batches are left
    assert [line["gradient_norm"] for line in lines] == [0.5, 2.0] * 2


def test_history_goes_on_without_doubles(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "old": true}\n{"step": 2, "old": true}\n{"step": 3, "old": true}\n{"step": 4, "ol')
    made = trainer(linear(), batches((1.0, 0.0), (0.0, 2.0)), HistoryWriter(path), epochs=2)
    made.add_event_handler(
        Events.STARTED, lambda: made.load_state_dict({"iteration": 2, "max_epochs": 2, "epoch_length": 2})
    )
    made.run()
    assert [(line["step"], "old" in line) for line in read(path)] == [(1, True), (2, True), (3, False), (4, False)]


def test_tensorboard_shows_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(linear(), batches((1.0, 0.0), (0.0, 2.0)), TensorBoardWriter(tmp_path), lr=0.0).run()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "learning_rate"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.5), (2, 2.0)]


def test_tensorboard_that_is_not_installed_is_asked_for_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "nstorm\[bundle\]"'):
        TensorBoardWriter(tmp_path)


def test_epochs_are_printed(capsys):
    trainer(linear(), batches((1.0, 0.0), (0.0, 2.0)), EpochLines(), epochs=2, lr=0.0).run()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "epoch 1 of 2: loss 1.25, learning rate 0 after step 2",
        "epoch 2 of 2: loss 1.25, learning rate 0 after step 4",
    ]


def test_a_terminal_sees_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer(linear(), batches((1.0, 0.0), (0.0, 2.0)), EpochLines()).run()
    captured = capsys.readouterr()
    assert "pre-training" in captured.err
    assert "loss=" in captured.err
    assert captured.out.startswith("epoch 1 of 1")


def test_pictures_change_nothing(tmp_path):
    drawn = []

    def draw(net, epoch, folder):
        drawn.append((net.training, torch.is_grad_enabled(), epoch, folder.is_dir()))
        torch.randn(3)
        net(torch.zeros(1, 2))

    def weight(*handlers):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Dropout(), linear())
        trainer(net, batches((1.0, 0.5), (0.5, 2.0)), *handlers, epochs=3).run()
        return net[1].weight

    assert torch.equal(weight(Pictures(draw, tmp_path / "pictures", every=2)), weight())
    assert drawn == [(False, False, 2, True)]
    with pytest.raises(ValueError, match="every is 0"):
        Pictures(draw, tmp_path, every=0)


def test_loss_of_the_output():
    with pytest.raises(ValueError, match=r"the network gives a Tensor without a loss: .*MaskedAutoencoder"):
        LossFromOutput()(torch.zeros(2), None)


def test_autocast_on_the_cpu():
    net = nn.Linear(3, 2)
    assert AutocastInferer("bfloat16")(torch.zeros(1, 3), net).dtype == torch.bfloat16
    assert AutocastInferer("float32")(torch.zeros(1, 3), net).dtype == torch.float32
    with pytest.raises(ValueError, match="precision is 'float16'"):
        AutocastInferer("float16")


def test_a_signal_means_what_it_did_before_and_after():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("outside"))
    try:
        made = trainer(linear(), batches(*[(0.1, 0.1)] * 4), StopOnSignal(), epochs=3, accumulation_steps=2)
        at = Events.ITERATION_STARTED(once=5)
        made.add_event_handler(at, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 3") as stop:
            made.run()
        assert stop.value.code == 143
        # the step was finished
        assert made.state.iteration == 6
        assert heard == []
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["outside"]
        # and after an error
        failing = trainer(linear(), batches((float("nan"), 0.0)), StopOnSignal(), StopOnNonFinite())
        with pytest.raises(ValueError, match="the loss is nan"):
            failing.run()
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["outside"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_at_the_end_of_an_epoch_leaves_the_epoch_whole():
    seen = []
    made = trainer(linear(), batches((0.1, 0.1), (0.2, 0.1)), StopOnSignal(), epochs=3)
    made.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: signal.raise_signal(signal.SIGTERM))
    made.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(made.state.epoch))
    with pytest.raises(Stopped):
        made.run()
    assert seen == [1]
    assert made.state.iteration == 2


def rest_of(make, epochs, batch):
    """What is left of an epoch, and the next one: from the beginning, and continued."""
    whole, first, again = (ResumableLoader(make()) for _ in range(3))
    torch.manual_seed(0)
    for _ in range(epochs - 1):
        list(whole)
    expected = list(whole)[batch:] + list(whole)
    torch.manual_seed(0)
    for _ in range(epochs - 1):
        list(first)
    iterator = iter(first)
    for _ in range(batch):
        next(iterator)
    state, random = first.state_dict(), torch.get_rng_state()
    again.load_state_dict(state)
    torch.manual_seed(99)
    torch.set_rng_state(random)
    found = list(again) + list(again)
    return [[torch.as_tensor(each).tolist() for each in batches] for batches in (expected, found[: len(expected)])]


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(range(12))

    def __len__(self):
        return 12


def own_generator():
    generator = torch.Generator().manual_seed(5)
    return DataLoader(range(12), 2, shuffle=True, generator=generator)


def from_random_numbers():
    sampler = torch.utils.data.RandomSampler(range(50), replacement=True, num_samples=12, generator=torch.Generator())
    return DataLoader(range(50), 2, sampler=sampler)


LOADERS = {
    "shuffled": lambda: DataLoader(range(12), 2, shuffle=True),
    "shuffled, workers": lambda: DataLoader(range(12), 2, shuffle=True, num_workers=1),
    "shuffled, workers that stay": lambda: DataLoader(
        range(12), 2, shuffle=True, num_workers=1, persistent_workers=True
    ),
    "generator": own_generator,
    "with replacement": from_random_numbers,
    "no batches": lambda: DataLoader(range(12), None, shuffle=True),
    "iterable": lambda: DataLoader(Numbers(), 2),
    "list": lambda: [[n] for n in range(6)],
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("batch", [1, 6])
def test_a_loader_goes_on(name, batch):
    expected, found = rest_of(LOADERS[name], 2, batch)
    assert found == expected
    assert len(found) >= 6
    if name in ("shuffled", "generator"):
        assert found[:5] != found[5:10]


def test_a_loader_of_other_data_is_refused():
    state = ResumableLoader(DataLoader(range(12), 2)).state_dict()
    with pytest.raises(ValueError, match=r"that of another loader: batches is 6 there and 4 here, batch_size"):
        ResumableLoader(DataLoader(range(12), 3)).load_state_dict(state)


def test_the_given_loader_is_left_as_it_is():
    loader = DataLoader(range(12), 2, shuffle=True)
    before = dict(vars(loader))
    list(ResumableLoader(loader))
    assert vars(loader) == before
