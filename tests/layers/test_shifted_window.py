"""Boundaries, masks, orders and dropout of shifted-window blocks, proven by what moves when something is changed."""

import copy
import itertools

import pytest
import torch
from torch import nn

from nstorm.layers import (
    BidirectionalMambaMixer,
    MambaMixer,
    RedundancyDropout,
    ShiftedWindowBlock,
    ShiftedWindowStage,
    WindowAttention,
)
from nstorm.layers.shifted_window import on_tokens
from nstorm.scan import WindowLayout
from nstorm.scan.windows import grid_mask

GRID, WINDOW, SHIFT = (6, 4, 5, 7), (4, 4, 2, 3), (2, 2, 1, 1)
MIXERS = {
    "mamba": lambda dim: MambaMixer(dim, d_state=4),
    "mamba in parts": lambda dim: MambaMixer(dim, d_state=4, backend="torch"),
    "bidirectional": lambda dim: BidirectionalMambaMixer(dim, d_state=4),
    "attention": lambda dim: WindowAttention(dim, 2),
    "attention with bias": lambda dim: WindowAttention(dim, 2, WINDOW),
}


def block(mixer: str, **kwargs) -> ShiftedWindowBlock:
    made = ShiftedWindowBlock(8, MIXERS[mixer](8), WINDOW, SHIFT, **kwargs).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def region_and_window(grid=GRID, window=WINDOW, shift=SHIFT):
    """For every cell the window it is in and the end of the grid it comes from, from coordinates alone."""
    cells = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1)
    effective = torch.tensor([s if g > w else 0 for g, w, s in zip(grid, window, shift, strict=True)])
    size = torch.tensor([min(g, w) for g, w in zip(grid, window, strict=True)])
    padded = torch.tensor([-(-g // w) * w if g > w else g for g, w in zip(grid, window, strict=True)])
    return torch.cat([(cells - effective) % padded // size, (cells < effective).long()], -1)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("order", ["raster", "hilbert"])
def test_reset_keeps_every_region_apart(mixer, order):
    if order != "raster" and "attention" in mixer:
        pytest.skip("attention knows no order")
    made, x = block(mixer, boundary="reset", order=order), torch.randn(1, *GRID, 8, dtype=torch.float64)
    home = region_and_window()
    before = made(x)
    for cell in [(0, 0, 0, 0), (5, 3, 4, 6), (1, 2, 0, 3), (0, 3, 4, 0)]:
        changed = x.clone()
        changed[(0, *cell)] = torch.randn(8)
        moved = (made(changed) - before)[0].abs().amax(-1) > 0
        same = (home == home[cell]).all(-1)
        assert not moved[~same].any()
        assert moved[cell]
        if "mamba" not in mixer:
            # attention and scanning both ways reach the region (what is far off may vanish by rounding)
            assert moved[same].double().mean() > 0.5


@pytest.mark.parametrize("mixer", ["mamba", "attention"])
def test_wrap_does_not(mixer):
    grid = (8, 4, 4, 6)
    made, x = block(mixer), torch.randn(1, *grid, 8, dtype=torch.float64)
    home = region_and_window(grid)
    changed = x.clone()
    changed[0, 6, 0, 3, 5] = torch.randn(8)
    moved = (made(changed) - made(x))[0].abs().amax(-1) > 0
    assert moved[(home != home[6, 0, 3, 5]).any(-1)].any()


@pytest.mark.parametrize("mixer", MIXERS)
def test_reset_equals_every_region_alone(mixer):
    """Nothing but the region itself is needed to compute it: no neighbour, no padding, no other end."""
    made, x = block(mixer, boundary="reset"), torch.randn(1, *GRID, 8, dtype=torch.float64)
    whole, home = made(x)[0], region_and_window()
    flat = home.flatten(0, 3)
    for cell in [(0, 0, 0, 0), (5, 3, 4, 6), (2, 2, 2, 2)]:
        members = (flat == home[cell]).all(1).nonzero()[:, 0]
        tokens = x.reshape(1, -1, 8)[:, members]
        mixed = made.norm1(tokens)
        if mixer == "attention with bias":
            continue
        alone = tokens + made.mixer(mixed)
        alone = alone + made.mlp(made.norm2(alone))
        torch.testing.assert_close(whole.reshape(-1, 8)[members], alone[0])


def brain(batch=()):
    mask = torch.rand(*batch, *GRID[:3]) < 0.4
    mask[..., 0, :, :] = False
    mask[..., 1, 1, 1] = True
    return mask


@pytest.mark.parametrize(
    ("mixer", "boundary", "order"),
    [(mixer, boundary, "raster") for mixer, boundary in itertools.product(MIXERS, ["wrap", "reset"])]
    + [("mamba", "reset", ("hilbert", "snake_reversed"))],
)
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one mask", "a mask a sample"])
def test_masked_tokens_enter_nothing(mixer, boundary, order, batch):
    made = block(mixer, boundary=boundary, order=order)
    x, mask = torch.randn(2, *GRID, 8, dtype=torch.float64, requires_grad=True), brain(batch)
    inside = mask.expand(2, *GRID[:3])[..., None].expand(2, *GRID)
    y = made(x, mask)
    assert (y[~inside] == 0).all()
    y.square().sum().backward()
    assert (x.grad[~inside] == 0).all()
    noisy = torch.where(inside[..., None], x.detach(), torch.nan)
    torch.testing.assert_close(made(noisy, mask), y)
    # every sample alone, with its own mask
    alone = [made(x[i : i + 1], mask[i] if batch else mask) for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), y)


def test_masked_equals_the_full_computation_with_skipped_tokens():
    """The same windows, all of them, with the air skipped token by token inside the mixer."""
    made, x, mask = block("mamba"), torch.randn(1, *GRID, 8, dtype=torch.float64), brain()
    inside = mask[..., None].expand(GRID)
    layout = WindowLayout(GRID, WINDOW, SHIFT)
    skip = layout.partition(inside[None, ..., None].double())[..., 0] > 0
    mixed = made.mixer(layout.partition(made.norm1(x)), token_mask=skip)
    full = x + layout.reverse(mixed)
    full = full + made.mlp(made.norm2(full))
    torch.testing.assert_close(made(x, mask)[0, inside], full[0, inside])


def test_windows_of_air_are_not_computed():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, token_mask=None):
            seen.append((x.shape[0], None if token_mask is None else token_mask.sum().item()))
            return x

    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[:4, :4, :3] = True
    made = ShiftedWindowBlock(4, Spy(), (4, 4, 4, 4))
    made(torch.randn(1, 8, 8, 8, 4, 4), mask)
    assert seen == [(1, 4 * 4 * 3 * 4)]


def test_fused_and_packed_mamba_agree_with_its_parts_under_a_mask():
    x, mask = torch.randn(1, *GRID, 8), brain()
    made = ShiftedWindowBlock(8, MambaMixer(8, bias=True), WINDOW, SHIFT, boundary="reset")
    expected = made.double()(x.double(), mask)
    made.float()
    torch.testing.assert_close(made(x, mask).double(), expected, rtol=1e-4, atol=1e-5)


def test_several_orders_are_averaged():
    x = torch.randn(2, *GRID, 8)
    mixers = nn.ModuleList([MambaMixer(8), MambaMixer(8)])
    orders = ("raster", "spatial_first_reversed")
    made = ShiftedWindowBlock(8, mixers, WINDOW, SHIFT, order=orders)
    singles = [made._mix(x.flatten(1, -2), GRID, None)]
    parts = []
    for mixer, order in zip(mixers, orders, strict=True):
        layout = WindowLayout(GRID, WINDOW, SHIFT, order)
        parts.append(layout.reverse(mixer(layout.partition(x))).flatten(1, -2))
    torch.testing.assert_close(singles[0], (parts[0] + parts[1]) / 2)
    with pytest.raises(ValueError, match="mixer has 2 modules, expected one for each of the orders"):
        ShiftedWindowBlock(8, mixers, WINDOW, order="raster")


def test_layer_scale_and_drop_path():
    x = torch.randn(3, *GRID, 8)
    made = ShiftedWindowBlock(8, MambaMixer(8), WINDOW, layer_scale=0.0)
    torch.testing.assert_close(made(x), x)
    assert {"scale1.gamma", "scale2.gamma"} <= dict(made.named_parameters()).keys()
    dropping = ShiftedWindowBlock(8, MambaMixer(8), WINDOW, drop_path_rate=1.0)
    assert torch.equal(dropping.train()(x), x)
    assert not torch.equal(dropping.eval()(x), x)


@pytest.mark.parametrize("batch", [(), (40,)], ids=["one mask", "a mask a sample"])
def test_drop_path_drops_samples(batch):
    made = ShiftedWindowBlock(8, MambaMixer(8), WINDOW, drop_path_rate=0.5).train()
    mask = brain(batch)
    inside = mask.expand(40, *GRID[:3])
    x = torch.randn(1, *GRID, 8).expand(40, *GRID, 8)
    moved = (made(x, mask) - x).abs().amax((-1, -2)) > 0
    kept = torch.stack([sample[own].any() for sample, own in zip(moved, inside, strict=True)])
    # both branches are dropped in one sample of four
    assert 15 < kept.sum() < 40
    for sample, own, drawn in zip(moved, inside, kept, strict=True):
        assert (sample[own] == drawn).all()


@pytest.mark.parametrize("masked", [False, True])
def test_checkpointing_changes_nothing_but_memory(masked):
    stage = ShiftedWindowStage(8, 2, MambaMixer, WINDOW, boundary="reset", drop_path_rate=0.2).train()
    x, mask = torch.randn(2, 8, *GRID, requires_grad=True), brain() if masked else None
    results = []
    for stage.use_checkpoint in (False, True):
        torch.manual_seed(1)
        y = stage(x, mask)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *stage.parameters()])))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_bad_masks_and_windows():
    made = ShiftedWindowBlock(8, MambaMixer(8), WINDOW)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 6, 4, 4\), expected \(6, 4, 5\) or \(2, 6, 4, 5\)"):
        on_tokens(made.forward_tokens, torch.randn(2, *GRID, 8), grid_mask(torch.ones(6, 4, 4, dtype=torch.bool), 7))
    with pytest.raises(ValueError, match="mask is empty"):
        made(torch.randn(2, *GRID, 8), torch.zeros(GRID[:3], dtype=torch.bool))
    with pytest.raises(ValueError, match="does not fit window_size"):
        ShiftedWindowBlock(8, WindowAttention(8, 2, (2, 2, 2, 2)), WINDOW)(torch.randn(1, *GRID, 8))
    with pytest.raises(ValueError, match="num_heads 3 must divide dim 8"):
        WindowAttention(8, 3)


