"""Pre-training with MONAI's engine."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from nstorm.workflows.autocast import AutocastInferer, Precision
from nstorm.workflows.handlers.epoch_lines import EpochLines
from nstorm.workflows.handlers.gradient_clipper import GradientClipper
from nstorm.workflows.handlers.history_writer import HistoryWriter
from nstorm.workflows.handlers.local_accumulation import LocalAccumulation
from nstorm.workflows.handlers.pictures import Draw, Pictures
from nstorm.workflows.handlers.step_schedule import StepSchedule
from nstorm.workflows.handlers.stop_on_non_finite import StopOnNonFinite
from nstorm.workflows.handlers.stop_on_signal import StopOnSignal
from nstorm.workflows.handlers.tensorboard_writer import TensorBoardWriter
from nstorm.workflows.loss_from_output import LossFromOutput
from nstorm.workflows.number_of_batches import number_of_batches
from nstorm.workflows.prepare_clips import prepare_clips
from nstorm.workflows.processes import connect_processes, replicated
from nstorm.workflows.resuming.checkpoint import CheckpointEverything
from nstorm.workflows.resuming.constants import constants_of_optimizer, constants_of_scheduler
from nstorm.workflows.resuming.random_states import Generator
from nstorm.workflows.resuming.resumable_loader import ResumableLoader
from nstorm.workflows.warmup_cosine import warmup_cosine
from nstorm.workflows.weight_decay import weight_decay_groups

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

LEARNING_RATE = 5e-5
WEIGHT_DECAY = 0.01


def pretrainer(
    net: nn.Module,
    loader: Iterable[Any],
    folder: str | PathLike[str],
    *,
    max_epochs: int = 30,
    lr: float | None = None,
    weight_decay: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    warmup_steps: int | None = None,
    scheduler: LRScheduler | None = None,
    accumulation_steps: int = 1,
    clip: float | None = 1.0,
    precision: Precision = "float32",
    checkpoint_every: int | None = None,
    keep: int = 2,
    mask_generator: torch.Generator | None = None,
    generators: dict[str, Generator] | None = None,
    prepare_batch: Callable[..., Any] = prepare_clips,
    pictures: Draw | None = None,
    pictures_every: int = 1,
    tensorboard: bool = False,
    train_handlers: Sequence[Any] = (),
    device: torch.device | str | None = None,
    find_unused_parameters: bool = False,
) -> "SupervisedTrainer":
    """Make a trainer for a network that computes its own loss, such as a masked autoencoder: MONAI's, ready to run.

    The trainer is a `monai.engines.SupervisedTrainer`, put together from handlers that each work alone in a trainer of
    your own: :class:`StopOnNonFinite`, :class:`GradientClipper`, :class:`HistoryWriter`, :class:`EpochLines`,
    :class:`StepSchedule`, :class:`StopOnSignal`, :class:`CheckpointEverything`, :class:`Pictures`. In the folder it
    leaves `history.jsonl` (a line a step), `checkpoints/`, and `pictures/` and `tensorboard/` if asked for.

    `trainer.run()` goes on from the newest checkpoint of the folder, in the middle of an epoch too, so that the same
    program, started again after whatever ended it, ends with the same weights to the last bit on the same machine.
    At SIGTERM it finishes the step, writes a checkpoint and raises :class:`Stopped`, a `SystemExit` of code 143. A
    loss or gradient that is not finite ends it with a `ValueError`, before anything is spoilt.

    Started by `torchrun`, the processes share the work: every one builds the same network and a loader of its part,
    as `nstorm.data`'s samplers give it, and the first one writes and prints. Gradients are averaged over processes.

    Args:
        net: maps images, and `brain_mask` where batches have one, to an output with a `loss`, as
            `nstorm.nets.MaskedAutoencoder` does.
        loader: of `nstorm.data.ClipDataset`, or whatever `prepare_batch` understands; it needs a length. It is
            continued as :class:`ResumableLoader` says.
        folder: for all that is written.
        max_epochs: passes over the loader.
        lr: highest learning rate of AdamW, 5e-5 by default.
        weight_decay: of AdamW, 0.01 by default, for the parameters that :func:`weight_decay_groups` says.
        optimizer: over the parameters of `net`, in place of AdamW.
        warmup_steps: steps of the optimizer over which the learning rate grows, a tenth of all by default; then it
            falls to 0 along half a cosine (`monai.optimizers.WarmupCosineSchedule`).
        scheduler: over `optimizer`, in its place; stepped once for each step of the optimizer.
        accumulation_steps: batches whose gradients are averaged for one step.
        clip: largest norm of the gradient; None for any.
        precision: `"float32"`; `"bfloat16"` or `"float16"` for mixed precision, float16 on CUDA only and with the loss
            scaled.
        checkpoint_every: steps of the optimizer between two checkpoints; None for the ends of epochs only.
        keep: how many of the last checkpoints stay.
        mask_generator: given to the network as `generator`, for its masks to be drawn from, and kept in the
            checkpoints; of another seed in each process. By default masks are drawn from torch's global generator.
        generators: others that the training draws from, by name, to be in the checkpoints.
        prepare_batch: MONAI's hook from a batch to (image, target, args, kwargs of the network).
        pictures: called with network, epoch and folder, to draw; see :class:`Pictures`.
        pictures_every: epochs between two calls.
        tensorboard: write for TensorBoard too.
        train_handlers: further handlers, attached before the checkpoints.
        device: where to train; by default where the network's parameters are.
        find_unused_parameters: of `DistributedDataParallel`, for several processes: whether parameters that are not
            frozen may get no gradient, such as those of a head that pre-training does not use.

    Raises:
        ValueError: if the loader has no length, or gives processes the same clips or different numbers of batches; if
            float16 is asked for on a CPU; or an argument makes no sense.
        ImportError: if TensorBoard is asked for and not installed.

    Example:
        >>> import tempfile
        >>> from typing import NamedTuple
        >>> import torch
        >>> from nstorm.workflows import pretrainer
        >>> class Output(NamedTuple):
        ...     loss: torch.Tensor
        >>> class Denoiser(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mix = torch.nn.Linear(6, 6)
        ...     def forward(self, image):
        ...         return Output((self.mix(image + torch.randn_like(image)) - image).square().mean())
        >>> batches = [{"image": torch.randn(2, 1, 8, 6, 4, 6)} for _ in range(3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = pretrainer(Denoiser(), batches, folder, max_epochs=2, lr=1e-3)
        ...     trainer.run()
        epoch 1 of 2: loss ..., learning rate 0.000905 after step 3 (... s)
        epoch 2 of 2: loss ..., learning rate 9.55e-05 after step 6 (... s)
    """
    from monai.engines import SupervisedTrainer

    device = torch.device(device) if device is not None else next(net.parameters()).device
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, but it has to be one of {', '.join(get_args(Precision))}")
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision float16 needs a CUDA device, but the device is {device}: give bfloat16 or float32")
    for name, value in (("max_epochs", max_epochs), ("accumulation_steps", accumulation_steps)):
        if value < 1:
            raise ValueError(f"{name} is {value}, but it has to be 1 or more")
    if optimizer is not None and (lr is not None or weight_decay is not None):
        raise ValueError(
            f"an optimizer is given, and lr {lr} and weight_decay {weight_decay}: set these in the optimizer"
        )
    if scheduler is not None and (optimizer is None or warmup_steps is not None):
        raise ValueError("a scheduler is given: give the optimizer that it belongs to, and no warmup_steps")

    connect_processes(device)
    batches = number_of_batches(loader)
    steps = max_epochs * -(-batches // accumulation_steps)
    net = replicated(net.to(device), device, find_unused_parameters)
    lr = LEARNING_RATE if lr is None else lr
    weight_decay = WEIGHT_DECAY if weight_decay is None else weight_decay
    if optimizer is None:
        optimizer = torch.optim.AdamW(weight_decay_groups(net, weight_decay), lr=lr)
    if scheduler is None:
        scheduler = warmup_cosine(optimizer, warmup_steps, steps)

    folder = Path(folder)
    if mask_generator is not None:
        prepare_batch = _WithGenerator(prepare_batch, mask_generator)
        generators = {**(generators or {}), "masks": mask_generator}
    lines = EpochLines()
    checkpoints = CheckpointEverything(
        folder / "checkpoints",
        every=checkpoint_every,
        keep=keep,
        also={"scheduler": scheduler, "lines": lines},
        generators=generators,
        settings={
            "max_epochs": max_epochs,
            "precision": precision,
            "clip": clip,
            "scheduler": type(scheduler).__name__,
            **{f"{name} of the scheduler": value for name, value in constants_of_scheduler(scheduler).items()},
            **{f"{name} of the optimizer": value for name, value in constants_of_optimizer(optimizer).items()},
        },
    )
    return SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=loader if isinstance(loader, ResumableLoader) else ResumableLoader(loader),
        network=net,
        optimizer=optimizer,
        loss_function=LossFromOutput(),
        prepare_batch=prepare_batch,
        inferer=cast(Any, AutocastInferer("bfloat16" if precision == "bfloat16" else "float32")),
        amp=precision == "float16",
        decollate=False,
        non_blocking=True,
        accumulation_steps=accumulation_steps,
        train_handlers=[
            StopOnNonFinite(),
            *([] if clip is None else [GradientClipper(clip)]),
            LocalAccumulation(),
            lines,
            HistoryWriter(folder / "history.jsonl"),
            *([TensorBoardWriter(folder / "tensorboard")] if tensorboard else []),
            StepSchedule(scheduler),
            *train_handlers,
            StopOnSignal(),
            checkpoints,
            # after the checkpoint, which a picture that fails does not take along
            *([] if pictures is None else [Pictures(pictures, folder / "pictures", pictures_every)]),
        ],
    )


class _WithGenerator:
    """Add a generator to what a network is called with."""

    def __init__(self, prepare_batch: Callable[..., Any], generator: torch.Generator) -> None:
        self.prepare_batch = prepare_batch
        self.generator = generator

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
        image, target, *more = self.prepare_batch(*args, **kwargs)
        positional, named = more or ((), {})
        return image, target, positional, {**named, "generator": self.generator}
