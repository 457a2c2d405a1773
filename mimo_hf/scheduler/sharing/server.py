"""Answers clients of this machine: one task for each action they submit."""

import asyncio
import contextlib
import pickle
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from ..config import settings
from ..core.types import Action
from ..errors import SchedulerError
from .owner import SOCKET_PREFIX
from .wire import check_peer, frame, read_frame


class Server:
    """Listens on a socket in a folder that only this user can enter (pickles are code)."""

    def __init__(self, scheduler: Any):
        self._scheduler = scheduler
        self._folder = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX))
        self._server: Any = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = f"unix:{self._folder / 'socket'}"

    async def start(self):
        self._server = await asyncio.start_unix_server(self._client, str(self._folder / "socket"))

    def close(self):
        self._server.close()
        for writer in self._writers:
            writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        """Actions of a client that goes away are cancelled: nobody is left to take their results."""
        try:
            check_peer(writer)
        except PermissionError:
            writer.close()
            return
        self._writers.add(writer)
        running: dict[int, asyncio.Task] = {}
        try:
            while True:
                number, verb, content = await read_frame(reader)
                if verb == "cancel":
                    if number in running:
                        running[number].cancel()
                    continue
                task = asyncio.create_task(self._answer(writer, number, verb, content))
                running[number] = task
                task.add_done_callback(partial(_forget, running, number))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the scheduler closes
        finally:
            self._writers.discard(writer)
            for task in list(running.values()):
                task.cancel()
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, number: int, verb: str, content: bytes):
        word: str
        try:
            word, value = "done", await self._do(verb, pickle.loads(content))  # noqa: S301  `check_peer` has compared the users
        except asyncio.CancelledError:
            word, value = "cancelled", None
        except Exception as error:  # noqa: BLE001  it belongs to the client
            word, value = "failed", error
        try:
            message = frame(number, word, value)
        except Exception as error:  # noqa: BLE001  results that cannot travel
            message = frame(number, "failed", SchedulerError(f"the result cannot be sent to the client: {error}"))
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.write(message)
            await writer.drain()

    async def _do(self, verb: str, content: Any) -> Any:
        if verb == "run":
            return await self._scheduler.run(Action(**content))
        if verb == "stats":
            return self._scheduler.stats()
        if verb == "config":
            return settings(self._scheduler.config)
        if verb == "cancel_trajectory":
            return self._scheduler.cancel(content)
        if verb == "release":
            return self._scheduler.release(content)
        raise ValueError(f"`verb` must be a request that is known; got {verb!r}.")


def _forget(running: dict[int, asyncio.Task], number: int, task: asyncio.Task):
    running.pop(number, None)


async def serve(scheduler: Any) -> tuple[Server, str]:
    server = Server(scheduler)
    await server.start()
    return server, server.address
