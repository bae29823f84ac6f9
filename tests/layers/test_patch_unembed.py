import pytest
import torch

from nstorm.layers import PatchEmbed4D, PatchUnembed4D


def test_it_puts_patches_where_patch_embed_takes_them_from():
    patch, size = (2, 3, 1, 2), (5, 7, 3, 4)
    embed, unembed = PatchEmbed4D(2, 24, patch), PatchUnembed4D(24, 2, patch)
    with torch.no_grad():
        # 12 values a patch and channel: the identity there and back
        for layer in (embed, unembed):
            layer.proj.weight.copy_(torch.eye(24))
            layer.proj.bias.zero_()
    x = torch.randn(2, 2, *size)
    torch.testing.assert_close(unembed(embed(x), size), x)
    assert unembed(embed(x)).shape == (2, 2, 6, 9, 3, 4)


def test_outside_of_the_brain_it_is_0():
    layer, mask = PatchUnembed4D(4, 1, (2, 2, 2, 1)), torch.rand(2, 5, 4, 6) < 0.5
    tokens = torch.randn(2, 4, 3, 2, 3, 7)
    plain = layer(tokens, (5, 4, 6, 7))
    made = layer(tokens, (5, 4, 6, 7), mask)
    torch.testing.assert_close(made, torch.where(mask[:, None, ..., None], plain, 0.0))
    torch.testing.assert_close(layer(tokens, (5, 4, 6, 7), mask[0])[1], torch.where(mask[:1, ..., None], plain[1], 0.0))


def test_sizes_that_do_not_fit_are_named():
    layer = PatchUnembed4D(4, 1, (2, 2, 2, 1))
    with pytest.raises(
        ValueError, match=r"size \(4, 4, 6, 7\) does not become \(3, 2, 3, 7\) patches of \(2, 2, 2, 1\)"
    ):
        layer(torch.randn(1, 4, 3, 2, 3, 7), (4, 4, 6, 7))
    with pytest.raises(ValueError, match=r"size \(5, 4, 6\) must have four entries: h, w, d, t"):
        layer(torch.randn(1, 4, 3, 2, 3, 7), (5, 4, 6))
    with pytest.raises(ValueError, match=r"patch_size \(6, 6, 6\) must have four positive entries"):
        PatchUnembed4D(4, 1, (6, 6, 6))
