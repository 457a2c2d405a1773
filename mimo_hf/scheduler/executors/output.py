"""What a command writes: read while it runs, and kept up to a bound."""

import contextlib
import fcntl
import os
import select
import subprocess
import termios

CHUNK = 1 << 16
LOOK_MS = 10


class Kept:
    """
    The first and the last half of what was added, in memory of at most one and a half times `limit`.

    Attributes:
        dropped: bytes left out between the two, as far as is known before `text`.
    """

    def __init__(self, limit: int):
        self._limit, self._first, self._last = limit, limit - limit // 2, limit // 2
        self._head, self._tail = bytearray(), bytearray()
        self.dropped = 0

    @property
    def held(self) -> int:
        return len(self._head) + len(self._tail)

    def add(self, part: bytes):
        room = self._first - len(self._head)
        if room > 0:
            self._head += part[:room]
            part = part[room:]
        self._tail += part
        if len(self._tail) > 2 * self._last + CHUNK:  # seldom: each cut moves what stays
            self._cut()

    def _cut(self):
        over = len(self._tail) - self._last
        if over > 0:
            del self._tail[:over]
            self.dropped += over

    def text(self) -> str:
        self._cut()
        if not self.dropped:
            return (self._head + self._tail).decode(errors="replace")
        mark = f"\n[... {self.dropped} bytes left out; `output_bytes` of the Command is {self._limit} ...]\n"
        return self._head.decode(errors="replace") + mark + self._tail.decode(errors="replace")


def collect(process: subprocess.Popen, limit: int) -> tuple[Kept, Kept]:
    """
    Reads both outputs until the process has ended. What it leaves in the background may hold them open without holding up the
    result.
    """
    out, error = Kept(limit), Kept(limit)
    streams = {process.stdout.fileno(): out, process.stderr.fileno(): error}  # type: ignore[union-attr]
    watch = select.poll()
    for stream in streams:
        watch.register(stream, select.POLLIN)
    with contextlib.ExitStack() as stack:
        end = _end_of(process.pid)
        if end is not None:
            stack.callback(os.close, end)
            watch.register(end, select.POLLIN)
        ended = False
        while not ended:
            ready = [stream for stream, _ in watch.poll(None if end is not None else LOOK_MS)]
            ended = end in ready if end is not None else process.poll() is not None
            for stream in ready:
                if stream == end:
                    continue
                part = os.read(stream, CHUNK)
                streams[stream].add(part)
                if not part:
                    watch.unregister(stream)
    for stream, kept in streams.items():
        _drain(stream, kept)
    return out, error


def _end_of(pid: int) -> int | None:
    """A descriptor that can be read once the process has ended; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _drain(stream: int, kept: Kept):
    """What is in the pipe now, and no more: others may still write."""
    waiting = int.from_bytes(fcntl.ioctl(stream, termios.FIONREAD, bytes(4)), "little")
    while waiting > 0 and (part := os.read(stream, min(CHUNK, waiting))):
        kept.add(part)
        waiting -= len(part)
