"""Trainings that a cluster wants to end."""

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from nstorm.workflows.handlers.optimizer_steps import ends_step, steps_done
from nstorm.workflows.processes import gathered


class Stopped(SystemExit):
    """A training that stopped in good order because of a signal; a program that lets it pass ends with its code.

    Attributes:
        code: 128 + the number of the signal, as shells say it: 143 for SIGTERM.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.message = (
            f"stopped by {signal.Signals(number).name} after step {step}: the same command goes on from there"
        )

    def __str__(self) -> str:
        return self.message


class StopOnSignal:
    """Stop a training in good order when a signal comes: a handler for MONAI's and ignite's trainers.

    The step in work is finished, handlers of ignite's `TERMINATE` event do theirs, such as to write a checkpoint
    (:class:`CheckpointEverything`), and `run()` raises :class:`Stopped`. The processes of a training stop together,
    whichever got the signal. Clusters send SIGTERM some time before they kill.

    A signal meets the run only: before and after it means what it always does. Trainings outside the main thread,
    where Python lets nobody hear signals, are not stopped.

    Args:
        signals: which.

    Raises:
        Stopped: at the end of `run()`. Its exit code is 143 for SIGTERM, as if the signal had ended the process.

    Example:
        >>> import signal
        >>> from ignite.engine import Engine, Events
        >>> from nstorm.workflows import Stopped, StopOnSignal
        >>> engine = Engine(lambda engine, batch: batch)
        >>> StopOnSignal().attach(engine)
        >>> third = Events.ITERATION_STARTED(once=3)
        >>> _ = engine.add_event_handler(third, lambda: signal.raise_signal(signal.SIGTERM))
        >>> try:
        ...     state = engine.run(range(5), max_epochs=2)
        ... except Stopped as stop:
        ...     print(stop.code, stop)
        143 stopped by SIGTERM after step 3: the same command goes on from there
    """

    def __init__(self, signals: Sequence[int] = (signal.SIGTERM,)) -> None:
        self.signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self._came = 0
        self._stops = 0

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._listen)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._give_up)

    def _listen(self, engine: Any) -> None:
        self._came = self._stops = 0
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in self.signals}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._came = number

    def _after_iteration(self, engine: Any) -> None:
        if not ends_step(engine):
            return
        self._stops = max(gathered(self._came))
        length = engine.state.epoch_length
        # an epoch that is over is also completed, with all that hangs on that
        if self._stops and (length is None or engine.state.iteration % length):
            engine.terminate()

    def _after_epoch(self, engine: Any) -> None:
        if self._stops:
            engine.terminate()

    def _end(self, engine: Any) -> None:
        self._deaf()
        if stops := self._stops or self._came:
            raise Stopped(stops, steps_done(engine))

    def _give_up(self, engine: Any, error: BaseException) -> None:
        self._deaf()
        # ignite takes an error as dealt with that its handlers do not raise
        raise error

    def _deaf(self) -> None:
        for number, handler in self._before.items():
            # None is a handler that Python did not set
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
