"""Modules that have moved: for one release the old path of each gives its names, with a warning that says the new one."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Moved(MetaPathFinder, Loader):
    def __init__(self, places: Mapping[str, str]):
        self.places = places

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.places else None

    def exec_module(self, module: ModuleType):
        module.__getattr__ = forward(module.__name__, self.places[module.__name__])  # type: ignore[method-assign]


def forward(old: str, new: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: names of the module `old` come from the module `new`."""

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(import_module(new), name)
        warnings.warn(
            f"`{old}` has moved and goes with the next release: `{name}` is in `{new}`.", FutureWarning, stacklevel=2
        )
        return value

    return get


def moved(package: str, places: Mapping[str, str]):
    """
    Args:
        package: the one that both paths begin with.
        places: new names of modules within it by their old ones.
    """
    sys.meta_path.append(_Moved({f"{package}.{old}": f"{package}.{new}" for old, new in places.items()}))
