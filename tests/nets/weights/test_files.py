"""Reading files of weights, and above all the files that are none."""

import argparse
import collections
import hashlib
import os
import pathlib
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from nstorm.nets.weights.files import read_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


class Unknown:
    """A class that no file of weights should need."""


class Runs:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(Runs.path),)


def write(path, content):
    torch.save(content, path)
    return path


def read(path):
    return read_weights(path, path.name)


def assert_weights(file):
    assert file.tensors.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(file.tensors[name], value)


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        collections.OrderedDict(WEIGHTS),
        {"state_dict": WEIGHTS, "epoch": 3},
        {"net": WEIGHTS, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}},
        {"model": {name: torch.nn.Parameter(value) for name, value in WEIGHTS.items()}},
    ],
    ids=["plain", "ordered", "state_dict", "net", "parameters"],
)
def test_where_a_state_dict_may_be(tmp_path, content):
    file = read(write(tmp_path / "a.pt", content))
    assert_weights(file)
    assert not any(value.requires_grad for value in file.tensors.values())
    assert (file.source, file.kind, file.hyper_parameters) == ("a.pt", "state dict", {})
    assert file.sha256 == hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_namespaces_and_paths_are_read(tmp_path, legacy):
    hyper = argparse.Namespace(img_size=[96, 96, 96, 20], root=pathlib.Path("data"), nested={"a": (1, None)})
    torch.save(
        {"state_dict": WEIGHTS, "hyper_parameters": hyper, "pytorch-lightning_version": "1.9.4"},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    before = set(torch.serialization.get_safe_globals())
    file = read(tmp_path / "a.ckpt")
    assert_weights(file)
    assert file.hyper_parameters["img_size"] == [96, 96, 96, 20]
    assert file.kind == "Lightning checkpoint"
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([argparse.Namespace]):
        read(tmp_path / "a.ckpt")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_dicts_of_lightning_are_read_without_lightning(tmp_path, monkeypatch):
    class AttributeDict(dict):
        pass

    name = "lightning_fabric.utilities.data"
    for part in ("lightning_fabric", "lightning_fabric.utilities", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    AttributeDict.__module__, AttributeDict.__qualname__ = name, "AttributeDict"
    sys.modules[name].AttributeDict = AttributeDict
    write(tmp_path / "a.ckpt", {"state_dict": WEIGHTS, "hyper_parameters": AttributeDict(depths=[1, 2])})
    monkeypatch.undo()
    file = read(tmp_path / "a.ckpt")
    assert file.hyper_parameters == {"depths": [1, 2]}
    assert type(file.hyper_parameters) is dict


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_classes_are_refused_and_named(tmp_path, legacy):
    path = tmp_path / "a.ckpt"
    torch.save(
        {"state_dict": WEIGHTS, "hyper_parameters": {"a": Unknown()}}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match=r"^a\.ckpt holds more than weights, and nothing was read") as error:
        read(path)
    assert f"{Unknown.__module__}.Unknown" in str(error.value)
    assert "save a dict of nothing but its state_dict and its hyper_parameters" in str(error.value)
    assert "\n" not in str(error.value)


def test_code_in_a_file_is_not_run(tmp_path):
    Runs.path = tmp_path / "ran"
    write(tmp_path / "a.ckpt", {"state_dict": WEIGHTS, "callbacks": Runs()})
    with pytest.raises(ValueError, match=r"a\.ckpt holds more than weights.*mkdir"):
        read(tmp_path / "a.ckpt")
    assert not Runs.path.exists()


def test_a_whole_pickled_net_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds more than weights.*torch\.nn\.modules\.linear\.Linear"):
        read(write(tmp_path / "a.pt", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights at all", b"PK\x03\x04 cut off", b"\x80\x02}q\x00.", bytes(range(256)) * 20],
    ids=["empty", "text", "zip", "pickle", "bytes"],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
def test_files_that_are_no_weights(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^a\{suffix} (is damaged or|has to hold one state dict)") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_files_that_are_cut_off(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    weights = {name: torch.randn(50, 50) for name in "abc"}
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"^a\{suffix} is damaged or"):
        read(path)


def test_a_pointer_of_git_lfs(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_text("version https://git-lfs.example/spec/v1\noid sha256:12\nsize 93061240\n")
    with pytest.raises(ValueError, match=r"a\.ckpt is a pointer of Git LFS and not the weights.*git lfs pull"):
        read(path)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([torch.ones(2)], "none"),
        (torch.ones(2), "none"),
        ({}, "none"),
        ({"epoch": 3, "state_dict": {}}, "none"),
        ({"net": WEIGHTS, "ema": WEIGHTS}, r"2 \(net, ema\)"),
    ],
)
def test_files_without_one_state_dict(tmp_path, content, held):
    with pytest.raises(ValueError, match=rf"^a\.pt has to hold one state dict.*but it holds {held}: save a dict"):
        read(write(tmp_path / "a.pt", content))


def test_what_is_no_tensor_is_noted(tmp_path):
    file = read(write(tmp_path / "a.ckpt", {"state_dict": WEIGHTS | {"metric.values": [1, 2]}}))
    assert_weights(file)
    assert file.others == ["metric.values"]


def test_safetensors_of_others(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors", {"format": "pt", "net": "theirs"})
    file = read(tmp_path / "a.safetensors")
    assert_weights(file)
    assert (file.kind, file.net, file.arguments) == ("safetensors", None, None)


def test_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.ckpt")
