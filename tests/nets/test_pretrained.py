"""Weights into nets and back: released layouts, files of one's own, and everything that does not fit."""

import json
import sys
from functools import partial
from importlib.metadata import version

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from nstorm.layers import (
    AtlasMask,
    BidirectionalMambaMixer,
    BlockMask,
    FrameMask,
    MambaMixer,
    PatchUnembed4D,
    RandomMask,
    RegressionHead,
    TubeMask,
    WindowMask,
)
from nstorm.losses import MaskedReconstructionLoss
from nstorm.nets import (
    MaskedAutoencoder,
    NeuroSTORM,
    NeuroSTORMMAE,
    ShiftedWindowNet,
    SwiFT,
    from_published,
    load_pretrained,
    save_pretrained,
)
from nstorm.nets.neurostorm_mae import PublishedMaskTokens
from nstorm.nets.weights.masks_and_losses import built, described
from tests.conftest import GOLDEN, load_golden, relative_error

OLD_LAYOUT = GOLDEN / "published_pretrained_old_layout.ckpt"
CLASSIFIER = GOLDEN / "published_sex_classifier.ckpt"
IMG, SMALL = (24, 18, 24, 8), {"feature_size": 12, "depths": (1, 1)}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def hf_hub_download(**kwargs):
        raise AssertionError(f"the hub was asked for {kwargs}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)


def small(**kwargs):
    return NeuroSTORM(IMG, **SMALL | kwargs)


def small_autoencoder(**kwargs):
    return NeuroSTORMMAE(IMG, **SMALL | kwargs)


def clip(*size, dtype=torch.float32):
    return torch.randn(2, 1, *(size or IMG), dtype=dtype)


def state_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def saved_with_warning(net, path, match, **kwargs):
    with pytest.warns(UserWarning, match=match):
        return save_pretrained(net, path, **kwargs)


def assert_same_state(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


def lightning(path, golden, head=None, **hyper):
    """A file in the released layout, with the weights and arguments of a golden."""
    weights = {f"model.{key}": value for key, value in golden.with_prefix("weight.").items()}
    hyper = {key: value for key, value in (golden.config | hyper).items() if value != "absent"}
    content = {"state_dict": weights | (head or {}), "hyper_parameters": hyper, "pytorch-lightning_version": "1.9.4"}
    torch.save(content, path)
    return path


def hidden_tokens(golden):
    """The golden's mask on the grid of tokens: one value for each of them, or for each window of 4 x 4 x 4 x 4."""
    mask = golden.tensors["mask"].bool()
    if mask[0].numel() == 8**4:
        return mask.view(-1, 8, 8, 8, 8)
    mask = mask.view(-1, 2, 2, 2, 2)
    for axis in range(1, 5):
        mask = mask.repeat_interleave(4, axis)
    return mask


def assert_reconstructs(net, golden):
    with torch.no_grad():
        made = net(golden.input, token_mask=hidden_tokens(golden))
    assert relative_error(made.loss, golden.tensors["loss"]) <= 1e-5
    assert relative_error(made.prediction[:, :, ::7, ::7, ::7], golden.tensors["pred_slice"]) <= 1e-5


def test_autoencoder_of_the_older_released_layout():
    net, report = load_pretrained(OLD_LAYOUT, "autoencoder")
    assert isinstance(net, NeuroSTORMMAE)
    assert_reconstructs(net, load_golden("mae_window_random"))
    # the file lacks two tokens that a window mask does not use: they are 0 and not random
    assert report.zeroed == ("mask_token.single.value", "mask_token.atlas.value")
    assert not any(net.get_parameter(name).any() for name in report.zeroed)
    assert not any(net.get_parameter(name).requires_grad for name in report.zeroed)
    assert net.mask_token.window.value.requires_grad
    assert report.num_values == sum(p.numel() for p in net.parameters()) - 24
    assert isinstance(net.mask, WindowMask)
    assert (net.mask.ratio, net.mask.window_size) == (0.5, (4, 4, 4, 4))
    assert (report.new, report.left_out, report.reshaped) == ((), {}, {})
    text = str(report)
    assert "old layout: one mask_token per window position" in text
    assert "set to 0: mask_token.single.value, mask_token.atlas.value" in text
    assert "loaded: 152 tensors, 365,436 values" in text


def test_size_of_the_released_weights():
    """7,712,892 values: one token of window size, and nothing of the two others."""
    with torch.device("meta"):
        net = NeuroSTORMMAE()
    tokens = net.mask_token
    assert (
        sum(p.numel() for p in net.parameters()) - tokens.single.value.numel() - tokens.atlas.value.numel() == 7_712_892
    )


@pytest.mark.parametrize("name", ["mae_window_random", "mae_random_random"])
def test_autoencoder_of_the_layout_of_today(tmp_path, name):
    golden = load_golden(name)
    net, report = load_pretrained(lightning(tmp_path / "mae.ckpt", golden), "autoencoder")
    assert_reconstructs(net, golden)
    assert report.zeroed == ()
    assert "old layout" not in report.layout
    assert type(net.mask) is (WindowMask if name == "mae_window_random" else RandomMask)
    again = from_published(golden.config, golden.with_prefix("weight."), kind="neurostorm_mae")
    assert_same_state(again.state_dict(), state_of(net))
    assert_reconstructs(again, golden)


def test_encoder_of_an_autoencoder():
    net, report = load_pretrained(OLD_LAYOUT)
    whole, _ = load_pretrained(OLD_LAYOUT, "autoencoder")
    x = load_golden("mae_window_random").input
    with torch.no_grad():
        assert torch.equal(net.forward_features(x), whole.encode(x))
    assert type(net) is NeuroSTORM
    assert net.num_classes == 0
    assert {what: len(names) for what, names in report.left_out.items()} == {"decoder": 64, "mask tokens": 1}
    assert len(report.loaded) == 152 - 64 - 1
    assert "left out of the file: decoder (64 tensors); mask tokens (model.mask_token)" in str(report)
    assert report.hyper_parameters["mask_ratio"] == 0.5
    assert report.part == "encoder"
    assert report.source == str(OLD_LAYOUT)
    assert len(report.sha256) == 64


def test_classifier_and_its_encoder():
    net, report = load_pretrained(str(CLASSIFIER), "classifier")
    x = load_golden("neurostorm_full_last").input
    with torch.no_grad():
        assert relative_error(net(x), load_golden("published_sex_classifier_logits").tensors["logits"]) <= 1e-5
    assert net.num_classes == 1
    assert report.left_out == {}
    encoder, report = load_pretrained(CLASSIFIER, "encoder")
    assert report.left_out == {"head": ("output_head.head.head.weight", "output_head.head.head.bias")}
    with torch.no_grad():
        assert torch.equal(encoder.forward_features(x), net.forward_features(x))
        assert relative_error(encoder.forward_features(x), load_golden("neurostorm_full_last").tensors["y"]) <= 1e-5


@pytest.mark.parametrize("name", ["swift", "swift_shifted"])
@pytest.mark.parametrize("final_norm", [False, True])
def test_swift_with_the_head_of_its_own_code(tmp_path, name, final_norm):
    golden = load_golden(name)
    head = {"output_head.head.weight": torch.randn(3, 24), "output_head.head.bias": torch.randn(3)}
    norm = {"model.norm.weight": torch.rand(24), "model.norm.bias": torch.randn(24)} if final_norm else {}
    net, report = load_pretrained(lightning(tmp_path / "a.ckpt", golden, head | norm), "classifier")
    assert type(net) is SwiFT
    assert isinstance(net.norm, nn.LayerNorm) == final_norm
    assert torch.equal(net.head.linear.weight, head["output_head.head.weight"])
    if not final_norm:
        with torch.no_grad():
            assert relative_error(net.forward_features(golden.input), golden.tensors["y"]) <= 1e-5
    assert report.left_out == {}


def test_a_plain_state_dict_with_the_arguments_given(tmp_path):
    golden = load_golden("neurostorm_uneven")
    torch.save(golden.with_prefix("weight."), tmp_path / "a.pth")
    with pytest.raises(
        ValueError,
        match=r"a\.pth does not say patch_size, window_size, first_window_size, last_layer_full_MSA, which its weights",
    ):
        load_pretrained(tmp_path / "a.pth")
    given = {name: golden.config[name] for name in ("patch_size", "window_size", "first_window_size")}
    net, report = load_pretrained(
        tmp_path / "a.pth", config=given | {"last_layer_full_MSA": golden.config["last_layer_full_MSA"]}
    )
    with torch.no_grad():
        assert relative_error(net.forward_features(golden.input), golden.tensors["y"]) <= 1e-5
    assert set(report.inferred) == {"depths", "embed_dim", "in_chans", "c_multiplier", "img_size"}
    assert "arguments that the weights tell: depths, " in str(report)
    assert report.layout == "state dict under published names"


def test_swift_needs_its_heads(tmp_path):
    path = lightning(tmp_path / "a.ckpt", load_golden("swift"), num_heads="absent")
    with pytest.raises(ValueError, match=r"does not say num_heads, .*: pass them as config=\{'num_heads': \.\.\.\}"):
        load_pretrained(path)
    assert load_pretrained(path, config={"num_heads": (3, 3)})[0].arguments["num_heads"] == [3, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"embed_dim": 24}, "embed_dim 24 for weights of 12"),
        ({"depths": [2, 1, 1, 1]}, r"depths \(2, 1, 1, 1\) for weights of \(1, 1, 1, 1\)"),
        ({"c_multiplier": 3}, "c_multiplier 3 for weights of 2"),
        ({"in_chans": 2}, "in_chans 2 for weights of 1"),
        ({"img_size": [96, 96, 96, 8]}, r"img_size \(96, 96, 96, 8\) for weights of \(48, 48, 48, 8\)"),
        ({"img_size": [48, 48, 48, 20]}, r"img_size \(48, 48, 48, 20\) for weights of \(48, 48, 48, 8\)"),
        ({"patch_size": [4, 4, 4, 1]}, "img_size .* for weights of"),
    ],
)
def test_arguments_that_contradict_the_weights(wrong, message):
    with pytest.raises(
        ValueError, match=rf"layout\.ckpt contradicts itself: .*{message}.*pass the right ones as config"
    ):
        load_pretrained(OLD_LAYOUT, config=wrong)


