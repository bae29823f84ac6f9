import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from nstorm.layers.time_embedding import TimeEmbedding


def trained(dim=5, **sizes):
    embed = TimeEmbedding(dim, **sizes)
    nn.init.normal_(embed.proj.weight)
    return embed


def test_a_new_one_changes_nothing_and_can_learn():
    embed = TimeEmbedding(5)
    x = torch.randn(2, 5, 2, 3, 1, 7)
    assert torch.equal(embed(x, 0.8), x)
    embed(x, 0.8).sum().backward()
    assert embed.proj.weight.grad.abs().max() > 0
    nn.init.ones_(embed.proj.weight)
    embed.reset_parameters()
    assert torch.equal(embed(x, 0.8), x)


def test_adds_the_map_of_the_sines_and_cosines_of_seconds():
    embed = trained(num_periods=3, min_period=10.0, max_period=40.0).double()
    x = torch.randn(2, 5, 2, 3, 1, 7).double()
    y = embed(x, 0.8, onset=3.0)
    for frame in range(7):
        angles = [2 * math.pi * (3.0 + 0.8 * frame) / period for period in (40, 20, 10)]
        features = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles]).double()
        expected = (embed.proj.weight @ features).reshape(5, 1, 1, 1).expand(2, 5, 2, 3, 1)
        torch.testing.assert_close(y[..., frame] - x[..., frame], expected, rtol=1e-5, atol=1e-6)


def test_a_clip_at_tr_2_equals_every_second_frame_of_one_at_tr_1():
    embed = trained()
    x = torch.randn(2, 5, 2, 3, 1, 13)
    torch.testing.assert_close(embed(x, 1.0)[..., ::2], embed(x[..., ::2].contiguous(), 2.0))
    assert not torch.allclose(embed(x, 1.0), embed(x, 2.0))


@given(
    tr=st.floats(0.3, 4.0),
    other=st.floats(0.3, 4.0),
    onset=st.floats(0.0, 600.0),
    frame=st.integers(0, 30),
    other_frame=st.integers(0, 30),
)
@settings(max_examples=50, deadline=None)
def test_the_same_second_gives_the_same_vector(tr, other, onset, frame, other_frame):
    embed = trained().double()
    nothing = torch.zeros(1, 5, 1, 1, 1, 31).double()
    start = onset + tr * frame - other * other_frame
    added = embed(nothing, tr, onset)[..., frame]
    torch.testing.assert_close(embed(nothing, other, start)[..., other_frame], added, rtol=1e-6, atol=1e-6)


def test_onset_places_a_clip_in_its_run():
    embed = trained()
    run = torch.randn(1, 5, 2, 3, 1, 13)
    torch.testing.assert_close(embed(run[..., 4:], 1.5, 6.0), embed(run, 1.5)[..., 4:])


def test_samples_of_a_batch_have_their_own_tr_and_onset():
    embed = trained()
    x = torch.randn(3, 5, 2, 3, 1, 7)
    trs, onsets = (0.72, 0.8, 2.0), (0.0, 100.0, 7.5)
    each = [embed(x[i : i + 1], tr, onset) for i, (tr, onset) in enumerate(zip(trs, onsets, strict=True))]
    # float64, as a data loader collates Python numbers
    torch.testing.assert_close(embed(x, torch.tensor(trs).double(), torch.tensor(onsets)), torch.cat(each))
    torch.testing.assert_close(embed(x, 0.8, torch.tensor(onsets))[1], each[1][0])
    torch.testing.assert_close(embed(x, torch.full((3,), 0.8)), embed(x, 0.8))


@pytest.mark.parametrize("tr", [0.0, -0.8, math.nan, math.inf])
def test_a_tr_that_is_no_time_is_refused(tr):
    x = torch.zeros(2, 5, 2, 3, 1, 7)
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        TimeEmbedding(5)(x, tr)
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        TimeEmbedding(5)(x, torch.tensor([0.8, tr]))


def test_a_missing_tr_is_not_guessed():
    with pytest.raises(TypeError, match="tr"):
        TimeEmbedding(5)(torch.zeros(2, 5, 2, 3, 1, 7))


def test_compile_and_export_with_dynamic_batch_and_length(monkeypatch):
    # dynamo does not trace the type checks that the tests add
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    embed = trained()
    x, tr = torch.randn(2, 5, 2, 3, 1, 7), torch.tensor([0.8, 2.0])
    other, other_tr = torch.randn(3, 5, 2, 3, 1, 11), torch.tensor([0.72, 0.8, 2.0])
    compiled = torch.compile(embed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 0.8), embed(x, 0.8))
    torch.testing.assert_close(compiled(x, tr), embed(x, tr))
    sizes = ({0: Dim("b"), 5: Dim("t")}, {0: Dim("b")})
    program = torch.export.export(embed, (x, tr), dynamic_shapes=sizes).module()
    torch.testing.assert_close(program(other, other_tr), embed(other, other_tr))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_seconds_are_counted_in_float32_whatever_the_type(dtype):
    embed = trained()
    x = torch.zeros(1, 5, 1, 1, 1, 20)
    y = embed(x, 0.8, onset=1000.0)
    low = embed.to(dtype)(x.to(dtype), 0.8, onset=1000.0)
    assert low.dtype == dtype
    assert (low.float() - y).abs().max() <= 0.02 * y.abs().max()


def test_meta_device_and_bounds():
    embed = TimeEmbedding(5, device="meta")
    x = torch.empty(2, 5, 2, 3, 1, 7, device="meta")
    assert embed(x, torch.empty(2, device="meta")).shape == x.shape
    with pytest.raises(ValueError, match=r"min_period 5\.0 and max_period 1\.0"):
        TimeEmbedding(5, min_period=5.0, max_period=1.0)
