"""Faces whose names load on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(face: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the package `face`; `homes` says in which of its modules each name is."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {face!r} has no attribute {name!r}; it has {', '.join(homes)}")
        return getattr(import_module(f"{face}.{homes[name]}"), name)

    return load, lambda: sorted({*vars(import_module(face)), *homes})
