"""What each layer computes. The contract that all of them share is in test_contract.py."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nstorm.layers import (
    ClassificationHead,
    MambaMixer,
    PatchEmbed4D,
    PatchMerging4D,
    PositionEmbedding4D,
    RegressionHead,
    ShiftedWindowBlock,
    ShiftedWindowStage,
)
from nstorm.scan import WindowLayout


def test_patch_embed_equals_a_convolution_per_frame():
    embed = PatchEmbed4D(2, 5, (3, 2, 1, 1))
    nn.init.normal_(embed.proj.weight)
    x = torch.randn(2, 2, 6, 6, 3, 4)
    kernel = embed.proj.weight.reshape(5, 3, 2, 1, 2).permute(0, 4, 1, 2, 3)
    frames = [F.conv3d(x[..., t], kernel, embed.proj.bias, stride=(3, 2, 1)) for t in range(4)]
    torch.testing.assert_close(embed(x), torch.stack(frames, -1))


def test_patch_embed_pads_and_patches_time():
    embed = PatchEmbed4D(1, 5, (2, 3, 4, 2))
    x = torch.randn(1, 1, 5, 7, 4, 5)
    padded = F.pad(x, [0, 1, 0, 0, 0, 2, 0, 1])
    assert embed(x).shape == (1, 5, 3, 3, 1, 3)
    torch.testing.assert_close(embed(x), embed(padded))
    with pytest.raises(ValueError, match=r"patch_size \(2, 2, 2\) must have four positive entries"):
        PatchEmbed4D(patch_size=(2, 2, 2))


def test_patch_merging_joins_neighbours_in_product_order():
    merge = PatchMerging4D(3, 7)
    x = torch.randn(2, 4, 6, 2, 5, 3)
    neighbours = [x[:, i::2, j::2, k::2] for i, j, k in itertools.product(range(2), repeat=3)]
    expected = merge.reduction(merge.norm(torch.cat(neighbours, -1)))
    torch.testing.assert_close(merge(x), expected)
    odd = x[:, :3, :5, :1]
    torch.testing.assert_close(merge(odd), merge(F.pad(odd, [0, 0, 0, 0, 0, 1, 0, 1, 0, 1])))


def test_position_embedding_is_separable_and_takes_shorter_clips():
    embed = PositionEmbedding4D(3, (2, 3, 4, 5))
    x = torch.randn(2, 3, 2, 3, 4, 5)
    added = embed(x) - x
    torch.testing.assert_close(added - added[..., :1], (added - added[..., :1])[:, :, :1, :1, :1].expand_as(added))
    torch.testing.assert_close(embed(x[..., :2]), embed(x)[..., :2])
    for bad in (torch.zeros(1, 3, 2, 3, 4, 6), torch.zeros(1, 3, 2, 2, 4, 5)):
        with pytest.raises(ValueError, match=r"do not fit the position embedding for \(2, 3, 4, 5\)"):
            embed(bad)


class FirstTokenMixer(nn.Module):
    """Gives every token of a window the window's first one."""

    def forward(self, x):
        return x[:, :1].expand_as(x)


def test_block_takes_any_mixer_and_mixes_within_shifted_windows():
    block = ShiftedWindowBlock(4, FirstTokenMixer(), (2, 2, 2, 3), (1, 1, 1, 1))
    nn.init.zeros_(block.mlp.fc2.weight)
    x = torch.randn(2, 4, 4, 3, 6, 4)
    layout = WindowLayout((4, 4, 3, 6), (2, 2, 2, 3), (1, 1, 1, 1))
    windows = layout.partition(block.norm1(x))
    expected = x + layout.reverse(windows[:, :1].expand_as(windows))
    torch.testing.assert_close(block(x), expected)


def test_block_without_branches_is_the_identity_and_drop_path_skips_them():
    block = ShiftedWindowBlock(6, MambaMixer(6), (2, 2, 2, 2), drop_path_rate=0.999999)
    x = torch.randn(3, 2, 4, 2, 5, 6)
    assert torch.equal(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x)


def test_stage_shifts_every_second_block():
    stage = ShiftedWindowStage(4, 3, MambaMixer, (4, 4, 2, 5), drop_path_rate=[0.0, 0.1, 0.2])
    assert [block.shift_size for block in stage.blocks] == [(0, 0, 0, 0), (2, 2, 1, 2), (0, 0, 0, 0)]
    assert [block.drop_path.drop_prob for block in stage.blocks] == [0.0, 0.1, 0.2]
    still = ShiftedWindowStage(4, 2, MambaMixer, (4, 4, 2, 5), shift=False)
    assert not any(any(block.shift_size) for block in still.blocks)
    with pytest.raises(ValueError, match="drop_path_rate has 2 entries, expected one for each of 3 blocks"):
        ShiftedWindowStage(4, 3, MambaMixer, (4, 4, 2, 5), drop_path_rate=[0.0, 0.1])


def test_heads():
    tokens = torch.randn(3, 8, 2, 3, 1, 5)
    head = ClassificationHead(8, 4).eval()
    torch.testing.assert_close(head(tokens), head.linear(tokens.mean((2, 3, 4, 5))))
    years = RegressionHead(8, 2, mean=torch.tensor([30.0, 100.0]), std=4.0)
    standardised = years.standardised(tokens)
    torch.testing.assert_close(years(tokens), standardised * 4 + torch.tensor([30.0, 100.0]))
    assert set(years.state_dict()) == {
        "mean",
        "std",
        "standardised.linear.weight",
        "standardised.linear.bias",
    }
    with pytest.raises(ValueError, match="num_classes 0 must be 1 or more"):
        ClassificationHead(8, 0)
