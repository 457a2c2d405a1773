"""Faces whose names load on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(face: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    `__getattr__` and `__dir__` of the package `face`.

    Args:
        names: by each of its modules the names that come from it, with spaces between. No module has the name of what it holds: it would
            take its place.
    """
    homes = {name: module for module, held in names.items() for name in held.split()}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {face!r} has no attribute {name!r}; it has {', '.join(sorted(homes))}")
        return getattr(import_module(f"{face}.{homes[name]}"), name)

    return load, lambda: sorted({*homes, *(name for name in vars(import_module(face)) if name.startswith("_"))})
