"""What every layer and net promises, on odd sizes."""

import copy

import pytest
import torch
from torch import nn

from nstorm import layers, nets
from nstorm.layers import MambaMixer

TOKENS = (2, 3, 5, 2, 7)
SMALL = {
    "img_size": (10, 6, 9, 7),
    "patch_size": (3, 3, 3, 1),
    "feature_size": 6,
    "depths": (1, 2),
    "num_classes": 3,
}


class Decoder(nets.ShiftedWindowDecoder):
    """For features of one size."""

    def __init__(self):
        super().__init__(2, (3, 3, 3, 1), 6, (1, 2))

    def forward(self, x):
        return super().forward(x, (10, 6, 9, 7))


class EveryTwoSeconds(nn.Module):
    """TimeEmbedding with a TR, and weights that are not 0."""

    def __init__(self):
        super().__init__()
        self.time = layers.TimeEmbedding(6)
        nn.init.normal_(self.time.proj.weight)

    def forward(self, x):
        return self.time(x, tr=2.0)


class HalfHidden(nn.Module):
    """MaskToken with a mask that is the same for every sample."""

    def __init__(self, window_size=None):
        super().__init__()
        self.token = layers.MaskToken(6, window_size)

    def forward(self, x):
        h, w, d, t = (torch.arange(size, device=x.device) for size in x.shape[2:])
        hidden = (h[:, None, None, None] + w[:, None, None] + d[:, None] + t) % 2 == 0
        return self.token(x, hidden.expand(len(x), *hidden.shape))


CASES = {
    "BidirectionalMambaMixer": (lambda: layers.BidirectionalMambaMixer(6, d_state=5), (3, 63, 6)),
    "PatchExpanding4D": (lambda: layers.PatchExpanding4D(6), (*TOKENS, 6)),
    "TimeEmbedding": (EveryTwoSeconds, (2, 6, *TOKENS[1:])),
    "PositionEmbedding4D, interpolated": (
        lambda: layers.PositionEmbedding4D(6, (2, 2, 3, 4), interpolate=True),
        (2, 6, *TOKENS[1:]),
    ),
    "SinCosPositionEmbedding4D": (lambda: layers.SinCosPositionEmbedding4D(10), (2, 10, *TOKENS[1:])),
    "WindowAttention": (lambda: layers.WindowAttention(6, 3, (2, 3, 2)), (3, 12, 6)),
    "RedundancyDropout": (lambda: layers.RedundancyDropout(0.2), (*TOKENS, 6)),
    "ShiftedWindowBlock, dropping": (
        lambda: layers.ShiftedWindowBlock(
            6, MambaMixer(6), (2, 4, 1, 3), (1, 2, 0, 1), redundancy_dropout=layers.RedundancyDropout(0.2)
        ),
        (*TOKENS, 6),
    ),
    "ShiftedWindowBlock, regions apart": (
        lambda: layers.ShiftedWindowBlock(
            6, MambaMixer(6), (2, 4, 1, 3), (1, 2, 0, 1), order=("hilbert", "snake"), boundary="reset", layer_scale=0.5
        ),
        (*TOKENS, 6),
    ),
    "ShiftedWindowBlock, attention": (
        lambda: layers.ShiftedWindowBlock(
            6, layers.WindowAttention(6, 2, (2, 4, 1, 3)), (2, 4, 1, 3), (1, 2, 0, 1), boundary="reset"
        ),
        (*TOKENS, 6),
    ),
    "ShiftedWindowDecoder": (lambda: Decoder(), (2, 12, 2, 1, 2, 7)),
    "SwiFT": (lambda: nets.SwiFT(num_heads=(1, 2), final_norm=True, **SMALL), (2, 1, *SMALL["img_size"])),
    "NeuroSTORM, not as published": (
        lambda: nets.NeuroSTORM(**SMALL, boundary="reset", order="hilbert", use_checkpoint=True, interpolate=True),
        (2, 1, 12, 8, 9, 9),
    ),
    "PatchEmbed4D": (lambda: layers.PatchEmbed4D(2, 6, (2, 3, 1, 1)), (2, 2, 5, 4, 3, 7)),
    "PatchUnembed4D": (lambda: layers.PatchUnembed4D(6, 2, (2, 3, 1, 2)), (2, 6, *TOKENS[1:])),
    "PatchMerging4D": (lambda: layers.PatchMerging4D(6), (*TOKENS, 6)),
    "PositionEmbedding4D": (lambda: layers.PositionEmbedding4D(6, TOKENS[1:]), (2, 6, *TOKENS[1:])),
    "MambaMixer": (lambda: MambaMixer(6, d_state=5), (3, 63, 6)),
    "MaskToken": (HalfHidden, (2, 6, *TOKENS[1:])),
    "MaskToken, of a window": (lambda: HalfHidden((2, 3, 1, 2)), (2, 6, *TOKENS[1:])),
    "ShiftedWindowBlock": (
        lambda: layers.ShiftedWindowBlock(6, MambaMixer(6), (2, 4, 1, 3), (1, 2, 0, 1)),
        (*TOKENS, 6),
    ),
    "ShiftedWindowStage": (
        lambda: layers.ShiftedWindowStage(
            6, 2, MambaMixer, (2, 4, 1, 3),
            position=layers.PositionEmbedding4D(6, TOKENS[1:]), downsample=layers.PatchMerging4D(6),
        ),
        (2, 6, *TOKENS[1:]),
    ),
    "ClassificationHead": (lambda: layers.ClassificationHead(6, 3), (2, 6, *TOKENS[1:])),
    "RegressionHead": (lambda: layers.RegressionHead(6, 2, mean=1.0, std=2.0), (2, 6, *TOKENS[1:])),
    "NeuroSTORM": (lambda: nets.NeuroSTORM(**SMALL), (2, 1, *SMALL["img_size"])),
}  # fmt: skip


