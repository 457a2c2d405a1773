"""What submitting an action gives: a handle."""

import asyncio
from typing import Any

from ..core.book import Entry, Lease
from ..core.types import Action


class ActionHandle:
    """
    An action on its way. `await handle` gives its result or raises its exception.

    Attributes:
        state: queued, starting, running, done, failed, cancelled or timed_out.
        lease: the grant it runs or ran under; None before.
        timing: submit_s, start_s, end_s by the scheduler's clock, as far as they have come; exec_s, what the action itself
            took; restore_s, where its service had to be brought to the device.
        attempt: 1, and one more after each lost worker.
    """

    def __init__(self, scheduler: Any, action: Action, payload: Any):
        self._scheduler = scheduler
        self.action = action
        self.payload = payload
        self.state = "queued"
        self.lease: Lease | None = None
        self.entry: Entry | None = None
        self.timing: dict[str, float] = {}
        self.attempt = 1
        self.future: asyncio.Future = scheduler.loop.create_future()
        self.task: asyncio.Task | None = None
        self.queue_timer: asyncio.TimerHandle | None = None
        self.number = 0
        self.sharers = 1  # equal `dedup_key`s share a handle

    def __repr__(self) -> str:
        return f"ActionHandle({self.action.kind!r}, {self.state}, attempt {self.attempt})"

    def __await__(self):
        return self.result().__await__()

    async def result(self) -> Any:
        """What `await handle` gives, on any loop."""
        if asyncio.get_running_loop() is self._scheduler.loop:
            return await asyncio.shield(self.future)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.result(), self._scheduler.loop))

    def done(self) -> bool:
        return self.future.done()

    def leave(self):
        """One of those who share it waits no longer: the last one to go cancels it. Callable from any thread."""
        self._scheduler.on_loop(self._scheduler.leave_handle, self)

    def cancel(self) -> bool:
        """Takes it out of the queue, or ends it if it runs; False if it has ended. Callable from any thread."""
        if self.future.done():
            return False
        self._scheduler.on_loop(self._scheduler.cancel_handle, self)
        return True
