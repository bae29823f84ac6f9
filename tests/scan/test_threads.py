"""The scan under several threads and processes."""

import multiprocessing
import threading
import time

import pytest
import torch

from nstorm.scan import selective_scan
from nstorm.scan.threads import run_pieces
from tests.scan.test_selective_scan import ACCELERATED, make_inputs, run


@pytest.mark.parametrize("backend", ACCELERATED)
def test_result_does_not_depend_on_threads(backend):
    few, many = make_inputs(2, 100, 70, 6), make_inputs(300, 10, 20, 6)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append([run(inputs, backend=backend) for inputs in (few, many)])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_python_threads_may_enter_at_once():
    inputs = make_inputs(40, 24, 64, 8)
    expected = selective_scan(**inputs, delta_softplus=True, backend="numba")
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not torch.equal(selective_scan(**inputs, delta_softplus=True, backend="numba"), expected):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _scan_in_child(queue) -> None:
    torch.manual_seed(3)
    queue.put(selective_scan(**make_inputs(4, 8, 40, 4), delta_softplus=True, backend="numba").tolist())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_can_scan():
    torch.manual_seed(3)
    expected = selective_scan(**make_inputs(4, 8, 40, 4), delta_softplus=True, backend="numba")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_scan_in_child, args=(queue,))
    child.start()
    result = torch.tensor(queue.get(timeout=60))
    child.join()
    assert torch.equal(result, expected)


def test_an_interrupt_waits_for_the_threads():
    """The caller frees the memory that the threads write to, so none may still run when an exception leaves."""
    running: list[int] = []

    def kernel(piece: int, first: int, last: int) -> None:
        if piece == 0:
            raise KeyboardInterrupt
        running.append(piece)
        time.sleep(0.2)
        running.remove(piece)

    with pytest.raises(KeyboardInterrupt):
        run_pieces(kernel, 6, 6)
    assert not running
