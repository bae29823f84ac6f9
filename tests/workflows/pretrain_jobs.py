"""Trainings that are killed, run by test_pretrain_resume.py as a module.

Jobs are forks of one process that has imported everything, so that they begin at once.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader

from nstorm.data import ClipDataset, ClipSampler, collate_clips, haxby_runs, prepare
from nstorm.workflows import Stopped, pretrainer
from tests.workflows.tiny_autoencoder import NoisyClips, TinyAutoencoder

EPOCHS = 3
MOMENTS = {
    "reading": Events.GET_BATCH_COMPLETED,
    "forward": IterationEvents.FORWARD_COMPLETED,
    "backward": IterationEvents.BACKWARD_COMPLETED,
    "after the step": Events.ITERATION_COMPLETED,
    "at the end of the epoch": Events.EPOCH_COMPLETED,
}


def main(folder):
    said = {}
    store = None
    for name, loader in {"in the main process": noisy_loader, "of a store, by workers": store_loader}.items():
        path = folder / name
        if loader is store_loader:
            # in a process of its own: this one is to be forked without threads
            store = path / "store"
            assert in_fork(lambda store=store: make_store(store)) == 0
        make = loader_maker(loader, store)
        whole = path / "whole"
        assert in_fork(lambda make=make, whole=whole: train(make, whole)) == 0
        said[name] = {
            "killed": killed(make, path / "killed"),
            "terminated": terminated(make, path / "terminated"),
            "whole": str(whole),
        }
    return said


def loader_maker(loader, store):
    return loader if store is None else lambda: loader(store)


def noisy_loader():
    # 7 batches of one clip, so that the last step of an epoch has one batch only
    return DataLoader(NoisyClips(), shuffle=True)


def make_store(path):
    prepare([{"image": run.bold} for run in haxby_runs()[:3]], path, progress=False)


def store_loader(store):
    clips = ClipDataset(store, 6, clips_per_run=5, transform=Disturb(), seed=3)
    return DataLoader(clips, 2, sampler=ClipSampler(clips, seed=5), num_workers=2, collate_fn=collate_clips)


class Disturb:
    """Draws from three global generators, which a ClipDataset seeds for each clip."""

    def __call__(self, item):
        noise = torch.randn(6) + torch.from_numpy(np.random.randn(6)) * random.random()  # noqa: NPY002
        return {**item, "image": item["image"] + noise.float()}


def train(make_loader, folder, handlers=()):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    generator = torch.Generator().manual_seed(1)
    pretrainer(
        TinyAutoencoder(),
        make_loader(),
        folder,
        max_epochs=EPOCHS,
        lr=1e-2,
        accumulation_steps=2,
        checkpoint_every=2,
        mask_generator=generator,
        train_handlers=handlers,
    ).run()


class Killer:
    """Ends its own process by SIGKILL, in one iteration at one moment."""

    def __init__(self, iteration, moment):
        self.iteration, self.moment = iteration, moment

    def attach(self, engine):
        if self.moment == "writing":
            torch.save = self.save
            engine.add_event_handler(Events.ITERATION_STARTED, self.note)
        else:
            engine.add_event_handler(MOMENTS[self.moment], self.kill)

    def note(self, engine):
        self.engine = engine

    def kill(self, engine):
        # the number of an iteration is counted when its batch is there
        if engine.state.iteration + (self.moment == "reading") >= self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self, content, file):
        whole = BytesIO()
        REAL_SAVE(content, whole)
        if self.engine.state.iteration < self.iteration:
            file.write(whole.getvalue())
            return
        file.write(whole.getvalue()[: random.randrange(1, len(whole.getvalue()))])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


REAL_SAVE = torch.save


def killed(make_loader, folder):
    """Kill a training again and again, each time further on, and let it end."""
    draws = random.Random(2)
    length = in_fork_length(make_loader)
    moments = draws.sample([*MOMENTS, "writing", "writing"], k=len(MOMENTS) + 2)
    iterations = sorted(draws.sample(range(1, length * EPOCHS), len(moments)))
    found = []
    for iteration, moment in zip(iterations, moments, strict=True):
        status = in_fork(lambda i=iteration, m=moment: train(make_loader, folder, [Killer(i, m)]))
        assert os.WIFSIGNALED(status), f"not killed in iteration {iteration} at {moment}"
        found.append([iteration, moment, sorted(path.name for path in (folder / "checkpoints").glob("*"))])
    assert in_fork(lambda: train(make_loader, folder)) == 0
    return {"folder": str(folder), "kills": found}


def in_fork_length(make_loader):
    reader, writer = os.pipe()

    def tell():
        os.write(writer, str(len(make_loader())).encode())

    assert in_fork(tell) == 0
    return int(os.read(reader, 20))


def terminated(make_loader, folder):
    """Send SIGTERM to a training and its workers, as a cluster does, when it has begun; and let it end later."""
    pid = fork(lambda: train(make_loader, folder, [Slow()]))
    history = folder / "history.jsonl"
    while not (history.exists() and history.read_text().count("\n") >= 3):
        time.sleep(0.01)
    os.killpg(pid, signal.SIGTERM)
    status = os.waitpid(pid, 0)[1]
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("*"))
    assert in_fork(lambda: train(make_loader, folder)) == 0
    return {
        "folder": str(folder),
        "code": os.waitstatus_to_exitcode(status),
        "steps": steps,
        "checkpoints": checkpoints,
    }


class Slow:
    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: time.sleep(0.1))


def fork(work):
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
        try:
            work()
            code = 0
        except Stopped as stop:
            code = stop.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(code)
    return pid


def in_fork(work):
    pid = fork(work)
    status = os.waitpid(pid, 0)[1]
    # workers that outlive their process for some seconds
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return status


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