def test_attention_is_full_attention_where_the_window_is_the_grid():
    attention = WindowAttention(8, 2)
    full = nn.MultiheadAttention(8, 2, batch_first=True)
    full.in_proj_weight.data, full.in_proj_bias.data = attention.qkv.weight.data, attention.qkv.bias.data
    full.out_proj.load_state_dict(attention.proj.state_dict())
    x = torch.randn(2, 30, 8)
    torch.testing.assert_close(attention(x), full(x, x, x)[0])


def test_relative_bias_depends_on_the_distance_alone():
    attention = WindowAttention(4, 1, (3, 2, 2))
    nn.init.normal_(attention.relative_bias)
    bias = attention._bias(None, 12, None)[0]
    cells = list(itertools.product(range(3), range(2), range(2)))
    seen = {}
    for i, j in itertools.product(range(12), repeat=2):
        distance = tuple(a - b for a, b in zip(cells[i], cells[j], strict=True))
        assert seen.setdefault(distance, bias[i, j].item()) == bias[i, j].item()
    assert len(set(seen.values())) == 5 * 3 * 3
    # a smaller window looks the same distances up
    small = attention._bias(None, 4, (2, 1, 2))[0]
    assert small[0, 3].item() == seen[(-1, 0, -1)]


def test_an_mlp_that_is_changed_from_outside_is_called():
    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    made, x = ShiftedWindowBlock(8, MambaMixer(8), WINDOW), torch.randn(1, *GRID, 8)
    before = made(x)
    louder = Louder(8, 32)
    louder.load_state_dict(made.mlp.fc1.state_dict())
    made.mlp.fc1 = louder
    assert not torch.allclose(made(x), before)
    seen = []
    made.mlp.register_forward_hook(lambda *_: seen.append(1))
    made(x)
    assert seen