def test_every_public_layer_is_here():
    masks = {name for name in layers.__all__ if name.endswith("Mask")}
    # masks map a shape, no tensor: see test_token_masks.py
    assert set(layers.__all__) - masks - {"MambaState", "resize_position_embeddings"} <= CASES.keys()


@pytest.fixture(params=CASES)
def case(request):
    make, shape = CASES[request.param]
    return make, torch.randn(shape)


def test_every_parameter_and_the_input_get_a_finite_gradient(case):
    make, x = case
    module, x = make(), x.requires_grad_()
    y = module(x)
    y.backward(torch.randn_like(y))
    for name, parameter in [("input", x), *module.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_state_dict_and_deepcopy_carry_the_function(case):
    make, x = case
    module, other = make().eval(), make().eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    assert torch.equal(copy.deepcopy(module)(x), module(x))


def test_a_batch_equals_its_samples(case):
    make, x = case
    module = make().eval()
    torch.testing.assert_close(module(x), torch.cat([module(sample) for sample in x.split(1)]))
    order = torch.arange(len(x) - 1, -1, -1)
    torch.testing.assert_close(module(x[order]), module(x)[order])


def test_the_input_is_left_alone(case):
    make, x = case
    before = x.clone()
    make()(x)
    assert torch.equal(x, before)


def test_bfloat16_autocast_stays_close(case):
    make, x = case
    module = make().eval()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    expected = module(x)
    assert (y.float() - expected).abs().max() <= 0.05 * expected.abs().max().clamp(min=1)


def test_monai_tensors_go_through_and_get_gradients(case):
    from monai.data.meta_tensor import MetaTensor

    make, x = case
    module = make().eval()
    leaf = MetaTensor(x.clone(), meta={"tr": 2.0}).requires_grad_()
    y = module(leaf)
    torch.testing.assert_close(torch.Tensor(y.as_subclass(torch.Tensor)), module(x))
    y.sum().backward()
    assert torch.isfinite(leaf.grad.as_subclass(torch.Tensor)).all()


def test_inference_and_export_leave_nothing_behind(case):
    make, x = case
    module = make().eval()
    with torch.inference_mode():
        expected = module(x)
    torch.export.export(module, (x,))
    y = module(x.requires_grad_())
    y.sum().backward()
    assert type(y) is torch.Tensor
    torch.testing.assert_close(y.detach(), expected.clone())


def test_float64(case):
    make, x = case
    module = make().eval()
    expected = copy.deepcopy(module).double()(x.double())
    assert expected.dtype == torch.float64
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_builds_and_infers_shapes_on_the_meta_device(case):
    make, x = case
    with torch.device("meta"):
        module = make()
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module(x.to("meta")).shape == make()(x).shape


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: layers.PatchEmbed4D(**kw),
        lambda **kw: layers.PatchMerging4D(6, **kw),
        lambda **kw: layers.PatchUnembed4D(6, **kw),
        lambda **kw: layers.PositionEmbedding4D(6, (2, 2, 2, 2), **kw),
        lambda **kw: MambaMixer(6, **kw),
        lambda **kw: layers.BidirectionalMambaMixer(6, **kw),
        lambda **kw: layers.PatchExpanding4D(6, **kw),
        lambda **kw: layers.MaskToken(6, **kw),
        lambda **kw: layers.MaskToken(6, (2, 2, 2, 2), **kw),
        lambda **kw: layers.TimeEmbedding(6, **kw),
        lambda **kw: layers.WindowAttention(6, 2, (2, 2), **kw),
        lambda **kw: layers.ShiftedWindowBlock(6, MambaMixer(6, **kw), (2, 2, 2, 2), layer_scale=1e-5, **kw),
        lambda **kw: layers.ShiftedWindowBlock(6, MambaMixer(6, **kw), (2, 2, 2, 2), **kw),
        lambda **kw: layers.ClassificationHead(6, 2, **kw),
        lambda **kw: layers.RegressionHead(6, 2, **kw),
    ],
)
def test_device_and_dtype(make):
    assert all(p.is_meta and p.dtype == torch.float64 for p in make(device="meta", dtype=torch.float64).parameters())
