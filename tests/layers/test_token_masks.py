import copy
import itertools
import pickle

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nstorm.layers import AtlasMask, BlockMask, FrameMask, RandomMask, TubeMask, WindowMask

GRID = (5, 7, 4, 11)
SHAPE = (3, *GRID)
LABELS = torch.arange(5 * 7 * 4).view(5, 7, 4) // 9 * 3
MASKS = {
    "random": RandomMask,
    "window": lambda ratio: WindowMask(ratio, (2, 3, 4, 4)),
    "tube": TubeMask,
    "frame": lambda ratio: FrameMask(ratio, span=3),
    "block": lambda ratio: BlockMask(ratio, (3, 2, 9, 4)),
    "atlas": lambda ratio: AtlasMask(ratio, LABELS),
}
EXACT = ("random", "window", "block")
GRIDS = st.tuples(*[st.integers(1, 6)] * 4)
RATIOS = st.floats(0, 1, exclude_max=True)


@pytest.fixture(params=MASKS)
def make(request):
    return MASKS[request.param]


def ellipsoid(*grid):
    axes = torch.meshgrid(*(torch.linspace(-1.1, 1.1, size) for size in grid), indexing="ij")
    return sum(axis**2 for axis in axes) < 1.3


def brains(samples, grid, seed=0):
    """One for each sample, of different sizes and without order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, *grid, generator=generator) < torch.linspace(0.3, 0.9, samples).view(-1, 1, 1, 1)


def wanted(ratio, n):
    return 0 if ratio == 0 else max(1, min(round(ratio * n), n - 1))


def per_sample(x):
    return x.flatten(1).sum(1).tolist()


def windows(x, size):
    """Cut (B, h, w, d, t) into (B, windows, tokens), padded with False."""
    size = [length if s is None else min(s, length) for s, length in zip(size, x.shape[1:], strict=True)]
    missing = [-length % s for s, length in zip(size, x.shape[1:], strict=True)]
    x = F.pad(x, [n for m in reversed(missing) for n in (0, m)])
    for axis, s in enumerate(size, 1):
        x = x.unfold(axis, s, s)
    return x.flatten(5).flatten(1, 4)


def opened(x, size):
    """What remains of x (B, h, w, d, t) when only whole boxes in it count: those tokens, and where the boxes begin."""
    begins = x
    for axis, s in enumerate(size, 1):
        begins = begins.unfold(axis, s, 1).all(-1)
    kept = torch.zeros_like(x)
    for offset in itertools.product(*map(range, size)):
        at = tuple(slice(o, o + n) for o, n in zip(offset, begins.shape[1:], strict=True))
        kept[(slice(None), *at)] |= begins
    return kept


@pytest.mark.parametrize("name", EXACT)
@given(grid=GRIDS, ratio=RATIOS, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_as_many_tokens_as_asked_for_are_hidden(name, grid, ratio, seed):
    mask, n = MASKS[name](ratio), grid[0] * grid[1] * grid[2] * grid[3]
    hidden = mask((2, *grid))
    assert hidden.shape == (2, *grid)
    assert per_sample(hidden) == [wanted(ratio, n)] * 2
    brain = brains(2, grid[:3], seed)
    brain[:, 0, 0, 0] = True
    hidden = mask((2, *grid), brain)
    assert per_sample(hidden) == [wanted(ratio, size * grid[3]) for size in per_sample(brain)]
    assert not (hidden & ~brain[..., None]).any()


@given(grid=GRIDS, ratio=RATIOS)
@settings(max_examples=30, deadline=None)
def test_as_many_places_and_spans_as_asked_for_are_hidden(grid, ratio):
    h, w, d, t = grid
    assert per_sample(TubeMask(ratio)((3, *grid))[..., 0]) == [wanted(ratio, h * w * d)] * 3
    spans = windows(FrameMask(ratio, span=2)((3, *grid)), (None, None, None, 2))[..., 0]
    assert per_sample(spans) == [wanted(ratio, -(-t // 2))] * 3


def test_numbers_are_rounded_as_exactly_as_python_does():
    # in float32, 0.3 * 5 and 0.7 * 45 come out on the other side of a half, or on it
    for ratio, n in [(0.3, 5), (0.7, 45), (0.5, 5), (0.5, 7), (0.15, 10), (0.35, 90), (0.1, 45)]:
        assert RandomMask(ratio)((1, n, 1, 1, 1)).sum() == round(ratio * n)


def test_a_brain_for_all_is_as_one_for_each(make):
    mask, brain = make(0.4), ellipsoid(*GRID[:3])
    shared, each = (
        mask(SHAPE, given, generator=torch.Generator().manual_seed(3))
        for given in (brain, brain.expand(3, *brain.shape))
    )
    assert torch.equal(shared, each)
    assert not (shared & ~brain[..., None]).any()
    assert shared.any(1).any(1).any(1).any(1).all()


def test_a_brain_of_everything_changes_nothing(make):
    mask = make(0.6)
    with_brain, without = (
        mask(SHAPE, brain, generator=torch.Generator().manual_seed(5))
        for brain in (torch.ones(GRID[:3], dtype=torch.bool), None)
    )
    assert torch.equal(with_brain, without)


def test_every_sample_draws_its_own(make):
    first, second, third = make(0.5)(SHAPE)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_generators_make_masks_that_can_be_drawn_again(make):
    mask = make(0.5)
    generator = torch.Generator().manual_seed(11)
    first, second = mask(SHAPE, generator=generator), mask(SHAPE, generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(mask(SHAPE, generator=torch.Generator().manual_seed(11)), first)
    torch.manual_seed(12)
    first, second = mask(SHAPE), mask(SHAPE)
    assert not torch.equal(first, second)
    torch.manual_seed(12)
    assert torch.equal(mask(SHAPE), first)
    state = torch.get_rng_state()
    mask(SHAPE, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_are_plain_and_can_be_written_into(make):
    from monai.data.meta_tensor import MetaTensor

    hidden = make(0.5)(SHAPE, MetaTensor(ellipsoid(*GRID[:3])), device="cpu")
    assert type(hidden) is torch.Tensor
    assert hidden.is_contiguous()
    hidden[0] = True
    assert not hidden[1].all()


def test_ratio_0_hides_nothing_and_nearly_1_nearly_all(make):
    assert not make(0.0)(SHAPE).any()
    hidden = make(0.999)(SHAPE)
    if make is MASKS["atlas"]:
        assert [len(LABELS[~of_sample[..., 0]].unique()) for of_sample in hidden] == [2] * 3
    elif make is MASKS["frame"]:
        # one span of 3 frames, or the last of 2, is visible
        assert set(per_sample(hidden[:, 0, 0, 0])) <= {8, 9}
    else:
        assert hidden.float().mean() > 0.99


@pytest.mark.parametrize("ratio", [1e-9, 0.02, 0.98, 1 - 1e-9])
@pytest.mark.parametrize("with_brain", [False, True])
def test_something_is_hidden_and_something_visible(make, ratio, with_brain):
    brain = brains(30, GRID[:3])
    shape = (30, *GRID)
    hidden = make(ratio)(shape, brain if with_brain else None)
    among = brain[..., None].expand(shape) if with_brain else torch.ones_like(hidden)
    if make is MASKS["atlas"]:
        among = among & (LABELS > 0)[..., None]
    assert (hidden & among).flatten(1).any(1).all()
    assert (~hidden & among).flatten(1).any(1).all()


def test_regions_and_spans_that_the_ratio_does_not_fit():
    labels = labels_of_sizes(0, 12, 36, 5)
    # the third region lies outside of the brain: of the other two one is hidden and one is not
    brain = labels < 3
    for ratio in (0.01, 0.3, 0.9):
        hidden = AtlasMask(ratio, labels)((40, *labels.shape, 2), brain)
        assert set(per_sample(hidden)) == {24, 72}
    frames = (1, 5, 4, 3, 20)
    assert FrameMask(0.1, span=4)(frames).sum() == 5 * 4 * 3 * 4
    assert FrameMask(0.95, span=4)(frames).sum() == 5 * 4 * 3 * 16


def test_what_is_alone_is_hidden(make):
    brain = torch.zeros(GRID[:3], dtype=torch.bool)
    brain[3, 3, 2] = True
    hidden = make(0.1)((2, *GRID[:3], 1), brain)
    assert torch.equal(hidden, brain[..., None].expand(2, *GRID[:3], 1))
    assert not make(0.0)((2, *GRID[:3], 1), brain).any()


def test_masks_compile_for_all_sizes(make, monkeypatch):
    # the type checker that tests run under cannot be traced
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    mask = make(0.5)
    compiled = torch.compile(mask, backend="eager")
    for samples, frames in [(2, 8), (3, 6)]:
        masks = []
        for each in (mask, compiled):
            torch.manual_seed(3)
            masks.append(each((samples, *GRID[:3], frames), brains(samples, GRID[:3])))
        assert torch.equal(*masks)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_ratios_out_of_range(make, ratio):
    with pytest.raises(ValueError, match=f"ratio {ratio} must be 0 or more and below 1"):
        make(ratio)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 0), (3, 2, 3, 4, 5, 6)])
def test_shapes_that_are_none_of_tokens(make, shape):
    with pytest.raises(ValueError, match=r"shape \(.*\) must have five positive entries: samples, h, w, d, t"):
        make(0.5)(shape)


def test_brains_that_do_not_fit_or_are_empty(make):
    mask = make(0.5)
    for shape in [(5, 7, 5), (2, 5, 7, 4)]:
        with pytest.raises(ValueError, match=r"brain_tokens has shape .* expected \(5, 7, 4\) or \(3, 5, 7, 4\)"):
            mask(SHAPE, torch.ones(shape, dtype=torch.bool))
    brain = torch.ones(3, 5, 7, 4, dtype=torch.bool)
    brain[1] = False
    with pytest.raises(ValueError, match="brain_tokens is empty in a sample"):
        mask(SHAPE, brain)


@pytest.mark.parametrize("brain", [None, "ellipsoid"])
@pytest.mark.parametrize("name", ["random", "window", "tube", "frame"])
def test_every_token_is_hidden_equally_often(name, brain):
    samples, ratio = 4000, 0.4
    grid = (5, 4, 3, 6)
    # all windows have as many tokens
    mask = WindowMask(ratio, (1, 1, 1, 2) if brain else (5, 2, 1, 3)) if name == "window" else MASKS[name](ratio)
    tokens = ellipsoid(*grid[:3]) if brain else torch.ones(grid[:3], dtype=torch.bool)
    tokens = tokens[..., None].expand(grid)
    often = mask((samples, *grid), tokens[..., 0]).double().mean(0)
    expected = often[tokens].mean()
    assert expected == pytest.approx(0.5 if name == "frame" else ratio, abs=0.05)
    # 5 standard deviations
    assert (often[tokens] - expected).abs().max() < 5 * 0.5 / samples**0.5
    assert often[~tokens].sum() == 0


def test_pairs_of_tokens_are_hidden_independently():
    hidden = RandomMask(0.5)((3000, 2, 2, 3, 4)).flatten(1).double()
    n = hidden.shape[1]
    together = (hidden.T @ hidden / len(hidden))[~torch.eye(n, dtype=torch.bool)]
    # drawn without putting back
    expected = 0.5 * (n / 2 - 1) / (n - 1)
    assert (together - expected).abs().max() < 5 * 0.45 / 3000**0.5


@pytest.mark.parametrize("size", [(2, 3, 4, 4), (3, 3, 3, 3), (1, 1, 1, 4), (2, 2, None, None), (9, 9, 9, 9)])
@pytest.mark.parametrize("with_brain", [False, True])
def test_windows_are_hidden_whole_but_for_the_last(size, with_brain):
    brain = brains(3, GRID[:3]) if with_brain else torch.ones(3, *GRID[:3], dtype=torch.bool)
    hidden = WindowMask(0.55, size)(SHAPE, brain)
    of_windows = windows(hidden, size).sum(-1)
    tokens = windows(brain[..., None].expand(SHAPE), size).sum(-1)
    assert (((of_windows > 0) & (of_windows < tokens)).sum(1) <= 1).all()


def test_equal_windows_and_a_ratio_that_fits_leave_none_in_part():
    of_windows = windows(WindowMask(0.5)((5, 8, 4, 12, 20)), (4, 4, 4, 4)).sum(-1)
    assert set(of_windows.flatten().tolist()) == {0, 256}
    assert (of_windows > 0).sum(1).tolist() == [15] * 5


def test_windows_are_chosen_whatever_their_size():
    # windows of 2, 2 and 1 tokens; 2 tokens are hidden: one of the first windows, or the last and half of one of them
    often = WindowMask(0.4, (2, 1, 1, 1))((6000, 5, 1, 1, 1)).double().mean(0).flatten()
    expected = torch.tensor([5, 5, 5, 5, 4]).double() / 12
    assert (often - expected).abs().max() < 5 * 0.5 / 6000**0.5


def test_the_rest_of_a_window_is_hidden_at_random():
    often = WindowMask(0.25, (4, 1, 1, 4))((4000, 4, 1, 1, 4)).double().mean(0)
    assert (often - 0.25).abs().max() < 5 * 0.45 / 4000**0.5


def test_tubes_are_constant_in_time_and_frames_in_space():
    brain = brains(3, GRID[:3])
    tubes = TubeMask(0.5)(SHAPE, brain)
    assert torch.equal(tubes, tubes[..., :1].expand(SHAPE))
    assert per_sample(tubes[..., 0]) == [round(0.5 * size) for size in per_sample(brain)]
    frames = FrameMask(0.5, span=3)(SHAPE, brain)
    hidden = frames.flatten(1, 3).any(1)
    assert torch.equal(frames, brain[..., None] & hidden[:, None, None, None])
    spans = F.pad(hidden, (0, 1)).view(3, 4, 3)
    assert spans[:, :3].all(-1).sum(1).add(spans[:, 3, 0]).tolist() == [2, 2, 2]
    assert torch.equal(spans[:, :3].all(-1), spans[:, :3].any(-1))


@pytest.mark.parametrize("size", [(3, 2, 4, 4), (2, 2, 2, 2), (5, 7, 4, 1), (1, 1, 1, 1), (2, 3, 1, 11)])
@pytest.mark.parametrize("with_brain", [False, True])
def test_hidden_tokens_lie_in_hidden_boxes_but_for_the_last(size, with_brain):
    brain = brains(3, GRID[:3])[..., None].expand(SHAPE) if with_brain else torch.ones(SHAPE, dtype=torch.bool)
    hidden = BlockMask(0.45, size)(SHAPE, brain[..., 0])
    left = hidden & ~opened(hidden | ~brain, size)
    assert max(per_sample(left)) < size[0] * size[1] * size[2] * size[3]


def test_boxes_of_none_take_the_whole_axis():
    hidden = BlockMask(0.5, (None, 1, None, None))((2, 3, 6, 4, 5))
    slabs = hidden.transpose(1, 2).flatten(2)
    assert torch.equal(slabs.all(-1), slabs.any(-1))
    assert slabs.all(-1).sum(1).tolist() == [3, 3]


def test_boxes_are_at_all_places_and_not_on_the_grid_of_windows():
    # one box hidden per sample: which of its places, and are all about equally likely?
    length, size, samples = 9, 4, 6000
    hidden = BlockMask(size / length, (size, 1, 1, 1))((samples, length, 1, 1, 1)).view(samples, length)
    begins = hidden.int().argmax(1)
    assert (hidden.cumsum(1).gather(1, (begins + size - 1)[:, None]) == size).all()
    often = torch.bincount(begins, minlength=length - size + 1) / samples
    # of 9 centres, 0 1 2 give the first place and 7 8 the last
    expected = torch.tensor([3, 1, 1, 1, 1, 2]) / 9
    assert (often - expected).abs().max() < 5 * 0.5 / samples**0.5


def test_boxes_are_centred_on_the_brain():
    brain = torch.zeros(9, 9, 4, dtype=torch.bool)
    brain[:3, :3, :3] = brain[7, 7, 1] = True
    # one token is hidden, and of 28 boxes one lies around the single token; 27 of all boxes of the grid touch it
    hidden = BlockMask(0.04, (3, 3, 3, 1))((4000, 9, 9, 4, 1), brain)[..., 0]
    assert hidden.sum() == 4000
    assert hidden[:, 7, 7, 1].double().mean() == pytest.approx(1 / 28, abs=5 * 0.19 / 4000**0.5)


def labels_of_sizes(*sizes):
    return torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)]).view(-1, 1, 1)


@given(sizes=st.lists(st.integers(0, 9), min_size=2, max_size=9), ratio=RATIOS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_atlas_hides_whole_regions_as_near_to_the_ratio_as_they_allow(sizes, ratio, seed):
    sizes[1] += 1
    labels = labels_of_sizes(*sizes)
    brain = brains(4, labels.shape, seed)
    brain[:, labels.flatten().tolist().index(1)] = True
    hidden = AtlasMask(ratio, labels)((4, *labels.shape, 3), brain)
    assert not (hidden & ~brain[..., None]).any()
    for sample, inside in zip(hidden, brain, strict=True):
        regions = [sample[inside & (labels == k)] for k in range(len(sizes))]
        assert not regions[0].any()
        assert all(region.all() or not region.any() for region in regions)
        sizes_inside = [len(region) * 3 for region in regions[1:] if len(region)]
        number = sum(bool(region.any()) for region in regions)
        assert number == 0 if ratio == 0 else 1 <= number <= max(1, len(sizes_inside) - 1)
        # where not one more or one fewer was forbidden
        if 1 < number < len(sizes_inside) - 1:
            assert abs(int(sample.sum()) - ratio * sum(sizes_inside)) <= max(sizes_inside) / 2 + 1e-6


def test_atlas_hides_half_of_equal_regions_each_equally_often():
    labels = torch.arange(1, 9).repeat_interleave(5).view(8, 5, 1)
    hidden = AtlasMask(0.5, labels)((4000, 8, 5, 1, 2))
    assert set(per_sample(hidden)) == {40}
    assert (hidden.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / 4000**0.5


def test_atlas_takes_any_labels_and_leaves_them_alone():
    values = torch.tensor([0, -7, 3, 1000, 3], dtype=torch.int16).view(5, 1, 1)
    before = values.clone()
    mask = AtlasMask(0.4, values)
    assert mask.num_regions == 3
    hidden = mask((50, 5, 1, 1, 1)).flatten(1)
    assert torch.equal(hidden[:, 2], hidden[:, 4])
    assert not hidden[:, 0].any()
    assert hidden[:, [1, 2, 3]].any(0).all()
    assert torch.equal(values, before)


def naive_commonest(labels, patch):
    grid = [-(-size // p) for size, p in zip(labels.shape, patch, strict=True)]
    found = torch.zeros(grid, dtype=labels.dtype)
    for place in itertools.product(*map(range, grid)):
        part = labels[tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))]
        counts = {int(k): int((part == k).sum()) for k in part.unique() if k != 0}
        found[place] = min(counts, key=lambda k: (-counts[k], k)) if counts else 0
    return found


@pytest.mark.parametrize("patch", [(2, 3, 2), (4, 4, 4), (1, 1, 1), (9, 9, 9)])
def test_atlas_of_voxels_gives_tokens_their_commonest_label(patch):
    generator = torch.Generator().manual_seed(1)
    values = torch.tensor([0, 0, 0, -2, 5, 17, 300])
    labels = values[torch.randint(len(values), (7, 8, 5), generator=generator)]
    labels[:2, :3, :2] = 0
    expected = AtlasMask(0.5, naive_commonest(labels, patch))
    for size in (patch, (*patch, 2)):
        mask = AtlasMask.from_volume(0.5, labels, size)
        assert torch.equal(mask.regions, expected.regions)


def test_atlas_is_no_part_of_the_weights():
    mask = AtlasMask(0.5, LABELS)
    assert not mask.state_dict()
    assert not list(mask.parameters())
    assert not list(mask.buffers())


def test_atlas_stays_what_it_is_wherever_the_module_is_made_or_moved():
    expected = AtlasMask(0.5, LABELS)
    with torch.device("meta"):
        made = AtlasMask(0.5, LABELS)
        of_voxels = AtlasMask.from_volume(0.5, LABELS, (1, 1, 1))
    # so that empty memory is not, by chance, that of the regions
    held, other = made.regions, torch.full_like(made.regions, -9)
    made = made.to("meta")
    del other
    made = made.to_empty(device="cpu")
    made.load_state_dict(expected.state_dict())
    assert torch.equal(held, expected.regions)
    for mask in (made, of_voxels, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        masks = [each(SHAPE, generator=torch.Generator().manual_seed(2)) for each in (mask, expected)]
        assert torch.equal(*masks)
    assert made(SHAPE, device="meta").is_meta


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.float32])
def test_atlas_takes_labels_of_any_type(dtype, monkeypatch):
    # the type checker that tests run under would refuse numbers of floating point
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    expected = AtlasMask(0.5, LABELS)
    for mask in (AtlasMask(0.5, LABELS.to(dtype)), AtlasMask.from_volume(0.5, LABELS.to(dtype), (1, 1, 1))):
        assert torch.equal(mask.regions, expected.regions)
    assert AtlasMask.from_volume(0.5, LABELS.to(dtype), (2, 3, 2)).num_regions > 1
    with pytest.raises(ValueError, match=r"labels of type torch\.float32 must be whole numbers"):
        AtlasMask(0.5, LABELS / 2)


def test_atlas_refuses_what_does_not_fit():
    mask = AtlasMask(0.5, LABELS)
    with pytest.raises(ValueError, match=r"grid \(5, 7, 4\), but shape \(2, 5, 7, 5, 3\) has \(5, 7, 5\)"):
        mask((2, 5, 7, 5, 3))
    with pytest.raises(ValueError, match="no token of brain_tokens has a region in a sample"):
        mask(SHAPE, LABELS == 0)
    with pytest.raises(ValueError, match="labels is 0 everywhere"):
        AtlasMask(0.5, torch.zeros(2, 3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"patch_size \(2, 2\) must have three or four positive entries"):
        AtlasMask.from_volume(0.5, LABELS, (2, 2))


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 2, 2, 0), (2, 2, 2, 2, 2)])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match=r"window_size \(2, .*\) must have four entries along h, w, d, t, positive"):
        WindowMask(0.5, size)
    with pytest.raises(ValueError, match=r"block_size \(2, .*\) must have four entries along h, w, d, t, positive"):
        BlockMask(0.5, size)
    with pytest.raises(ValueError, match="span 0 must be 1 or more frames"):
        FrameMask(0.5, span=0)


def test_a_single_number_is_no_size(monkeypatch):
    # the type checker that tests run under would refuse it first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="window_size 4 must have four entries along h, w, d, t, positive"):
        WindowMask(0.5, 4)
    with pytest.raises(ValueError, match="block_size 4 must have four entries along h, w, d, t, positive"):
        BlockMask(0.5, 4)


def test_masks_say_what_they_are():
    assert [repr(make(0.5)) for make in MASKS.values()] == [
        "RandomMask(ratio=0.5)",
        "WindowMask(ratio=0.5, window_size=(2, 3, 4, 4))",
        "TubeMask(ratio=0.5)",
        "FrameMask(ratio=0.5, span=3)",
        "BlockMask(ratio=0.5, block_size=(3, 2, 9, 4))",
        "AtlasMask(ratio=0.5, regions=15, grid=(5, 7, 4))",
    ]
