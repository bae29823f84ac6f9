"""Redundancy dropout: its scores against pairs of tokens, its rates, what it draws, and the published formula."""

import copy
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from nstorm.layers import RedundancyDropout, published_redundancy, redundancy
from nstorm.layers.published_redundancy import neighbourhoods
from nstorm.layers.redundancy import WindowGroups, box_sum, spread_rate

GOLDEN = Path(__file__).parents[1] / "golden" / "strd.safetensors"
WINDOW, CHANNELS = (4, 4, 4, 4), 16
VARIANTS = ("similarity", "published")


def identical(num=4, channels=CHANNELS):
    return torch.randn(num, 1, 1, 1, 1, channels).expand(num, *WINDOW, channels)


def smooth(num=4, channels=CHANNELS):
    """Waves longer than twice the window, each channel with its own."""
    cells = torch.stack(torch.meshgrid(*map(torch.arange, WINDOW), indexing="ij"), -1).float()
    waves, phase = torch.rand(num, 4, channels) * 0.5, torch.rand(num, 1, 1, 1, 1, channels) * 6.3
    return torch.sin(torch.einsum("hwdta,nac->nhwdtc", cells, waves) + phase) * 2**0.5


def noise(num=4, channels=CHANNELS):
    return torch.randn(num, *WINDOW, channels)


def three_kinds():
    """Identical, smooth and random windows: four each, in this order."""
    return torch.cat([identical(), smooth(), noise()])


def of_kinds(values):
    """Means of what the windows of `three_kinds` have."""
    return values.reshape(3, -1).double().mean(1).tolist()


def by_pairs(x, present, size, frames):
    """The score of one sample's windows, from the cosine of each pair of tokens."""
    mean = x[present].mean(0)
    expected = torch.zeros(present.shape, dtype=x.dtype)
    for window in range(len(x)):
        cells = [cell for cell in itertools.product(*map(range, x.shape[1:-1])) if present[(window, *cell)]]
        units = {cell: (v := x[(window, *cell)] - mean) / v.norm() for cell in cells}
        for cell in cells:
            near, now = [], []
            for other in cells:
                space = max(abs(a - b) for a, b in zip(cell[:3], other[:3], strict=True))
                time = abs(cell[3] - other[3])
                if time == 0 and 0 < space <= size // 2:
                    near.append(units[cell] @ units[other])
                if space == 0 and 0 < time <= frames // 2:
                    now.append(units[cell] @ units[other])
            means = [sum(each) / len(each) for each in (near, now) if each]
            expected[(window, *cell)] = sum(means) / max(len(means), 1)
    return expected.clamp(0, 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("window", "size", "frames"),
    [((3, 4, 2, 5), 3, 3), ((5, 1, 6, 2), 5, 5), ((1, 2, 1, 7), 2, 4), ((4, 4, 4, 1), 5, 5), ((3, 3, 1, 4), 1, 9)],
)
def test_score_equals_the_cosines_of_all_pairs(window, size, frames, masked):
    x = smooth(2, 5)[:, :1, :1, :1, :1].double() + torch.randn(2, *window, 5, dtype=torch.float64)
    present = torch.rand(2, *window) < (0.6 if masked else 1)
    got = RedundancyDropout(0.1, "similarity", size, frames).redundancy(x, present)
    torch.testing.assert_close(got, by_pairs(x, present, size, frames))
    assert 0 < got.max() <= 1
    if not masked:
        torch.testing.assert_close(RedundancyDropout(0.1, "similarity", size, frames).redundancy(x), got)
    single = RedundancyDropout(0.1, "similarity", size, frames).redundancy(x.float(), present)
    torch.testing.assert_close(single.double(), got, rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 7])
def test_box_sums(size, radius):
    x = torch.randn(3, size, 2, dtype=torch.float64)
    before = x.clone()
    expected = torch.stack([x[:, max(0, i - radius) : i + radius + 1].sum(1) for i in range(size)], 1)
    torch.testing.assert_close(box_sum(x, (1,), radius), expected)
    assert torch.equal(x, before)


def drawn(dropout, x, draws):
    """What comes out in many draws (draws, *x): each of them is a sample of its own, which has its own rate."""
    out = dropout(x.repeat(draws, *[1] * (x.dim() - 1)), windows_per_sample=[len(x)] * draws)
    return out.reshape(draws, *x.shape)