def test_an_image_that_cuts_the_last_patch_off_is_no_contradiction():
    net, _ = load_pretrained(OLD_LAYOUT, config={"img_size": (43, 48, 45, 8)})
    assert net.arguments["img_size"] == [43, 48, 45, 8]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widow_size": (4, 4, 4, 4)}, r"config has arguments that no published net has: \['widow_size'\]"),
        ({"img_size": [48, 48, 48]}, r"has img_size \(48, 48, 48\), which must have four entries, h, w, d, t: pass"),
        ({"window_size": 4}, "has window_size 4, which must have four entries"),
        ({"last_layer_full_MSA": "False"}, "last_layer_full_MSA 'False', which is neither True nor False"),
        ({"time_mask": "tube"}, "spatial_mask 'window' with time_mask 'tube' has no counterpart"),
    ],
)
def test_arguments_that_cannot_be(config, message):
    with pytest.raises(ValueError, match=message):
        load_pretrained(OLD_LAYOUT, "autoencoder", config=config)


def test_a_file_that_says_half_of_its_mask(tmp_path):
    golden = load_golden("mae_window_random")
    path = lightning(tmp_path / "a.ckpt", golden, time_mask="absent")
    with pytest.raises(ValueError, match="the mask needs time_mask besides its other arguments: pass them in config"):
        load_pretrained(path, "autoencoder")
    # the encoder needs no mask
    load_pretrained(path, "encoder")
    path = lightning(path, golden, time_mask="absent", spatial_mask="absent", mask_ratio="absent")
    assert load_pretrained(path, "autoencoder")[0].mask.ratio == 0.5


