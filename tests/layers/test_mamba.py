"""The Mamba mixer: published values, its state, skipped tokens, and one direction made two."""

import copy
import inspect

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nstorm.layers import BidirectionalMambaMixer, MambaMixer, MambaState
from tests.conftest import load_golden, relative_error

BACKENDS = ["reference", "torch", "numba"]
# numba is fused where no state is asked for, and in parts where one is
PATHS = [(backend, False) for backend in BACKENDS] + [("numba", True)]


def make(dim=6, backend="auto", *, randomise=True, **kwargs) -> MambaMixer:
    mixer = MambaMixer(dim, backend=backend, **kwargs)
    if randomise:
        with torch.no_grad():
            for name, parameter in mixer.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(torch.randn_like(parameter))
    return mixer


def call(mixer, x, in_parts=False, **kwargs) -> Tensor:
    return mixer(x, return_state=True, **kwargs)[0] if in_parts else mixer(x, **kwargs)


def values(mixer, x, in_parts=False, **kwargs) -> dict[str, Tensor]:
    """y, and the gradients of the input and the parameters for a fixed random loss."""
    x = x.detach().clone().requires_grad_()
    y = call(mixer, x, in_parts, **kwargs)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    grads = torch.autograd.grad(y, [x, *mixer.parameters()], dy)
    return dict(zip(("y", "x", *(name for name, _ in mixer.named_parameters())), (y, *grads), strict=True))


def assert_close(result, expected, value_tol=1e-5, grad_tol=1e-4) -> None:
    for name, x in expected.items():
        assert torch.isfinite(result[name]).all(), name
        assert relative_error(result[name], x) <= (value_tol if name == "y" else grad_tol), name


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_golden(index, backend, in_parts):
    golden = load_golden(f"mamba_block_{index}")
    sizes = {name: int(golden.config[name]) for name in ("d_state", "d_conv", "expand")}
    mixer = MambaMixer(int(golden.config["d_model"]), **sizes, backend=backend)
    mixer.load_state_dict(golden.with_prefix("weight."))
    x = golden.tensors["x"].requires_grad_()
    y = call(mixer, x, in_parts)
    assert relative_error(y, golden.tensors["y"]) <= 1e-5
    y.backward(golden.tensors["dy"])
    assert relative_error(x.grad, golden.tensors["grad_x"]) <= 1e-4
    expected = golden.with_prefix("grad.")
    parameters = dict(mixer.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert relative_error(parameter.grad, expected[name]) <= 1e-4, name


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_conv": 1},
        {"d_conv": 2, "d_state": 1},
        {"expand": 3, "dt_rank": 5},
        {"conv_bias": False, "bias": True},
    ],
)
def test_is_causal_at_any_size(sizes):
    mixer = MambaMixer(6, **sizes).eval()
    x = torch.randn(2, 9, 6)
    y = mixer(x)
    changed = x.clone()
    changed[:, 5:] += 1
    after = mixer(changed)
    torch.testing.assert_close(after[:, :5], y[:, :5])
    assert not torch.allclose(after[:, 5], y[:, 5])


def test_initial_steps_span_the_range():
    mixer = MambaMixer(200, dt_min=0.01, dt_max=0.2)
    steps = F.softplus(mixer.dt_proj.bias)
    assert 0.01 * 0.99 <= steps.min() < 0.012
    assert 0.17 < steps.max() <= 0.2 * 1.01
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 17.0).expand(400, 16))
    with pytest.raises(ValueError, match=r"dt_min 0\.2 and dt_max 0\.1"):
        MambaMixer(8, dt_min=0.2, dt_max=0.1)


