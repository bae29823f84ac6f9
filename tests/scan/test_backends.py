"""Which backend a call gets: by itself, by argument, by context and by environment."""

import asyncio
import threading

import pytest
import torch

from nstorm.scan import backends, selective_scan, use_backend
from nstorm.scan.backends import ScanCall, choose_backend
from tests.scan.test_selective_scan import make_inputs

PLAIN = ScanCall("cpu", torch.float32, (2, 6, 9, 4))
DOUBLE = PLAIN._replace(dtype=torch.float64)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("NSTORM_SCAN_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_told", set())


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, "numba"),
        ({"dtype": torch.bfloat16}, "numba"),
        ({"has_initial_state": True, "has_flags": True, "wants_last_state": True}, "numba"),
        ({"device": "meta"}, "numba"),
        ({"dtype": torch.float64}, "torch"),
        ({"groups": (3, 3)}, "torch"),
        ({"groups": (1, 0)}, "torch"),
        ({"device": "mps"}, "torch"),
    ],
)
def test_auto_takes_the_fastest_that_can(changes, chosen):
    assert choose_backend("auto", PLAIN._replace(**changes)) == chosen


def seen_by_choice(monkeypatch, **changes) -> ScanCall:
    """The description of a call that `selective_scan` hands to the choice of a backend."""
    seen: list[ScanCall] = []

    def choose(requested: str, call: ScanCall) -> str:
        seen.append(call)
        return "reference"

    monkeypatch.setattr("nstorm.scan.interface.choose_backend", choose)
    selective_scan(**make_inputs(2, 6, 9, 4) | changes)
    return seen[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"u": torch.ones(2, 6, 9, dtype=torch.float64)}, {"dtype": torch.float64}),
        ({"B": torch.ones(2, 3, 4, 9), "C": torch.ones(6, 4)}, {"groups": (3, 0)}),
        ({"B": torch.ones(2, 1, 4, 9)}, {}),
        ({"initial_state": torch.ones(2, 6, 4)}, {"has_initial_state": True}),
        ({"token_mask": torch.ones(2, 9, dtype=torch.bool)}, {"has_flags": True}),
        ({"reset": torch.ones(2, 9, dtype=torch.bool)}, {"has_flags": True}),
        ({"return_last_state": True}, {"wants_last_state": True}),
    ],
)
def test_a_call_is_described_as_it_is(monkeypatch, changes, expected):
    assert seen_by_choice(monkeypatch, **changes) == PLAIN._replace(**expected)


def test_a_backend_passed_over_says_once_why(caplog):
    caplog.set_level("INFO", logger="nstorm.scan")
    for _ in range(2):
        assert choose_backend("auto", DOUBLE) == "torch"
    assert [record.message for record in caplog.records] == [
        "scan backend 'numba' is passed over: it computes in float32 and the tensors are float64",
        "scan backend 'mamba_ssm' is passed over: it runs on CUDA devices and the tensors are on cpu",
    ]


def test_argument_before_context_before_environment(monkeypatch):
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "reference")
    assert choose_backend("auto", PLAIN) == "reference"
    with use_backend("torch"):
        assert choose_backend("auto", PLAIN) == "torch"
        assert choose_backend("numba", PLAIN) == "numba"
        with use_backend("auto"):
            assert choose_backend("auto", PLAIN) == "numba"
        assert choose_backend("auto", PLAIN) == "torch"
    assert choose_backend("auto", PLAIN) == "reference"
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "")
    assert choose_backend("auto", PLAIN) == "numba"


def test_scan_obeys_the_environment(monkeypatch):
    inputs = make_inputs(2, 6, 9, 4)
    expected = selective_scan(**inputs, backend="reference")
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "reference")
    monkeypatch.setattr("nstorm.scan.interface.scan_operator", None)
    assert torch.equal(selective_scan(**inputs), expected)


def test_use_backend_ends_with_its_block_even_by_an_error():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert choose_backend("auto", PLAIN) == "numba"


def test_use_backend_is_of_its_thread():
    seen: list[str] = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(choose_backend("auto", PLAIN)))
        thread.start()
        thread.join()
    assert seen == ["numba"]


def test_use_backend_is_of_its_task():
    async def work(name: str) -> list[str]:
        seen = []
        with use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(choose_backend("auto", PLAIN))
        return [*seen, choose_backend("auto", PLAIN)]

    async def both() -> list[list[str]]:
        return await asyncio.gather(work("torch"), work("reference"))

    assert asyncio.run(both()) == [3 * ["torch"] + ["numba"], 3 * ["reference"] + ["numba"]]
    assert backends._traced.backend is None


def test_an_unknown_backend_is_named_with_its_source(monkeypatch):
    with pytest.raises(ValueError, match=r"^backend 'cuda' is unknown; choose one of .*'torch'"):
        choose_backend("cuda", PLAIN)
    with pytest.raises(ValueError, match=r"^backend 'cuda' of use_backend is unknown;"), use_backend("cuda"):
        pass
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "cuda")
    message = r"^backend 'cuda' of the environment variable NSTORM_SCAN_BACKEND is unknown; choose one of \['auto'"
    with pytest.raises(ValueError, match=message):
        choose_backend("auto", PLAIN)
    assert choose_backend("torch", PLAIN) == "torch"


def test_a_requested_backend_that_refuses_raises(monkeypatch):
    reason = "cannot take this call: it computes in float32 and the tensors are float64"
    with pytest.raises(ValueError, match=f"^backend 'numba' {reason}"):
        choose_backend("numba", DOUBLE)
    with pytest.raises(ValueError, match=f"^backend 'numba' of use_backend {reason}"), use_backend("numba"):
        choose_backend("auto", DOUBLE)
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "numba")
    with pytest.raises(ValueError, match=f"variable NSTORM_SCAN_BACKEND {reason}"):
        choose_backend("auto", DOUBLE)
