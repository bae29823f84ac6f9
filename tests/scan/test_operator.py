"""The scan as one PyTorch operator: its contract, `torch.compile` and `torch.export`."""

import pytest
import torch
from torch import Tensor, nn

from nstorm.scan import backends, selective_scan, use_backend
from nstorm.scan.operator import scan_operator
from tests.scan.test_selective_scan import ACCELERATED, make_inputs


def loss_and_grads(function, inputs: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    loss = function(**leaves)
    return [loss, *torch.autograd.grad(loss, list(leaves.values()))]


def assert_same(function, other, inputs: dict[str, Tensor]) -> None:
    for x, expected in zip(loss_and_grads(function, inputs), loss_and_grads(other, inputs), strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(
    ("backend", "form", "dtype"),
    [(name, "tokens", torch.float32) for name in ACCELERATED]
    + [("torch", form, torch.float64) for form in ("groups", "constant")],
)
def test_operator_contract(backend, form, dtype):
    x = make_inputs(2, 6, 34, 3, dtype)
    rows = {k: v.transpose(1, 2).contiguous() if v.dim() == 3 else v for k, v in x.items()}
    if form != "tokens":
        shape = (2, 34, 2, 3) if form == "groups" else (6, 3)
        rows |= {"B": torch.randn(shape, dtype=dtype), "C": torch.randn(shape, dtype=dtype)}
    state = torch.randn(2, 6, 3, dtype=dtype, requires_grad=True)
    mask = torch.rand(2, 34) < 0.5
    args = (*(v.requires_grad_() for v in rows.values()), True, state, mask, ~mask, backend)
    torch.library.opcheck(scan_operator, args)


@pytest.mark.parametrize("backend", ACCELERATED)
def test_compiles_to_one_graph_for_all_sizes(backend):
    def loss(**inputs):
        return selective_scan(**inputs, delta_softplus=True, backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same(compiled, loss, make_inputs(2, 6, 34, 3))
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_same(compiled, loss, make_inputs(5, 6, 71, 3))


def test_compiles_where_a_backend_is_passed_over(monkeypatch):
    """What is said through `logging` then cannot be traced."""
    monkeypatch.setattr(backends, "_told", set())

    def loss(**inputs):
        return selective_scan(**inputs, delta_softplus=True).square().sum()

    assert_same(torch.compile(loss, fullgraph=True, backend="aot_eager"), loss, make_inputs(2, 6, 34, 3, torch.float64))


class Scan(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.A = nn.Parameter(-torch.rand(6, 3))

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(
            u, delta, self.A, B, C, z=z, delta_softplus=True, return_last_state=True, backend=self.backend
        )


@pytest.mark.parametrize("backend", ACCELERATED)
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_batch_and_length(backend, strict):
    def inputs(n: int, length: int) -> list[Tensor]:
        x = make_inputs(n, 6, length, 3)
        return [x[name] for name in ("u", "delta", "B", "C", "z")]

    scan = Scan(backend)
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("length")}
    program = torch.export.export(scan, tuple(inputs(2, 34)), dynamic_shapes=5 * (sizes,), strict=strict)
    assert [node.target for node in program.graph.nodes].count(torch.ops.nstorm.selective_scan.default) == 1
    exported = program.module()
    for n, length in ((2, 34), (7, 70), (3, 2), (1, 1)):
        x = inputs(n, length)
        results = []
        for module, A in ((exported, exported.A), (scan, scan.A)):
            y, last_state = module(*x)
            results.append((y, last_state, torch.autograd.grad(y.square().sum() + last_state.sum(), A)[0]))
        torch.testing.assert_close(*results)


def test_compiled_functions_follow_use_backend():
    graphs: list[str] = []

    def backend(graph, example_inputs):
        ops = [node.args[-1] for node in graph.graph.nodes if "selective_scan" in str(node.target)]
        graphs.append(ops[0] if ops else "reference")
        return graph

    def loss(u, A, B):
        return selective_scan(u, u.sigmoid(), A, B, B).sum()

    def inside(u, A, B):
        with use_backend("torch"):
            return loss(u, A, B)

    inputs = [make_inputs(2, 6, 5, 3)[name] for name in ("u", "A", "B")]
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    compiled(*inputs)
    for name in ("torch", "reference", "torch"):
        with use_backend(name):
            compiled(*inputs)
    compiled(*inputs)
    assert graphs == ["numba", "torch", "reference"]
    torch.compile(inside, fullgraph=True, backend=backend)(*inputs)
    assert graphs[3:] == ["torch"]


def test_a_function_compiled_anew_reads_the_environment(monkeypatch):
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", "cuda")
    inputs = [make_inputs(2, 6, 5, 3)[name] for name in ("u", "delta", "A", "B", "C")]
    with pytest.raises(Exception, match="of the environment variable NSTORM_SCAN_BACKEND is unknown"):
        torch.compile(selective_scan, backend="eager")(*inputs)


class Tagged(Tensor):
    """A subclass whose operations return it, as those of MONAI's MetaTensor do."""


@pytest.mark.parametrize("backend", ACCELERATED)
def test_tensor_subclasses(backend):
    def loss(**inputs):
        return selective_scan(**inputs, delta_softplus=True, backend=backend).square().sum()

    def tagged_loss(**inputs):
        return loss(**{name: x.as_subclass(Tagged) for name, x in inputs.items()}).as_subclass(Tensor)

    assert_same(tagged_loss, loss, make_inputs(2, 6, 34, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_rounds_nothing_in_torch(dtype):
    def loss(**inputs):
        return selective_scan(**inputs, delta_softplus=True, backend="torch").square().sum()

    inputs = make_inputs(2, 6, 34, 3, dtype)
    expected = loss_and_grads(loss, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss_and_grads(loss, inputs)
    assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))
