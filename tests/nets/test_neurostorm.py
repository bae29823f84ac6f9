import pytest
import torch
from torch import nn

from nstorm.layers import MambaMixer
from nstorm.nets import NeuroSTORM, create_model, from_published, list_models, register_model
from nstorm.nets.shifted_window_net import checked_brain_mask, pool_mask
from nstorm.nets.weights.published_keys import ENCODER, renamed
from nstorm.scan import use_backend
from tests.conftest import load_golden, relative_error


def published(name):
    golden = load_golden(f"neurostorm_{name}")
    return golden, from_published(golden.config, golden.with_prefix("weight."), kind="neurostorm")


@pytest.mark.parametrize("name", ["full_last", "windowed_last", "uneven"])
@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
def test_golden_features(name, backend):
    golden, net = published(name)
    with torch.no_grad(), use_backend(backend):
        assert relative_error(net.forward_features(golden.input), golden.tensors["y"]) <= 1e-5


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_golden_gradients_of_a_short_clip(backend):
    golden, net = published("short_clip_grads")
    x = golden.input.requires_grad_()
    with use_backend(backend):
        y = net.forward_features(x)
    assert relative_error(y, golden.tensors["y"]) <= 1e-5
    loss = y.square().mean()
    assert relative_error(loss, golden.tensors["loss"]) <= 1e-5
    loss.backward()
    assert relative_error(x.grad[:, :, ::7, ::7, ::7], golden.tensors["grad_x_slice"]) <= 1e-4
    expected = {renamed(key, ENCODER): value for key, value in golden.with_prefix("grad.").items()}
    parameters = dict(net.named_parameters())
    assert parameters.keys() == expected.keys()
    for key, parameter in parameters.items():
        assert relative_error(parameter.grad, expected[key]) <= 1e-4, key


def test_size_of_the_published_model():
    with torch.device("meta"):
        net = create_model("neurostorm_base")
    assert sum(p.numel() for p in net.parameters()) == 5_173_020
    assert len(net.state_dict()) == 223
    assert net.forward_features(torch.empty(1, 1, 96, 96, 96, 20, device="meta")).shape == (
        1,
        288,
        2,
        2,
        2,
        20,
    )


def test_from_published_lists_every_problem_and_loads_nothing():
    golden = load_golden("neurostorm_uneven")
    weights = golden.with_prefix("weight.")
    del weights["patch_embed.fc.bias"]
    weights["layers.0.blocks.0.norm1.weight"] = torch.zeros(5)
    weights["window_mask_token"] = torch.zeros(3)
    weights["layers.7.blocks.0.norm1.weight"] = torch.zeros(12)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        from_published(golden.config, weights, kind="neurostorm")
    for part in (
        "missing patch_embed.proj.bias",
        "layers.0.blocks.0.norm1.weight has shape (5,), expected (12,)",
        "unexpected window_mask_token",
        "unexpected layers.7.blocks.0.norm1.weight",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="kind 'swin' is unknown"):
        from_published(golden.config, weights, kind="swin")
    with pytest.raises(ValueError, match=r"arguments that 'neurostorm' does not know: \['prompt_len'\]"):
        from_published(golden.config | {"prompt_len": 5}, weights, kind="neurostorm")


def small(**kwargs) -> NeuroSTORM:
    return NeuroSTORM((12, 12, 12, 6), feature_size=8, depths=(2, 1), patch_size=(3, 3, 3, 1), **kwargs)


def test_heads_and_features():
    net = small()
    x = torch.randn(2, 1, 12, 12, 12, 5)
    features = net.forward_features(x)
    assert features.shape == (2, 16, 2, 2, 2, 5)
    torch.testing.assert_close(net(x), features.mean((2, 3, 4, 5)))
    net.reset_head(4)
    assert net(x).shape == (2, 4)
    torch.testing.assert_close(net(x), net.forward_head(features))
    net.reset_head(0)
    assert "head" not in "".join(net.state_dict())


