"""How work is cut for the CPU kernels, and that the cuts, which are at resets, change nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.scan import causal_conv1d, selective_scan
from nstorm.scan.units import Units
from tests.conftest import relative_error
from tests.scan.test_causal_conv import assert_close, conv_inputs, conv_run, doubled
from tests.scan.test_selective_scan import make_inputs
from tests.scan.test_selective_scan import run as run_scan


@given(
    n=st.integers(0, 200),
    length=st.integers(0, 700),
    d=st.integers(1, 100),
    density=st.none() | st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_units_cover_everything_once(n, length, d, density, seed):
    reset = None if density is None else (torch.rand(n, length, generator=torch.manual_seed(seed)) < density).numpy()
    units = Units.cut(n, length, d, reset)
    covered = torch.zeros(n, max(length, 1), d, dtype=torch.int64)
    parts: dict[tuple[int, int], int] = {}
    for n0, n1, d0, d1, t0, t1, slab, part in units.table.tolist():
        # an empty sequence has units all the same, which hand on its state
        covered[n0:n1, t0 : max(t1, 1), d0:d1] += 1
        parts[slab, part] = parts.get((slab, part), 0) + 1
        assert 0 <= slab < units.num_slabs
        assert 0 <= part < units.num_parts
        assert d0 % 16 == 0
        assert t0 == 0 or (n1 == n0 + 1 and reset is not None and reset[n0, t0])
    assert (covered == 1).all()
    # no two units add to the same sums
    assert all(count == 1 for count in parts.values())


@pytest.mark.parametrize("name", ["causal_conv1d", "selective_scan"])
@pytest.mark.parametrize("starts", ["few", "many", "first token", "skipped tokens"])
def test_few_long_sequences_are_cut_at_resets(name, starts):
    n, d, length = 2, 19, 700
    reset = torch.rand(n, length) < (0.3 if starts == "many" else 0.01)
    mask = torch.rand(n, length) < 0.8
    if starts == "first token":
        reset[:, 0] = True
    if starts == "skipped tokens":
        reset = reset | ~mask & (torch.rand(n, length) < 0.1)
    assert Units.cut(n, length, d, reset.numpy()).num_parts > n
    flags = {"token_mask": mask, "reset": reset}
    if name == "causal_conv1d":
        inputs, _ = conv_inputs(n, d, length, 4, ("bias", "initial_state"))
        expected = conv_run(doubled(inputs), silu=True, backend="torch", **flags)
        assert_close(conv_run(inputs, silu=True, backend="numba", **flags), expected)
        return
    inputs = make_inputs(n, d, length, 5) | {"initial_state": torch.randn(n, d, 5)}
    expected = run_scan(doubled(inputs), backend="reference", **flags)
    for key, x in run_scan(inputs, backend="numba", **flags).items():
        assert relative_error(x, expected[key]) <= 2e-4, key


def test_scan_and_convolution_start_anew_alike():
    """What one sequence with a reset gives is what two sequences give."""
    inputs = make_inputs(1, 5, 400, 3)
    reset = torch.zeros(1, 400, dtype=torch.bool)
    reset[0, 250] = True
    y = selective_scan(**inputs, delta_softplus=True, reset=reset)
    conv, _ = conv_inputs(1, 5, 400, 4)
    z = causal_conv1d(**conv, reset=reset)
    for part in (slice(250), slice(250, None)):
        own = {k: x[..., part] if x.dim() == 3 else x for k, x in inputs.items()}
        torch.testing.assert_close(y[..., part], selective_scan(**own, delta_softplus=True))
        torch.testing.assert_close(z[..., part], causal_conv1d(**conv | {"x": conv["x"][..., part]}))
