"""A search provider on the loopback interface that answers 429 beyond its rate, and a call of it."""

import asyncio
import threading
import time

from mimo_hf.scheduler import QuotaRefused
from mimo_hf.scheduler.core.resources import TokenBucket


class Provider:
    """
    `GET /SECONDS` answers 200 after so many seconds, or at once 429 with Retry-After. In a thread of its own.

    Args:
        rate, burst: what it lets through (a token bucket).

    Attributes:
        answered, refused: how many calls of each.
    """

    def __init__(self, rate: float, burst: float):
        self.answered = self.refused = 0
        self._bucket = TokenBucket(rate, burst)
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()

    def __enter__(self) -> "Provider":
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self):
        server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        seconds = float((await reader.readuntil(b"\r\n\r\n")).split()[1].strip(b"/"))
        now = time.monotonic()
        if self._bucket.fits(1, now):
            self._bucket.take(1, now)
            self.answered += 1
            await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            self.refused += 1
            wait_s = self._bucket.ready_s(1, now) - now
            writer.write(
                f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {wait_s:.3f}\r\nContent-Length: 0\r\n\r\n".encode()
            )
        writer.close()


async def search(port: int, seconds: float):
    """Raises QuotaRefused for a 429."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /{seconds:.6f} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    finally:
        writer.close()
    if head[0].split()[1] == "429":
        headers = dict(line.split(": ") for line in head[1:] if line)
        raise QuotaRefused(retry_after_s=float(headers["Retry-After"]))