@pytest.mark.parametrize("names", [(), ("token_mask",), ("reset",), ("token_mask", "reset")], ids="+".join)
@pytest.mark.parametrize("sizes", [{}, {"d_conv": 1, "d_state": 3}, {"conv_bias": False, "bias": True}])
@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_every_path_equals_the_reference_in_float64(names, sizes, backend, in_parts):
    mixer, x = make(**sizes), torch.randn(3, 40, 6)
    flags = {name: torch.rand(3, 40) < {"token_mask": 0.7, "reset": 0.1}[name] for name in names}
    exact = copy.deepcopy(mixer).double()
    exact.backend = "reference"
    expected = values(exact, x.double(), **flags)
    mixer.backend = backend
    assert_close(values(mixer, x, in_parts, **flags), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cut", [1, 2, 17, 39])
def test_two_halves_equal_the_whole(backend, cut):
    mixer, x = make(backend=backend, bias=True), torch.randn(3, 40, 6)
    flags = {"token_mask": torch.rand(3, 40) < 0.7, "reset": torch.rand(3, 40) < 0.05}

    def halves(x, return_state, **flags):
        ys, state = [], None
        for part in (slice(cut), slice(cut, None)):
            y, state = mixer(
                x[:, part], state=state, return_state=True, **{name: flag[:, part] for name, flag in flags.items()}
            )
            ys.append(y)
        return torch.cat(ys, 1), state

    halves.parameters, halves.named_parameters = mixer.parameters, mixer.named_parameters
    for given in ({}, flags):
        expected = values(mixer, x, **given)
        assert_close(values(halves, x, in_parts=True, **given), expected)
        _, state = halves(x, True, **given)
        _, whole = mixer(x, return_state=True, **given)
        for one, other in zip(state, whole, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_state_gets_gradients(backend):
    """Equal to those of the tokens that made it."""
    mixer, x = make(backend=backend), torch.randn(2, 5, 6)
    state = MambaState(torch.randn(2, 12, 3), torch.randn(2, 12, 16))
    leaves = [part.double().requires_grad_() for part in state]
    exact = copy.deepcopy(mixer).double()
    exact.backend = "reference"
    expected = torch.autograd.grad(exact(x.double(), state=MambaState(*leaves)).sin().sum(), leaves)
    leaves = [part.requires_grad_() for part in state]
    grads = torch.autograd.grad(mixer(x, state=MambaState(*leaves)).sin().sum(), leaves)
    for grad, other in zip(grads, expected, strict=True):
        assert grad.abs().max() > 0
        assert relative_error(grad, other) <= 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("d_conv", [1, 4])
def test_steps_equal_the_parallel_form(backend, d_conv):
    mixer, x = make(backend=backend, d_conv=d_conv), torch.randn(2, 9, 6)
    state, ys = None, []
    for token in x.unbind(1):
        y, state = mixer.step(token, state)
        ys.append(y)
    whole, last = mixer(x, return_state=True)
    torch.testing.assert_close(torch.stack(ys, 1), whole)
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_a_skipped_token_is_absent(backend, in_parts, bias):
    mixer, x = make(backend=backend, bias=bias), torch.randn(1, 20, 6)
    mask = torch.rand(1, 20) < 0.6
    y = call(mixer, x, in_parts, token_mask=mask)
    torch.testing.assert_close(y[mask][None], call(mixer, x[mask][None], in_parts))
    assert (y[~mask] == 0).all()
    none = call(mixer, x, in_parts, token_mask=torch.zeros_like(mask))
    assert (none == 0).all()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (3, 1)])
@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_no_tokens_at_all(backend, in_parts, shape):
    mixer, x = make(backend=backend, bias=True), torch.randn(*shape, 6, requires_grad=True)
    for flags in ({}, {"token_mask": torch.zeros(shape, dtype=torch.bool), "reset": torch.ones(shape) == 1}):
        y = call(mixer, x, in_parts, **flags)
        assert y.shape == x.shape
        y.sum().backward()
    assert torch.isfinite(mixer.in_proj.weight.grad).all()


def test_monai_tensors_and_flags():
    from monai.data.meta_tensor import MetaTensor

    mixer, x = make(bias=True), torch.randn(3, 40, 6)
    flags = {"token_mask": torch.rand(3, 40) < 0.7, "reset": torch.rand(3, 40) < 0.1}
    leaf = MetaTensor(x.clone(), meta={"tr": 2.0}).requires_grad_()
    y = mixer(leaf, **{name: MetaTensor(flag) for name, flag in flags.items()})
    torch.testing.assert_close(y.as_subclass(Tensor), mixer(x, **flags))
    y.sum().backward()
    assert torch.isfinite(leaf.grad.as_subclass(Tensor)).all()


