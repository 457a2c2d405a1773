"""An asyncio event loop whose clock jumps to the next timer: programs that only sleep run as fast as they compute."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jump(selectors.DefaultSelector):
    def __init__(self):
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("Nothing is left to wait for, and the program has not ended: it hangs.")
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Neither threads nor sockets: what comes from outside would come at any time."""

    def __init__(self):
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


def run_in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run` on a `VirtualTimeLoop`; RuntimeError where `work` would wait for ever, or leaves a task behind."""
    loop = VirtualTimeLoop()
    try:
        result = loop.run_until_complete(work)
        if left := asyncio.all_tasks(loop):
            raise RuntimeError(f"{len(left)} tasks were left behind.")
        return result
    finally:
        loop.close()
