import signal
import threading

import pytest

from nstorm.data.store.signals import signals_wait


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def leave(number, frame):
    raise SystemExit(128 + number)


def waiting(*steps):
    """Take steps while signals wait; say which were done, and what was raised."""
    done = []
    try:
        with signals_wait():
            for step in steps:
                step()
                done.append(step)
    except BaseException as error:
        return len(done), error
    return len(done), None


def interrupt():
    signal.raise_signal(signal.SIGINT)


def terminate():
    signal.raise_signal(signal.SIGTERM)


def fail():
    raise OSError("disk full")


def test_a_signal_waits_until_the_block_is_done():
    signal.signal(signal.SIGTERM, leave)
    done, error = waiting(interrupt, list)
    assert done == 2
    assert isinstance(error, KeyboardInterrupt)
    done, error = waiting(list, terminate, list)
    assert done == 3
    assert error.code == 143
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is leave


def test_a_second_one_does_not_wait():
    done, error = waiting(interrupt, list, interrupt, list)
    assert done == 2
    assert isinstance(error, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_heard_where_the_block_fails():
    done, error = waiting(interrupt, fail)
    assert done == 1
    assert isinstance(error, KeyboardInterrupt)
    assert str(error.__context__) == "disk full"


def test_without_one_nothing_happens():
    assert waiting(list) == (1, None)
    done, error = waiting(list, fail)
    assert done == 1
    assert str(error) == "disk full"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_nobody_handles_stays_so():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_wait():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_a_thread_nothing_is_changed():
    found = []

    def work():
        with signals_wait():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
