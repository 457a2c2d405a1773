"""What of an action's function travels to another process."""

import inspect
import os
import pickle
from functools import partial
from typing import Any

from ..core.types import Command, ServiceCall


class Pickled:
    """A callable that stays pickled until it reaches its worker."""

    __slots__ = ("main", "payload")

    def __init__(self, payload: bytes, main: Any = None):
        self.payload = payload
        self.main = main


def pack(fn: Any, here: bool = True) -> Any:
    """
    What an executor needs of `fn`: bytes for another process; a `ServiceCall` stays, and so does a coroutine function where
    the scheduler is in this process (`here`).

    Raises TypeError if it cannot be pickled.
    """
    if isinstance(fn, Pickled | ServiceCall):
        return fn
    inner = fn
    while isinstance(inner, partial):
        inner = inner.func
    if here and inspect.iscoroutinefunction(inner):
        return fn
    if not isinstance(fn, Command) and not callable(fn):
        raise TypeError(f"`fn` of an Action must be a callable, a Command or a ServiceCall, not {type(fn).__name__}.")
    try:
        payload = pickle.dumps(fn)
    except Exception as error:  # noqa: BLE001  pickle raises whatever it likes
        raise TypeError(
            f"`fn` of an Action must be picklable to run in another process, and {fn!r} is not ({error}); use a function of a "
            f"module, functools.partial of one, a Command, or an async function, which runs in this process."
        ) from None
    main = None
    if getattr(inner, "__module__", "") == "__main__" or b"__main__" in payload:
        from multiprocessing import spawn

        main = spawn.get_preparation_data(f"mimo-action-{os.getpid()}")
        main.pop("authkey", None)  # refuses to be pickled
    return Pickled(payload, main)
