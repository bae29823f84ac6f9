"""Released layouts, from a path or a hub id, and files that do not hold what is asked for."""

import sys

import huggingface_hub
import pytest
import torch
from torch import nn

from nstorm.layers import RandomMask, WindowMask
from nstorm.nets import NeuroSTORM, NeuroSTORMMAE, SwiFT, from_published, load_pretrained
from tests.conftest import load_golden, relative_error
from tests.nets.weights.weight_files import (
    CLASSIFIER,
    OLD_LAYOUT,
    assert_reconstructs,
    assert_same_state,
    lightning,
    state_of,
)


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