class SpyDropout(RedundancyDropout):
    """Keeps what it is asked about, and drops nothing but tokens whose first number is odd."""

    def factors(self, x, token_mask=None, windows_per_sample=None, generator=None):
        self.x, self.token_mask, self.windows_per_sample = x, token_mask, windows_per_sample
        self.probability = self.drop_probability(x, token_mask, windows_per_sample)
        return 1 - x[..., 0] % 2


def coordinates(batch, grid=GRID):
    """Tokens that say which sample they are of, and where they lie."""
    each = torch.meshgrid(torch.arange(batch), *map(torch.arange, grid), indexing="ij")
    odd = torch.randint(2, each[0].shape)
    return torch.stack([odd, *each], -1).double()


@pytest.mark.parametrize("masks", [None, (), (2,)], ids=["no mask", "one mask", "a mask a sample"])
@pytest.mark.parametrize("mixer", ["mamba", "attention"])
@pytest.mark.parametrize("boundary", ["wrap", "reset"])
def test_redundancy_dropout_sees_windows_of_what_was_mixed(boundary, mixer, masks):
    spy = SpyDropout(0.3)
    order = ("hilbert", "snake_reversed") if mixer == "mamba" else "raster"
    made = block(mixer, boundary=boundary, order=order, redundancy_dropout=spy).train()
    x, mask = coordinates(2), None if masks is None else brain(masks)
    inside = torch.ones(2, *GRID, dtype=torch.bool)
    if mask is not None:
        inside = mask.expand(2, *GRID[:3])[..., None].expand(2, *GRID)
    made._mix = lambda tokens, *_: tokens
    made.norm1 = nn.Identity()
    y = on_tokens(lambda *args: made._drop_redundant(*args), x, None if mask is None else grid_mask(mask, GRID[3]))
    # it comes back to where it was
    assert torch.equal(y[inside], (x * (1 - x[..., :1] % 2))[inside])

    present = torch.ones(spy.x.shape[:-1], dtype=torch.bool) if spy.token_mask is None else spy.token_mask
    seen = sorted(spy.x[present].tolist())
    assert seen == sorted(x[inside].tolist())
    # the windows of a sample, one sample after the other
    owners = torch.arange(2).repeat_interleave(torch.tensor(spy.windows_per_sample))
    assert (spy.x[..., 1] == owners[:, None, None, None, None])[present].all()
    # the rate is reached in every sample
    for part, held in zip(
        spy.probability.split(spy.windows_per_sample), present.split(spy.windows_per_sample), strict=True
    ):
        assert part[held].mean().item() == pytest.approx(0.3, abs=1e-6)
    # the windows are the mixer's, or unshifted ones, so that no two ends of the grid meet
    layout = WindowLayout(GRID, WINDOW, SHIFT if boundary == "wrap" else (0,) * 4)
    assert spy.x.shape[1:5] == layout.window
    if mask is None:
        torch.testing.assert_close(spy.x.flatten(1, 4), layout.partition(x))
    places = torch.stack(torch.meshgrid(*map(torch.arange, layout.window), indexing="ij"), -1)
    offset = (spy.x[..., 2:] - places)[present]
    apart = torch.tensor([size if g > w else 1 for size, g, w in zip(WINDOW, GRID, WINDOW, strict=True)])
    if boundary == "reset":
        assert (offset % apart == 0).all()
    else:
        assert (offset % apart != 0).any()


