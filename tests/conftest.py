import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


class Golden(NamedTuple):
    """Numbers from the published code: `tensors`, the constructor arguments `config`, the network's `input`."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    input: Tensor | None

    def with_prefix(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load_golden(name: str) -> Golden:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    made = None
    if "input" in metadata and "x_head" in tensors:
        # "torch.manual_seed(S); x = torch.randn([...])"
        seed, shape = metadata["input"].split("; x = torch.randn(")
        torch.manual_seed(int(seed.removeprefix("torch.manual_seed(").removesuffix(")")))
        made = torch.randn(json.loads(shape.removesuffix(")")))
        assert torch.equal(made.flatten()[:16], tensors["x_head"])
    return Golden(tensors, metadata.get("config", metadata), made)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """max |a - b| / max |b|, the measure of the golden table."""
    assert value.shape == expected.shape
    value, expected = value.double(), expected.double()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return ((value - expected).abs().max() / scale).item()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _compiled_code_is_forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """Or the tests that compile would together reach the limit of variants of one function."""
    yield
    if "compile" in request.node.name:
        torch.compiler.reset()