def test_prompts_are_not_dropped_in_silence(tmp_path):
    path = lightning(tmp_path / "a.ckpt", load_golden("neurostorm_prompted"))
    with pytest.raises(
        ValueError, match=r"nothing was loaded: the net has no place for model\.layers\.0\.blocks\.0\.pr"
    ):
        load_pretrained(path)


def test_parts_that_a_file_does_not_have(tmp_path):
    with pytest.raises(ValueError, match=r"layout\.ckpt has no part 'classifier'; it has: 'encoder', 'autoencoder'$"):
        load_pretrained(OLD_LAYOUT, "classifier")
    with pytest.raises(
        ValueError, match=r"classifier\.ckpt has no part 'autoencoder'; it has: 'encoder', 'classifier'$"
    ):
        load_pretrained(CLASSIFIER, "autoencoder")
    with pytest.raises(ValueError, match="has no part 'decoder'"):
        load_pretrained(CLASSIFIER, "decoder")
    # the head of contrastive pre-training
    head = {"output_head.fc1.weight": torch.randn(128, 24), "output_head.bn1.weight": torch.randn(128)}
    path = lightning(tmp_path / "a.ckpt", load_golden("swift"), head)
    with pytest.raises(
        ValueError, match=r"it has: 'encoder' \(its head is not a linear .* but output_head\.fc1\.weight"
    ):
        load_pretrained(path, "classifier")
    assert load_pretrained(path)[1].left_out == {"head": tuple(head)}


def test_what_is_beside_the_net_is_reported(tmp_path):
    golden = load_golden("swift")
    path = tmp_path / "a.ckpt"
    lightning(path, golden, {"criterion.weight": torch.ones(2)})
    content = torch.load(path, weights_only=True)
    content["state_dict"]["metric.values"] = [1.0]
    torch.save(content, path)
    _, report = load_pretrained(path)
    assert report.left_out == {"beside the net": ("criterion.weight",), "no tensors": ("metric.values",)}


def test_names_that_compilation_and_parallel_training_leave(tmp_path):
    golden = load_golden("swift")
    lightning(tmp_path / "a.ckpt", golden)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["state_dict"] = {
        key.replace("model.", "model._orig_mod."): value for key, value in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "b.ckpt")
    expected = state_of(load_pretrained(tmp_path / "a.ckpt")[0])
    assert_same_state(load_pretrained(tmp_path / "b.ckpt")[0].state_dict(), expected)
    torch.save({f"module.{name}": value for name, value in expected.items()}, tmp_path / "c.pt")
    net = from_published(golden.config, golden.with_prefix("weight."), kind="swift")
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    load_pretrained(tmp_path / "c.pt", into=net)
    assert_same_state(net.state_dict(), expected)


# files of one's own


