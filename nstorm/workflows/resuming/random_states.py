"""Sources of randomness: their state as what `torch.load(weights_only=True)` reads, and back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def random_states() -> dict[str, Any]:
    """The states of the global generators of torch, on the CPU and on GPUs that are in use, numpy and Python."""
    states = {
        "torch": torch.get_rng_state(),
        "numpy": _plain(np.random.get_state(legacy=False)),  # noqa: NPY002
        "python": list(random.getstate()),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Bring the global generators to states that `random_states` gave."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(_numpy_again(states["numpy"]))  # noqa: NPY002
    random.setstate(_pythons(states["python"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


@contextmanager
def random_states_aside(seed: int | None = None) -> Iterator[None]:
    """Leave the global generators as they are, whatever is drawn inside; on the CPU from a seed if one is given."""
    states = random_states()
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
        yield
    finally:
        set_random_states(states)


def state_of(generator: Generator) -> Any:
    """The state of one generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return list(generator.getstate())


def set_state(generator: Generator, state: Any) -> None:
    """Bring a generator to a state that `state_of` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _numpy_again(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_numpy_again(state))
    else:
        generator.setstate(_pythons(state))


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": str(state.dtype), "values": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _numpy_again(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    if state.keys() == {"dtype", "values"}:
        return np.array(state["values"], state["dtype"])
    return {key: _numpy_again(value) for key, value in state.items()}


def _pythons(state: Any) -> tuple[Any, ...]:
    version, internal, gauss = state
    return version, tuple(internal), gauss
