import itertools

import pytest
import torch

from nstorm.layers import MaskToken, RandomMask

GRID = (5, 3, 4, 7)


@pytest.fixture(params=[None, (2, 4, 3, 2)], ids=["single", "window"])
def token(request):
    return MaskToken(6, request.param)


def tokens_and_hidden(dtype=torch.float32):
    return torch.randn(2, 6, *GRID, dtype=dtype), RandomMask(0.4)((2, *GRID))


def test_hidden_tokens_are_replaced_and_the_others_stay(token):
    tokens, hidden = tokens_and_hidden()
    before = tokens.clone()
    y = token(tokens, hidden)
    assert torch.equal(tokens, before)
    where = hidden[:, None].expand_as(y)
    assert torch.equal(y[~where], tokens[~where])
    assert not (y[where] == tokens[where]).any()
    assert torch.equal(token(tokens, torch.zeros_like(hidden)), tokens)


def test_a_window_of_vectors_is_repeated_over_the_grid_t_fastest():
    token = MaskToken(6, (2, 4, 3, 2))
    assert token.value.shape == (48, 6)
    y = token(torch.zeros(1, 6, *GRID), torch.ones(1, *GRID, dtype=torch.bool))[0]
    for h, w, d, t in itertools.product(*map(range, GRID)):
        place = ((h % 2 * 4 + w % 4) * 3 + d % 3) * 2 + t % 2
        assert torch.equal(y[:, h, w, d, t], token.value[place])


def test_gradients_reach_the_value_and_the_visible_tokens(token):
    tokens, hidden = tokens_and_hidden()
    # every place of a window, somewhere
    hidden[0, :2, :, :3, :2] = True
    tokens.requires_grad_()
    weight = torch.randn_like(tokens)
    token(tokens, hidden).backward(weight)
    visible = ~hidden[:, None]
    assert torch.equal(tokens.grad, weight * visible)
    torch.testing.assert_close(token.value.grad.reshape(-1, 6).sum(0), (weight * ~visible).sum((0, 2, 3, 4, 5)))
    places = hidden[0, :2, :, :3, :2].numel() if token.window_size else 1
    assert (token.value.grad != 0).view(-1, 6).all(-1).sum() >= places


def test_types_of_the_tokens_are_kept(token):
    tokens, hidden = tokens_and_hidden(torch.float64)
    assert token(tokens, hidden).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        y = token(tokens.bfloat16(), hidden)
    assert y.dtype == torch.bfloat16
    token = token.double()
    where = hidden[:, None].expand_as(tokens)
    torch.testing.assert_close(token(tokens, hidden)[where], y.double()[where], rtol=0.01, atol=0)


def test_values_are_drawn_small_and_anew():
    token = MaskToken(400, (2, 2, 2, 2))
    first = token.value.clone()
    assert first.std().item() == pytest.approx(0.02, rel=0.05)
    token.reset_parameters()
    assert not torch.equal(token.value, first)
    assert token.value.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 2, 2, 0)])
def test_window_sizes_out_of_range(size):
    with pytest.raises(ValueError, match=r"window_size \(2, 2, 2.*\) must have four positive entries"):
        MaskToken(6, size)


def test_says_what_it_is():
    assert repr(MaskToken(36)) == "MaskToken(36, window_size=None)"