def test_hooks_see_one_call():
    mixer, shapes = make(), []
    mixer.register_forward_hook(lambda module, args, y: shapes.append(tuple(y.shape)))
    mixer(torch.randn(3, 40, 6), token_mask=torch.rand(3, 40) < 0.7)
    assert shapes == [(3, 40, 6)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_nothing_in_a_skipped_token_reaches_anything(backend, in_parts, bias):
    mixer, x = make(backend=backend, bias=bias), torch.randn(3, 40, 6)
    mask = torch.rand(3, 40) < 0.7
    expected = values(mixer, x, in_parts, token_mask=mask)
    poisoned = torch.where(mask[..., None], x, torch.nan)
    result = values(mixer, poisoned, in_parts, token_mask=mask)
    for name, value in result.items():
        assert torch.equal(value, expected[name]), name
    for name in ("y", "x"):
        assert (result[name][~mask] == 0).all(), name


@pytest.mark.parametrize(("backend", "in_parts"), PATHS)
def test_a_reset_makes_separate_sequences(backend, in_parts):
    mixer, x = make(backend=backend), torch.randn(2, 40, 6)
    reset = torch.zeros(2, 40, dtype=torch.bool)
    reset[:, [13, 14, 33]] = True
    parts = [call(mixer, part, in_parts) for part in x.tensor_split([13, 14, 33], 1)]
    torch.testing.assert_close(call(mixer, x, in_parts, reset=reset), torch.cat(parts, 1))
    x[:, 20] = torch.nan
    after = call(mixer, x, in_parts, reset=reset)[:, 33:]
    torch.testing.assert_close(after, parts[-1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_in_bfloat16_autocast(backend):
    mixer, x = make(backend=backend, bias=True), torch.randn(3, 40, 6)
    flags = {"token_mask": torch.rand(3, 40) < 0.7, "reset": torch.rand(3, 40) < 0.1}
    expected = values(mixer, x, **flags)
    for in_parts in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = call(mixer, leaf, in_parts, **flags)
        assert y.dtype == torch.bfloat16
        assert (y[~flags["token_mask"]] == 0).all()
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        # as a loss scaler would call it, outside of autocast, and as careless code does, inside of it
        grads = torch.autograd.grad(y, [leaf, *mixer.parameters()], dy, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            inside = torch.autograd.grad(y, [leaf, *mixer.parameters()], dy)
        for some in (grads, inside):
            result = dict(zip(expected, (y, *some), strict=True))
            assert_close(result, expected, 2e-2, 4e-2)
        state = None
        with torch.autocast("cpu", torch.bfloat16):
            _, state = mixer(x, return_state=True)
            mixer.step(x[:, 0], state)
        assert state.scan.dtype == torch.float32


@pytest.mark.parametrize("convert", [lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.to(torch.bfloat16)])
def test_short_types_leave_the_state_matrix_exact(convert):
    mixer, x = make(), torch.randn(2, 9, 6)
    with torch.no_grad():
        mixer.A_log.add_(1e-5)
    before = {name: getattr(mixer, name).detach().clone() for name in ("A_log", "D")}
    mixer(x).sum().backward()
    parameters = dict(mixer.named_parameters())
    assert convert(mixer) is mixer
    short = mixer.in_proj.weight.dtype
    assert short in (torch.bfloat16, torch.float16)
    for name, parameter in mixer.named_parameters():
        assert parameter is parameters[name]
        exact = name in before
        assert parameter.dtype == parameter.grad.dtype == (torch.float32 if exact else short), name
        if exact:
            assert torch.equal(parameter, before[name])
    y, state = mixer(x.to(short), return_state=True)
    assert y.dtype == state.conv.dtype == short
    assert state.scan.dtype == torch.float32
    mixer(x.to(short)).sum().backward()
    # and the way back
    assert all(p.dtype == torch.float64 for p in mixer.double().parameters())
    assert mixer.bfloat16().A_log.dtype == torch.float32


def test_moves_to_meta_and_copies():
    mixer, x = make(), torch.randn(2, 9, 6)
    twin = copy.deepcopy(mixer)
    assert torch.equal(twin(x), mixer(x))
    with torch.no_grad():
        twin.A_log.add_(1)
    assert not torch.equal(twin(x), mixer(x))
    twin = copy.deepcopy(mixer).to("meta", torch.bfloat16)
    assert all(p.is_meta for p in twin.parameters())
    assert twin.A_log.dtype == twin.D.dtype == torch.float32
    assert twin.in_proj.weight.dtype == torch.bfloat16
    y, state = twin(x.to("meta", torch.bfloat16), return_state=True)
    assert (y.shape, state.conv.shape, state.scan.shape) == ((2, 9, 6), (2, 12, 3), (2, 12, 16))
    empty = twin.to_empty(device="cpu")
    assert not any(p.is_meta for p in empty.parameters())
    empty.load_state_dict(mixer.state_dict())
    assert torch.equal(empty.A_log, mixer.A_log)


@pytest.mark.parametrize("in_parts", [False, True])
def test_compiles_to_one_graph(in_parts, monkeypatch):
    # the type checker that tests run under cannot be traced
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    mixer, x = make(bias=True), torch.randn(2, 34, 6)
    flags = {"token_mask": torch.rand(2, 34) < 0.7, "reset": torch.rand(2, 34) < 0.1}
    expected = values(mixer, x, in_parts, **flags)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager", dynamic=True)
    y = call(compiled, x, in_parts, **flags)
    torch.testing.assert_close(y, expected["y"])
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    for (name, _), grad in zip(
        mixer.named_parameters(), torch.autograd.grad(y, list(mixer.parameters()), dy), strict=True
    ):
        torch.testing.assert_close(grad, expected[name])


def test_a_backend_without_last_state_is_not_asked_for_one(monkeypatch):
    """`mamba_ssm` has none: with it a plain forward must still run on it."""
    asked: list[bool] = []

    def record(*args, return_last_state=False, **kwargs):
        asked.append(return_last_state)
        return scan(*args, return_last_state=return_last_state, **kwargs)

    module = inspect.getmodule(inspect.unwrap(MambaMixer.forward))
    scan = module.selective_scan
    monkeypatch.setattr(module, "selective_scan", record)
    mixer = make(backend="torch")
    mixer(torch.randn(2, 9, 6))
    mixer(torch.randn(2, 9, 6), return_state=True)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"token_mask": torch.ones(1, 9, dtype=torch.bool)}, r"token_mask has shape \(1, 9\), expected \(2, 9\)"),
        ({"reset": torch.ones(2, 8, dtype=torch.bool)}, r"reset has shape \(2, 8\), expected \(2, 9\)"),
        ({"token_mask": torch.ones(2, 9)}, r"token_mask has type torch\.float32, expected torch\.bool"),
    ],
)
def test_bad_flags(flags, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        make()(torch.randn(2, 9, 6), **flags)


def two(merge="sum", shared=False, **kwargs) -> BidirectionalMambaMixer:
    mixer = BidirectionalMambaMixer(6, shared=shared, merge=merge, d_state=5, **kwargs)
    if mixer.gate is not None:
        for parameter in mixer.gate.parameters():
            torch.nn.init.normal_(parameter)
    return mixer


BOTH = pytest.mark.parametrize("shared", [False, True])
MERGES = pytest.mark.parametrize("merge", ["sum", "mean", "gate"])


@BOTH
@MERGES
def test_bidirectional_equals_flips_made_by_hand(merge, shared):
    mixer, x = two(merge, shared), torch.randn(2, 9, 6)
    forwards, backwards = mixer.forwards, mixer.forwards if shared else mixer.backwards
    one = forwards(x)
    other = torch.stack([backwards(sequence.flip(0)[None])[0].flip(0) for sequence in x])
    if merge == "gate":
        gate = torch.sigmoid(torch.cat([one, other], -1) @ mixer.gate.weight.t() + mixer.gate.bias)
        expected = gate * one + (1 - gate) * other
    else:
        expected = (one + other) * {"sum": 1.0, "mean": 0.5}[merge]
    torch.testing.assert_close(mixer(x), expected)
    assert shared == (sum(p.numel() for p in mixer.parameters()) < 1.7 * sum(p.numel() for p in forwards.parameters()))


@BOTH
@MERGES
def test_bidirectional_output_depends_on_all_tokens(merge, shared):
    x = torch.randn(1, 9, 6, requires_grad=True)
    mixer = two(merge, shared)
    for t in (0, 4, 8):
        (grad,) = torch.autograd.grad(mixer(x)[0, t].sum(), x)
        assert (grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("bias", [False, True])
@BOTH
@MERGES
def test_bidirectional_regions_are_separate_sequences(merge, shared, bias):
    mixer, x = two(merge, shared, bias=bias), torch.randn(2, 20, 6)
    mask, reset = torch.rand(2, 20) < 0.7, torch.zeros(2, 20, dtype=torch.bool)
    starts = ([5, 6, 15], [0, 11, 19])
    for i in range(2):
        reset[i, starts[i]] = True
    # a region that begins with, and one that ends with, a token that is skipped
    mask[0, 5], mask[1, 10], mask[1, 11] = False, False, False
    for flags in ({"reset": reset}, {"token_mask": mask, "reset": reset}, {"token_mask": mask}):
        y = mixer(x, **flags)
        for i in range(2):
            regions = torch.arange(20).tensor_split(starts[i] if "reset" in flags else [])
            for tokens in regions:
                kept = tokens[mask[i, tokens]] if "token_mask" in flags else tokens
                if len(kept):
                    torch.testing.assert_close(y[i, kept], mixer(x[i, kept][None])[0])
        if "token_mask" in flags:
            assert (y[~mask] == 0).all()
            assert torch.equal(mixer(torch.where(mask[..., None], x, torch.nan), **flags), y)


@BOTH
def test_nothing_passes_between_regions(shared):
    mixer, x = two("gate", shared), torch.randn(1, 20, 6, requires_grad=True)
    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[0, [7, 13]] = True
    for t, region in ((0, range(7)), (6, range(7)), (7, range(7, 13)), (12, range(7, 13)), (19, range(13, 20))):
        (grad,) = torch.autograd.grad(mixer(x, reset=reset)[0, t].sum(), x)
        assert [i for i in range(20) if grad[0, i].any()] == list(region)


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_shared_parameters_commute_with_reversal(merge):
    mixer, x = two(merge, shared=True), torch.randn(2, 9, 6)
    torch.testing.assert_close(mixer(x.flip(1)), mixer(x).flip(1))


def test_the_gate_begins_as_the_mean():
    torch.manual_seed(3)
    gate = BidirectionalMambaMixer(6, merge="gate")
    mean = BidirectionalMambaMixer(6, merge="mean")
    mean.load_state_dict(gate.state_dict(), strict=False)
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(gate(x), mean(x))


def test_bidirectional_arguments_reach_both_directions():
    mixer = BidirectionalMambaMixer(
        6, merge="gate", d_state=3, d_conv=2, expand=3, bias=True, backend="torch", device="meta", dtype=torch.bfloat16
    )
    for direction in (mixer.forwards, mixer.backwards):
        assert direction.A_log.shape == (18, 3)
        assert direction.conv1d.weight.shape == (18, 1, 2)
        assert direction.backend == "torch"
        assert direction.A_log.dtype == torch.float32
    assert mixer.gate.weight.is_meta
    assert mixer.gate.weight.dtype == torch.bfloat16
    assert list(BidirectionalMambaMixer(6, shared=True).state_dict()) == [
        f"forwards.{name}" for name in MambaMixer(6).state_dict()
    ]


def test_unknown_merge(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"merge 'product' must be one of \('sum', 'mean', 'gate'\)"):
        BidirectionalMambaMixer(6, merge="product")


@BOTH
def test_bidirectional_exports_and_compiles(shared, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    mixer, x = two("gate", shared), torch.randn(2, 34, 6)
    flags = {"token_mask": torch.rand(2, 34) < 0.7, "reset": torch.rand(2, 34) < 0.1}
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x, **flags), mixer(x, **flags))
    n, length = torch.export.Dim("n"), torch.export.Dim("length")
    sizes = {name: {0: n, 1: length} for name in ("x", "token_mask", "reset")}
    exported = torch.export.export(mixer, (x,), flags, dynamic_shapes=sizes).module()
    for shape in ((2, 34), (5, 7), (1, 1)):
        x = torch.randn(*shape, 6)
        flags = {"token_mask": torch.rand(shape) < 0.7, "reset": torch.rand(shape) < 0.1}
        torch.testing.assert_close(exported(x, **flags), mixer(x, **flags))


def test_a_projection_that_is_changed_from_outside_is_called():
    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    mixer, x = MambaMixer(6), torch.randn(2, 9, 6)
    before = mixer(x)
    louder = Louder(*mixer.x_proj.weight.shape[::-1], bias=False)
    louder.load_state_dict(mixer.x_proj.state_dict())
    mixer.x_proj = louder
    assert not torch.allclose(mixer(x), before)
