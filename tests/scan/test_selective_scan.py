"""Values and gradients, on every backend that takes tensors on a CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nstorm.scan import selective_scan, torch_backend
from nstorm.scan.backends import BACKENDS, ScanCall
from tests.conftest import load_golden, relative_error

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
ACCELERATED = [
    name for name, backend in BACKENDS.items() if backend.refuse(ScanCall("cpu", torch.float32, (1, 1, 1, 1))) is None
]


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
    [(name, torch.float64, 1e-10, 1e-10) for name in ("reference", "torch")]
    + [(name, torch.float32, 2e-5, 2e-4) for name in ("reference", *ACCELERATED)],
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


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradcheck(backend):
    inputs = {k: x.requires_grad_() for k, x in make_inputs(2, 3, 5, 2, torch.float64).items()}
    state = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    reset = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool)

    def scan(*args):
        return selective_scan(
            *args[:-1], delta_softplus=True, initial_state=args[-1], token_mask=mask, reset=reset,
            return_last_state=True, backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(scan, (*inputs.values(), state))


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize(
    ("n", "d", "length", "s"),
    [
        (1, 5, 1, 1),
        (3, 7, 3, 5),
        (1, 1, 63, 2),
        (2, 72, 63, 16),
        (20, 40, 32, 4),
        (2, 3, 256, 16),
        (1, 131, 33, 3),
        (1, 2, 1000, 2),
        (0, 4, 5, 3),
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


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("form", ["groups", "constant", "mixed"])
def test_grouped_and_constant_matrices(backend, form):
    inputs = make_inputs(2, 6, 9, 4)
    B, C = torch.randn(2, 3, 4, 9), torch.randn(2, 3, 4, 9)
    if form == "constant":
        B, C = torch.randn(6, 4), torch.randn(6, 4)
    if form == "mixed":
        C = inputs["C"]
    y = selective_scan(**inputs | {"B": B, "C": C}, delta_softplus=True, backend=backend)
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
        alone = selective_scan(**own, delta_softplus=True, backend=backend)
        torch.testing.assert_close(y[:, channel : channel + 1], alone)


@given(
    n=st.integers(1, 3),
    group_size=st.integers(1, 3),
    length=st.integers(1, 70),
    s=st.integers(1, 4),
    forms=st.tuples(*2 * [st.sampled_from(["tokens", "groups", "channels", "constant"])]),
    without=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    given_too=st.sets(st.sampled_from(["initial_state", "token_mask", "reset"])),
    softplus=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_torch_equals_reference_in_float64(n, group_size, length, s, forms, without, given_too, softplus, seed):
    torch.manual_seed(seed)
    d = 2 * group_size
    inputs = make_inputs(n, d, length, s, torch.float64)
    shapes = {"groups": (n, 2, s, length), "channels": (n, d, s, length), "constant": (d, s)}
    for name, form in zip("BC", forms, strict=True):
        if form != "tokens":
            inputs[name] = torch.randn(shapes[form], dtype=torch.float64)
    if not softplus:
        inputs["delta"] = inputs["delta"].exp()
    inputs = {name: x for name, x in inputs.items() if name not in without}
    if "initial_state" in given_too:
        inputs["initial_state"] = torch.randn(n, d, s, dtype=torch.float64)
    flags = {name: torch.rand(n, length) < 0.5 for name in ("token_mask", "reset") if name in given_too}
    expected = run(inputs, softplus, backend="reference", **flags)
    assert_close(run(inputs, softplus, backend="torch", **flags), expected, 1e-11, 1e-11)


def test_torch_takes_sequences_in_slices(monkeypatch):
    inputs = make_inputs(5, 6, 70, 3)
    whole = run(inputs, backend="torch")
    monkeypatch.setattr(torch_backend, "_MAX_ELEMENTS_CPU", 2 * 32 * 6 * 3)
    for name, x in run(inputs, backend="torch").items():
        torch.testing.assert_close(x, whole[name])


def test_torch_bounds_its_memory():
    sizes: list[int] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, list | tuple) else [out]))
            return out

    x = make_inputs(64, 32, 33, 16)
    rows = {k: v.transpose(1, 2) if v.dim() == 3 else v for k, v in x.items()}.values()
    with Record():
        y, last_state, states = torch_backend.forward(*rows, True, None, None, None)
        torch_backend.backward(y, last_state, states, *rows, True, None, None)
    a_chunk_of_all = 64 * 32 * 16 * 32
    assert a_chunk_of_all / 4 < max(sizes) < a_chunk_of_all / 3.8


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


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize(("n", "length"), [(0, 5), (2, 0)])
def test_empty_batch_and_empty_sequence(backend, n, length):
    result = run(make_inputs(n, 4, length, 3), backend=backend)
    assert result["y"].shape == (n, 4, length)
    assert (result["A"] == 0).all()


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
@pytest.mark.parametrize("shift", [-40.0, 30.0, 1e4])
def test_tiny_and_huge_steps(backend, shift):
    inputs = make_inputs(2, 9, 70, 6)
    inputs["delta"] = inputs["delta"] + shift
    expected = run({k: x.double() for k, x in inputs.items()}, backend="reference")
    result = run(inputs, backend=backend)
    if shift == 1e4:
        # nothing is left of a state after one step, and of the gradient of A no more than rounding
        assert max(result["A"].abs().max(), expected["A"].abs().max()) < 1e-25
        result.pop("A")
    assert_close(result, expected)


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


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z"])
def test_a_skipped_token_reaches_nothing(backend, poison, name):
    inputs = make_inputs(2, 5, 40, 3)
    mask = torch.rand(2, 40) < 0.7
    expected = run(inputs, backend=backend, token_mask=mask)
    inputs[name] = torch.where(mask[:, None], inputs[name], poison)
    for key, value in run(inputs, backend=backend, token_mask=mask).items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("backend", ["reference", *ACCELERATED])
def test_nan_ends_at_a_reset(backend):
    inputs = make_inputs(1, 3, 40, 2)
    reset = torch.zeros(1, 40, dtype=torch.bool)
    reset[0, 21] = True
    expected = run(inputs, backend=backend, reset=reset)
    inputs["u"][..., 5] = torch.nan
    result = run(inputs, backend=backend, reset=reset)
    assert torch.isnan(result["y"][..., 5:21]).all()
    assert torch.equal(result["last_state"], expected["last_state"])
    for name in ("y", "u", "delta", "B", "C", "z"):
        assert torch.equal(result[name][..., 21:], expected[name][..., 21:]), name


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


def test_default_type_and_device_change_nothing():
    inputs = make_inputs(3, 21, 40, 5)
    flags = {"token_mask": torch.rand(3, 40) < 0.7, "reset": torch.rand(3, 40) < 0.1}
    expected = run(inputs, backend="numba", **flags)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            y = selective_scan(**inputs, delta_softplus=True, backend="numba", **flags)
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        z = selective_scan(**leaves, delta_softplus=True, backend="numba", **flags)
        grad = torch.autograd.grad(z.sum(), leaves["u"])[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(y, expected["y"])
    assert torch.equal(z, expected["y"])
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    plain = selective_scan(**leaves, delta_softplus=True, backend="numba", **flags)
    assert torch.equal(grad, torch.autograd.grad(plain.sum(), leaves["u"])[0])
