"""`SchedulerClient`: what other processes of the machine hold of its scheduler. It pickles, and reconnects by address."""

import asyncio
import itertools
import os
import pickle
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from ..config import SchedulerConfig, settings
from ..core.types import Action, ServiceCall
from ..errors import SchedulerError, SchedulerLost
from ..executors.payload import pack
from .owner import ADDRESS_VARIABLE, current_owner
from .wire import action_to_dict, frame, open_address, read_frame


class _Connection:
    """One socket of one event loop, shared by its requests."""

    def __init__(self):
        self.numbers = itertools.count()
        self.waiting: dict[int, asyncio.Future] = {}
        self.writer: asyncio.StreamWriter | None = None
        self.reading: asyncio.Task | None = None
        self.opening = asyncio.Lock()

    @property
    def ended(self) -> bool:
        return self.reading is not None and self.writer is None

    async def open(self, address: str):
        """Once, whoever asks first."""
        async with self.opening:
            if self.reading is not None:
                return
            try:
                reader, self.writer = await open_address(address)
            except OSError as error:
                raise SchedulerLost(f"no scheduler answers at {address}: {error}") from error
            self.reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader):
        try:
            while True:
                number, word, content = await read_frame(reader)
                future = self.waiting.pop(number, None)
                if future is not None and not future.done():
                    _settle(future, word, content)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            self.writer = None
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(SchedulerLost("the scheduler went away before the action ended."))
            self.waiting.clear()


def _settle(future: asyncio.Future, word: str, content: bytes):
    if word == "cancelled":
        future.cancel()
        return
    try:
        value = pickle.loads(content)  # noqa: S301  from the owner, whose user `check_peer` has compared
    except Exception as error:  # noqa: BLE001  such as a class that this process does not have
        word, value = "failed", SchedulerError(f"the answer cannot be read here: {type(error).__name__}: {error}")
    if word == "failed":
        future.set_exception(value)
    else:
        future.set_result(value)


class SchedulerClient:
    """
    The interface of `ActionScheduler` from another process: `submit`, `run`, `map`, `run_sync`, `cancel`, `release`, `stats`.

    Args:
        address: of the scheduler, as its `address` shows; None: `$MIMO_SCHED_ADDR`, else the owner of this machine's lock.
            SchedulerLost if there is none.
    """

    def __init__(self, address: str | None = None):
        owner = current_owner() if address is None and ADDRESS_VARIABLE not in os.environ else None
        address = address or os.environ.get(ADDRESS_VARIABLE) or (owner or {}).get("address")
        if not address:
            raise SchedulerLost(
                f"no scheduler runs on this machine: start an ActionScheduler, or set {ADDRESS_VARIABLE}."
            )
        self.address = address
        self._forget()

    def _forget(self):
        self._pid = os.getpid()
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}
        self._lock = threading.Lock()
        self._own_loop: asyncio.AbstractEventLoop | None = None

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}

    def __setstate__(self, state: dict[str, str]):
        self.address = state["address"]
        self._forget()

    def __repr__(self) -> str:
        return f"SchedulerClient({self.address!r})"

    async def _request(self, verb: str, content: Any) -> Any:
        if self._pid != os.getpid():
            self._forget()  # a fork shares neither loops nor sockets
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None or connection.ended:
            self._connections = {known: c for known, c in self._connections.items() if not known.is_closed()}
            connection = self._connections[loop] = _Connection()
        await connection.open(self.address)
        writer = connection.writer
        if writer is None:
            raise SchedulerLost(f"the scheduler at {self.address} went away.")
        number = next(connection.numbers)
        message = frame(number, verb, content)
        future = connection.waiting[number] = loop.create_future()
        try:
            writer.write(message)
            try:
                await writer.drain()
            except OSError as error:
                raise SchedulerLost(f"the scheduler at {self.address} went away: {error}") from error
            return await future  # whose exception may be an OSError of the action's own
        except asyncio.CancelledError:
            if connection.writer is not None:
                connection.writer.write(frame(number, "cancel", None))
            raise

    async def run(self, action: Action) -> Any:
        """Submits and waits. If the waiting task is cancelled, so is the action."""
        fn = action.fn
        payload = fn if isinstance(fn, ServiceCall) else pack(fn, here=False)
        return await self._request("run", action_to_dict(action, payload))

    async def submit(self, action: Action) -> asyncio.Task:
        """A task with the result; cancelling it cancels the action."""
        return asyncio.create_task(self.run(action))

    async def map(self, actions: Iterable[Action], return_exceptions: bool = False) -> list[Any]:
        """Runs actions at once; results in their order."""
        return await asyncio.gather(*(self.run(action) for action in actions), return_exceptions=return_exceptions)

    def run_sync(self, action: Action) -> Any:
        """Submits and waits, from any thread, with or without a running loop."""
        return self.start(action).result()

    def start(self, action: Action) -> Future:
        """Submits from any thread, without waiting: a `concurrent.futures.Future` with the result."""
        return asyncio.run_coroutine_threadsafe(self.run(action), self._loop())

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if self._own_loop is None:
                self._own_loop = asyncio.new_event_loop()
                threading.Thread(target=self._own_loop.run_forever, name="mimo-client", daemon=True).start()
            return self._own_loop

    def _ask(self, verb: str, content: Any = None) -> Any:
        return asyncio.run_coroutine_threadsafe(self._request(verb, content), self._loop()).result()

    def expect(self, config: SchedulerConfig | None) -> "SchedulerClient":
        """This client; ValueError if the scheduler's settings are not those of `config`: they would not come into force."""
        if config is not None:
            theirs, ours = self._ask("config"), settings(config)
            other = {name: value for name, value in ours.items() if theirs.get(name) != value}
            if other:
                listed = ", ".join(f"{name}={theirs.get(name)!r}, not {value!r}" for name, value in other.items())
                raise ValueError(
                    f"`config` must be that of the scheduler at {self.address}, which runs with {listed}. Connect without "
                    "a config to share it as it is."
                )
        return self

    def stats(self) -> dict[str, Any]:
        """See `ActionScheduler.stats`."""
        return self._ask("stats")

    def client(self) -> "SchedulerClient":
        """Itself: what a scheduler's `client()` gives."""
        return self

    def cancel(self, trajectory: str) -> int:
        """Cancels a trajectory's actions and gives back what it held."""
        return self._ask("cancel_trajectory", trajectory)

    def release(self, home: str):
        """Ends a trajectory or environment."""
        self._ask("release", home)
