"""The causal convolution against PyTorch's own, and against a loop over the tokens that are not skipped."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nstorm.scan import causal_conv1d
from nstorm.scan.backends import BACKENDS
from nstorm.scan.causal_conv import conv_operator
from tests.scan.test_operator import Tagged, assert_same

KERNELS = ["numba", "torch"]
OPTIONS = [
    frozenset(names)
    for count in range(6)
    for names in itertools.combinations(("initial_state", "token_mask", "reset", "silu", "bias"), count)
]


def conv_inputs(
    n, d, length, taps, given=("bias",), dtype=torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that get gradients, and flags."""
    inputs = {"x": torch.randn(n, d, length), "weight": torch.randn(d, taps)}
    if "bias" in given:
        inputs["bias"] = torch.randn(d)
    if "initial_state" in given:
        inputs["initial_state"] = torch.randn(n, d, taps - 1)
    flags = {"token_mask": torch.rand(n, length) < 0.7, "reset": torch.rand(n, length) < 0.15}
    flags = {name: x for name, x in flags.items() if name in given}
    return {name: x.to(dtype) for name, x in inputs.items()}, flags


def loop(x, weight, bias=None, silu=False, initial_state=None, token_mask=None, reset=None):
    """A token at a time, a sequence at a time."""
    (n, d, length), taps = x.shape, weight.shape[1]
    ys, lasts = [], []
    for i in range(n):
        past = list(torch.zeros(taps - 1, d, dtype=x.dtype) if initial_state is None else initial_state[i].t())
        tokens = []
        for t in range(length):
            if reset is not None and reset[i, t]:
                past = list(torch.zeros(taps - 1, d, dtype=x.dtype))
            if token_mask is not None and not token_mask[i, t]:
                tokens.append(x.new_zeros(d))
                continue
            seen = [*past, x[i, :, t]]
            y = sum(seen[j] * weight[:, j] for j in range(taps))
            y = y if bias is None else y + bias
            tokens.append(F.silu(y) if silu else y)
            past = seen[1:]
        ys.append(torch.stack(tokens, -1))
        lasts.append(torch.stack(past, -1) if past else x.new_zeros(d, 0))
    return (torch.stack(ys), torch.stack(lasts)) if n else (x * 0, x.new_zeros(0, d, taps - 1))


def run_conv(function, inputs, **kwargs) -> dict[str, Tensor]:
    """y, the last state, and the gradients for a fixed random loss on both."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, last = function(**leaves, **kwargs)
    generator = torch.Generator().manual_seed(1)
    losses = [(x * torch.randn(x.shape, generator=generator).to(x.dtype)).sum() for x in (y, last)]
    # so that an input that nothing depends on has a gradient, of 0
    losses += [0 * x.sum() for x in leaves.values()]
    grads = torch.autograd.grad(sum(losses), list(leaves.values()))
    return {"y": y, "last": last} | {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def conv_run(inputs, **kwargs) -> dict[str, Tensor]:
    return run_conv(causal_conv1d, inputs, return_last_state=True, **kwargs)


def assert_close(result: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Compared to values of order 1, of which many may cancel in a sum."""
    for name, x in expected.items():
        assert result[name].shape == x.shape, name
        assert torch.isfinite(result[name]).all(), name
        if x.numel():
            error = (result[name].double() - x.double()).abs().max()
            assert error <= tolerance * x.abs().max().clamp(min=1), name


def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in inputs.items()}


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("silu", [False, True])
def test_equals_conv1d(backend, taps, silu):
    for n, d, length in ((0, 16, 3), (1, 1, 1), (3, 19, 63), (2, 72, 256)):
        inputs, _ = conv_inputs(n, d, length, taps)

        def expected(x, weight, bias, taps=taps, d=d):
            y = F.conv1d(F.pad(x, [taps - 1, 0]), weight[:, None], bias, groups=d)
            return F.silu(y) if silu else y, F.pad(x, [taps - 1, 0])[..., x.shape[-1] :]

        assert_close(conv_run(inputs, silu=silu, backend=backend), run_conv(expected, doubled(inputs)))


