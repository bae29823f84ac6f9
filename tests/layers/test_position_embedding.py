import itertools
import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from nstorm.layers.position_embedding import PositionEmbedding4D, resize_position_embeddings
from nstorm.layers.sincos import SinCos
from nstorm.layers.sincos_position_embedding import SinCosPositionEmbedding4D
from nstorm.nets import NeuroSTORM

GRID = (2, 3, 5, 7)
GRIDS = st.tuples(*[st.integers(1, 9)] * 4)


def embedding_of_centres(grid):
    """Every channel of it holds the token's centre along one axis, with the axis from 0 to 1."""
    embed = PositionEmbedding4D(4, grid, interpolate=True).double()
    with torch.no_grad():
        for parameter in embed.parameters():
            parameter.zero_()
        for axis in range(3):
            embed.spatial[0, axis, ..., 0] += centres(grid, axis)[..., 0]
        embed.temporal[0, 3] += centres(grid, 3)[:1, :1, :1]
    return embed


def centres(grid, axis):
    size = [1] * 4
    size[axis] = grid[axis]
    return ((torch.arange(grid[axis]).double() + 0.5) / grid[axis]).reshape(size).expand(grid)


def test_interpolation_leaves_the_built_grid_and_shorter_clips_as_they_are():
    exact = PositionEmbedding4D(3, GRID)
    embed = PositionEmbedding4D(3, GRID, interpolate=True)
    embed.load_state_dict(exact.state_dict())
    x = torch.randn(2, 3, *GRID)
    for num_frames in (7, 4, 1):
        clip = x[..., :num_frames]
        assert torch.equal(exact(clip), clip + exact.spatial + exact.temporal[..., :num_frames])
        assert torch.equal(embed(clip), exact(clip))


@given(built=GRIDS, grid=GRIDS)
@settings(max_examples=50, deadline=None)
def test_tokens_get_the_embedding_of_their_centre(built, grid):
    added = embedding_of_centres(built)(torch.zeros(1, 4, *grid).double())[0]
    for axis in range(3):
        border = 0.5 / built[axis]
        torch.testing.assert_close(added[axis], centres(grid, axis).clamp(border, 1 - border))
    if grid[3] > built[3]:
        border = 0.5 / built[3]
        torch.testing.assert_close(added[3], centres(grid, 3).clamp(border, 1 - border))
    else:
        torch.testing.assert_close(added[3], centres((*grid[:3], built[3]), 3)[..., : grid[3]])


def test_interpolated_embedding_learns():
    embed = PositionEmbedding4D(3, GRID, interpolate=True)
    y = embed(torch.randn(2, 3, 4, 3, 9, 11))
    y.backward(torch.ones_like(y))
    # weights of an interpolation sum to one
    assert embed.spatial.grad.sum().item() == pytest.approx(y.numel(), rel=1e-5)
    assert embed.temporal.grad.sum().item() == pytest.approx(y.numel(), rel=1e-5)
    assert embed.spatial.grad.min() > 0
    assert embed.temporal.grad.min() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_interpolation_in_every_type_and_on_meta(dtype):
    embed = PositionEmbedding4D(3, GRID, interpolate=True)
    x = torch.randn(2, 3, 4, 3, 9, 11)
    y = embed.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), embed.float()(x), rtol=0.02, atol=0.02)
    assert embed.to("meta")(x.to("meta")).shape == x.shape


@pytest.mark.parametrize("grid", [(2, 3, 5, 8), (2, 3, 4, 7), (3, 2, 5, 7)])
def test_another_grid_names_the_ways_out(grid):
    with pytest.raises(ValueError, match=r"fit .* \(2, 3, 5, 7\).* interpolate=True.* resize_position_embeddings"):
        PositionEmbedding4D(3, GRID)(torch.zeros(1, 3, *grid))


def test_a_net_for_another_grid_takes_resized_weights():
    sizes = {"feature_size": 6, "depths": (1, 1), "patch_size": (3, 3, 3, 1), "full_last_stage": False}
    trained = NeuroSTORM((12, 9, 15, 6), **sizes).eval()
    state = trained.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    net = NeuroSTORM((18, 12, 9, 9), **sizes).eval()
    resized = resize_position_embeddings(state, net)
    net.load_state_dict(resized)
    x = torch.randn(1, 1, 18, 12, 9, 9)
    for stage in trained.stages:
        stage.position.interpolate = True
    torch.testing.assert_close(net(x), trained(x))
    for key, value in state.items():
        assert torch.equal(value, before[key]), key
        assert ("position" in key) or resized[key] is value, key


def test_resizing_to_a_shorter_clip_takes_its_first_frames():
    long, short = PositionEmbedding4D(3, GRID), PositionEmbedding4D(3, (*GRID[:3], 4))
    short.load_state_dict(resize_position_embeddings(long.state_dict(), short))
    x = torch.randn(2, 3, *GRID[:3], 4)
    assert torch.equal(short(x), long(x))


