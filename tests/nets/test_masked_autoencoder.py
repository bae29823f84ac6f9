import pytest
import torch
from torch import nn

from nstorm.layers import AtlasMask, FrameMask, MambaMixer, MaskToken, PatchUnembed4D, RandomMask, TubeMask, WindowMask
from nstorm.losses import MaskedReconstructionLoss, spread_tokens
from nstorm.nets import MaskedAutoencoder, NeuroSTORM, NeuroSTORMMAE, ShiftedWindowDecoder, SwiFT
from nstorm.nets.neurostorm_mae import PublishedMaskTokens
from nstorm.nets.shifted_window_net import pool_mask
from nstorm.scan import use_backend
from tests.conftest import load_golden, relative_error

DECODER_KEYS = {
    "first_patch_expanding.": "decoder.expands.0.",
    "norm_up.": "decoder.norm.",
    "decoder_pred.": "decoder.unembed.proj.",
    "mask_token": "mask_token.single.value",
    "window_mask_token": "mask_token.window.value",
    "atlas_mask_token": "mask_token.atlas.value",
}


def our_key(key):
    """Written for the tests alone, so that the package's own converter is judged by something else."""
    for theirs, ours in DECODER_KEYS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    key = (
        key.replace("patch_embed.fc.", "patch_embed.proj.").replace("mamba.", "mixer.").replace("mlp.linear", "mlp.fc")
    )
    if key.startswith("layers_up."):
        _, stage, *rest = key.split(".")
        if rest[0] == "upsample":
            return f"decoder.expands.{int(stage) + 1}." + ".".join(rest[1:])
        return f"decoder.stages.{stage}." + ".".join(rest)
    if key.startswith("pos_embeds."):
        _, stage, name = key.split(".")
        return f"encoder.stages.{stage}.position.{ {'pos_embed': 'spatial', 'time_embed': 'temporal'}[name] }"
    return "encoder." + key.replace("layers.", "stages.", 1)


def published(name, mask):
    golden = load_golden(f"mae_{name}")
    config = golden.config
    mae = NeuroSTORMMAE(
        config["img_size"],
        mask,
        feature_size=config["embed_dim"],
        depths=config["depths"],
        patch_size=config["patch_size"],
        window_size=config["window_size"],
        full_last_stage=config["last_layer_full_MSA"],
    )
    mae.load_state_dict({our_key(key): value for key, value in golden.with_prefix("weight.").items()})
    return golden, mae


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kind", ["random", "window"])
def test_golden(kind, backend):
    golden, mae = published(f"{kind}_random", RandomMask(0.5) if kind == "random" else WindowMask(0.5))
    hidden = golden.tensors["mask"]
    if kind == "random":
        hidden = hidden.reshape(2, 8, 8, 8, 8)
    else:
        hidden = hidden.reshape(2, 2, 2, 2, 2)
        for axis in range(1, 5):
            hidden = hidden.repeat_interleave(4, axis)
    with torch.no_grad(), use_backend(backend):
        made = mae(golden.input, token_mask=hidden)
    assert relative_error(made.loss, golden.tensors["loss"]) <= 1e-5
    assert relative_error(made.prediction[:, :, ::7, ::7, ::7], golden.tensors["pred_slice"]) <= 1e-5
    assert torch.equal(made.token_mask, hidden)
    # the ratio of the published masks is met to a token
    assert hidden.flatten(1).sum(1).tolist() == [2048, 2048]
    assert mae.draw(golden.input).flatten(1).sum(1).tolist() == [2048, 2048]


def test_size_of_the_published_model():
    with torch.device("meta"):
        mae = NeuroSTORMMAE()
    assert sum(p.numel() for p in mae.parameters()) == 7_712_964
    assert len(mae.state_dict()) == 409
    made = mae(torch.empty(1, 1, 96, 96, 96, 20, device="meta"), token_mask=torch.empty(
        1, 16, 16, 16, 20, dtype=torch.bool, device="meta"
    ))  # fmt: skip
    assert made.prediction.shape == (1, 1, 96, 96, 96, 20)


def small(mask=None, loss=None, **kwargs):
    kwargs = {"feature_size": 8, "depths": (1, 2), "patch_size": (3, 3, 3, 1)} | kwargs
    return NeuroSTORMMAE((11, 12, 10, 6), mask, loss, **kwargs)


CLIP = (2, 1, 11, 12, 10, 5)
ODD = {
    "one stage": {"depths": (2,)},
    "four stages": {"depths": (1, 1, 1, 1), "feature_size": 4},
    "patches over time": {"patch_size": (3, 2, 5, 2)},
    "multiplier of 3": {"channel_multiplier": 3},
    "two channels": {"in_channels": 2},
    "regions apart": {"boundary": "reset", "order": ("hilbert", "snake")},
    "checkpointed": {"use_checkpoint": True},
}