@pytest.mark.parametrize("given", OPTIONS, ids=lambda given: "+".join(sorted(given)) or "plain")
@pytest.mark.parametrize("backend", KERNELS)
def test_equals_a_loop_with_all_options(given, backend):
    """Every option with every number of taps; sizes go round so that each meets many options."""
    sizes = [(1, 1, 1), (3, 19, 2), (1, 16, 3), (3, 1, 63), (0, 19, 3), (2, 40, 33), (1, 72, 63)]
    for taps in (1, 2, 3, 4, 5):
        inputs, flags = conv_inputs(*sizes[(OPTIONS.index(given) + taps) % len(sizes)], taps, given)
        silu = "silu" in given
        expected = run_conv(loop, doubled(inputs), silu=silu, **flags)
        assert_close(conv_run(inputs, silu=silu, backend=backend, **flags), expected)
        if backend == "torch":
            assert_close(conv_run(doubled(inputs), silu=silu, backend=backend, **flags), expected, 1e-12)


@given(
    n=st.integers(1, 3),
    d=st.sampled_from([1, 3, 16, 19, 35]),
    length=st.integers(1, 80),
    taps=st.integers(1, 40),
    kept=st.floats(0, 1),
    resets=st.floats(0, 0.5),
    silu=st.booleans(),
    names=st.sets(st.sampled_from(["initial_state", "token_mask", "reset", "bias"])),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_kernels_equal_torch_in_float64(n, d, length, taps, kept, resets, silu, names, seed):
    """More taps than tokens, and than a run has, among others."""
    torch.manual_seed(seed)
    inputs, flags = conv_inputs(n, d, length, taps, names)
    density = {"token_mask": kept, "reset": resets}
    flags = {name: torch.rand(n, length) < density[name] for name in flags}
    expected = conv_run(doubled(inputs), silu=silu, backend="torch", **flags)
    assert_close(conv_run(inputs, silu=silu, backend="numba", **flags), expected)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_are_those_of_finite_differences(backend):
    """For the kernels: along a random direction, in float32."""
    inputs, flags = conv_inputs(2, 3, 12, 4, ("bias", "initial_state", "token_mask", "reset"), torch.float64)
    if backend == "torch":

        def convolve(*args):
            return causal_conv1d(
                *args[:3], True, initial_state=args[3], return_last_state=True, backend=backend, **flags
            )

        assert torch.autograd.gradcheck(convolve, tuple(x.requires_grad_() for x in inputs.values()))
        return
    result = conv_run({name: x.float() for name, x in inputs.items()}, silu=True, backend=backend, **flags)
    direction = {name: torch.randn_like(x) for name, x in inputs.items()}
    generator = torch.Generator().manual_seed(1)
    dy, dlast = (torch.randn(result[name].shape, generator=generator) for name in ("y", "last"))

    def value(step):
        moved = {name: inputs[name] + step * direction[name] for name in inputs}
        y, last = loop(**moved, silu=True, **flags)
        return (y * dy).sum() + (last * dlast).sum()

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    torch.testing.assert_close(
        sum((result[f"grad_{name}"] * direction[name]).sum() for name in inputs), slope, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_short_and_empty_sequences_keep_the_initial_state(backend, length):
    inputs, _ = conv_inputs(2, 5, length, 5, ("initial_state", "bias"))
    _, last = causal_conv1d(**inputs, return_last_state=True, backend=backend)
    expected = torch.cat([inputs["initial_state"], inputs["x"]], -1)[..., -4:]
    assert torch.equal(last, expected)
    skipped = torch.zeros(2, length, dtype=torch.bool)
    y, last = causal_conv1d(**inputs, token_mask=skipped, return_last_state=True, backend=backend)
    assert torch.equal(last, inputs["initial_state"])
    assert (y == 0).all()


@pytest.mark.parametrize("backend", KERNELS)
def test_two_halves_equal_the_whole_with_gradients(backend):
    inputs, flags = conv_inputs(3, 19, 50, 4, ("initial_state", "bias", "token_mask", "reset"))

    def halves(x, weight, bias, initial_state):
        ys = []
        for part in (slice(2), slice(2, 33), slice(33, None)):
            own = {name: flag[:, part] for name, flag in flags.items()}
            y, initial_state = causal_conv1d(
                x[..., part], weight, bias, True, initial_state=initial_state, return_last_state=True,
                backend=backend, **own,
            )  # fmt: skip
            ys.append(y)
        return torch.cat(ys, -1), initial_state

    assert_close(run_conv(halves, inputs), conv_run(inputs, silu=True, backend=backend, **flags))


@pytest.mark.parametrize("backend", KERNELS)
def test_strided_and_expanded_inputs(backend):
    inputs, flags = conv_inputs(3, 19, 40, 4, ("initial_state", "bias", "token_mask", "reset"))
    expected = conv_run(inputs, backend=backend, **flags)
    x = inputs["x"]
    packed = torch.randn(3, 40, 50)
    packed[..., 7:26] = x.transpose(1, 2)
    views = {
        "slice of packed rows": packed[..., 7:26].transpose(1, 2),
        "every second channel": torch.stack([x, x + 1], 2).flatten(1, 2)[:, ::2],
        "every second token": torch.stack([x, x + 1], 3).flatten(2)[..., ::2],
    }
    for name, view in views.items():
        assert torch.equal(view, x), name
        y, last = causal_conv1d(**inputs | {"x": view}, return_last_state=True, backend=backend, **flags)
        torch.testing.assert_close(y, expected["y"], rtol=0, atol=0 if backend == "numba" else 1e-5)
        assert torch.equal(last, expected["last"])
    for shape in ((1, 19, 40), (3, 1, 40), (3, 19, 1)):
        expanded = torch.randn(shape).expand(3, 19, 40)
        y = causal_conv1d(**inputs | {"x": expanded}, backend=backend, **flags)
        torch.testing.assert_close(y, causal_conv1d(**inputs | {"x": expanded.contiguous()}, backend=backend, **flags))
    strided_flags = {name: torch.stack([flag, ~flag], 2).flatten(1)[:, ::2] for name, flag in flags.items()}
    torch.testing.assert_close(causal_conv1d(**inputs, backend=backend, **strided_flags), expected["y"])


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_do_not_depend_on_memory_layout(backend):
    inputs, flags = conv_inputs(3, 19, 40, 4, ("bias", "token_mask"))
    leaves = [x.requires_grad_() for x in inputs.values()]
    y = causal_conv1d(**inputs, silu=True, backend=backend, **flags)
    dy = torch.randn(3, 1, 40).expand_as(y)
    expanded = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    for grad, expected in zip(expanded, torch.autograd.grad(y, leaves, dy.contiguous()), strict=True):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("backend", KERNELS)
def test_either_output_may_be_left_unused(backend, used):
    inputs, _ = conv_inputs(2, 5, 9, 3, ("bias", "initial_state"))

    def grads(function, inputs):
        leaves = [x.clone().requires_grad_() for x in inputs.values()]
        out = function(**dict(zip(inputs, leaves, strict=True)))[used]
        grads = torch.autograd.grad(out.sin().sum(), leaves, allow_unused=True)
        return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(leaves, grads, strict=True)]

    def function(**inputs):
        return causal_conv1d(**inputs, return_last_state=True, backend=backend)

    for one, other in zip(grads(function, inputs), grads(loop, doubled(inputs)), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_skipped_token_reaches_nothing(backend, poison):
    inputs, flags = conv_inputs(3, 19, 70, 4, ("bias", "initial_state", "token_mask", "reset"))
    expected = conv_run(inputs, silu=True, backend=backend, **flags)
    inputs["x"] = torch.where(flags["token_mask"][:, None], inputs["x"], poison)
    result = conv_run(inputs, silu=True, backend=backend, **flags)
    for name, x in result.items():
        assert torch.equal(x, expected[name]), name
    for name in ("y", "grad_x"):
        assert (result[name].transpose(1, 2)[~flags["token_mask"]] == 0).all(), name


@pytest.mark.parametrize("backend", KERNELS)
def test_nan_ends_at_a_reset(backend):
    inputs, _ = conv_inputs(2, 5, 300, 4, ("bias", "initial_state"))
    reset = torch.zeros(2, 300, dtype=torch.bool)
    reset[:, [7, 160]] = True
    expected = conv_run(inputs, silu=True, backend=backend, reset=reset)
    inputs["x"][..., 159] = torch.nan
    result = conv_run(inputs, silu=True, backend=backend, reset=reset)
    assert torch.isnan(result["y"][..., 159]).all()
    assert torch.equal(result["last"], expected["last"])
    for name in ("y", "grad_x"):
        assert torch.equal(result[name][..., 160:], expected[name][..., 160:]), name
    inputs["x"][..., 159] = 0
    inputs["initial_state"][:] = torch.nan
    result = conv_run(inputs, silu=True, backend=backend, reset=reset)
    assert torch.isnan(result["y"][..., 0]).all()
    for name in ("y", "grad_x"):
        assert torch.equal(result[name][..., 160:], expected[name][..., 160:]), name


@pytest.mark.parametrize("backend", KERNELS)
def test_nan_is_not_hidden(backend):
    for name in ("x", "weight", "bias", "initial_state"):
        inputs, _ = conv_inputs(1, 2, 6, 3, ("bias", "initial_state"))
        inputs[name].view(-1)[0] = torch.nan
        y = causal_conv1d(**inputs, backend=backend)
        assert torch.isnan(y[0, 0, 0]), name
        assert torch.isfinite(y[0, 1]).all(), name


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["same", "float32"])
def test_half_precision(backend, dtype, weights):
    inputs, flags = conv_inputs(3, 19, 40, 4, ("bias", "initial_state", "token_mask", "reset"))
    short = inputs if weights == "same" else ("x", "initial_state")
    half = {name: x.to(dtype) if name in short else x for name, x in inputs.items()}
    for own in ({}, flags):
        result = conv_run(half, silu=True, backend=backend, **own)
        assert result["y"].dtype == result["last"].dtype == dtype
        assert all(result[f"grad_{name}"].dtype == x.dtype for name, x in half.items())
        expected = conv_run(doubled(half), silu=True, backend="torch", **own)
        assert_close(result, expected, 2e-2 if dtype == torch.bfloat16 else 3e-3)


def test_every_output_is_written():
    """PyTorch fills fresh memory with NaN in deterministic mode, so a place left out would show."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        for n, length, names in itertools.product((3, 17), (1, 65, 300), OPTIONS):
            inputs, flags = conv_inputs(n, 19, length, 4, names)
            for name, x in conv_run(inputs, silu="silu" in names, backend="numba", **flags).items():
                assert torch.isfinite(x).all(), (name, n, length, names)
    finally:
        torch.use_deterministic_algorithms(False)


def test_result_does_not_depend_on_threads():
    cases = [
        conv_inputs(*sizes, 4, ("bias", "initial_state", "token_mask", "reset"))
        for sizes in ((2, 100, 300), (300, 10, 20))
    ]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append([conv_run(inputs, silu=True, backend="numba", **flags) for inputs, flags in cases])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_default_type_changes_nothing():
    inputs, flags = conv_inputs(3, 19, 40, 4, ("bias", "token_mask"))
    expected = conv_run(inputs, silu=True, backend="numba", **flags)
    torch.set_default_dtype(torch.float64)
    try:
        y, last = causal_conv1d(**inputs, silu=True, return_last_state=True, backend="numba", **flags)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(y, expected["y"])
    assert torch.equal(last, expected["last"])


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("names", [OPTIONS[0], OPTIONS[-1]], ids=["plain", "all"])
def test_operator_contract(dtype, taps, names):
    inputs, flags = conv_inputs(2, 6, 34, taps, names, dtype)
    inputs["x"] = inputs["x"].transpose(1, 2).contiguous()
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    given = inputs | flags | {"silu": "silu" in names}
    order = ("x", "weight", "bias", "silu", "initial_state", "token_mask", "reset")
    torch.library.opcheck(conv_operator, tuple(given.get(name) for name in order))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("names", [OPTIONS[0], OPTIONS[-1]], ids=["plain", "all"])
def test_compiles_to_one_graph_for_all_sizes(backend, names):
    def loss(flags, **inputs):
        y, last = causal_conv1d(**inputs, silu=True, return_last_state=True, backend=backend, **flags)
        return y.square().sum() + last.sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.reset()
    for n, length in ((2, 34), (5, 71)):
        inputs, flags = conv_inputs(n, 6, length, 4, names)
        with torch.compiler.set_stance("default" if n == 2 else "fail_on_recompile"):
            assert_same(
                lambda flags=flags, **x: compiled(flags, **x), lambda flags=flags, **x: loss(flags, **x), inputs
            )


class Convolution(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor, token_mask: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(
            x, self.weight, silu=True, token_mask=token_mask, reset=reset, return_last_state=True,
            backend=self.backend,
        )  # fmt: skip


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_batch_and_length(backend, strict):
    def inputs(n: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(n, 6, length), torch.rand(n, length) < 0.7, torch.rand(n, length) < 0.1

    module, n, length = Convolution(backend), torch.export.Dim("n"), torch.export.Dim("length")
    sizes = ({0: n, 2: length}, {0: n, 1: length}, {0: n, 1: length})
    exported = torch.export.export(module, inputs(2, 34), dynamic_shapes=sizes, strict=strict).module()
    for shape in ((2, 34), (7, 70), (3, 2), (1, 1)):
        x = inputs(*shape)
        torch.testing.assert_close(exported(*x), module(*x))


@pytest.mark.parametrize("backend", KERNELS)
def test_tensor_subclasses(backend):
    inputs, flags = conv_inputs(3, 5, 40, 4, ("bias", "initial_state", "token_mask", "reset"))

    def loss(flags=flags, **inputs):
        return causal_conv1d(**inputs, silu=True, backend=backend, **flags).square().sum()

    def tagged_loss(**inputs):
        tagged = {name: x.as_subclass(Tagged) for name, x in flags.items()}
        return loss(tagged, **{name: x.as_subclass(Tagged) for name, x in inputs.items()}).as_subclass(Tensor)

    assert_same(tagged_loss, loss, inputs)


def test_monai_tensors():
    from monai.data.meta_tensor import MetaTensor

    inputs, flags = conv_inputs(3, 5, 40, 4, ("bias", "initial_state", "token_mask", "reset"))
    expected = conv_run(inputs, silu=True, backend="numba", **flags)
    leaf = MetaTensor(inputs["x"].clone(), meta={"tr": 2.0}).requires_grad_()
    flags = {name: MetaTensor(x) for name, x in flags.items()}
    y = causal_conv1d(**inputs | {"x": leaf}, silu=True, backend="numba", **flags)
    assert torch.equal(y.as_subclass(Tensor), expected["y"])
    y.sum().backward()
    assert torch.isfinite(leaf.grad.as_subclass(Tensor)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.randn(5, 1, 4)}, r"weight has shape \(5, 1, 4\), expected \(5, 4\)"),
        ({"bias": torch.randn(4)}, r"bias has shape \(4,\), expected \(5,\)"),
        ({"initial_state": torch.randn(2, 5, 4)}, r"initial_state has shape \(2, 5, 4\), expected \(2, 5, 3\)"),
        ({"token_mask": torch.ones(2, 8, dtype=torch.bool)}, r"token_mask has shape \(2, 8\), expected \(2, 9\)"),
        ({"reset": torch.ones(2, 9, dtype=torch.int64)}, r"reset has type torch\.int64, expected torch\.bool"),
        ({"backend": "cuda"}, "backend 'cuda' is unknown"),
        ({"x": torch.randn(2, 5, 9).double(), "backend": "numba"}, "it computes in float32"),
    ],
)
def test_bad_input(changes, message):
    inputs, _ = conv_inputs(2, 5, 9, 4)
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**inputs | changes)


def test_numba_is_what_auto_takes():
    """Or the tests above would compare PyTorch with itself."""
    assert next(iter(BACKENDS)) == "numba"
