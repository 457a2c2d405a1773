"""Counters of a scheduler, as Prometheus text and over HTTP. Label sets are bounded: no trajectory or task is a label."""

import asyncio
import contextlib
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
MAX_KINDS = 100
MOST_CONNECTIONS, LONGEST_S = 16, 5
MOST_LINE, MOST_HEADERS = 8192, 100


class Metrics:
    """What happened to actions so far."""

    def __init__(self):
        self.actions: Counter[tuple[str, str]] = Counter()
        self.act_s: dict[str, list[float]] = {}
        self.act_buckets: dict[str, list[int]] = {}
        self.queue_s = self.exec_s = self.total_s = 0.0
        self.switches = 0
        self._kinds: set[str] = set()

    def label(self, kind: str) -> str:
        """The kind, or "other" for kinds after the first hundred."""
        if kind not in self._kinds:
            if len(self._kinds) >= MAX_KINDS:
                return "other"
            self._kinds.add(kind)
        return kind

    def ended(self, kind: str, outcome: str, queue_s: float, exec_s: float, act_s: float):
        kind = self.label(kind)
        self.actions[kind, outcome] += 1
        total = self.act_s.setdefault(kind, [0, 0.0])
        total[0] += 1
        total[1] += act_s
        buckets = self.act_buckets.setdefault(kind, [0] * (len(BUCKETS_S) + 1))
        buckets[bisect_left(BUCKETS_S, act_s)] += 1
        self.queue_s += queue_s
        self.exec_s += exec_s
        self.total_s += act_s

    def summary(self) -> dict[str, float]:
        """Mean ACT and wait in seconds, and the share of ACT that is neither waiting nor running."""
        count = sum(self.actions.values())
        if not count:
            return {"actions": 0, "act_mean": 0.0, "queue_mean": 0.0, "overhead_frac": 0.0}
        overhead = max(0.0, self.total_s - self.queue_s - self.exec_s)
        return {
            "actions": count,
            "act_mean": self.total_s / count,
            "queue_mean": self.queue_s / count,
            "overhead_frac": overhead / self.total_s if self.total_s else 0.0,
        }

    def text(self, queue_depth: int, in_use: Mapping[str, float]) -> str:
        """Prometheus' text format."""
        lines = ["# TYPE mimo_actions_total counter"]
        lines += [
            f"mimo_actions_total{{kind={_quoted(kind)},outcome={_quoted(outcome)}}} {count}"
            for (kind, outcome), count in sorted(self.actions.items())
        ]
        lines.append("# TYPE mimo_act_seconds histogram")
        for kind, buckets in sorted(self.act_buckets.items()):
            below = 0
            for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
                below += count
                lines.append(f'mimo_act_seconds_bucket{{kind={_quoted(kind)},le="{edge}"}} {below}')
            lines.append(f"mimo_act_seconds_sum{{kind={_quoted(kind)}}} {self.act_s[kind][1]:.9g}")
            lines.append(f"mimo_act_seconds_count{{kind={_quoted(kind)}}} {below}")
        lines += ["# TYPE mimo_queue_depth gauge", f"mimo_queue_depth {queue_depth}", "# TYPE mimo_units_in_use gauge"]
        lines += [
            f"mimo_units_in_use{{resource={_quoted(name)}}} {amount:g}" for name, amount in sorted(in_use.items())
        ]
        lines += ["# TYPE mimo_service_switches_total counter", f"mimo_service_switches_total {self.switches}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


async def serve_metrics(text: Callable[[], str], port: int) -> asyncio.Server:
    """
    `GET /metrics` on 127.0.0.1.

    Raises:
        OSError: the port can't be used.
    """
    open_now: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        if len(open_now) < MOST_CONNECTIONS:  # every user of the machine can connect
            open_now.add(writer)
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(_answer(reader, writer, text), LONGEST_S)
            open_now.discard(writer)
        writer.close()

    try:
        return await asyncio.start_server(answer, "127.0.0.1", port, limit=MOST_LINE)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"`metrics_port={port}` can't be used: {reason}. Choose another; 0 takes a free one.") from error


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: Callable[[], str]):
    status, body = "400 Bad Request", b"not an HTTP request that is answered here\n"
    try:
        words = (await reader.readline()).split()
        for _ in range(MOST_HEADERS):
            if not (await reader.readline()).strip():
                status, body = _page(words, text)
                break
    except ValueError:  # a line without an end
        pass
    kind = "text/plain; version=0.0.4; charset=utf-8"
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    writer.write(body)
    await writer.drain()


def _page(words: list[bytes], text: Callable[[], str]) -> tuple[str, bytes]:
    if len(words) < 2 or words[0] != b"GET" or words[1].split(b"?")[0] not in (b"/", b"/metrics"):
        return "404 Not Found", b"not found\n"
    try:
        return "200 OK", text().encode()
    except (ArithmeticError, ValueError) as error:  # a number or a name of a caller that can't be written
        return "500 Internal Server Error", f"the metrics can't be written: {type(error).__name__}\n".encode()
