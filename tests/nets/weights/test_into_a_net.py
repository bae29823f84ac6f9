"""Weights into a net of one's own: another grid, a new head, and what does not fit."""

import pytest
import torch
from torch import nn

from nstorm.layers import AtlasMask, PatchUnembed4D, RandomMask, TubeMask, WindowMask
from nstorm.losses import MaskedReconstructionLoss
from nstorm.nets import MaskedAutoencoder, NeuroSTORM, NeuroSTORMMAE, SwiFT, load_pretrained, save_pretrained
from tests.conftest import load_golden
from tests.nets.weights.weight_files import (
    CLASSIFIER,
    IMG,
    OLD_LAYOUT,
    SMALL,
    assert_same_state,
    clip,
    lightning,
    saved_with_warning,
    small,
    small_autoencoder,
    state_of,
)


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