@pytest.mark.parametrize(
    "net",
    [
        small(),
        small(num_classes=3, boundary="reset", order=("raster", "hilbert"), layer_scale=0.1, full_last_stage=False),
        NeuroSTORM((22, 18, 21, 7), patch_size=(4, 5, 6, 2), window_size=(2, 3, 2, 4), **SMALL),
        SwiFT(IMG, num_heads=(2, 3), final_norm=True, num_classes=2, **SMALL),
        ShiftedWindowNet(IMG, channel_multiplier=3, interpolate=True, first_window_size=(2, 2, 2, 2), **SMALL),
        small_autoencoder(),
        small(final_norm=True, num_classes=1).double(),
        small_autoencoder(
            mask=RandomMask(0.75),
            loss=MaskedReconstructionLoss((6, 6, 6, 1), "huber", normalize_patches=True, delta=0.5),
            boundary="reset",
        ).double(),
    ],
    ids=["encoder", "classifier", "patches", "swift", "shifted", "autoencoder", "float64", "float64 autoencoder"],
)
def test_round_trip(tmp_path, net):
    path = save_pretrained(net, tmp_path / "new" / "net.safetensors", overwrite=True)
    random = torch.get_rng_state()
    again, report = load_pretrained(path, "net")
    assert torch.equal(torch.get_rng_state(), random)
    assert type(again) is type(net)
    # a head is told by the weights, and a mask by more than its argument
    assert {key: again.arguments[key] for key in net.arguments if key not in ("num_classes", "mask", "loss")} == {
        key: value for key, value in net.arguments.items() if key not in ("num_classes", "mask", "loss")
    }
    assert_same_state(again.state_dict(), net.state_dict())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in net.parameters()]
    assert len(report.loaded) == len(net.state_dict())
    assert report.layout.endswith(type(net).__name__)
    x = clip(*net.arguments["img_size"], dtype=next(net.parameters()).dtype)
    results = []
    for module in (net, again):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(module.eval()(x))
    for ours, theirs in zip(*((r if isinstance(r, tuple) else (r,)) for r in results), strict=True):
        assert torch.equal(ours, theirs)
    # what is loaded can be saved again, and is the same file
    assert save_pretrained(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_parts_of_files_of_ones_own(tmp_path):
    mae, classifier = small_autoencoder(), small(num_classes=2)
    save_pretrained(mae, tmp_path / "mae.safetensors")
    encoder, report = load_pretrained(tmp_path / "mae.safetensors")
    assert type(encoder) is NeuroSTORM
    assert_same_state(encoder.state_dict(), mae.encoder.state_dict())
    assert set(report.left_out) == {"decoder", "mask token"}
    assert report.hyper_parameters["mask"] == {
        "class": "WindowMask",
        "arguments": {"ratio": 0.5, "window_size": [4, 4, 4, 4]},
    }
    assert type(load_pretrained(tmp_path / "mae.safetensors", "autoencoder")[0]) is NeuroSTORMMAE
    save_pretrained(classifier, tmp_path / "classifier.safetensors")
    encoder, report = load_pretrained(tmp_path / "classifier.safetensors")
    assert encoder.num_classes == 0
    assert report.left_out == {"head": ("head.linear.bias", "head.linear.weight")}
    assert load_pretrained(tmp_path / "classifier.safetensors", "classifier")[0].num_classes == 2
    with pytest.raises(ValueError, match="has no part 'autoencoder'; it has: 'encoder', 'classifier', 'net'"):
        load_pretrained(tmp_path / "classifier.safetensors", "autoencoder")
    with pytest.raises(ValueError, match=r"config is for published files, but .* is not one"):
        load_pretrained(tmp_path / "mae.safetensors", config={"img_size": IMG})


def test_a_head_exchanged_after_building(tmp_path):
    net = small(num_classes=2)
    net.reset_head(5)
    save_pretrained(net, tmp_path / "five.safetensors")
    assert_same_state(load_pretrained(tmp_path / "five.safetensors", "classifier")[0].state_dict(), net.state_dict())
    net.head = RegressionHead(24, mean=30.0, std=4.0)
    saved_with_warning(net, tmp_path / "age.safetensors", "its head is not a linear .* builds its encoder by itself")
    encoder, report = load_pretrained(tmp_path / "age.safetensors")
    assert torch.equal(encoder.stages[0].position.spatial, net.stages[0].position.spatial)
    assert len(report.left_out["head"]) == 4
    with pytest.raises(ValueError, match=r"has no part 'classifier'.* \(its head is not a linear layer"):
        load_pretrained(tmp_path / "age.safetensors", "classifier")
    with pytest.raises(ValueError, match="does not say how to build its net: its head is not a linear layer"):
        load_pretrained(tmp_path / "age.safetensors", "net")
    again = small()
    again.head = RegressionHead(24)
    load_pretrained(tmp_path / "age.safetensors", "net", into=again)
    assert_same_state(again.state_dict(), net.state_dict())


class Own(nn.Module):
    """Tied weights, a view, a buffer, a scalar, and an encoder inside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = small()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.first.bias = nn.Parameter(torch.randn(5, 2)[:, 0])
        # a name that parallel training gives too
        self.module = nn.Linear(2, 2)
        self.register_buffer("steps", torch.tensor(3))


def test_a_net_of_ones_own(tmp_path):
    net, again = Own(), Own()
    path = saved_with_warning(
        net, tmp_path / "own.safetensors", "build its Own, because its class .* builds no part of it by itself"
    )
    with pytest.raises(ValueError, match="does not say how to build its net: its class is not one of nstorm's; pass"):
        load_pretrained(path)
    made, report = load_pretrained(path, into=again)
    assert made is again
    assert report.part == "net"
    assert again.second.weight is again.first.weight
    assert_same_state(again.state_dict(), state_of(net))
    # its encoder alone, where that is asked for
    encoder = small()
    _, report = load_pretrained(path, "encoder", into=encoder)
    assert_same_state(encoder.state_dict(), state_of(net.encoder))
    assert set(report.left_out) == {"first", "second", "module", "steps"}


def test_a_class_that_only_has_the_name_is_not_built(tmp_path):
    impostor = type("NeuroSTORM", (NeuroSTORM,), {})(IMG, **SMALL)
    path = saved_with_warning(impostor, tmp_path / "a.safetensors", "its class is not one of nstorm's")
    with pytest.raises(ValueError, match="its class is not one of nstorm's"):
        load_pretrained(path)
    assert about(path)["net"] == f"{__name__}.NeuroSTORM"


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (small(mixer=BidirectionalMambaMixer), "its mixer cannot be written to a file"),
        (small(mixer=[MambaMixer, partial(MambaMixer, d_state=8)]), "its mixer cannot be written to a file"),
        (
            small_autoencoder(mask=AtlasMask(0.5, torch.arange(48).view(4, 3, 4))),
            "its mask cannot be written to a file",
        ),
        (small_autoencoder(loss=nn.MSELoss()), "its loss cannot be written to a file"),
    ],
    ids=["mixer", "mixers", "mask", "loss"],
)
def test_nets_that_a_file_cannot_build(tmp_path, net, why):
    path = saved_with_warning(net, tmp_path / "a.safetensors", f"how to build its {type(net).__name__}, because {why}")
    with pytest.raises(
        ValueError, match=f"does not say how to build its net: {why}; pass the net to load into as into="
    ):
        load_pretrained(path, "net")
    before = state_of(net)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    load_pretrained(path, "net", into=net)
    assert_same_state(net.state_dict(), before)


def test_a_net_that_was_changed_after_it_was_built(tmp_path):
    net = small()
    net.stages[0].blocks.append(nn.Linear(12, 12))
    path = saved_with_warning(net, tmp_path / "a.safetensors", "it was changed after it was built")
    with pytest.raises(ValueError, match="its net: it was changed after it was built; pass"):
        load_pretrained(path)


class Mine(MaskedAutoencoder):
    pass


def composed(encoder, cls=MaskedAutoencoder):
    decoder = PatchUnembed4D(24, patch_size=(12, 12, 12, 1))
    return cls(encoder, decoder, TubeMask(0.6), MaskedReconstructionLoss((6, 6, 6, 1)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: small_autoencoder(mask=AtlasMask(0.5, torch.arange(48).view(4, 3, 4))), "its mask cannot be written"),
        (lambda: small_autoencoder(loss=nn.MSELoss()), "its loss cannot be written"),
        (lambda: composed(small(boundary="reset")), "of which a file keeps only the encoder"),
        (lambda: composed(SwiFT(IMG, num_heads=(2, 3), num_classes=2, **SMALL)), "of which a file keeps only"),
        (lambda: composed(small(), Mine), "class is not one of nstorm's"),
    ],
    ids=["mask", "loss", "composed", "composed swift", "subclass"],
)
def test_the_encoder_of_an_autoencoder_that_a_file_cannot_build(tmp_path, make, why):
    mae = make()
    path = saved_with_warning(mae, tmp_path / "a.safetensors", f"{why}.*: load_pretrained builds its encoder by itself")
    for part in (None, "encoder"):
        encoder, report = load_pretrained(path, part)
        assert type(encoder) is type(mae.encoder)
        expected = {name: value for name, value in state_of(mae.encoder).items() if not name.startswith("head.")}
        assert_same_state(encoder.state_dict(), expected)
        x = clip()
        with torch.no_grad():
            assert torch.equal(encoder.eval().forward_features(x), mae.eval().encode(x))
        assert report.part == "encoder"
        assert report.hyper_parameters["feature_size"] == 12
    for part in ("autoencoder", "net"):
        with pytest.raises(ValueError, match=f"does not say how to build its net: .*{why}"):
            load_pretrained(path, part)
        again = make()
        load_pretrained(path, part, into=again)
        assert_same_state(again.state_dict(), state_of(mae))


def test_an_encoder_of_ones_own_in_an_autoencoder(tmp_path):
    mae = composed(small(mixer=BidirectionalMambaMixer))
    path = saved_with_warning(mae, tmp_path / "a.safetensors", "builds no part of it by itself")
    with pytest.raises(ValueError, match="does not say how to build its encoder: its mixer cannot be written"):
        load_pretrained(path)
    encoder = small(mixer=BidirectionalMambaMixer)
    load_pretrained(path, into=encoder)
    assert_same_state(encoder.state_dict(), mae.encoder.state_dict())


def test_a_default_given_by_its_name(tmp_path):
    mae = small_autoencoder(mixer=MambaMixer)
    made, _ = load_pretrained(save_pretrained(mae, tmp_path / "a.safetensors"), "autoencoder")
    assert_same_state(made.state_dict(), mae.state_dict())


def test_masks_that_take_the_place_of_others(tmp_path):
    mae = small_autoencoder()
    mae.mask = WindowMask(0.8, (2, 2, 2, None))
    made, _ = load_pretrained(save_pretrained(mae, tmp_path / "a.safetensors"), "autoencoder")
    assert (made.mask.ratio, made.mask.window_size) == (0.8, (2, 2, 2, None))
    # built with this one, it would learn another token
    mae.mask = TubeMask(0.8)
    path = save_pretrained(mae, tmp_path / "b.safetensors")
    made, report = load_pretrained(path, "autoencoder")
    assert type(made.mask) is TubeMask
    assert made.mask_token.kind == "window"
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in mae.parameters()]
    assert_same_state(made.state_dict(), state_of(mae))
    assert report.perhaps_untrained == ()
    assert save_pretrained(made, tmp_path / "c.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "module",
    [
        RandomMask(0.3),
        TubeMask(0.3),
        WindowMask(0.3, (2, None, 2, 4)),
        BlockMask(0.3, (2, None, 2, 4)),
        FrameMask(0.3, span=2),
        MaskedReconstructionLoss((2, 2, 2, 2), "l1", True, reduction="sum"),
    ],
    ids=lambda module: type(module).__name__,
)
def test_masks_and_losses_as_text(module):
    again = built(json.loads(json.dumps(described(module))))
    assert type(again) is type(module)
    assert {k: v for k, v in vars(again).items() if k[0] != "_"} == {
        k: v for k, v in vars(module).items() if k[0] != "_"
    }


def about(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["nstorm"])


def test_files_of_another_version(tmp_path):
    path = save_pretrained(small(), tmp_path / "a.safetensors")
    written = about(path)
    assert written["version"] == version("nstorm")
    assert written["arguments"]["feature_size"] == 12
    tensors = load_file(path)

    def write(**changes):
        save_file(tensors, path, {"nstorm": json.dumps(written | changes)})

    write(arguments=written["arguments"] | {"later": 1}, version="9.0")
    with pytest.raises(ValueError, match=r"\(nstorm 9\.0, NeuroSTORM\) has arguments that this version .*'later'"):
        load_pretrained(path)
    write(net="Later")
    with pytest.raises(ValueError, match="is of the net 'Later', which this version of nstorm does not have"):
        load_pretrained(path)
    save_file(tensors, path, {"nstorm": "{"})
    with pytest.raises(ValueError, match="is damaged or not in the safetensors format"):
        load_pretrained(path)


def test_saving_the_net_and_not_what_is_wrapped_around_it(tmp_path):
    net = small()
    expected = save_pretrained(net, tmp_path / "a.safetensors").read_bytes()
    wrapped = nn.DataParallel(torch.compile(net))
    assert save_pretrained(wrapped, tmp_path / "b.safetensors").read_bytes() == expected
    other = torch.compile(small())
    made, _ = load_pretrained(tmp_path / "b.safetensors", into=other)
    assert made is other
    assert_same_state(other._orig_mod.state_dict(), net.state_dict())


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def test_what_cannot_be_saved(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.ckpt has to end in \.safetensors"):
        save_pretrained(small(), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="has a state that is no tensor and cannot be saved: _extra_state"):
        save_pretrained(WithExtraState(2, 2), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Linear has no values to save on the meta device: weight, bias"):
        save_pretrained(nn.Linear(2, 2, device="meta"), tmp_path / "a.safetensors")
    path = saved_with_warning(nn.Linear(2, 2), tmp_path / "a.safetensors", "build its Linear")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        save_pretrained(nn.Linear(2, 2), path)

    def save_file(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(nn.Linear(2, 2), path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# into a net of the user's


def test_into_a_net_on_another_grid_with_a_new_head(tmp_path):
    trained = small(full_last_stage=False)
    path = save_pretrained(trained, tmp_path / "a.safetensors")
    # windows of the same size on both grids
    net = NeuroSTORM((30, 24, 18, 11), num_classes=4, full_last_stage=False, **SMALL).double()
    head = state_of(net.head)
    optimized = list(net.parameters())
    made, report = load_pretrained(path, into=net, new=("head.*",))
    assert made is net
    # an optimizer that holds the parameters goes on
    assert all(a is b for a, b in zip(net.parameters(), optimized, strict=True))
    assert_same_state(net.head.state_dict(), head)
    assert report.new == ("head.linear.weight", "head.linear.bias")
    assert report.reshaped == {
        "stages.0.position.spatial": ((1, 12, 4, 3, 4, 1), (1, 12, 5, 4, 3, 1)),
        "stages.0.position.temporal": ((1, 12, 1, 1, 1, 8), (1, 12, 1, 1, 1, 11)),
        "stages.1.position.spatial": ((1, 24, 2, 2, 2, 1), (1, 24, 3, 2, 2, 1)),
        "stages.1.position.temporal": ((1, 24, 1, 1, 1, 8), (1, 24, 1, 1, 1, 11)),
    }
    assert "brought to another grid: stages.0.position.spatial (1, 12, 4, 3, 4, 1) -> (1, 12, 5, 4, 3, 1)" in str(
        report
    )
    assert "new, as the net had it: head.linear.weight, head.linear.bias" in str(report)
    name = "stages.0.blocks.0.mixer.in_proj.weight"
    assert net.get_parameter(name).dtype == torch.float64
    assert torch.equal(net.get_parameter(name).float(), trained.get_parameter(name))
    # the field is sampled where the tokens are, as the embedding itself would have it
    interpolating = small(interpolate=True, full_last_stage=False)
    interpolating.load_state_dict(trained.state_dict())
    x = clip(30, 24, 18, 11)
    torch.testing.assert_close(net.float().forward_features(x), interpolating.forward_features(x))


def test_published_weights_into_a_net_on_another_grid():
    net = NeuroSTORM((96, 96, 96, 20), feature_size=12, depths=(1, 1, 1, 1), full_last_stage=False, num_classes=2)
    _, report = load_pretrained(OLD_LAYOUT, into=net, new="head.*")
    assert len(report.reshaped) == 8
    assert set(report.left_out) == {"decoder", "mask tokens"}
    mae = NeuroSTORMMAE((60, 54, 60, 8), feature_size=12, depths=(1, 1, 1, 1), full_last_stage=False)
    _, report = load_pretrained(OLD_LAYOUT, "autoencoder", into=mae)
    assert report.zeroed == ("mask_token.single.value", "mask_token.atlas.value")
    assert torch.equal(mae.decoder.norm.weight, load_pretrained(OLD_LAYOUT, "autoencoder")[0].decoder.norm.weight)


def test_a_mask_that_needs_a_token_the_file_lacks():
    mae = NeuroSTORMMAE((48, 48, 48, 8), mask=RandomMask(0.5), feature_size=12, depths=(1, 1, 1, 1))
    before = state_of(mae)
    with pytest.raises(ValueError, match=r"the file lacks mask_token\.single\.value \(name in new="):
        load_pretrained(OLD_LAYOUT, "autoencoder", into=mae)
    assert_same_state(mae.state_dict(), before)
    _, report = load_pretrained(OLD_LAYOUT, "autoencoder", into=mae, new="mask_token.single.*")
    assert report.new == ("mask_token.single.value",)
    assert torch.equal(mae.mask_token.single.value, before["mask_token.single.value"])


def untrained_token_is_refused(path, mae, key):
    before = state_of(mae)
    with pytest.raises(
        ValueError, match=r"nothing was loaded: mask_token\.single\.value of the file was never trained \(name in new="
    ):
        load_pretrained(path, "autoencoder", into=mae)
    assert_same_state(mae.state_dict(), before)
    _, report = load_pretrained(path, "autoencoder", into=mae, new="mask_token.single.value")
    assert report.new == ("mask_token.single.value",)
    assert "mask_token.single.value" not in report.loaded
    assert report.left_out == {"mask token that was not trained": (key,)}
    assert torch.equal(mae.mask_token.single.value, before["mask_token.single.value"])
    assert not torch.equal(mae.decoder.norm.weight, before["decoder.norm.weight"])


def test_a_mask_token_that_was_not_trained(tmp_path):
    trained = small_autoencoder()
    nn.init.normal_(trained.decoder.norm.weight)
    path = save_pretrained(trained, tmp_path / "a.safetensors")
    untrained_token_is_refused(path, small_autoencoder(mask=RandomMask(0.5)), "mask_token.single.value")
    # a mask that a file cannot hold still tells its token
    trained = small_autoencoder(mask=AtlasMask(0.5, torch.arange(48).view(4, 3, 4)))
    nn.init.normal_(trained.decoder.norm.weight)
    path = saved_with_warning(trained, tmp_path / "b.safetensors", "its mask cannot be written")
    untrained_token_is_refused(path, small_autoencoder(mask=TubeMask(0.5)), "mask_token.single.value")


def test_a_published_mask_token_that_was_not_trained(tmp_path):
    golden = load_golden("mae_window_random")
    path = lightning(tmp_path / "a.ckpt", golden)
    net, report = load_pretrained(path, "autoencoder")
    assert report.perhaps_untrained == ()

    def on(mask):
        arguments = {key: value for key, value in net.arguments.items() if key not in ("mask", "loss")}
        return NeuroSTORMMAE(**arguments, mask=mask)

    untrained_token_is_refused(path, on(RandomMask(0.5)), "model.mask_token")
    _, report = load_pretrained(path, into=on(WindowMask(0.3)))
    assert report.perhaps_untrained == ()
    # a file that does not say
    path = lightning(path, golden, time_mask="absent", spatial_mask="absent", mask_ratio="absent")
    for mask, name in [(RandomMask(0.5), "mask_token.single.value"), (WindowMask(0.5), "mask_token.window.value")]:
        _, report = load_pretrained(path, into=on(mask))
        assert report.perhaps_untrained == (name,)
    assert "as the file does not say which mask token it trained: mask_token.window.value" in str(report)
    torch.save(net.state_dict(), tmp_path / "own.pt")
    assert load_pretrained(tmp_path / "own.pt", into=net)[1].perhaps_untrained == ("mask_token.window.value",)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: small(num_classes=2), r"the file lacks head\.linear\.weight, head\.linear\.bias \(name in new="),
        (lambda: small(feature_size=24), r"shapes differ.*patch_embed\.proj\.weight \(12, 216\) for \(24, 216\)"),
        (lambda: small(patch_size=(4, 4, 4, 1)), r"patch_embed\.proj\.weight \(12, 216\) for \(12, 64\)"),
        (lambda: small(depths=(1, 2)), r"the file lacks stages\.1\.blocks\.1\..* and \d+ more"),
        (lambda: small(depths=(1,)), r"the net has no place for stages\.0\.downsample.* and \d+ more"),
        (lambda: SwiFT(IMG, num_heads=(3, 3), **SMALL), r"the file lacks .*qkv.*the net has no place for .*A_log"),
        (lambda: nn.Linear(2, 2), "does not fit Linear, and nothing was loaded: the file lacks weight, bias"),
    ],
    ids=["head", "channels", "patch", "deeper", "shallower", "other mixer", "other net"],
)
def test_nothing_is_loaded_where_something_does_not_fit(tmp_path, net, message):
    path = save_pretrained(small(), tmp_path / "a.safetensors")
    net = net()
    before = state_of(net)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(path, into=net)
    assert "nothing was loaded" in str(error.value)
    assert "\n" not in str(error.value)
    assert_same_state(net.state_dict(), before)


def test_patterns_of_new_name_only_what_the_file_lacks(tmp_path):
    path = save_pretrained(small(num_classes=2), tmp_path / "a.safetensors")
    net = small(num_classes=2)
    _, report = load_pretrained(path, "classifier", into=net, new=("*",))
    assert report.new == ()
    assert_same_state(net.state_dict(), state_of(load_pretrained(path, "classifier")[0]))
    with pytest.raises(
        ValueError, match=r"this part of the file lacks head\.linear\.bias \(pass part='classifier', which has that\)$"
    ):
        load_pretrained(path, "encoder", into=net, new="head.linear.weight")


def test_the_part_that_fits_the_net(tmp_path):
    trained, mae = small(num_classes=3), small_autoencoder()
    classifier = save_pretrained(trained, tmp_path / "classifier.safetensors")
    autoencoder = save_pretrained(mae, tmp_path / "autoencoder.safetensors")
    for path, expected, net, part in [
        (classifier, trained, small(num_classes=3), "classifier"),
        (classifier, load_pretrained(classifier)[0], small(), "encoder"),
        (autoencoder, mae, small_autoencoder(), "autoencoder"),
        (autoencoder, mae.encoder, small(), "encoder"),
    ]:
        _, report = load_pretrained(path, into=net)
        assert (report.part, report.new) == (part, ())
        assert_same_state(net.state_dict(), state_of(expected))
    # a new head, though the file has one
    net = small(num_classes=2)
    _, report = load_pretrained(classifier, into=net, new="head.*")
    assert (report.part, report.new) == ("encoder", ("head.linear.weight", "head.linear.bias"))
    _, report = load_pretrained(CLASSIFIER, into=load_pretrained(CLASSIFIER, "classifier")[0])
    assert report.part == "classifier"
    _, report = load_pretrained(OLD_LAYOUT, into=load_pretrained(OLD_LAYOUT, "autoencoder")[0])
    assert report.part == "autoencoder"
    with pytest.raises(ValueError, match=r"lacks encoder\..* and \d+ more \(pass part='autoencoder', which has that\)"):
        load_pretrained(autoencoder, "encoder", into=small_autoencoder())


def test_arguments_that_do_not_go_together(tmp_path):
    path = save_pretrained(small(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"new='head\.\*' is for a net to load into"):
        load_pretrained(path, new="head.*")
    for kwargs in ({"config": {}}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="config and device are for a net that is built here"):
            load_pretrained(path, into=small(), **kwargs)
    with torch.device("meta"):
        net = small()
    with pytest.raises(ValueError, match="NeuroSTORM is on the meta device and can hold no weights: call to_empty"):
        load_pretrained(path, into=net)


def test_state_dicts_under_nstorms_names(tmp_path):
    """As MONAI's CheckpointSaver writes them, for instance."""
    encoder = small()
    mae = MaskedAutoencoder(
        encoder, PatchUnembed4D(24, patch_size=(12, 12, 12, 1)), TubeMask(0.5), MaskedReconstructionLoss()
    )
    torch.save({"net": mae.state_dict(), "trainer": {"epoch": 3}}, tmp_path / "a.pt")
    net = small(num_classes=2)
    _, report = load_pretrained(tmp_path / "a.pt", into=net, new="head.*")
    assert torch.equal(net.stages[1].position.spatial, encoder.stages[1].position.spatial)
    assert {what: len(names) for what, names in report.left_out.items()} == {"mask token": 1, "decoder": 2}
    with pytest.raises(ValueError, match=r"a\.pt does not say how to build its net; pass"):
        load_pretrained(tmp_path / "a.pt")
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in encoder.state_dict().items()}}, tmp_path / "b.pt"
    )
    again = small()
    load_pretrained(tmp_path / "b.pt", into=again)
    assert_same_state(again.state_dict(), encoder.state_dict())


