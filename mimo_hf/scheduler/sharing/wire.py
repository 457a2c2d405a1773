"""What clients and the scheduler say to each other: pickled requests and answers over a socket of this user."""

import asyncio
import os
import pickle
import socket
import struct
from dataclasses import fields
from typing import Any

from ..core.types import Action
from ..executors.worker import LENGTH, length

FIELDS = tuple(field.name for field in fields(Action))


def action_to_dict(action: Action, payload: Any) -> dict[str, Any]:
    return {**{name: getattr(action, name) for name in FIELDS}, "fn": payload}


def frame(number: int, word: str, content: Any) -> bytes:
    """A message whose content is a pickle of its own: one that cannot be read spoils nothing but its own request."""
    body = pickle.dumps((number, word, pickle.dumps(content)))
    return LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """
    Number, word and content of the next message.

    Raises:
        ConnectionError: what came is none; the connection is of no more use.
    """
    body = await reader.readexactly(length(await reader.readexactly(LENGTH.size)))
    try:
        number, word, content = pickle.loads(body)  # noqa: S301  both sides call `check_peer` first
    except Exception as error:  # noqa: BLE001  a pickle that is none raises anything
        raise ConnectionError(f"what came is no message of a scheduler ({type(error).__name__}).") from None
    return number, word, content


def check_peer(writer: asyncio.StreamWriter):
    """
    To be called before a byte is unpickled, on both sides: pickles are code.

    Raises:
        PermissionError: the process at the other end is another user's.
    """
    peer = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.getuid():
        raise PermissionError(
            f"the other end of the scheduler's socket is a process of user {uid}, not {os.getuid()}."
        )


async def open_address(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to "unix:/path"."""
    kind, _, path = address.partition(":")
    if kind != "unix" or not path:
        raise ValueError(f"`address` must be unix:/path, as `scheduler.address` shows it; got {address!r}.")
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        check_peer(writer)
    except PermissionError:
        writer.close()
        raise
    return reader, writer
