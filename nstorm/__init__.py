"""nstorm: building blocks for deep learning on 4D functional MRI; assembled, they are NeuroSTORM.

Subpackages load when they are first used, so that `import nstorm` is quick.
"""

import importlib
from importlib.metadata import version
from types import ModuleType

__version__ = version("nstorm")
__all__ = ["__version__", "data", "info", "layers", "losses", "nets", "plots", "scan", "workflows"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'nstorm' has no attribute {name!r}; its subpackages are {__all__[1:]}")
    return importlib.import_module(f"nstorm.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