@pytest.mark.parametrize("boundary", ["wrap", "reset"])
def test_redundancy_dropout_acts_on_the_mixer_alone_and_in_training(boundary):
    x = torch.randn(2, *GRID, 8)
    torch.manual_seed(3)
    plain = ShiftedWindowBlock(8, MambaMixer(8), WINDOW, SHIFT, boundary=boundary)
    made = copy.deepcopy(plain)
    made.redundancy_dropout = RedundancyDropout(0.3)
    assert torch.equal(made.eval()(x), plain(x))
    made.train()
    nn.init.zeros_(made.mlp.fc2.weight)
    gained, full = made(x) - x, plain._mix(plain.norm1(x).flatten(1, -2), GRID, None).reshape(x.shape)
    dropped = gained.abs().amax(-1) < 1e-6
    for sample in dropped:
        assert abs(sample.double().mean().item() - 0.3) < 5 * (0.21 / sample.numel()) ** 0.5
    ratio = (gained / full)[~dropped]
    middle = ratio.median(-1).values
    assert middle.min() >= 1 - 1e-4
    assert middle.max() <= 2 / (1 - 0.3) + 1e-3
    torch.testing.assert_close(gained[~dropped], (middle[:, None] * full[~dropped]), rtol=1e-3, atol=1e-5)
    made.redundancy_dropout.eval()
    plain.mlp.load_state_dict(made.mlp.state_dict())
    assert torch.equal(made(x), plain(x))


@pytest.mark.parametrize("variant", ["similarity", "published"])
@pytest.mark.parametrize("masks", [None, (), (2,)], ids=["no mask", "one mask", "a mask a sample"])
@pytest.mark.parametrize(("boundary", "order"), [("wrap", "raster"), ("reset", ("hilbert", "raster_reversed"))])
def test_redundancy_dropout_under_checkpointing(boundary, order, masks, variant):
    stage = ShiftedWindowStage(
        8, 2, MambaMixer, WINDOW, boundary=boundary, order=order,
        redundancy_dropout=lambda: RedundancyDropout(0.4, variant),
    ).train()  # fmt: skip
    x, mask = torch.randn(2, 8, *GRID, requires_grad=True), None if masks is None else brain(masks)
    results = []
    for stage.use_checkpoint in (False, True, True):
        torch.manual_seed(len(results) // 2)
        y = stage(x, mask)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *stage.parameters()])))
    for one, other, another in zip(*results, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, another)


def test_redundancy_dropout_of_a_stage():
    stage = ShiftedWindowStage(8, 3, MambaMixer, WINDOW, redundancy_dropout=RedundancyDropout)
    assert len({id(each.redundancy_dropout) for each in stage.blocks}) == 3
    plain = ShiftedWindowStage(8, 3, MambaMixer, WINDOW)
    assert stage.state_dict().keys() == plain.state_dict().keys()
    assert all(each.redundancy_dropout is None for each in plain.blocks)
    copied, x = copy.deepcopy(stage), torch.randn(1, 8, *GRID)
    results = []
    for each in (stage, copied):
        torch.manual_seed(4)
        results.append(each(x))
    assert torch.equal(*results)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(stage(x, brain())).all()