@pytest.mark.parametrize("options", ODD.values(), ids=ODD)
def test_any_stages_patch_and_multiplier(options):
    mae = small(RandomMask(0.4), **options)
    x = torch.randn(2, options.get("in_channels", 1), *CLIP[2:])
    made = mae(x)
    assert made.prediction.shape == x.shape
    expected = mae.loss(made.prediction, x, made.token_mask)
    assert torch.equal(made.loss, expected)
    made.loss.backward()
    for name, parameter in mae.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_what_is_hidden_is_not_seen_and_encode_hides_nothing():
    mae = small(RandomMask(0.5)).eval()
    x = torch.randn(CLIP)
    hidden = mae.draw(x)
    voxels = spread_tokens(hidden[:, None], mae.patch_size, x.shape[2:])
    made = mae(x, token_mask=hidden)
    other = torch.where(voxels, torch.randn(CLIP), x)
    torch.testing.assert_close(mae(other, token_mask=hidden).prediction, made.prediction)
    assert not torch.allclose(mae(torch.where(voxels, x, 9.0), token_mask=hidden).prediction, made.prediction)
    assert not torch.allclose(mae.encode(other), mae.encode(x))
    assert torch.equal(mae.encode(x), mae.encoder.forward_features(x))


def test_the_mask_is_drawn_from_the_generator():
    mae = small(TubeMask(0.5))
    x = torch.randn(CLIP)
    first, second, third = (mae(x, generator=torch.Generator().manual_seed(seed)).token_mask for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    torch.manual_seed(5)
    drawn = mae(x).token_mask
    torch.manual_seed(5)
    assert torch.equal(drawn, mae(x).token_mask)


def ball(*size):
    place = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij"))
    return place.square().sum(0) < 0.7


@pytest.mark.parametrize("each", [False, True])
def test_air_enters_nothing_and_is_not_hidden(each):
    mae = small(RandomMask(0.5), boundary="reset").eval()
    brain = ball(11, 12, 10)
    brain[:6, :6, :5] = False
    inside = torch.stack([brain, brain.flip(2)]) if each else brain
    x = torch.randn(CLIP)
    hidden = mae.draw(x, inside)
    tokens = pool_mask(inside, (3, 3, 3))
    assert not (hidden & ~tokens[..., None]).any()
    assert (
        hidden.flatten(1).sum(1).tolist() == (tokens.expand(2, -1, -1, -1).flatten(1).sum(1) * 5 * 0.5).round().tolist()
    )
    made = mae(x, inside, hidden)
    patches = torch.where(tokens.reshape(-1, 1, *tokens.shape[-3:], 1), 1.0, 0.0)
    for axis in (2, 3, 4):
        patches = patches.repeat_interleave(3, axis)
    air = patches[:, :, :11, :12, :10] == 0
    torch.testing.assert_close(mae(torch.where(air, 7.0, x), inside, hidden).prediction, made.prediction)
    counted = inside.reshape(-1, 1, 11, 12, 10, 1) & spread_tokens(hidden[:, None], mae.patch_size, x.shape[2:])
    expected = (made.prediction - x).square()[counted.expand_as(x)].mean()
    torch.testing.assert_close(made.loss, expected)
    assert (made.prediction[~inside.reshape(-1, 1, 11, 12, 10, 1).expand_as(x)] == 0).all()
    torch.testing.assert_close(mae.encode(x, inside), mae.encoder.forward_features(x, inside))
    # one sample at a time gives the same
    for n in range(2):
        alone = mae(x[n : n + 1], inside[n] if each else inside, hidden[n : n + 1]).prediction
        torch.testing.assert_close(alone[0], made.prediction[n])


class Convolutions(nn.Module):
    """An encoder that knows nothing of nstorm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 6, 4, stride=4)

    def forward(self, x):
        frames = self.conv(x.movedim(-1, 1).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).movedim(1, -1)


def test_a_backbone_of_ones_own():
    decoder = PatchUnembed4D(6, patch_size=(4, 4, 4, 1))
    mae = MaskedAutoencoder(
        Convolutions(), decoder, FrameMask(0.5), MaskedReconstructionLoss((4, 4, 4, 2)), patch_size=(4, 4, 4, 2)
    )
    x = torch.randn(2, 1, 8, 12, 8, 7)
    made = mae(x)
    assert made.token_mask.shape == (2, 2, 3, 2, 4)
    made.loss.backward()
    # hidden voxels are 0 for the encoder
    other = torch.where(spread_tokens(made.token_mask[:, None], mae.patch_size, x.shape[2:]), 5.0, x)
    torch.testing.assert_close(mae(other, token_mask=made.token_mask).prediction, made.prediction)
    assert torch.equal(mae.encode(x), mae.encoder(x))
    assert mae.mask_token is None


def test_other_backbones_and_decoders_of_ours():
    swift = SwiFT((12, 12, 12, 6), num_heads=(2, 2), feature_size=8, depths=(1, 1), patch_size=(3, 3, 3, 1))
    decoder = ShiftedWindowDecoder(patch_size=(3, 3, 3, 1), feature_size=8, depths=(1, 1))
    mae = MaskedAutoencoder(swift, decoder, RandomMask(0.5), MaskedReconstructionLoss((3, 3, 3, 1), "l1"))
    assert mae(torch.randn(1, 1, 12, 12, 12, 6)).prediction.shape == (1, 1, 12, 12, 12, 6)


def test_bad_combinations_are_refused():
    encoder, loss = NeuroSTORM((12, 12, 12, 6), feature_size=8, depths=(1,)), MaskedReconstructionLoss()
    decoder = PatchUnembed4D(8)
    with pytest.raises(ValueError, match=r"patch_size \(3, 3, 3, 1\) differs from the encoder's \(6, 6, 6, 1\)"):
        MaskedAutoencoder(encoder, decoder, RandomMask(0.5), loss, patch_size=(3, 3, 3, 1))
    with pytest.raises(ValueError, match="patch_size is missing: Convolutions has no `patch_embed`"):
        MaskedAutoencoder(Convolutions(), decoder, RandomMask(0.5), loss)
    with pytest.raises(ValueError, match="mask_token has no place: Convolutions has no"):
        MaskedAutoencoder(Convolutions(), decoder, RandomMask(0.5), loss, mask_token=MaskToken(1), patch_size=(6,) * 4)
    with pytest.raises(ValueError, match="num_classes is 2, but an autoencoder has no head"):
        small(num_classes=2)
    with pytest.raises(ValueError, match=r"features are on the grid \(2, 2, 2, 5\), but a clip of \(11, 12, 10, 5\)"):
        small(depths=(1, 1, 1)).decoder(torch.randn(1, 32, 2, 2, 2, 5), (11, 12, 10, 5))


def test_masks_that_do_not_fit_are_named():
    mae, x = small(RandomMask(0.5), boundary="reset").eval(), torch.randn(CLIP)
    brain = ball(11, 12, 10)
    with pytest.raises(ValueError, match=r"brain_mask has shape \(10, 12, 10\), expected \(11, 12, 10\) or \(2, 11"):
        mae._check(x, brain[1:])
    with pytest.raises(ValueError, match=r"token_mask has shape \(2, 4, 4, 4, 4\), expected \(2, 4, 4, 4, 5\)"):
        mae._check(x, None, torch.ones(2, 4, 4, 4, 4, dtype=torch.bool))
    # one mask for all, with or without an axis of samples
    torch.testing.assert_close(mae.encode(x, brain[None]), mae.encode(x, brain))
    hidden = mae.draw(x, brain)
    torch.testing.assert_close(mae(x, brain[None], hidden).loss, mae(x, brain, hidden).loss)


def test_the_mask_decides_which_published_token_learns():
    def learning(mae):
        return {name for name, parameter in mae.mask_token.named_parameters() if parameter.requires_grad}

    assert learning(small()) == {"window.value"}
    assert learning(small(RandomMask(0.5))) == {"single.value"}
    assert learning(small(AtlasMask(0.5, torch.ones(4, 4, 4, dtype=torch.long)))) == {"atlas.value"}
    mae = small(RandomMask(0.5))
    # one line changes the mask
    mae.mask = TubeMask(0.5)
    mae(torch.randn(CLIP)).loss.backward()
    assert mae.mask_token.single.value.grad is not None


def test_it_learns_structure_and_in_float64():
    """Every patch is one of two waves over the clip: hidden ones can be told from the visible frames."""
    time = torch.linspace(0, 6.3, 6)
    waves = torch.stack([time.sin(), time.cos()])[torch.rand(8, 4, 4, 4).lt(0.5).long()]
    clips = waves
    for axis in (1, 2, 3):
        clips = clips.repeat_interleave(3, axis)
    clips = clips[:, None, :11, :12, :10]
    mae = small(RandomMask(0.3), depths=(2, 2))
    optimizer = torch.optim.AdamW(mae.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        loss = mae(clips).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    hidden = mae.draw(clips)
    with torch.no_grad():
        exact = mae.double()(clips.double(), token_mask=hidden)
        close = mae.float()(clips, token_mask=hidden)
    assert exact.prediction.dtype == torch.float64
    torch.testing.assert_close(close.prediction.double(), exact.prediction, rtol=1e-3, atol=1e-4)


def test_one_mixer_for_both_halves_of_an_autoencoder():
    with pytest.raises(ValueError, match="mixer has 2 entries, but encoder and decoder of an autoencoder share one"):
        NeuroSTORMMAE((24, 18, 24, 8), feature_size=12, depths=(1, 1), mixer=[MambaMixer, MambaMixer])


def test_mask_tokens_where_they_are_wanted():
    tokens = PublishedMaskTokens(6, (2, 2, 2, 2), "atlas", device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in tokens.parameters()} == {("meta", torch.float16)}
    assert [name for name, p in tokens.named_parameters() if p.requires_grad] == ["atlas.value"]
    with pytest.raises(ValueError, match="kind 'tube' is unknown; choose one of"):
        tokens.use("tube")
    assert tokens.kind == "atlas"
