import itertools

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from nstorm.layers import MambaMixer, PatchMerging4D, ShiftedWindowBlock
from nstorm.layers.patch_expanding import PatchExpanding4D
from nstorm.nets import from_published
from tests.conftest import load_golden, relative_error

OFFSETS = list(itertools.product(range(2), repeat=3))


def test_children_stand_in_product_order_and_are_normalised():
    expand = PatchExpanding4D(6, 5)
    nn.init.normal_(expand.norm.weight)
    nn.init.normal_(expand.norm.bias)
    x = torch.randn(2, 3, 2, 1, 5, 6)
    y = expand(x)
    assert y.shape == (2, 6, 4, 2, 5, 5)
    for weight, (i, j, k) in zip(expand.expand.weight.chunk(8), OFFSETS, strict=True):
        torch.testing.assert_close(y[:, i::2, j::2, k::2], expand.norm(x @ weight.T))


def test_expanding_puts_back_what_merging_joined():
    merge, expand = PatchMerging4D(3, 24), PatchExpanding4D(24, 3)
    merge.norm, expand.norm = nn.Identity(), nn.Identity()
    nn.init.eye_(merge.reduction.weight)
    nn.init.eye_(expand.expand.weight)
    x = torch.randn(2, 5, 4, 3, 7, 3)
    assert torch.equal(expand(merge(x), out_grid=x.shape[1:4]), x)


@given(grid=st.tuples(*[st.integers(1, 5)] * 3))
@settings(max_examples=25, deadline=None)
def test_any_grid_returns_after_merging(grid):
    merge, expand = PatchMerging4D(2), PatchExpanding4D(4)
    merged = merge(torch.randn(1, *grid, 2, 2))
    y = expand(merged, grid)
    assert y.shape == (1, *grid, 2, 2)
    h, w, d = grid
    assert torch.equal(y, expand(merged)[:, :h, :w, :d])


@pytest.mark.parametrize("out_grid", [(7, 4, 2), (4, 4, 2), (6, 4), (6, 5, 2)])
def test_a_grid_that_does_not_merge_into_the_tokens_is_refused(out_grid):
    with pytest.raises(ValueError, match=r"out_grid \(.+\) must be \(6, 4, 2\), or one less"):
        PatchExpanding4D(6)(torch.randn(2, 3, 2, 1, 5, 6), out_grid)


def test_an_odd_dim_has_no_half():
    with pytest.raises(ValueError, match="dim 7 is odd and has no half: give out_dim"):
        PatchExpanding4D(7)
    assert PatchExpanding4D(7, 3)(torch.randn(1, 1, 1, 1, 1, 7)).shape == (1, 2, 2, 2, 1, 3)


def test_published_sizes():
    shapes = {key: tuple(value.shape) for key, value in PatchExpanding4D(288, device="meta").state_dict().items()}
    assert shapes == {"expand.weight": (1152, 288), "norm.weight": (144,), "norm.bias": (144,)}


def test_compile_and_export_with_dynamic_sizes(monkeypatch):
    # dynamo does not trace the type checks that the tests add
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    expand = PatchExpanding4D(6)
    x = torch.randn(2, 3, 2, 4, 5, 6)
    compiled = torch.compile(expand, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, (5, 4, 7)), expand(x, (5, 4, 7)))
    sizes = {0: Dim("b"), 1: Dim("h"), 4: Dim("t")}
    program = torch.export.export(expand, (x,), dynamic_shapes=(sizes,)).module()
    other = torch.randn(3, 5, 2, 4, 7, 6)
    torch.testing.assert_close(program(other), expand(other))


def test_published_autoencoder():
    golden = load_golden("mae_random_random")
    weights = golden.with_prefix("weight.")
    of_masking = ("mask_ratio", "spatial_mask", "time_mask")
    encoder_config = {name: value for name, value in golden.config.items() if name not in of_masking}
    of_encoder = ("patch_embed.", "pos_embeds.", "layers.")
    encoder = from_published(
        encoder_config, {key: value for key, value in weights.items() if key.startswith(of_encoder)}, "neurostorm"
    ).eval()

    def load(layer: nn.Module, prefix: str) -> nn.Module:
        state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        names = {key: key.replace("mamba.", "mixer.").replace("mlp.linear", "mlp.fc") for key in state}
        layer.load_state_dict({names[key]: value for key, value in state.items()})
        return layer

    decoder = nn.Sequential(
        load(PatchExpanding4D(96), "first_patch_expanding."),
        load(ShiftedWindowBlock(48, MambaMixer(48), (4, 4, 4, 4)), "layers_up.0.blocks.0."),
        load(PatchExpanding4D(48), "layers_up.0.upsample."),
        load(ShiftedWindowBlock(24, MambaMixer(24), (4, 4, 4, 4)), "layers_up.1.blocks.0."),
        load(PatchExpanding4D(24), "layers_up.1.upsample."),
        load(ShiftedWindowBlock(12, MambaMixer(12), (4, 4, 4, 4)), "layers_up.2.blocks.0."),
        load(nn.LayerNorm(12), "norm_up."),
        load(nn.Linear(12, 216), "decoder_pred."),
    )
    with torch.no_grad():
        x = encoder.patch_embed(golden.input)
        mask = golden.tensors["mask"].reshape(2, 1, 8, 8, 8, 8)
        x = torch.where(mask, weights["mask_token"].reshape(1, -1, 1, 1, 1, 1), x)
        for stage in encoder.stages:
            x = stage(x)
        patches = decoder(rearrange(x, "b c h w d t -> b h w d t c"))
    volume = rearrange(patches, "b h w d t (i j k) -> b 1 (h i) (w j) (d k) t", i=6, j=6, k=6)
    assert relative_error(volume[:, :, ::7, ::7, ::7], golden.tensors["pred_slice"]) <= 1e-5
    masked = mask[:, 0].repeat_interleave(6, 1).repeat_interleave(6, 2).repeat_interleave(6, 3)
    loss = F.mse_loss(volume[:, 0][masked], golden.input[:, 0][masked])
    assert relative_error(loss, golden.tensors["loss"]) <= 1e-5
