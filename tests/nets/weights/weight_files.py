"""Nets and files of weights for the tests."""

import pytest
import torch

from nstorm.nets import NeuroSTORM, NeuroSTORMMAE, save_pretrained
from tests.conftest import GOLDEN, relative_error

OLD_LAYOUT = GOLDEN / "published_pretrained_old_layout.ckpt"
CLASSIFIER = GOLDEN / "published_sex_classifier.ckpt"
IMG, SMALL = (24, 18, 24, 8), {"feature_size": 12, "depths": (1, 1)}


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