def test_resizing_leaves_missing_keys_to_load_state_dict():
    stage = nn.ModuleDict({"position": PositionEmbedding4D(3, GRID)})
    other = {"position.spatial": torch.zeros(1, 3, 4, 4, 4, 1), "more": torch.zeros(1)}
    resized = resize_position_embeddings(other, stage)
    assert resized["position.spatial"].shape == (1, 3, 2, 3, 5, 1)
    assert resized.keys() == other.keys()


@pytest.mark.parametrize(
    ("embed", "frames"),
    [
        (lambda: PositionEmbedding4D(8, GRID), (3, 7)),
        (lambda: PositionEmbedding4D(8, GRID, interpolate=True), (9, 12)),
        (lambda: SinCosPositionEmbedding4D(8), (4, 11)),
    ],
    ids=["learned", "interpolated", "sincos"],
)
def test_compile_and_export_with_dynamic_batch_and_length(embed, frames, monkeypatch):
    # dynamo does not trace the type checks that the tests add
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    embed = embed()
    traced, other = (torch.randn(b, 8, *GRID[:3], t) for b, t in zip((2, 3), frames, strict=True))
    compiled = torch.compile(embed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(traced), embed(traced))
    sizes = {0: Dim("b"), 5: Dim("t", min=frames[0], max=frames[1])}
    program = torch.export.export(embed, (traced,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(program(other), embed(other))


def test_sincos_periods_run_from_the_longest_to_the_shortest():
    features = SinCos(3, min_period=4.0, max_period=16.0)(torch.tensor([0.0, 1.0, 2.5]))
    for row, position in zip(features.tolist(), (0.0, 1.0, 2.5), strict=True):
        angles = [2 * math.pi * position / period for period in (16, 8, 4)]
        assert row == pytest.approx([math.sin(a) for a in angles] + [math.cos(a) for a in angles], abs=1e-6)
    single = SinCos(1, min_period=4.0, max_period=16.0)(torch.tensor([4.0]))
    torch.testing.assert_close(single, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("bounds", [(0.0, 4.0), (-1.0, 4.0), (5.0, 4.0), (1.0, math.inf), (math.nan, 4.0)])
def test_sincos_refuses_periods_out_of_order(bounds):
    with pytest.raises(ValueError, match=r"min_period .+ and max_period .+ must satisfy 0 < min_period <= max_period"):
        SinCos(2, *bounds)


def test_sincos_needs_a_period():
    with pytest.raises(ValueError, match="num_periods 0 must be 1 or more"):
        SinCos(0, 1.0, 2.0)


def test_sincos_position_deals_its_periods_to_the_axes():
    # 11 periods: 3 for each of h, w, d, and 2 for t
    embed = SinCosPositionEmbedding4D(22, min_period=3.0, max_period=48.0)
    added = embed(torch.zeros(1, 22, *GRID).double())[0]
    periods = {3: [48.0, 12.0, 3.0], 2: [48.0, 3.0]}
    for place in itertools.product(*map(range, GRID)):
        expected = []
        for index, number in zip(place, (3, 3, 3, 2), strict=True):
            angles = [2 * math.pi * index / period for period in periods[number]]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(added[(slice(None), *place)], torch.tensor(expected).double())


def test_sincos_position_tells_all_tokens_apart_at_the_smallest_dim():
    added = SinCosPositionEmbedding4D(8)(torch.zeros(1, 8, 3, 4, 2, 20)).flatten(2)[0].T
    distances = torch.cdist(added, added) + torch.eye(len(added))
    assert distances.min() > 0.01


@given(grid=GRIDS)
@settings(max_examples=25, deadline=None)
def test_sincos_position_does_not_depend_on_the_grid(grid):
    embed = SinCosPositionEmbedding4D(18)
    h, w, d, t = grid
    larger = embed(torch.zeros(1, 18, 9, 9, 9, 9))
    torch.testing.assert_close(embed(torch.zeros(2, 18, *grid))[1:], larger[:, :, :h, :w, :d, :t])


def test_sincos_position_keeps_the_type_and_has_no_state():
    embed = SinCosPositionEmbedding4D(12)
    assert not embed.state_dict()
    x = torch.zeros(1, 12, 2, 3, 2, 300)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)):
        y = embed.to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        assert (y.double() - embed(x.double())).abs().max() <= tolerance
        assert (y.double() - embed(x).double()).abs().max() <= tolerance


@pytest.mark.parametrize("dim", [6, 9, 0])
def test_sincos_position_needs_a_pair_for_each_axis(dim):
    with pytest.raises(ValueError, match=f"dim {dim} must be even and 8 or more"):
        SinCosPositionEmbedding4D(dim)