def test_tensors_that_share_memory_in_a_file_become_separate(tmp_path):
    golden = load_golden("swift")
    weights = golden.with_prefix("weight.")
    weights["layers.0.blocks.0.norm2.weight"] = weights["layers.0.blocks.0.norm1.weight"]
    torch.save({"state_dict": weights, "hyper_parameters": golden.config}, tmp_path / "a.ckpt")
    net, _ = load_pretrained(tmp_path / "a.ckpt")
    block = net.stages[0].blocks[0]
    with torch.no_grad():
        block.norm1.weight.zero_()
    assert block.norm2.weight.any()


def test_from_the_hub(monkeypatch):
    def hf_hub_download(*, repo_id, filename, revision):
        assert (repo_id, filename, revision) == ("lab/NeuroSTORM", "pretraining/mae.ckpt", "v1")
        return str(OLD_LAYOUT)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    net, report = load_pretrained(
        "lab/NeuroSTORM", "autoencoder", filename="pretraining/mae.ckpt", revision="v1", device="cpu"
    )
    assert_reconstructs(net, load_golden("mae_window_random"))
    assert report.source == "hf://lab/NeuroSTORM/pretraining/mae.ckpt at v1"


def test_a_local_file_needs_no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    load_pretrained(OLD_LAYOUT)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.ckpt"):
        load_pretrained("gone.ckpt")


def test_one_mixer_for_both_halves_of_an_autoencoder():
    with pytest.raises(ValueError, match="mixer has 2 entries, but encoder and decoder of an autoencoder share one"):
        small_autoencoder(mixer=[MambaMixer, MambaMixer])


def test_mask_tokens_where_they_are_wanted():
    tokens = PublishedMaskTokens(6, (2, 2, 2, 2), "atlas", device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in tokens.parameters()} == {("meta", torch.float16)}
    assert [name for name, p in tokens.named_parameters() if p.requires_grad] == ["atlas.value"]
    with pytest.raises(ValueError, match="kind 'tube' is unknown; choose one of"):
        tokens.use("tube")
    assert tokens.kind == "atlas"
