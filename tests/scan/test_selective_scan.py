import multiprocessing
import threading

import pytest
import torch
from torch import Tensor

from nstorm.scan import selective_scan
from nstorm.scan.backends import BACKENDS
from tests.conftest import load_golden, relative_error

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
ACCELERATED = list(BACKENDS)


def make_inputs(n: int, d: int, length: int, s: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    inputs = {
        "u": torch.randn(n, d, length),
        "delta": 0.5 * torch.randn(n, d, length) - 2,
        "A": -torch.arange(1, s + 1).float().repeat(d, 1) * (0.5 + torch.rand(d, s)),
        "B": torch.randn(n, s, length),
        "C": torch.randn(n, s, length),
        "D": torch.randn(d),
        "z": torch.randn(n, d, length),
        "delta_bias": 0.1 * torch.randn(d),
    }
    return {name: x.to(dtype) for name, x in inputs.items()}


def run(inputs: dict[str, Tensor], softplus: bool = True, **kwargs):
    """y, last state, and the gradients of every input for a fixed random loss on both."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, last_state = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, **kwargs)
    generator = torch.Generator().manual_seed(1)
    dy, dstate = (torch.randn(x.shape, generator=generator).to(x.dtype) for x in (y, last_state))
    grads = torch.autograd.grad([y, last_state], list(leaves.values()), [dy, dstate])
    return {"y": y, "last_state": last_state} | dict(zip(leaves, grads, strict=True))


def assert_close(result: dict[str, Tensor], expected: dict[str, Tensor], value_tol=2e-5, grad_tol=2e-4) -> None:
    for name, value in result.items():
        tolerance = value_tol if name in ("y", "last_state") else grad_tol
        assert torch.isfinite(value).all(), name
        if value.numel():
            assert relative_error(value, expected[name]) <= tolerance, name


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    ("backend", "dtype", "value_tol", "grad_tol"),
    [("reference", torch.float32, 2e-5, 2e-4), ("reference", torch.float64, 1e-10, 1e-10)]
    + [(name, torch.float32, 2e-5, 2e-4) for name in ACCELERATED],
)
def test_golden(index, backend, dtype, value_tol, grad_tol):
    golden = load_golden(f"selective_scan_{index}").tensors
    leaves = {name: golden[name].to(dtype).requires_grad_() for name in NAMES}
    y, last_state = selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend=backend)
    assert relative_error(y, golden["y"]) <= value_tol
    assert relative_error(last_state, golden["last_state"]) <= value_tol
    y.backward(golden["dy"].to(dtype))
    for name, x in leaves.items():
        assert relative_error(x.grad, golden[f"grad_{name}"]) <= grad_tol, name


def test_gradcheck_reference():
    inputs = {k: x.requires_grad_() for k, x in make_inputs(2, 3, 5, 2, torch.float64).items()}
    state = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    reset = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool)

    def scan(*args):
        return selective_scan(
            *args[:-1], delta_softplus=True, initial_state=args[-1], token_mask=mask, reset=reset,
            return_last_state=True, backend="reference",
        )  # fmt: skip

    assert torch.autograd.gradcheck(scan, (*inputs.values(), state))


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize(
    ("n", "d", "length", "s"),
    [
        (1, 5, 1, 1),
        (3, 7, 3, 5),
        (2, 72, 63, 16),
        (20, 40, 32, 4),
        (2, 3, 256, 16),
        (1, 131, 33, 3),
        (1, 2, 1000, 2),
    ],
)
def test_matches_float64_reference(backend, n, d, length, s):
    inputs = make_inputs(n, d, length, s)
    expected = run({k: x.double() for k, x in inputs.items()}, backend="reference")
    assert_close(run(inputs, backend=backend), expected)


@pytest.mark.parametrize("backend", ACCELERATED)
def test_optional_inputs_and_plain_delta(backend):
    inputs = {k: v for k, v in make_inputs(3, 7, 40, 5).items() if k in ("u", "delta", "A", "B", "C")}
    inputs["delta"] = inputs["delta"].exp()
    expected = run({k: x.double() for k, x in inputs.items()}, softplus=False, backend="reference")
    assert_close(run(inputs, softplus=False, backend=backend), expected)


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize("length", [1, 45, 64])
def test_state_mask_and_reset_match_reference(backend, length):
    inputs = make_inputs(3, 7, length, 5) | {"initial_state": torch.randn(3, 7, 5)}
    flags = {"token_mask": torch.rand(3, length) < 0.7, "reset": torch.rand(3, length) < 0.1}
    expected = run({k: x.double() for k, x in inputs.items()}, backend="reference", **flags)
    assert_close(run(inputs, backend=backend, **flags), expected)


@pytest.mark.parametrize("backend", ["reference", *ACCELERATED])
def test_skipped_token_is_absent_and_reset_starts_anew(backend):
    inputs = make_inputs(1, 4, 20, 3)
    mask = torch.ones(1, 20, dtype=torch.bool)
    mask[0, 7:11] = False
    kept = {k: x[..., mask[0]] if x.dim() == 3 else x for k, x in inputs.items()}
    y = selective_scan(**inputs, delta_softplus=True, token_mask=mask, backend=backend)
    torch.testing.assert_close(y[..., mask[0]], selective_scan(**kept, delta_softplus=True, backend=backend))
    assert (y[..., ~mask[0]] == 0).all()

    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[0, 12] = True
    tail = {k: x[..., 12:] if x.dim() == 3 else x for k, x in inputs.items()}
    y = selective_scan(**inputs, delta_softplus=True, reset=reset, backend=backend)
    torch.testing.assert_close(y[..., 12:], selective_scan(**tail, delta_softplus=True, backend=backend))


@pytest.mark.parametrize("backend", ["reference", *ACCELERATED])
def test_two_halves_equal_the_whole(backend):
    inputs = make_inputs(2, 6, 50, 4)
    whole, last = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)
    first, second = (
        {k: x[..., part] if x.dim() == 3 else x for k, x in inputs.items()} for part in (slice(33), slice(33, None))
    )
    y1, state = selective_scan(**first, delta_softplus=True, return_last_state=True, backend=backend)
    y2, end = selective_scan(
        **second, delta_softplus=True, initial_state=state, return_last_state=True, backend=backend
    )
    torch.testing.assert_close(torch.cat([y1, y2], -1), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("form", ["groups", "constant", "mixed"])
def test_grouped_and_constant_matrices(form):
    inputs = make_inputs(2, 6, 9, 4)
    B, C = torch.randn(2, 3, 4, 9), torch.randn(2, 3, 4, 9)
    if form == "constant":
        B, C = torch.randn(6, 4), torch.randn(6, 4)
    if form == "mixed":
        C = inputs["C"]
    y = selective_scan(**inputs | {"B": B, "C": C}, delta_softplus=True)
    for channel in range(6):
        own = {k: x[..., channel : channel + 1, :] for k, x in inputs.items() if x.dim() == 3}
        own |= {k: x[channel : channel + 1] for k, x in inputs.items() if x.dim() < 3}
        for name, matrix in (("B", B), ("C", C)):
            if matrix.dim() == 3:
                own[name] = matrix
            else:
                own[name] = (
                    matrix[channel][None, :, None].expand(2, -1, 9) if matrix.dim() == 2 else matrix[:, channel // 2]
                )
        torch.testing.assert_close(y[:, channel : channel + 1], selective_scan(**own, delta_softplus=True))


@pytest.mark.parametrize("backend", ACCELERATED)
def test_strided_inputs_equal_contiguous_ones(backend):
    inputs = make_inputs(3, 8, 21, 4)
    expected = run(inputs, backend=backend)
    packed = torch.cat([inputs[k].transpose(1, 2) for k in ("u", "delta", "z", "B", "C")], dim=-1)
    views = packed.split([8, 8, 8, 4, 4], dim=-1)
    strided = inputs | {k: v.transpose(1, 2) for k, v in zip(("u", "delta", "z", "B", "C"), views, strict=True)}
    expanded = torch.randn(3, 1, 1).expand(3, 8, 21)
    y, last_state = selective_scan(**strided, delta_softplus=True, return_last_state=True, backend=backend)
    assert torch.equal(y, expected["y"])
    assert torch.equal(last_state, expected["last_state"])
    torch.testing.assert_close(
        selective_scan(**inputs | {"u": expanded}, delta_softplus=True, backend=backend),
        selective_scan(**inputs | {"u": expanded.contiguous()}, delta_softplus=True, backend=backend),
    )


@pytest.mark.parametrize("backend", ACCELERATED)
def test_gradients_do_not_depend_on_memory_layout(backend):
    inputs = {k: x.requires_grad_() for k, x in make_inputs(3, 19, 21, 4).items()}
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    dy = torch.randn(3, 1, 21).expand_as(y)
    leaves = list(inputs.values())
    expanded = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    for grad, expected in zip(expanded, torch.autograd.grad(y, leaves, dy.contiguous()), strict=True):
        assert torch.equal(grad, expected)


@pytest.mark.parametrize("backend", ACCELERATED)
def test_one_group_is_none(backend):
    inputs = make_inputs(2, 6, 9, 4)
    grouped = inputs | {"B": inputs["B"][:, None], "C": inputs["C"][:, None]}
    assert torch.equal(
        selective_scan(**grouped, delta_softplus=True, backend=backend),
        selective_scan(**inputs, delta_softplus=True, backend=backend),
    )


def test_an_interrupt_waits_for_the_threads():
    """The caller frees the memory that the threads write to, so none may still run when an exception leaves."""
    import time

    from nstorm.scan.threads import run_pieces

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


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize(("n", "length"), [(0, 5), (2, 0)])
def test_empty_batch_and_empty_sequence(backend, n, length):
    result = run(make_inputs(n, 4, length, 3), backend=backend)
    assert result["y"].shape == (n, 4, length)
    assert (result["A"] == 0).all()


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


@pytest.mark.parametrize("backend", ACCELERATED)
def test_every_output_is_written(backend):
    """PyTorch fills fresh memory with NaN in deterministic mode, so a place left out would show."""
    inputs = make_inputs(17, 37, 65, 5)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        flags = {"token_mask": torch.rand(17, 65) < 0.5, "reset": torch.rand(17, 65) < 0.1}
        result = run(inputs, backend=backend, **flags)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(x).all() for x in result.values())


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize("shift", [-40.0, 30.0])
def test_tiny_and_huge_steps(backend, shift):
    inputs = make_inputs(2, 9, 70, 6)
    inputs["delta"] = inputs["delta"] + shift
    expected = run({k: x.double() for k, x in inputs.items()}, backend="reference")
    assert_close(run(inputs, backend=backend), expected)


@pytest.mark.parametrize("backend", ["reference", *ACCELERATED])
def test_nan_and_overflow_are_not_hidden(backend):
    inputs = make_inputs(1, 2, 6, 3)
    inputs["u"][0, 1, 2] = torch.nan
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert torch.isfinite(y[0, 0]).all()
    assert torch.isfinite(y[0, 1, :2]).all()
    assert torch.isnan(y[0, 1, 2:]).all()
    for name in ("delta", "A", "B", "C", "D", "z", "delta_bias"):
        poisoned = make_inputs(1, 2, 6, 3)
        poisoned[name].view(-1)[0] = torch.nan
        assert torch.isnan(selective_scan(**poisoned, delta_softplus=True, backend=backend)[0, 0]).any(), name
    growing = make_inputs(1, 1, 4, 1) | {"A": torch.full((1, 1), 1e4), "delta": torch.ones(1, 1, 4)}
    assert not torch.isfinite(selective_scan(**growing, backend=backend)).all()


@pytest.mark.parametrize("backend", ["reference", *ACCELERATED])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(backend, dtype):
    inputs = make_inputs(2, 8, 40, 4)
    half = {k: x if k in ("A", "D", "delta_bias") else x.to(dtype) for k, x in inputs.items()}
    result = run(half, backend=backend)
    assert result["y"].dtype == result["u"].dtype == dtype
    assert result["last_state"].dtype == result["A"].dtype == torch.float32
    expected = run({k: x.float() for k, x in half.items()}, backend="reference")
    assert_close(result, expected, value_tol=1e-2, grad_tol=3e-2)


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("backend", ACCELERATED)
def test_operator_contract(backend):
    from nstorm.scan.operator import scan_operator

    x = make_inputs(2, 6, 34, 3)
    rows = {k: v.transpose(1, 2).contiguous() if v.dim() == 3 else v for k, v in x.items()}
    rows = {k: v.requires_grad_() for k, v in rows.items()}
    mask = torch.rand(2, 34) < 0.5
    args = (*rows.values(), True, torch.randn(2, 6, 3, requires_grad=True), mask, ~mask, backend)
    torch.library.opcheck(scan_operator, args)


@pytest.mark.parametrize("backend", ACCELERATED)
def test_compiles_to_one_graph(backend):
    inputs = make_inputs(2, 6, 34, 3)

    inputs = {name: x.requires_grad_() for name, x in inputs.items()}

    def f(**kwargs):
        return selective_scan(**kwargs, delta_softplus=True, backend=backend).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    grads = torch.autograd.grad(compiled(**inputs), list(inputs.values()))
    for grad, expected in zip(grads, torch.autograd.grad(f(**inputs), list(inputs.values())), strict=True):
        torch.testing.assert_close(grad, expected)


def test_auto_takes_numba_on_a_cpu_and_says_once_why_not_for_float64(caplog, monkeypatch):
    from nstorm.scan import backends
    from nstorm.scan.backends import choose_backend

    monkeypatch.setattr(backends, "_told", set())
    caplog.set_level("INFO", logger="nstorm.scan")
    inputs = make_inputs(1, 2, 3, 2)
    assert choose_backend("auto", inputs["u"], inputs["A"], inputs["B"]) == "numba"
    double = {k: x.double() for k, x in inputs.items()}
    for _ in range(2):
        assert selective_scan(**double).dtype == torch.float64
    assert [record.message for record in caplog.records] == [
        "scan backend 'numba' is passed over: it computes in float32 and the tensors are float64"
    ]
    with pytest.raises(ValueError, match="backend 'numba' cannot take this call: it computes in float32"):
        selective_scan(**double, backend="numba")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": torch.randn(2, 3, 8)}, r"delta has shape \(2, 3, 8\), expected \(2, 3, 9\)"),
        ({"B": torch.randn(2, 5, 9)}, r"B has shape \(2, 5, 9\), expected \(2, 4, 9\)"),
        ({"C": torch.randn(2, 2, 4, 9)}, "C has 2 groups, which do not divide the 3 channels"),
        ({"D": torch.randn(4)}, r"D has shape \(4,\), expected \(3,\)"),
        ({"initial_state": torch.randn(2, 3, 5)}, "initial_state has shape"),
        ({"token_mask": torch.ones(2, 8, dtype=torch.bool)}, "token_mask has shape"),
        ({"reset": torch.ones(2, 9, dtype=torch.uint8)}, r"reset has type torch\.uint8, expected torch\.bool"),
        ({"z": torch.empty(2, 3, 9, device="meta")}, "z is on meta and u on cpu"),
        ({"u": torch.randn(3, 9)}, r"u must be \(n, d, l\)"),
        ({"A": torch.randn(3, 4, dtype=torch.complex64)}, "A is complex"),
        ({"backend": "cuda"}, "backend 'cuda' is unknown; choose one of"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**make_inputs(2, 3, 9, 4) | changes)
