import pytest
import torch
from torch import nn

from nstorm.nets import NeuroSTORM, create_model, from_published, list_models, register_model
from nstorm.nets.published import _rename
from tests.conftest import load_golden, relative_error


def published(name):
    golden = load_golden(f"neurostorm_{name}")
    return golden, from_published(golden.config, golden.with_prefix("weight."), kind="neurostorm")


@pytest.mark.parametrize("name", ["full_last", "windowed_last", "uneven"])
def test_golden_features(name):
    golden, net = published(name)
    with torch.no_grad():
        assert relative_error(net.forward_features(golden.input), golden.tensors["y"]) <= 1e-5


def test_golden_gradients_of_a_short_clip():
    golden, net = published("short_clip_grads")
    x = golden.input.requires_grad_()
    y = net.forward_features(x)
    assert relative_error(y, golden.tensors["y"]) <= 1e-5
    loss = y.square().mean()
    assert relative_error(loss, golden.tensors["loss"]) <= 1e-5
    loss.backward()
    assert relative_error(x.grad[:, :, ::7, ::7, ::7], golden.tensors["grad_x_slice"]) <= 1e-4
    expected = {_rename(key): value for key, value in golden.with_prefix("grad.").items()}
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
    with pytest.raises(ValueError, match=r"img_size \(96, 96, 96\) must have four entries"):
        create_model("neurostorm_base", img_size=(96, 96, 96))
