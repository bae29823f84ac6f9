"""Trainings that go on exactly where they were."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step, steps_done
from nstorm.workflows.processes import bare, from_first, gathered, is_first, number_of_processes, process_number
from nstorm.workflows.resuming.checkpoint_files import CheckpointFiles
from nstorm.workflows.resuming.differences import refuse_differences
from nstorm.workflows.resuming.random_states import Generator, random_states, set_random_states, set_state, state_of


class CheckpointEverything:
    """Write checkpoints that hold all a training is, and go on from the newest: a handler for MONAI's trainer.

    A training that is killed at any moment and started again on the same machine ends with the very weights that it
    would have had. For that a checkpoint holds the network, the optimizer, the scaler of mixed precision, epoch and
    step, the place in the epoch (give the trainer a :class:`ResumableLoader`; others begin the epoch anew), the
    states of the global generators of torch, numpy and Python in each process, and whatever else is named here.

    Checkpoints are taken between two steps of the optimizer, at the end of each epoch, and where the training is
    stopped (:class:`StopOnSignal`). They are whole or not there; the newest that is readable is used, and others are
    warned of. They load with `torch.load(weights_only=True)`. In a training of several processes, the first one
    writes and reads.

    `run()` begins with the newest checkpoint of the folder, if there is one; of a training that is done, nothing is
    left to do. Attach it after all other handlers, so that what they change is in the checkpoint.

    Args:
        folder: for the checkpoints, `step-000000120.pt` and so on; it is made.
        every: number of steps of the optimizer from one checkpoint to the next; None for those of the epochs only.
        keep: how many of the last ones stay.
        also: what else has a `state_dict`, such as the scheduler, by name.
        generators: other sources of randomness that are drawn from, by name: those of torch, numpy or Python. MONAI's
            transforms have theirs in `transform.R`.
        settings: what has to be the same for a training to go on, such as the learning rate, by name.

    Raises:
        ValueError: in `run()`, if the checkpoint is that of another network, optimizer, loader, number of processes or
            of other settings; it says in what they differ. If all checkpoints are damaged, or the trainer does not
            know how many batches an epoch has.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from torch.utils.data import DataLoader
        >>> from nstorm.workflows import CheckpointEverything, ResumableLoader
        >>> def train(folder, max_epochs):
        ...     torch.manual_seed(0)
        ...     net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
        ...     items = [{"image": torch.full((4,), float(n)), "label": torch.ones(1)} for n in range(6)]
        ...     loader = ResumableLoader(DataLoader(items, batch_size=2, shuffle=True))
        ...     optimizer = torch.optim.AdamW(net.parameters())
        ...     handlers = [CheckpointEverything(folder)]
        ...     loss = torch.nn.MSELoss()
        ...     SupervisedTrainer("cpu", max_epochs, loader, net, optimizer, loss, train_handlers=handlers).run()
        ...     return net[0].weight
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(f"{folder}/a", 2)
        ...     torch.equal(train(f"{folder}/a", 4), train(f"{folder}/b", 4))
        True
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every: int | None = None,
        keep: int = 2,
        also: Mapping[str, Any] | None = None,
        generators: Mapping[str, Generator] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is {every}, but checkpoints are taken every 1 or more steps")
        self.files = CheckpointFiles(folder, keep)
        self.every = every
        self.also = dict(also or {})
        self.generators = dict(generators or {})
        self.settings = dict(settings or {})
        self._last = -1

    def attach(self, engine: Any) -> None:
        """Attach to MONAI's `SupervisedTrainer`."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.TERMINATE, self._end)

    def _after_iteration(self, engine: Any) -> None:
        length = engine.state.epoch_length
        # that of an epoch follows, with what other handlers do at its end
        if length is not None and engine.state.iteration % length == 0:
            return
        if self.every is not None and ends_step(engine) and steps_done(engine) % self.every == 0:
            self._save(engine)

    def _end(self, engine: Any) -> None:
        self._save(engine)
        # or ignite would count the next run's first epoch from its beginning, though it goes on in the middle
        if engine.should_terminate is True:
            engine.should_terminate = False

    def _save(self, engine: Any) -> None:
        iteration = engine.state.iteration
        # where the training ends between two steps, some of the gradient is in no checkpoint: that batch comes again
        if iteration == self._last or iteration == 0 or not ends_step(engine):
            return
        loader = engine.data_loader
        own = {
            "random": random_states(),
            "generators": {name: state_of(generator) for name, generator in self.generators.items()},
            "loader": loader.state_dict() if hasattr(loader, "state_dict") else None,
        }
        processes = gathered(own)
        if is_first():
            self.files.write(steps_done(engine), self._content(engine, processes))
        self._last = iteration

    def _content(self, engine: Any, processes: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "step": steps_done(engine),
            "iteration": engine.state.iteration,
            "epoch": engine.state.epoch,
            "settings": self._settings(engine),
            "net": bare(engine.network).state_dict(),
            "optimizer": engine.optimizer.state_dict(),
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "also": {name: value.state_dict() for name, value in self.also.items()},
            "processes": processes,
        }

    def _load(self, engine: Any) -> None:
        if engine.state.epoch_length is None:
            raise ValueError(
                "the number of batches in an epoch is not known, so that no checkpoint can say where in one it was: "
                "give the trainer a loader that has a length, or its argument epoch_length"
            )
        found = from_first(self.files.newest() if is_first() else None)
        self._last = -1
        if found is None:
            return
        path, content = found
        what = f"checkpoint {path} is that of another training (give the same network and settings, or another folder)"
        net = bare(engine.network)
        refuse_differences(what, content["settings"], self._settings(engine))
        refuse_differences(what, _shapes(content["net"]), _shapes(net.state_dict()))
        own = content["processes"][process_number()]
        refuse_differences(what, dict.fromkeys(content["also"], "saved"), dict.fromkeys(self.also, "saved"))
        refuse_differences(what, dict.fromkeys(own["generators"], "saved"), dict.fromkeys(self.generators, "saved"))

        net.load_state_dict(content["net"])
        engine.optimizer.load_state_dict(content["optimizer"])
        if engine.scaler is not None:
            engine.scaler.load_state_dict(content["scaler"])
        for name, value in self.also.items():
            value.load_state_dict(content["also"][name])
        loader = engine.data_loader
        if hasattr(loader, "load_state_dict"):
            loader.load_state_dict(own["loader"])
        for name, generator in self.generators.items():
            set_state(generator, own["generators"][name])
        engine.state.iteration = self._last = content["iteration"]
        engine.state.epoch = content["iteration"] // engine.state.epoch_length
        # the last: what was drawn to build all this is forgotten
        set_random_states(own["random"])

    def _settings(self, engine: Any) -> dict[str, Any]:
        """What has to be the same."""
        settings = {
            **self.settings,
            "number of processes": number_of_processes(),
            "batches in an epoch": engine.state.epoch_length,
            "accumulation_steps": getattr(engine, "accumulation_steps", 1),
            "loss scaling": engine.scaler is not None,
            "optimizer": type(engine.optimizer).__name__,
        }
        for number, group in enumerate(engine.optimizer.param_groups):
            settings[f"parameters in group {number} of the optimizer"] = len(group["params"])
        return settings


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value.shape) if hasattr(value, "shape") else None for name, value in state_dict.items()}
