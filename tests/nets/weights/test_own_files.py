"""Files of one's own: saved and built again, or refused."""

import json
from functools import partial
from importlib.metadata import version

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
    load_pretrained,
    save_pretrained,
)
from nstorm.nets.weights.masks_and_losses import built, described
from tests.nets.weights.weight_files import (
    IMG,
    SMALL,
    assert_same_state,
    clip,
    saved_with_warning,
    small,
    small_autoencoder,
    state_of,
)


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
