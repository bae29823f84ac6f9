"""Runs prepared by several processes, of which any may die."""

import multiprocessing
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, NoReturn

from nstorm.data.preparation.failures import Failure
from nstorm.data.preparation.job import Job, Outcome, Watch, Work
from nstorm.data.preparation.progress import seldom

_TOLD = 0.2
_TICK = 1.0
_TIME_TO_END = 10.0
_LONGEST_FOLDER = 70

_Message = tuple[str, float] | Outcome

# what each worker would import for itself
_NEEDED = ["nstorm.data.preparation.from_published", "monai.data.meta_tensor", "nilearn.masking", "nilearn.signal"]


def in_processes(jobs: Sequence[Job], work: Work, watch: Watch, workers: int) -> None:
    """Prepare runs in worker processes, each of which has one run at a time.

    A run whose worker dies is tried once more, after all others, in a new worker. The pools of the standard library
    would give up all runs.

    Raises:
        RuntimeError: A worker cannot begin.
    """
    waiting = deque(jobs)
    tried: set[str] = set()
    pool: list[_Worker] = []
    context = _context()
    try:
        pool.extend(_Worker(work, context) for _ in range(min(workers, len(jobs))))
        while waiting or any(worker.job for worker in pool):
            for worker in pool:
                if worker.job is None and waiting:
                    worker.begin(waiting.popleft())
            busy = {worker.connection: worker for worker in pool if worker.job}
            for connection in wait(list(busy), _TICK):
                worker = busy[connection]
                job, message = worker.job, worker.heard()
                assert job is not None
                if isinstance(message, tuple):
                    watch.moved(job.key, *message)
                elif message is not None:
                    worker.job = None
                    watch.ended(job.key, message)
                else:
                    pool.remove(worker)
                    death = worker.death()
                    if job.key in tried:
                        watch.ended(
                            job.key, Failure(job.key, job.item["image"], f"{death} (and so was the one before)")
                        )
                    else:
                        tried.add(job.key)
                        waiting.append(job)
                        watch.again(job.key, death)
                    if waiting:
                        pool.append(_Worker(work, context))
            watch.tick()
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.end()


class _Worker:
    """A process, seen from the one that started it."""

    def __init__(self, work: Work, context: Any) -> None:
        self.connection, there = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(there, work), daemon=True)
        self.job: Job | None = None
        self._began = False
        with _empty_main():
            self.process.start()
        # the pipe ends when the process does, if nobody else holds it open
        there.close()

    def begin(self, job: Job) -> None:
        self.job = job
        try:
            self.connection.send(job)
        except OSError:
            # it died while it had nothing to do: heard() will say so
            return

    def heard(self) -> _Message | None:
        """Give what the worker says, or None if it is dead."""
        try:
            message: _Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        self._began = True
        return message

    def death(self) -> str:
        """Say how the worker died."""
        self.end()
        code = self.process.exitcode
        if code is None or code >= 0:
            if not self._began:
                raise RuntimeError(
                    f"a worker process could not begin (exit code {code}): above it wrote why; workers=1 does without"
                )
            return f"its worker process ended with exit code {code}"
        name = signal.Signals(-code).name
        memory = ": out of memory? Use fewer workers, or ask for more memory" if name == "SIGKILL" else ""
        return f"its worker process was killed by signal {-code} ({name}){memory}"

    def end(self) -> None:
        self.connection.close()
        self.process.join(_TIME_TO_END)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def _context() -> Any:
    # On Linux workers are forks of a process that imports what they need once, and does nothing else; elsewhere forks
    # are not safe, or not there. Its socket lies in the folder of temporary files, and its name is 107 letters at most.
    if sys.platform != "linux" or len(tempfile.gettempdir()) > _LONGEST_FOLDER:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_NEEDED)
    return context


def _serve(connection: Connection, work: Work) -> None:
    # Ctrl-C reaches the workers too, but it is for the process that started them to end them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not at once: what is half written is removed on the way out
    signal.signal(signal.SIGTERM, _leave)
    moved = seldom(lambda stage, share: connection.send((stage, share)), _TOLD)
    try:
        while True:
            job = connection.recv()
            moved("begin", 0.0)
            connection.send(work.attempt(job, moved))
    except (EOFError, OSError):
        # whoever started this process is dead
        return


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _empty_main() -> Iterator[None]:
    # or a process that starts would run the script of the caller again, as far as it is not below
    # if __name__ == "__main__"
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
