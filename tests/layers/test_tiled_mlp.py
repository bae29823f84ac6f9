import pytest
import torch
import torch.nn.functional as F

from nstorm.layers import tiled_mlp
from nstorm.layers.tiled_mlp import gelu_mlp


def inputs(tokens: int, dtype=torch.float64):
    shapes = (tokens, 5), (7, 5), (7,), (6, 7), (6,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


@pytest.mark.parametrize("tokens", [0, 1, 63, 64, 65, 200])
def test_tiles_equal_the_whole(tokens, monkeypatch):
    monkeypatch.setattr(tiled_mlp, "_TILE", 1)  # 64 tokens, the least
    x = inputs(tokens)
    y, expected = gelu_mlp(*x), plain(*x)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for grad, other in zip(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy), strict=True):
        torch.testing.assert_close(grad, other)


def test_gradcheck():
    assert torch.autograd.gradcheck(gelu_mlp, inputs(3))


# opcheck itself reads .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_operator_contract():
    torch.library.opcheck(gelu_mlp, inputs(9, torch.float32))


def test_a_gradient_of_no_layout_of_its_own():
    x = inputs(70)
    y = gelu_mlp(*x)
    grad = torch.autograd.grad(y.sum(), x[0])[0]
    torch.testing.assert_close(grad, torch.autograd.grad(plain(*x).sum(), x[0])[0])


def test_half_precision_sums_in_full(monkeypatch):
    monkeypatch.setattr(tiled_mlp, "_TILE", 1)
    x = inputs(20_000, torch.float32)
    half = [t.detach().bfloat16().requires_grad_() for t in x]
    dy = torch.randn(20_000, 6).bfloat16()
    exact = torch.autograd.grad(plain(*[t.float() for t in half]), half, dy.float())
    for grad, expected in zip(torch.autograd.grad(gelu_mlp(*half), half, dy), exact, strict=True):
        assert (grad - expected).abs().max() < 0.01 * expected.abs().max()
