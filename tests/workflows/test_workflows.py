import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from nstorm.workflows import bootstrap_mean, train_classifier


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        estimate = bootstrap_mean(rng.random(96) < 0.7)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_is_paired_and_seeded():
    values = np.array([1.0, 0.0, -1.0, 1.0, 1.0])
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values).mean == pytest.approx(0.4)
    constant = bootstrap_mean(np.ones(7))
    assert (constant.low, constant.high) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"values has shape \(0,\)"):
        bootstrap_mean(np.array([]))


def problem():
    x = torch.randn(64, 5)
    return x, (x[:, 0] > 0).long()


def batches(x, label, size=16):
    return [{"image": a, "label": b} for a, b in zip(x.split(size), label.split(size), strict=True)]


def fit(seed=0, **kwargs):
    torch.manual_seed(seed)
    x, label = problem()
    net = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=kwargs.pop("lr", 0.5))
    history = train_classifier(
        net, batches(x, label), loss=nn.CrossEntropyLoss(), optimizer=optimizer, max_epochs=12, **kwargs
    )
    return net, history


def test_it_learns_and_repeats_exactly():
    net, history = fit()
    assert history.train_loss[-1] < 0.6 * history.train_loss[0]
    assert history.kept_epoch == 12
    assert not net.training
    again, repeated = fit()
    assert repeated == history
    assert torch.equal(net.weight, again.weight)


def test_it_keeps_the_weights_of_the_epoch_that_it_chose():
    x, label = problem()
    # labels turned round: the longer it trains, the worse it gets here
    chosen, history = fit(choose_on=batches(x, 1 - label), choose_every=2)
    assert history.choose_epochs == [2, 4, 6, 8, 10, 12]
    assert history.kept_epoch == 2
    assert history.choose_loss[0] == min(history.choose_loss)
    last, _ = fit()
    assert not torch.equal(chosen.weight, last.weight)
    assert nn.functional.cross_entropy(chosen(x), 1 - label).item() == pytest.approx(history.choose_loss[0], rel=1e-5)


def test_choosing_changes_nothing_about_the_training():
    x, label = problem()
    assert fit()[1].train_loss == fit(choose_on=batches(x, label))[1].train_loss


def test_a_loss_that_is_not_finite_stops_the_training():
    net = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, label = problem()
    x[20] = torch.nan
    with pytest.raises(ValueError, match="the loss is nan in epoch 1: lower the learning rate"):
        train_classifier(net, batches(x, label), loss=nn.CrossEntropyLoss(), optimizer=optimizer, max_epochs=2)


def loader(*subjects):
    items = [
        {"image": torch.randn(5), "label": n % 2, "subject": subject, "run": f"{n}"}
        for n, subject in enumerate(subjects)
    ]
    return DataLoader(Dataset(items), batch_size=2)


def train_on(batches, choose_on, **kwargs):
    net = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss()
    return train_classifier(net, batches, loss=loss, optimizer=optimizer, max_epochs=1, choose_on=choose_on, **kwargs)


def test_a_person_on_both_sides_is_refused():
    assert train_on(loader("a", "b"), loader("c", "d")).kept_epoch == 1
    with pytest.raises(ValueError, match=r"batches and choose_on share 1 subject \(b; 1 items of batches, 1 of"):
        train_on(loader("a", "b"), loader("b", "c"))


def test_runs_of_one_person_are_held_apart_if_asked_for():
    assert train_on(loader("a", "b"), loader("b", "a"), unit="run").kept_epoch == 1
    with pytest.raises(ValueError, match=r"share 2 runs \(sub-a_run-0, sub-b_run-1;"):
        train_on(loader("a", "b"), loader("a", "b"), unit="run")


def test_a_file_on_both_sides_is_refused_whoever_it_is_of():
    def unnamed(*names):
        items = [{"image": name, "label": 0} for name in names]
        return DataLoader(Dataset(items, lambda item: {**item, "image": torch.randn(5)}), batch_size=2)

    assert train_on(unnamed("a.nii"), unnamed("b.nii")).kept_epoch == 1
    with pytest.raises(ValueError, match=r"batches and choose_on share 1 file \(.*a\.nii; 2 items of batches, 1 of"):
        train_on(unnamed("a.nii", "a.nii", "b.nii"), unnamed("a.nii"))


def test_an_item_without_a_subject_among_others_is_refused():
    with pytest.raises(ValueError, match=r"has no subject: set item\['subject'\]"):
        train_on(loader("a", "b"), loader("c", ""))