def test_the_more_redundant_the_likelier_dropped_and_the_rate_is_reached():
    x, draws = three_kinds(), 200
    dropout = RedundancyDropout(0.2)
    score, probability = dropout.redundancy(x), dropout.drop_probability(x)
    for values in (score, probability):
        same, gradual, random = of_kinds(values)
        assert same > 1.1 * gradual
        assert gradual > 5 * random
    torch.testing.assert_close(score[:4], torch.ones(4, *WINDOW), atol=1e-4, rtol=0)
    assert probability.mean().item() == pytest.approx(0.2, abs=1e-6)
    dropped = (drawn(dropout, x, draws) == 0).all(-1).double().mean(0)
    for observed, p in zip(of_kinds(dropped), of_kinds(probability), strict=True):
        assert abs(observed - p) < 5 * math.sqrt(p / (draws * 4 * 256))
    assert abs(dropped.mean().item() - 0.2) < 5 * math.sqrt(0.2 / (draws * x[..., 0].numel()))
    # token by token too
    assert ((dropped - probability).abs() < 6 * (probability / draws).sqrt() + 15 / draws).all()


def test_published_hardly_drops_and_drops_the_wrong_ones():
    """What science knows of the formula at the published window; ours on the same windows."""
    x = torch.cat([identical(8, 36), noise(8, 36)])
    published = RedundancyDropout(0.1, "published").drop_probability(x)
    same, random = (part.mean().item() for part in published.chunk(2))
    assert same == pytest.approx(0.005, abs=0.001)
    assert random == pytest.approx(0.039, abs=0.006)
    same, random = (part.mean().item() for part in RedundancyDropout(0.1).drop_probability(x).chunk(2))
    assert same > 0.15
    assert random < 0.03


def test_published_golden():
    with safe_open(GOLDEN, "pt") as file:
        about, golden = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    window = json.loads(about["window_size"])
    sizes = int(about["l_spat"]), int(about["l_temp"])
    masks = neighbourhoods(tuple(window), *sizes)
    for mask, name in zip(masks, ("mask_spatial", "mask_temporal"), strict=True):
        assert torch.equal(torch.from_numpy(mask), golden[name])
    x = golden["h"].reshape(-1, *window, golden["h"].shape[-1])
    got = RedundancyDropout(0.1, "published", *sizes).drop_probability(x).flatten(1)
    assert (got - golden["drop_probability"]).abs().max() < 1e-6 * golden["drop_probability"].max()


def test_published_masks_are_made_once():
    neighbourhoods.cache_clear()
    dropout = RedundancyDropout(0.1, "published")
    for _ in range(3):
        dropout(torch.randn(2, 2, 3, 2, 4, 5))
    assert neighbourhoods.cache_info().misses == 1


