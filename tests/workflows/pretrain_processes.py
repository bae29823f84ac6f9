"""A training of several processes, run by test_pretrain_processes.py with torchrun."""

import os
import signal
import sys
from pathlib import Path

import torch
from ignite.engine import Events
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from nstorm.workflows import pretrainer
from nstorm.workflows.processes import is_first, process_number
from tests.workflows.tiny_autoencoder import NoisyClips, TinyAutoencoder

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def main(work, folder):
    torch.set_num_threads(1)
    if work == "terminated":
        terminated(folder / "terminated")
    deterministic(folder / "deterministic")
    random_training(folder / "whole").run()
    resumed(folder / "resumed")
    random_training(folder / "terminated").run()
    not_finite(folder)
    not_divided(folder)


def deterministic(folder):
    """All clips in each epoch's one step, so that one process with all of them does the same."""
    loader = loader_of(NoisyClips(8, noise=0), 4 // WORLD)
    # the same net everywhere: DDP takes that of the first
    net = TinyAutoencoder(dropout=0.0, masked=False)
    torch.manual_seed(0)
    for parameter in net.mix.parameters():
        torch.nn.init.normal_(parameter)
    if RANK:
        torch.nn.init.zeros_(net.mix[0].weight)
    trainer = pretrainer(net, loader, folder, max_epochs=3, lr=1e-2, accumulation_steps=2, find_unused_parameters=True)
    assert isinstance(trainer.network, torch.nn.parallel.DistributedDataParallel) == (WORLD > 1)
    assert is_first() == (process_number() == 0) == (RANK == 0)
    trainer.run()


def random_training(folder, **changes):
    torch.manual_seed(RANK)
    generator = torch.Generator().manual_seed(10 + RANK)
    options = {"max_epochs": 3, "lr": 1e-2, "accumulation_steps": 2, "checkpoint_every": 1, **changes}
    options["find_unused_parameters"] = True
    return pretrainer(TinyAutoencoder(), loader_of(NoisyClips(10)), folder, mask_generator=generator, **options)


def resumed(folder):
    for stop in (3, 9):
        random_training(folder, train_handlers=[StopAfter(stop)]).run()
    random_training(folder).run()


def terminated(folder):
    """One process only gets the signal."""
    trainer = random_training(folder)
    if RANK == 1:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=4), lambda: os.kill(os.getpid(), signal.SIGTERM))
    trainer.run()


def not_finite(folder):
    clips = NoisyClips(10)
    clips.clips[:, 0, 0, 0, 0, 0] = torch.nan if RANK == 1 else 0.0
    trainer = pretrainer(TinyAutoencoder(), loader_of(clips), folder / "not finite", checkpoint_every=1)
    try:
        trainer.run()
    except ValueError as error:
        Path(folder, f"not-finite-{RANK}.txt").write_text(str(error))


def not_divided(folder):
    try:
        pretrainer(TinyAutoencoder(), DataLoader(NoisyClips(10)), folder / "not divided")
    except ValueError as error:
        Path(folder, f"not-divided-{RANK}.txt").write_text(str(error))


class StopAfter:
    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        if engine.state.iteration == self.iteration:
            engine.terminate()


def loader_of(clips, batch_size=1):
    sampler = DistributedSampler(clips, WORLD, RANK) if WORLD > 1 else None
    return DataLoader(clips, batch_size, sampler=sampler, shuffle=sampler is None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
