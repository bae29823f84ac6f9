"""The `mamba_ssm` backend on a stand-in for its kernel, which checks what the kernel checks and computes on a CPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nstorm.scan import backends, mamba_ssm_backend, selective_scan
from nstorm.scan.backends import BACKENDS, ScanCall, choose_backend
from nstorm.scan.operator import scan_operator
from nstorm.scan.reference import selective_scan_reference
from tests.scan.test_selective_scan import assert_close, make_inputs

CHUNK = 2048
ON_CUDA = ScanCall("cuda", torch.float32, (2, 6, 9, 4))


def check(u, delta, A, B, C, D, z, delta_bias) -> None:
    (n, d, length), (_, s) = u.shape, A.shape
    assert s <= 256
    assert n * d * length > 0
    assert u.dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert A.dtype == torch.float32
    assert A.shape == (d, s)
    for x in (u, delta, z):
        assert x is None or (x.dtype == u.dtype and x.shape == u.shape and x.stride(-1) == 1)
    for x in (B, C):
        assert x.dtype == u.dtype
        assert x.shape == (n, B.shape[1], s, length)
        assert x.stride(-1) == 1
    for x in (D, delta_bias):
        assert x is None or (x.dtype == torch.float32 and x.shape == (d,) and x.stride(-1) == 1)


def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    check(u, delta, A, B, C, D, z, delta_bias)
    states, state = [], None
    for x in zip(*(x.split(CHUNK, dim=-1) for x in (u, delta, B, C)), strict=True):
        _, state = selective_scan_reference(*x[:2], A, *x[2:], D, None, delta_bias, delta_softplus, state, None, None)
        states.append(state)
    out, _ = selective_scan_reference(u, delta, A, B, C, D, None, delta_bias, delta_softplus, None, None, None)
    ends = torch.stack(states, dim=2)
    nobody_reads = torch.full_like(ends, 1e30)
    x = torch.stack([nobody_reads, ends], dim=-1).flatten(-2)
    return [out, x] if z is None else [out, x, (out.float() * F.silu(z.float())).to(u.dtype)]


def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    check(u, delta, A, B, C, D, z, delta_bias)
    assert dz is None
    assert not recompute_out_z
    assert dout.dtype == u.dtype
    assert dout.shape == u.shape
    assert dout.stride(-1) == 1
    assert x.is_contiguous()
    assert x.dtype == torch.float32
    assert x.shape == (*u.shape[:2], -(-u.shape[2] // CHUNK), 2 * A.shape[1])
    rest = []
    if z is not None:
        assert out.dtype == u.dtype
        assert out.shape == u.shape
        assert out.stride(-1) == 1
        gate = z.float()
        rest = [torch.ops.aten.silu_backward(dout.float() * out.float(), gate).to(z.dtype)]
        dout = dout.float() * F.silu(gate)
    inputs = (u, delta, A, B, C, D, delta_bias)

    def differentiate() -> list[Tensor | None]:
        leaves = [None if x is None else x.detach().float().requires_grad_() for x in inputs]
        *first, D, delta_bias = leaves
        y, _ = selective_scan_reference(*first, D, None, delta_bias, delta_softplus, None, None, None)
        grads = iter(torch.autograd.grad(y, [x for x in leaves if x is not None], dout.float()))
        return [None if x is None else next(grads).to(x.dtype) for x in inputs]

    # inside of an operator autograd is off, in this thread
    with ThreadPoolExecutor(1) as pool:
        return [*pool.submit(differentiate).result(), *rest]


@pytest.fixture
def kernel(monkeypatch):
    """Put the stand-in where the kernel is, and let the backend take tensors on a CPU."""
    backend = BACKENDS["mamba_ssm"]
    anywhere = replace(backend, refuse=lambda call: backend.refuse(call._replace(device="cuda")))
    monkeypatch.setitem(BACKENDS, "mamba_ssm", anywhere)
    monkeypatch.setattr(mamba_ssm_backend, "_kernel", SimpleNamespace(fwd=fwd, bwd=bwd))
    monkeypatch.setattr(mamba_ssm_backend, "MISSING", None)


def grads_of(inputs: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**leaves, delta_softplus=True, **kwargs)
    generator = torch.Generator().manual_seed(1)
    grads = torch.autograd.grad(y, list(leaves.values()), torch.randn(y.shape, generator=generator).to(y.dtype))
    return {"y": y} | dict(zip(leaves, grads, strict=True))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("n", "d", "length", "s"), [(1, 1, 1, 1), (3, 7, 63, 5), (1, 2, 2049, 1)])
@pytest.mark.parametrize("without", [(), ("D", "z", "delta_bias")])
def test_matches_reference(n, d, length, s, without):
    inputs = {name: x for name, x in make_inputs(n, d, length, s).items() if name not in without}
    assert_close(grads_of(inputs, backend="mamba_ssm"), grads_of(inputs, backend="reference"))


@pytest.mark.usefixtures("kernel")
def test_groups():
    inputs = make_inputs(2, 6, 9, 4) | {"B": torch.randn(2, 3, 4, 9), "C": torch.randn(2, 3, 4, 9)}
    assert_close(grads_of(inputs, backend="mamba_ssm"), grads_of(inputs, backend="reference"))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("half", [("u", "delta", "B", "C", "z"), ("u", "B")])
def test_half_precision(half):
    inputs = {name: x.bfloat16() if name in half else x for name, x in make_inputs(2, 6, 40, 4).items()}
    result = grads_of(inputs, backend="mamba_ssm")
    assert all(result[name].dtype == x.dtype for name, x in inputs.items())
    expected = grads_of({name: x.float() for name, x in inputs.items()}, backend="reference")
    assert_close(result, expected, value_tol=1e-2, grad_tol=3e-2)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("n", "length"), [(0, 5), (2, 0)])
def test_nothing_is_not_launched(n, length):
    result = grads_of(make_inputs(n, 4, length, 3), backend="mamba_ssm")
    assert result["y"].shape == (n, 4, length)
    assert (result["A"] == 0).all()


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("without", [(), ("D", "z", "delta_bias")])
def test_operator_contract(without):
    x = {k: v.transpose(1, 2).contiguous() if v.dim() == 3 else v for k, v in make_inputs(2, 6, 34, 3).items()}
    rows = [None if name in without else v.requires_grad_() for name, v in x.items()]
    torch.library.opcheck(scan_operator, (*rows, True, None, None, None, "mamba_ssm"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"dtype": torch.bfloat16, "groups": (3, 3)}, None),
        ({"device": "cpu"}, "it runs on CUDA devices and the tensors are on cpu"),
        ({"dtype": torch.float64}, "it computes in float32 and the tensors are float64"),
        ({"groups": (0, 0)}, "it takes B and C that vary along the sequence"),
        ({"groups": (1, 3)}, "in equally many groups"),
        ({"has_initial_state": True}, "no differentiable initial and last state"),
        ({"wants_last_state": True}, "no differentiable initial and last state"),
        ({"has_flags": True}, "no token_mask and no reset"),
        ({"shape": (2, 6, 9, 257)}, "at most 256 states and A has 257"),
    ],
)
def test_comes_first_on_cuda_where_it_takes_the_call(monkeypatch, changes, reason):
    monkeypatch.setattr(mamba_ssm_backend, "MISSING", None)
    call = ON_CUDA._replace(**changes)
    if reason is None:
        assert choose_backend("auto", call) == "mamba_ssm"
    else:
        assert choose_backend("auto", call) != "mamba_ssm"
        with pytest.raises(ValueError, match=f"backend 'mamba_ssm' cannot take this call: .*{reason}"):
            choose_backend("mamba_ssm", call)


def absent(folder):
    (folder / "mamba_ssm").mkdir()
    (folder / "mamba_ssm" / "__init__.py").touch()


def broken(folder):
    (folder / f"selective_scan_cuda{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")


def without_its_libraries(folder):
    (folder / "selective_scan_cuda.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")


def of_another_package(folder):
    signature = "fwd(" + ", ".join(f"arg{i}: torch.Tensor" for i in range(10)) + ")"
    (folder / "selective_scan_cuda.py").write_text(f"def fwd(): {signature!r}\ndef bwd(): {signature!r}")


def empty(folder):
    (folder / "selective_scan_cuda.py").touch()


@pytest.mark.parametrize(
    ("install", "reason"),
    [
        (absent, "selective_scan_cuda, does not load (ModuleNotFoundError: "),
        (broken, "selective_scan_cuda, does not load (ImportError: "),
        (without_its_libraries, "does not load (OSError: libcudart.so.12"),
        (of_another_package, "fwd and bwd take 10 and 10 arguments, those of mamba-ssm 2.x 9 and 14"),
        (empty, "does not load (AttributeError: "),
    ],
)
def test_a_package_without_its_kernel_is_passed_over(monkeypatch, tmp_path, caplog, install, reason):
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "selective_scan_cuda", raising=False)
    kernel, missing = mamba_ssm_backend._load()
    sys.modules.pop("selective_scan_cuda", None)
    assert kernel is None
    assert reason in missing

    monkeypatch.setattr(mamba_ssm_backend, "MISSING", missing)
    monkeypatch.setattr(backends, "_told", set())
    caplog.set_level("INFO", logger="nstorm.scan")
    assert choose_backend("auto", ON_CUDA) == "torch"
    assert f"scan backend 'mamba_ssm' is passed over: {missing}" in caplog.messages


def test_a_kernel_of_mamba_ssm_is_taken(monkeypatch):
    def documented(name, count):
        return SimpleNamespace(__doc__=f"{name}({', '.join(f'arg{i}: torch.Tensor' for i in range(count))}) -> list")

    module = SimpleNamespace(fwd=documented("fwd", 9), bwd=documented("bwd", 14))
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", module)
    assert mamba_ssm_backend._load() == (module, None)


def test_the_choice_on_cuda_can_be_traced():
    expected = list(BACKENDS).index(choose_backend("auto", ON_CUDA))

    def index(x):
        return x + list(BACKENDS).index(choose_backend("auto", ON_CUDA))

    assert torch.compile(index, fullgraph=True, backend="eager")(torch.zeros(())) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["mamba_ssm", "torch"])
def test_on_a_gpu(backend):
    if backend == "mamba_ssm" and mamba_ssm_backend.MISSING is not None:
        pytest.skip(mamba_ssm_backend.MISSING)
    inputs = make_inputs(3, 70, 2100, 16)
    expected = grads_of({name: x.double() for name, x in inputs.items()}, backend="torch")
    result = grads_of({name: x.cuda() for name, x in inputs.items()}, backend=backend)
    assert_close({name: x.cpu() for name, x in result.items()}, expected)
