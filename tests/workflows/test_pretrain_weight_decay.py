import pytest
import torch
from torch import nn

from nstorm.layers import MambaMixer, MaskToken, PositionEmbedding4D, WindowAttention
from nstorm.nets import NeuroSTORM, SwiFT
from nstorm.workflows import weight_decay_groups

SMALL = {"img_size": (12, 12, 12, 4), "feature_size": 6, "depths": (1, 1), "num_classes": 2}


def names_without(net):
    groups = weight_decay_groups(net, 0.05)
    exempt = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in net.named_parameters() if id(parameter) in exempt}


@pytest.mark.parametrize("net", [NeuroSTORM(**SMALL), SwiFT(num_heads=(1, 2), **SMALL)], ids=["NeuroSTORM", "SwiFT"])
def test_each_parameter_is_in_one_group_once(net):
    groups = weight_decay_groups(net, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    sorted_ = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(sorted_) == sorted(map(id, net.parameters()))
    torch.optim.AdamW(groups, lr=1e-3)


def test_what_is_not_decayed():
    net = nn.ModuleDict(
        {
            "mamba": MambaMixer(4),
            "attention": WindowAttention(4, 2, (2, 2, 2, 2)),
            "position": PositionEmbedding4D(4, (2, 2, 2, 3)),
            "token": MaskToken(4, (2, 2, 2, 2)),
            "norm": nn.LayerNorm((3, 4)),
            "linear": nn.Linear(4, 4),
        }
    )
    assert names_without(net) == {
        "mamba.A_log",
        "mamba.D",
        "mamba.conv1d.bias",
        "mamba.dt_proj.bias",
        "attention.qkv.bias",
        "attention.proj.bias",
        "attention.relative_bias",
        "position.spatial",
        "position.temporal",
        "token.value",
        "norm.weight",
        "norm.bias",
        "linear.bias",
    }


def test_what_a_network_asks_for_itself():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.marked, self.listed = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
            self.marked._no_weight_decay = True

        def no_weight_decay(self):
            return {"listed", "not there"}

    assert names_without(nn.Sequential(Own(), nn.Linear(2, 2, bias=False))) == {"0.marked", "0.listed"}


def test_a_shared_parameter_follows_whoever_exempts_it():
    first, second = nn.Linear(3, 3, bias=False), MaskToken(3, (3, 1, 1, 1))
    first.weight = second.value
    net = nn.Sequential(first, second)
    groups = weight_decay_groups(net, 0.05)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.0, 1)]


def test_frozen_parameters_are_in_none():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).requires_grad_(False)
    net[1].requires_grad_(True)
    assert sum(len(group["params"]) for group in weight_decay_groups(net, 0.05)) == 2
    with pytest.raises(ValueError, match="Sequential has no parameter that is trainable"):
        weight_decay_groups(net.requires_grad_(False), 0.05)
