"""`torch.compile` of whole nets: clips of several sizes, with brains and dropout."""

import jaxtyping
import pytest
import torch

from nstorm.nets import NeuroSTORMMAE


@pytest.fixture(autouse=True)
def _no_type_checker(monkeypatch):
    """The one that tests run under cannot be traced.

    And what it leaves around every function is one and the same function to torch.compile, which would soon have seen
    too many variants of it and run the rest as it is, untested.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with torch._dynamo.config.patch(recompile_limit=256):
        yield


# torch.compile asks every tensor for its gradient where a graph breaks, and hides the warning about that itself, but
# not where warnings are errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")


def small(**kwargs):
    return NeuroSTORMMAE((12, 9, 12, 8), feature_size=12, depths=(1,), patch_size=(3, 3, 3, 1), **kwargs)


def brain(samples=None):
    """One for all, or one for each sample, of different sizes."""
    mask = torch.zeros(12, 9, 12, dtype=torch.bool)
    mask[2:9, :7, 3:] = True
    if samples is not None:
        mask = mask.repeat(samples, 1, 1, 1)
        mask[0, :5] = False
    return mask


def both(net, compiled, run):
    for each in (net, compiled):
        torch.manual_seed(4)
        yield run(each)


def assert_same(net, compiled, *args):
    expected, made = both(net, compiled, lambda each: each(*args))
    assert torch.equal(made.token_mask, expected.token_mask)
    torch.testing.assert_close(made.loss, expected.loss)
    torch.testing.assert_close(made.prediction, expected.prediction)
    return made


def test_autoencoder_compiles_for_all_sizes():
    net = small()
    compiled = torch.compile(net, backend="eager")
    for samples, frames in [(2, 8), (1, 6)]:
        assert_same(net, compiled, torch.randn(samples, 1, 12, 9, 12, frames)).loss.backward()


def test_autoencoder_compiles_with_a_brain():
    net = small()
    compiled = torch.compile(net, backend="eager")
    for samples, frames in [(2, 8), (3, 6)]:
        assert_same(net, compiled, torch.randn(samples, 1, 12, 9, 12, frames), brain(samples)).loss.backward()


def test_encoder_compiles_with_a_brain():
    net = small().eval()
    compiled = torch.compile(net.encode, backend="eager")
    for samples, frames in [(2, 8), (1, 6)]:
        x = torch.randn(samples, 1, 12, 9, 12, frames)
        # the second has as many tokens as the first, but elsewhere
        for mask in (brain(), brain().flip(-1)):
            torch.testing.assert_close(compiled(x, mask), net.encode(x, mask))


@pytest.mark.parametrize("with_brain", [False, True])
def test_dropout_compiles_in_training(with_brain):
    net = small(redundancy_rate=0.2, dropout_rate=0.1, drop_path_rate=0.3).encoder.train()
    compiled = torch.compile(net.forward_features, backend="eager")
    for samples, frames in [(2, 8), (3, 6)]:
        x, mask = torch.randn(samples, 1, 12, 9, 12, frames), brain(samples) if with_brain else None
        expected, made = both(net.forward_features, compiled, lambda each, x=x, mask=mask: each(x, mask))
        torch.testing.assert_close(made, expected)
