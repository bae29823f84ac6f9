"""Arguments that nets keep where they are given in unusual ways."""

import copy
import pickle

import numpy as np
import torch
from torch import nn

from nstorm.nets import NeuroSTORM
from nstorm.nets.arguments import keeps_arguments


@keeps_arguments
class Net(nn.Module):
    def __init__(self, size, *, depth=1):
        super().__init__()
        self.linear = nn.Linear(2, 2)


def test_numpy_arrays_are_lists():
    assert Net(np.array([24, 18, 24, 8])).arguments == {"size": [24, 18, 24, 8], "depth": 1}
    assert Net(np.float64([[0.5], [2]])).arguments["size"] == [[0.5], [2.0]]
    assert Net(np.array([nn.ReLU()])).arguments_not_kept == ["size"]


class Deeper(Net):
    def __init__(self, extra):
        super().__init__(3, depth=extra + 1)


@keeps_arguments
class Decorated(Deeper):
    def __init__(self, more=2):
        super().__init__(more)


class Inherits(Decorated):
    pass


class WideNeuroSTORM(NeuroSTORM):
    def __init__(self, width):
        super().__init__((12, 12, 12, 4), feature_size=6 * width, depths=(1,))


def test_a_constructor_of_ones_own_around_one_that_keeps():
    for net in (Deeper(1), copy.deepcopy(Deeper(1)), pickle.loads(pickle.dumps(Deeper(1)))):
        assert (net.arguments, net.arguments_not_kept) == ({}, ["arguments of Deeper.__init__"])
        assert torch.equal(copy.deepcopy(net).linear.weight, net.linear.weight)
    assert WideNeuroSTORM(2).arguments_not_kept == ["arguments of WideNeuroSTORM.__init__"]
    # the outermost knows all it was called with
    for cls in (Decorated, Inherits):
        assert (cls(5).arguments, cls(5).arguments_not_kept) == ({"more": 5}, [])


def test_positional_arguments_without_a_name_are_not_kept():
    @keeps_arguments
    class Many(nn.Module):
        def __init__(self, first, *sizes, last=1):
            super().__init__()

    assert (Many(1).arguments, Many(1).arguments_not_kept) == ({"first": 1, "last": 1}, [])
    assert (Many(1, 2, 3).arguments, Many(1, 2, 3).arguments_not_kept) == ({"first": 1, "last": 1}, ["sizes"])
