"""The fused inside of a Mamba block against the same in parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nstorm.scan import causal_conv1d, selective_scan
from nstorm.scan.mamba_inner import mamba_inner
from tests.conftest import relative_error

FLAGS = [(), ("token_mask",), ("reset",), ("token_mask", "reset")]


def inner_inputs(n, d, length, taps=4, rank=3, s=5, conv_bias=True, dtype=torch.float32) -> dict[str, Tensor | None]:
    inputs = {
        "xz": torch.randn(n, length, 2 * d),
        "conv_weight": torch.randn(d, taps),
        "conv_bias": torch.randn(d) if conv_bias else None,
        "x_proj": torch.randn(rank + 2 * s, d) / d**0.5,
        "dt_proj": torch.randn(d, rank),
        "dt_bias": torch.randn(d) - 2,
        "A": -torch.arange(1.0, s + 1) * (0.5 + torch.rand(d, s)),
        "D": torch.randn(d),
    }
    return {name: None if x is None else x.to(dtype) for name, x in inputs.items()}


def make_flags(names, n, length) -> dict[str, Tensor | None]:
    density = {"token_mask": 0.7, "reset": 0.1}
    return {name: torch.rand(n, length) < density[name] if name in names else None for name in density}


def fused(**inputs) -> Tensor:
    return mamba_inner(**inputs)[0]


def in_parts(xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, token_mask, reset, backend="reference"):
    (d, rank), s = dt_proj.shape, A.shape[1]
    x, z = (part.transpose(1, 2) for part in xz.split(d, dim=-1))
    flags = {"token_mask": token_mask, "reset": reset, "backend": backend}
    x = causal_conv1d(x, conv_weight, conv_bias, True, **flags)
    step, B, C = F.linear(x.transpose(1, 2), x_proj).split([rank, s, s], dim=-1)
    step, B, C = (part.transpose(1, 2) for part in (F.linear(step, dt_proj), B, C))
    return selective_scan(x, step, A, B, C, D, z, dt_bias, delta_softplus=True, **flags).transpose(1, 2)


def values(function, inputs, flags) -> dict[str, Tensor]:
    """y, and the gradients for a fixed random loss."""
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y = function(**leaves, **flags)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    given = {name: x for name, x in leaves.items() if x is not None}
    # where there are no tokens, nothing depends on some of them
    loss = (y * dy).sum() + sum(0 * x.sum() for x in given.values())
    return {"y": y} | dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))


def doubled(inputs):
    return {name: None if x is None else x.double() for name, x in inputs.items()}


def assert_close(result, expected, value_tol=2e-5, grad_tol=2e-4) -> None:
    assert result.keys() == expected.keys()
    for name, x in expected.items():
        assert result[name].shape == x.shape, name
        assert torch.isfinite(result[name]).all(), name
        if x.numel():
            assert relative_error(result[name], x) <= (value_tol if name == "y" else grad_tol), name


@pytest.mark.parametrize("names", FLAGS, ids="+".join)
@pytest.mark.parametrize(
    ("n", "d", "length", "sizes"),
    [
        (1, 1, 1, {"rank": 1, "s": 1}),
        (3, 19, 2, {"taps": 1}),
        (2, 16, 63, {"conv_bias": False}),
        (17, 40, 33, {"taps": 2, "s": 16}),
        (2, 72, 256, {"rank": 2, "s": 16}),
        (1, 35, 700, {"taps": 5, "rank": 7}),
        (0, 19, 5, {}),
        (2, 19, 0, {}),
    ],
)
def test_equals_its_parts(n, d, length, sizes, names):
    inputs, flags = inner_inputs(n, d, length, **sizes), make_flags(names, n, length)
    result = values(fused, inputs, flags)
    exact = values(in_parts, doubled(inputs), flags)
    assert_close(result, exact)
    for backend in ("numba", "torch"):
        parts = values(lambda backend=backend, **x: in_parts(**x, backend=backend), inputs, flags)
        assert_close(result, parts)


def test_the_convolution_and_the_scan_round_as_apart():
    """In values, which have no sums over projections between them, the kernels' results are the same bits."""
    inputs, flags = inner_inputs(3, 19, 63), make_flags(FLAGS[-1], 3, 63)
    torch.testing.assert_close(
        fused(**inputs, **flags), in_parts(**inputs, **flags, backend="numba"), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("form", ["channels apart", "slice", "expanded"])
def test_strided_inputs_equal_contiguous_ones(form):
    inputs, flags = inner_inputs(3, 19, 40), make_flags(FLAGS[-1], 3, 40)
    xz = inputs["xz"]
    strided = {
        "channels apart": xz.transpose(1, 2).contiguous().transpose(1, 2),
        "slice": torch.cat([xz, xz], -1)[..., 38:],
        "expanded": xz[:1, :1].expand(3, 40, 38),
    }[form]
    flags = {name: torch.stack([flag, ~flag], 2)[..., 0] for name, flag in flags.items()}
    dy = torch.randn(3, 1, 19).expand(3, 40, 19)
    results = []
    for given, grad in ((strided, dy), (strided.contiguous(), dy.contiguous())):
        leaves = [x.detach().requires_grad_() for x in (inputs | {"xz": given}).values()]
        y = fused(**dict(zip(inputs, leaves, strict=True)), **flags)
        results.append([y, *torch.autograd.grad(y, leaves, grad)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_skipped_token_reaches_nothing():
    inputs, flags = inner_inputs(3, 19, 70), make_flags(FLAGS[-1], 3, 70)
    expected = values(fused, inputs, flags)
    mask = flags["token_mask"]
    inputs["xz"] = torch.where(mask[..., None], inputs["xz"], torch.nan)
    result = values(fused, inputs, flags)
    for name, x in result.items():
        assert torch.equal(x, expected[name]), name
    for name in ("y", "xz"):
        assert (result[name][~mask] == 0).all(), name


def test_nan_ends_at_a_reset():
    inputs = inner_inputs(2, 19, 300)
    reset = torch.zeros(2, 300, dtype=torch.bool)
    reset[:, [7, 160]] = True
    flags = {"token_mask": None, "reset": reset}
    expected = values(fused, inputs, flags)
    inputs["xz"][:, 150] = torch.nan
    result = values(fused, inputs, flags)
    assert torch.isnan(result["y"][:, 150:160]).all()
    for name in ("y", "xz"):
        assert torch.equal(result[name][:, 160:], expected[name][:, 160:]), name


def test_every_output_is_written():
    """PyTorch fills fresh memory with NaN in deterministic mode, so a place left out would show."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        for n, length in ((3, 1), (2, 300), (17, 65)):
            for names in FLAGS:
                result = values(fused, inner_inputs(n, 37, length), make_flags(names, n, length))
                assert all(torch.isfinite(x).all() for x in result.values()), (n, length, names)
    finally:
        torch.use_deterministic_algorithms(False)


def test_result_does_not_depend_on_threads():
    inputs, flags = inner_inputs(2, 100, 300), make_flags(FLAGS[-1], 2, 300)
    # PyTorch's own products may depend on them: here they are exact
    for name in ("x_proj", "dt_proj"):
        inputs[name] = torch.zeros_like(inputs[name])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            result = values(fused, inputs, flags)
            results.append({name: result[name] for name in ("y", "conv_weight", "conv_bias", "dt_bias", "A", "D")})
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, results[0][name]) for name, x in result.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    inputs, flags = inner_inputs(3, 19, 40), make_flags(FLAGS[-1], 3, 40)
    half = {name: x if name in ("A", "D") else x.to(dtype) for name, x in inputs.items()}
    result = values(fused, half, flags)
    assert all(result[name].dtype == x.dtype for name, x in half.items())
    assert result["y"].dtype == dtype
    assert_close(result, values(in_parts, doubled(half), flags), 1e-2, 1e-2)


def test_autocast_rounds_nothing_inside():
    inputs, flags = inner_inputs(3, 19, 40), make_flags((), 3, 40)
    expected = values(fused, inputs, flags)
    with torch.autocast("cpu", torch.bfloat16):
        result = values(fused, inputs, flags)
    for name, x in result.items():
        assert torch.equal(x, expected[name]), name


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("names", [FLAGS[0], FLAGS[-1]], ids=["plain", "flags"])
def test_operator_contract(dtype, conv_bias, names):
    inputs = inner_inputs(2, 6, 34, conv_bias=conv_bias, dtype=dtype)
    leaves = [None if x is None else x.requires_grad_() for x in inputs.values()]
    torch.library.opcheck(mamba_inner, (*leaves, *make_flags(names, 2, 34).values()))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        weights = inner_inputs(1, 6, 1)
        del weights["xz"]
        self.names = tuple(weights)
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, xz: Tensor, token_mask: Tensor, reset: Tensor) -> Tensor:
        weights = {name: getattr(self, name) for name in self.names}
        return fused(xz=xz, **weights, token_mask=token_mask, reset=reset)


def module_inputs(n, length) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(n, length, 12), torch.rand(n, length) < 0.7, torch.rand(n, length) < 0.1


def gradients(module, x) -> list[Tensor]:
    for parameter in module.parameters():
        parameter.grad = None
    y = module(*x)
    y.square().sum().backward()
    return [y, *(parameter.grad for parameter in module.parameters())]


def test_compiles_to_one_graph_for_all_sizes():
    module = Inner()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, length in ((2, 34), (5, 71)):
        x = module_inputs(n, length)
        with torch.compiler.set_stance("default" if n == 2 else "fail_on_recompile"):
            torch.testing.assert_close(gradients(compiled, x), gradients(module, x))


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_batch_and_length(strict):
    module, n, length = Inner(), torch.export.Dim("n"), torch.export.Dim("length")
    program = torch.export.export(module, module_inputs(2, 34), dynamic_shapes=3 * ({0: n, 1: length},), strict=strict)
    exported = program.module()
    for shape in ((2, 34), (7, 70), (3, 2), (1, 1)):
        x = module_inputs(*shape)
        torch.testing.assert_close(exported(*x), module(*x))


def test_monai_tensors():
    from monai.data.meta_tensor import MetaTensor

    inputs, flags = inner_inputs(2, 6, 34), make_flags(FLAGS[-1], 2, 34)
    leaf = MetaTensor(inputs["xz"].clone(), meta={"tr": 2.0}).requires_grad_()
    y = fused(**inputs | {"xz": leaf}, **{name: MetaTensor(x) for name, x in flags.items()})
    assert torch.equal(y.as_subclass(Tensor), fused(**inputs, **flags))
    y.sum().backward()
    assert torch.isfinite(leaf.grad.as_subclass(Tensor)).all()