def test_computing_by_parts_changes_nothing(monkeypatch):
    x = three_kinds().double()
    before = [RedundancyDropout(0.1, variant).drop_probability(x) for variant in VARIANTS]
    monkeypatch.setattr(redundancy, "_IN_CACHE", 5 * 256 * CHANNELS)
    monkeypatch.setattr(published_redundancy, "_PAIRS", 7 * 256**2)
    for variant, expected in zip(VARIANTS, before, strict=True):
        torch.testing.assert_close(RedundancyDropout(0.1, variant).drop_probability(x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "score",
    [
        torch.zeros(3000),
        torch.ones(3000),
        torch.rand(3000),
        torch.arange(3000) == 7,
        torch.arange(3000) < 100,
        torch.arange(3000) < 2990,
        0.9 ** torch.arange(3000.0),
        10 ** -(torch.arange(3000) % 9).double(),
        torch.rand(3000) ** 8,
    ],
    ids=["zeros", "ones", "random", "one", "few", "most", "geometric", "powers of ten", "skewed"],
)
def test_the_mean_probability_is_the_rate_and_none_is_above_the_cap(score, rate, dtype):
    score, present = score.to(dtype).reshape(2, -1), torch.rand(2, 1500) < 0.8
    got = spread_rate(score, present, WindowGroups.of(None, score), rate)
    assert got.dtype == dtype
    assert got[present].double().mean().item() == pytest.approx(rate, abs=1e-5)
    cap = (1 + rate) / 2
    assert got.min() >= 0
    assert got.max() <= cap
    assert (got[~present] == 0).all()
    # in proportion below the cap, and whoever is at the cap has no smaller score than one who is not
    weight, below = score + 1e-3, present & (got < cap)
    levels = (got / weight)[below]
    torch.testing.assert_close(levels, levels[:1].expand_as(levels))
    assert ((weight * levels[0])[present & ~below] >= cap * (1 - 1e-5)).all()


def test_what_all_tokens_share_says_nothing():
    x = three_kinds().double()
    shared = torch.randn(CHANNELS, dtype=torch.float64) * 1000
    dropout = RedundancyDropout(0.1)
    torch.testing.assert_close(dropout.redundancy(x + shared), dropout.redundancy(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(dropout.redundancy(-3 * x), dropout.redundancy(x))
    # in single precision: random tokens on top of what is far larger are no more alike for it
    assert dropout.redundancy(noise() + shared.float()).mean() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 1e6, 0.1234567])
def test_one_token_everywhere_is_dropped_at_the_rate(value, dtype):
    x = (value * torch.linspace(0.3, 1.7, CHANNELS)).to(dtype).expand(7, *WINDOW, CHANNELS)
    got = RedundancyDropout(0.3).drop_probability(x)
    torch.testing.assert_close(got, torch.full_like(got, 0.3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "window", [(1, 1, 1, 1), (1, 1, 1, 6), (1, 5, 1, 1), (2, 1, 3, 1), (1, 1, 2, 2), (7, 1, 1, 3), (9, 2, 3, 11)]
)
def test_windows_of_any_size(window, variant):
    x = torch.randn(6, *window, 3)
    dropout = RedundancyDropout(0.25, variant)
    got = dropout.drop_probability(x)
    assert got.shape == x.shape[:-1]
    assert torch.isfinite(dropout(x)).all()
    if variant == "similarity":
        assert got.mean().item() == pytest.approx(0.25, abs=1e-6)
    if window == (1, 1, 1, 1):
        # no neighbours: nothing tells one from another
        torch.testing.assert_close(got, torch.full_like(got, 0.25 if variant == "similarity" else 0.0))
    assert dropout(x[:0]).shape == (0, *window, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_absent_tokens_enter_nothing(variant):
    x = three_kinds().double()
    present = torch.rand(x.shape[:-1]) < 0.6
    present[5] = False
    dropout = RedundancyDropout(0.2, variant)
    got = dropout.drop_probability(x, present)
    assert (got[~present] == 0).all()
    assert got[present].min() > 0
    if variant == "similarity":
        assert got[present].mean().item() == pytest.approx(0.2, abs=1e-6)
    for other in (math.nan, math.inf, 1e9):
        changed = torch.where(present[..., None], x, other)
        assert torch.equal(dropout.drop_probability(changed, present), got)
        out = dropout(changed, present)
        torch.testing.assert_close(out[~present], changed[~present], equal_nan=True)
        assert torch.isfinite(out[present]).all()
    # a window with padding is the window without it
    present = torch.zeros(x.shape[:-1], dtype=torch.bool)
    present[:, :3, :, 1:, :2] = True
    alone = dropout.drop_probability(x[:, :3, :, 1:, :2])
    torch.testing.assert_close(dropout.drop_probability(x, present)[:, :3, :, 1:, :2], alone)
    assert not dropout.drop_probability(x, torch.zeros_like(present)).any()


def test_every_sample_has_its_own_mean_token_and_rate():
    x = three_kinds().double()
    x[:4] += 100
    dropout, counts = RedundancyDropout(0.2), [5, 0, 1, 6]
    present = torch.rand(x.shape[:-1]) < 0.7
    got = dropout.drop_probability(x, present, counts)
    alone = [dropout.drop_probability(*each) for each in zip(x.split(counts), present.split(counts), strict=True)]
    torch.testing.assert_close(got, torch.cat(alone))
    assert not torch.allclose(got, dropout.drop_probability(x, present))
    out = dropout(x, windows_per_sample=counts)
    assert out.shape == x.shape
    for wrong in ([5, 6], [13, -1], []):
        with pytest.raises(ValueError, match=r"windows_per_sample \[.*\] must be 0 or more each, and 12"):
            dropout(x, windows_per_sample=wrong)


def test_survivors_are_rescaled_so_that_the_expectation_is_the_input():
    x, draws = torch.cat([identical(2, 5), smooth(2, 5), noise(2, 5)]).requires_grad_(), 600
    dropout = RedundancyDropout(0.3)
    p = dropout.drop_probability(x)[..., None]
    y = drawn(dropout, x, draws)
    kept = (y != 0).any(-1)
    torch.testing.assert_close(y[kept], (x / (1 - p)).expand_as(y)[kept])
    mean = y.mean(0)
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    bound = (6 * (p / draws).sqrt() + 15 / draws) / (1 - p)
    assert ((mean - x).abs() <= bound * x.abs()).all()
    assert ((gradient - 1).abs() <= bound).all()
    # the sum over all tokens must fit far better: unscaled it would be 0.7 of this
    assert gradient.mean().item() == pytest.approx(1, abs=0.01)
    assert ((mean * x).sum() / x.square().sum()).item() == pytest.approx(1, abs=0.01)


def test_the_gradient_is_that_of_the_factors_and_of_nothing_else():
    x = three_kinds().requires_grad_()
    dropout = RedundancyDropout(0.3)
    y = dropout(x, generator=torch.Generator().manual_seed(3))
    factors = dropout.factors(x, generator=torch.Generator().manual_seed(3))
    assert not factors.requires_grad
    assert torch.equal(y, x * factors[..., None])
    weights = torch.randn_like(x)
    assert torch.equal(torch.autograd.grad(y, x, weights)[0], weights * factors[..., None])


def test_published_does_not_rescale():
    x = noise(8, 36)
    y = RedundancyDropout(0.1, "published")(x)
    dropped = (y == 0).all(-1)
    assert torch.equal(y[~dropped], x[~dropped])
    assert 0.02 < dropped.double().mean() < 0.06


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


def test_memory_is_linear_in_the_tokens():
    x = torch.randn(1, 16, 16, 16, 20, 4)
    # a number for each pair of tokens would be 27 GB
    with Largest() as seen:
        got = RedundancyDropout(0.1)(x)
    assert seen.numbers <= x.numel()
    assert 0.05 < (got == 0).all(-1).double().mean() < 0.15
    small = torch.randn(1, 3, 4, 2, 5, 4)
    with Largest() as seen:
        RedundancyDropout(0.1, "published")(small)
    assert seen.numbers >= 120**2


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_happens_outside_of_training_or_without_a_rate(variant):
    x = three_kinds()
    assert RedundancyDropout(0.5, variant).eval()(x) is x
    off = RedundancyDropout(0.0, variant)
    assert off(x) is x
    assert not off.drop_probability(x).any()
    assert not torch.equal(RedundancyDropout(0.5, variant)(x), x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_types_and_autocast(variant, dtype):
    x = (three_kinds() + 3).to(dtype)
    dropout = RedundancyDropout(0.2, variant)
    expected = dropout.drop_probability(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        got, y = dropout.drop_probability(x), dropout(x)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)
    assert y.dtype == dtype
    assert 0.005 < (y == 0).all(-1).double().mean() < 0.25


@pytest.mark.parametrize("variant", VARIANTS)
def test_draws_follow_the_generator(variant):
    x = three_kinds()
    dropout = RedundancyDropout(0.3, variant)
    one, other, third = (dropout(x, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    state = torch.get_rng_state()
    dropout(x, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_holds_no_state():
    dropout = RedundancyDropout(0.3, "published", 3, 7)
    dropout(torch.randn(1, *WINDOW, 4))
    assert not dropout.state_dict()
    assert not list(dropout.parameters())
    assert not list(dropout.buffers())
    expected = "RedundancyDropout(rate=0.3, variant='published', spatial_size=3, temporal_size=7)"
    assert repr(copy.deepcopy(dropout)) == expected


def test_what_cannot_be_is_refused():
    for rate in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="must be 0 or more and below 1"):
            RedundancyDropout(rate)
    with pytest.raises(ValueError, match="variant 'attention' is unknown; choose one of"):
        RedundancyDropout(0.1, "attention")
    for sizes in ((0, 5), (5, -1)):
        with pytest.raises(ValueError, match="must be 1 or more"):
            RedundancyDropout(0.1, "similarity", *sizes)


@pytest.mark.parametrize("per_sample", [None, [1, 2]])
def test_the_default_device_does_not_matter(per_sample):
    x, dropout = torch.randn(3, *WINDOW, 4), RedundancyDropout(0.3)
    expected = dropout.drop_probability(x, windows_per_sample=per_sample)
    with torch.device("meta"):
        made = dropout.drop_probability(x, windows_per_sample=per_sample)
        dropped = dropout(x, windows_per_sample=per_sample)
    assert torch.equal(made, expected)
    assert dropped.device.type == "cpu"
