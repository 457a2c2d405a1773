"""One computation at a time, also where Gradio takes a call for ended: a cancelled one gives its place away and runs on."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

MAX_CALLS = 8  # the one that computes, and those that wait; Gradio's own queue lets in one at a time, so the others were cancelled
_turn, _places = threading.Lock(), threading.BoundedSemaphore(MAX_CALLS)


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which one runs at a time, whatever it is called by; gr.Error at once if too many wait already."""

    @wraps(function)
    def waiting(*args: Any, **kwargs: Any) -> Any:
        if not _places.acquire(blocking=False):
            raise gr.Error(
                f"The simulator is busy: {MAX_CALLS} calls are computed or wait. Try again in a moment.",
                print_exception=False,
            )
        try:
            with _turn:
                return function(*args, **kwargs)
        finally:
            _places.release()

    return waiting
