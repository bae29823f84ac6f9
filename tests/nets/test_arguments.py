import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from nstorm.layers import BidirectionalMambaMixer, MambaMixer
from nstorm.nets import NeuroSTORM, SwiFT
from nstorm.nets.arguments import as_json, keeps_arguments

SMALL = {"feature_size": 12, "depths": (1, 1)}


def test_a_net_knows_what_it_was_built_with():
    net = NeuroSTORM(torch.Size((24, 30, 24, 8)), 1, depths=(1, 1), feature_size=12, order=("raster", "snake"))
    assert net.arguments_not_kept == []
    assert net.arguments["img_size"] == [24, 30, 24, 8]
    assert net.arguments["order"] == ["raster", "snake"]
    assert net.arguments["boundary"] == "wrap"
    assert json.loads(json.dumps(net.arguments)) == net.arguments
    again = NeuroSTORM(**net.arguments)
    assert again.arguments == net.arguments
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert copied.arguments == net.arguments


def test_the_outermost_constructor_counts():
    net = SwiFT((24, 24, 24, 8), num_heads=(2, 3), final_norm=True, **SMALL)
    assert net.arguments == {
        "img_size": [24, 24, 24, 8],
        "num_heads": [2, 3],
        "final_norm": True,
        "feature_size": 12,
        "depths": [1, 1],
    }
    assert net.arguments_not_kept == []


def test_what_json_cannot_hold_is_named():
    net = NeuroSTORM((24, 24, 24, 8), mixer=BidirectionalMambaMixer, **SMALL)
    assert net.arguments_not_kept == ["mixer"]
    assert "mixer" not in net.arguments
    # the default need not be held
    assert NeuroSTORM((24, 24, 24, 8), mixer=MambaMixer, **SMALL).arguments_not_kept == []


def test_an_argument_too_many_is_an_error_as_ever():
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_heads'"):
        NeuroSTORM((24, 24, 24, 8), num_heads=3, **SMALL)


def test_variadic_arguments_of_a_class_of_ones_own():
    @keeps_arguments
    class Net(nn.Module):
        """Its docstring stays."""

        def __init__(self, size: int, *, bias: bool = True, **others: object) -> None:
            super().__init__()

    assert Net.__doc__ == "Its docstring stays."
    net = Net(3, extra=nn.ReLU(), depth=2)
    assert net.arguments == {"size": 3, "bias": True, "depth": 2}
    assert net.arguments_not_kept == ["extra"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("wrap", "wrap"),
        (np.float32(0.5), 0.5),
        (((1, 2.5), ["a"]), [[1, 2.5], ["a"]]),
        ({"a": (1,)}, {"a": [1]}),
    ],
)
def test_values_as_json(value, expected):
    assert as_json(value) == expected
    assert type(as_json(value)) is type(expected)


@pytest.mark.parametrize("value", [nn.ReLU, [object()], {1: 2}, {"a": {3}}])
def test_values_that_json_cannot_hold(value):
    with pytest.raises(TypeError, match="has no counterpart in JSON"):
        as_json(value)
