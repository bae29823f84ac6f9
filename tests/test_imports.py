"""What an import costs: asked of a fresh interpreter, in modules rather than in seconds."""

import subprocess
import sys

import pytest

SLOW = {"torch", "monai", "timm", "nibabel", "sklearn", "matplotlib", "ignite", "numba"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import nstorm", set()),
        ("import nstorm.scan", {"torch"}),
        ("import nstorm; nstorm.layers.MambaMixer", {"torch"}),
        ("import nstorm; nstorm.nets.NeuroSTORM", {"torch"}),
        ("import nstorm; nstorm.data.load_bold", {"torch", "nibabel"}),
        ("import nstorm; nstorm.workflows.train_classifier", {"torch"}),
        ("import nstorm.cli", set()),
    ],
)
def test_import_loads_nothing_slow_that_it_does_not_need(statement, allowed):
    assert loaded_by(statement) & SLOW <= allowed


def test_subpackages_are_attributes():
    import nstorm

    assert set(dir(nstorm)) >= {"data", "layers", "nets", "scan", "workflows"}
    with pytest.raises(AttributeError, match="has no attribute 'models'"):
        _ = nstorm.models