def test_overfits_four_clips():
    """The real model, end to end: it must be able to learn four random labels."""
    net = small(num_classes=4)
    clips, labels = torch.randn(4, 1, 12, 12, 12, 6), torch.arange(4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    first = None
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(clips), labels)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 1.2
    assert loss.item() < 0.1
    assert (net(clips).argmax(1) == labels).all()


def test_a_mixer_of_ones_own():
    class Mean(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.linear = nn.Linear(dim, dim)

        def forward(self, x):
            return self.linear(x.mean(1, keepdim=True)).expand_as(x)

    assert small(mixer=Mean, num_classes=2)(torch.randn(1, 1, 12, 12, 12, 6)).shape == (1, 2)


def test_registry():
    assert "neurostorm_base" in list_models()
    assert list_models("swift*") == ["swift_base"]
    with pytest.raises(ValueError, match=r"model 'neurostorm' is unknown; choose one of \['neurostorm_base'"):
        create_model("neurostorm")
    with pytest.raises(ValueError, match="'neurostorm_base' is registered already"):
        register_model(type("neurostorm_base", (), {"__name__": "neurostorm_base"}))
    with pytest.raises(ValueError, match=r"img_size \(96, 96, 96\) must have four positive entries"):
        create_model("neurostorm_base", img_size=(96, 96, 96))


def test_one_mixer_for_all_stages_or_one_each():
    with pytest.raises(ValueError, match="mixer has 1 entries, expected one for each of 2 stages"):
        small(mixer=[MambaMixer])
    assert isinstance(small(mixer=[MambaMixer, nn.Identity]).stages[1].blocks[0].mixer, nn.Identity)


def ball(*size):
    place = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij"))
    return place.square().sum(0) < 0.6


@pytest.mark.parametrize("final_norm", [False, True])
def test_a_brain_mask_keeps_air_out(final_norm):
    net = small(num_classes=3, boundary="reset", final_norm=final_norm).eval()
    mask, x = ball(12, 12, 12), torch.randn(2, 1, 12, 12, 12, 5)
    mask[:6, :6, 6:] = False
    patches = pool_mask(mask, (3, 3, 3))
    assert not patches.all()
    inside = patches.repeat_interleave(3, 0).repeat_interleave(3, 1).repeat_interleave(3, 2)[..., None]
    features = net.forward_features(x, mask)
    merged = pool_mask(patches, (2, 2, 2))
    assert not merged.all()
    assert (features[:, :, ~merged] == 0).all()
    other = torch.where(inside, x, 7.0)
    torch.testing.assert_close(net(other, mask), net(x, mask))
    # the head averages over the brain
    torch.testing.assert_close(net(x, mask), net.head(features[:, :, merged]))
    torch.testing.assert_close(net(x, mask.expand(2, -1, -1, -1)), net(x, mask))
    each = torch.stack([mask, mask.flip(2)])
    alone = [net(sample, own) for sample, own in zip(x.split(1), each, strict=True)]
    torch.testing.assert_close(net(x, each), torch.cat(alone))
    with pytest.raises(ValueError, match=r"brain_mask has shape \(11, 12, 12\), expected \(12, 12, 12\) or \(2, 12"):
        checked_brain_mask(mask[1:], 2, (12, 12, 12))
    with pytest.raises(ValueError, match="brain_mask is empty"):
        net(x, torch.zeros(12, 12, 12, dtype=torch.bool))


def test_a_mask_that_holds_everything_changes_nothing():
    net, x = small(boundary="reset").eval(), torch.randn(1, 1, 12, 12, 12, 6)
    torch.testing.assert_close(net(x, torch.ones(12, 12, 12, dtype=torch.bool)), net(x))


def test_interpolates_to_another_grid_and_a_longer_clip():
    x = torch.randn(1, 1, 15, 12, 18, 9)
    with pytest.raises(ValueError, match="interpolate"):
        small()(x)
    assert small(interpolate=True).forward_features(x).shape[2:] == (3, 2, 3, 9)
