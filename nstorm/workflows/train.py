"""Training a classifier with MONAI's engines."""

import copy
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass
class History:
    """Losses by epoch, and the epoch whose weights were kept.

    Attributes:
        train_loss: mean loss of the training batches of every epoch.
        choose_loss: loss on the data to choose on, every `choose_every` epochs; empty without such data.
        choose_epochs: the epochs these belong to, counted from 1.
        kept_epoch: the epoch whose weights the network has now.
    """

    train_loss: list[float] = field(default_factory=list)
    choose_loss: list[float] = field(default_factory=list)
    choose_epochs: list[int] = field(default_factory=list)
    kept_epoch: int = 0


def train_classifier(
    net: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    *,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_epochs: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    prepare_batch: Callable[..., Any] | None = None,
    choose_on: Iterable[dict[str, Tensor]] | None = None,
    choose_every: int = 1,
    unit: str = "subject",
    description: str = "training",
) -> History:
    """Train a network with MONAI's `SupervisedTrainer`, with a progress bar in a terminal.

    With `choose_on`, a `SupervisedEvaluator` measures the loss there and the network ends with the weights of the
    epoch in which it was lowest; without, it keeps the last ones.

    Args:
        net: maps an image batch to a prediction; left in eval mode, on the device of its parameters.
        batches: dicts with `image` and `label`, a data loader for instance.
        loss: of (prediction, label).
        optimizer: over the parameters of `net`.
        max_epochs: passes over `batches`.
        scheduler: learning rate schedule, stepped at every batch.
        prepare_batch: MONAI's hook from a batch to (image, label), the place for augmentation; MONAI's default if None.
        choose_on: data like `batches`, never augmented.
        choose_every: epochs between two measurements.
        unit: what must not be in both data, "subject" or, for one person's data, "run". It is checked where items
            behind the loaders carry a `subject`; a file must not be in both in any case. Of loaders over datasets of
            another kind than MONAI's nothing is known: call `nstorm.data.check_leakage` with their items.
        description: shown before the progress bar.

    Raises:
        ValueError: if the loss becomes NaN or infinite, naming the epoch, or if `batches` and `choose_on` share a
            subject, a run or a file (see `nstorm.data.check_leakage`).

    Example:
        >>> import torch
        >>> from nstorm.workflows import train_classifier
        >>> net = torch.nn.Linear(4, 2)
        >>> batches = [{"image": torch.randn(8, 4), "label": torch.randint(0, 2, (8,))}]
        >>> optimizer = torch.optim.AdamW(net.parameters())
        >>> loss = torch.nn.CrossEntropyLoss()
        >>> history = train_classifier(net, batches, loss=loss, optimizer=optimizer, max_epochs=3)
        >>> len(history.train_loss), history.kept_epoch
        (3, 3)
    """
    from ignite.engine import Events
    from ignite.handlers.tqdm_logger import ProgressBar
    from monai.engines import SupervisedEvaluator, SupervisedTrainer, default_prepare_batch
    from monai.handlers import LrScheduleHandler

    device = next(net.parameters()).device
    history = History()
    best: dict[str, Tensor] = {}
    losses: list[float] = []

    trainer = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=batches,
        network=net,
        optimizer=optimizer,
        loss_function=loss,
        prepare_batch=prepare_batch or default_prepare_batch,
        decollate=False,
        train_handlers=[]
        if scheduler is None
        else [LrScheduleHandler(cast(Any, scheduler), epoch_level=False, print_lr=False)],
    )

    def collect(engine: Any) -> None:
        value = engine.state.output["loss"]
        if not torch.isfinite(value):
            raise ValueError(f"the loss is {value.item()} in epoch {engine.state.epoch}: lower the learning rate")
        losses.append(float(value.detach()))

    def close_epoch(engine: Any) -> None:
        history.train_loss.append(sum(losses) / len(losses))
        losses.clear()
        history.kept_epoch = engine.state.epoch

    trainer.add_event_handler(Events.ITERATION_COMPLETED, collect)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, close_epoch)

    if choose_on is not None:
        _refuse_leakage(batches, choose_on, unit)
        evaluator = SupervisedEvaluator(device=device, val_data_loader=choose_on, network=net, decollate=False)
        measured: list[tuple[float, int]] = []

        def measure(engine: Any) -> None:
            output = engine.state.output
            measured.append((float(loss(output["pred"], output["label"])), len(output["label"])))

        def choose(engine: Any) -> None:
            measured.clear()
            evaluator.run()
            value = sum(mean * count for mean, count in measured) / sum(count for _, count in measured)
            if value < min(history.choose_loss, default=float("inf")):
                best.clear()
                best.update(copy.deepcopy(net.state_dict()))
            history.choose_loss.append(value)
            history.choose_epochs.append(engine.state.epoch)

        evaluator.add_event_handler(Events.ITERATION_COMPLETED, measure)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=choose_every), choose)

    ProgressBar(
        desc=description,
        bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}",
        disable=not sys.stderr.isatty(),
    ).attach(trainer, event_name=Events.EPOCH_COMPLETED, closing_event_name=Events.COMPLETED)
    trainer.run()
    if best:
        history.kept_epoch = history.choose_epochs[history.choose_loss.index(min(history.choose_loss))]
        net.load_state_dict(best)
    net.eval()
    return history


def _refuse_leakage(batches: Iterable[dict[str, Tensor]], choose_on: Iterable[dict[str, Tensor]], unit: str) -> None:
    from nstorm.data.splits.leakage import check_leakage, items_behind, refuse_shared_files

    # an iterable without a dataset gives batches, which are no items
    loaders = {"batches": batches, "choose_on": choose_on}
    parts = {name: items_behind(getattr(loader, "dataset", ())) for name, loader in loaders.items()}
    if not all(parts.values()):
        return
    if any("subject" in item for items in parts.values() for item in items):
        check_leakage(unit=unit, **parts)
    else:
        refuse_shared_files(parts)
