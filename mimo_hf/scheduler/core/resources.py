"""What is handed out: cores chosen by NUMA node, GPUs in buddy cells, quotas. All exact, none with a clock of its own."""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from .numbers import MOST_AMOUNT, MOST_UNITS, PARTS, counted, is_number, is_whole, shown


class Cores:
    """
    Which cores a lease gets: all from the fullest NUMA node that fits (best fit), else from as few nodes as possible.

    Args:
        nodes: core numbers of each NUMA node; SMT siblings next to each other stay together where possible.
    """

    def __init__(self, nodes: Sequence[Iterable[int]]):
        self._home = {core: index for index, node in enumerate(nodes) for core in node}
        self._rank = {core: rank for rank, core in enumerate(core for node in nodes for core in node)}
        self._free = [sorted(node, key=self._rank.__getitem__) for node in nodes]
        if len(self._home) != sum(len(free) for free in self._free):
            raise ValueError(f"`nodes` of Cores must name a core once; got {nodes!r}.")

    @property
    def free(self) -> int:
        return sum(len(free) for free in self._free)

    def take(self, count: int) -> tuple[int, ...]:
        """`count` free cores; ValueError if there are fewer."""
        if count > self.free:
            raise ValueError(f"{count} cores asked for, {self.free} are free.")
        fitting = [free for free in self._free if len(free) >= count]
        if fitting:
            nodes = [min(fitting, key=len)]
        else:
            nodes = sorted(self._free, key=len, reverse=True)
        taken: list[int] = []
        for free in nodes:
            part = free[: count - len(taken)]
            del free[: len(part)]
            taken += part
        return tuple(taken)

    def give(self, cores: Iterable[int]):
        """Takes cores back; ValueError if one of them is free already."""
        for core in cores:
            free = self._free[self._home[core]]
            if core in free:
                raise ValueError(f"core {core} was given back twice.")
            free.append(core)
        for free in self._free:
            free.sort(key=self._rank.__getitem__)


class GpuCells:
    """
    GPUs of one node in aligned blocks of 1, 2, 4, 8, ... (a buddy allocator).

    Args:
        gpus: how many; the largest block is the largest power of two within it.
    """

    def __init__(self, gpus: int):
        if not is_whole(gpus, 1, MOST_UNITS):
            raise ValueError(f"`gpus` of GpuCells must be a whole number from 1 to {MOST_UNITS}, not {shown(gpus)}.")
        self.gpus = gpus
        self._taken: dict[int, int] = {}  # start: size
        self._free: dict[int, set[int]] = {}  # size: starts
        start = 0
        while start < gpus:
            size = 1 << ((gpus - start).bit_length() - 1)
            while start % size:
                size //= 2
            self._free.setdefault(size, set()).add(start)
            start += size
        self._whole = [(start, size) for size, starts in self._free.items() for start in starts]
        self.largest = max(self._free)

    @staticmethod
    def size_of(count: int) -> int:
        """The block size that holds `count` GPUs."""
        return 1 << max(0, count - 1).bit_length()

    def fits(self, count: int) -> bool:
        size = self.size_of(count)
        return any(starts for free, starts in self._free.items() if free >= size)

    def take(self, count: int, prefer: Iterable[int] = ()) -> tuple[int, ...]:
        """
        An aligned free block, the smallest that is enough, `prefer`red starts first (where the service is resident).
        ValueError if none is free.
        """
        size = self.size_of(count)
        starts = self._free.get(size, set())
        wanted = [start for start in prefer if start in starts]
        if not starts and not wanted:
            larger = [free for free, blocks in self._free.items() if free > size and blocks]
            if not larger:
                raise ValueError(f"no aligned block of {size} GPUs is free.")
            free = min(larger)
            start = min(self._free[free])
            self._free[free].remove(start)
            while free > size:
                free //= 2
                self._free.setdefault(free, set()).add(start + free)
        else:
            start = wanted[0] if wanted else min(starts)
            starts.remove(start)
        self._taken[start] = size
        return tuple(range(start, start + size))

    def give(self, block: Sequence[int]):
        """Takes a block back and merges it with its free buddies; ValueError if it was not taken."""
        start, size = block[0], len(block)
        if self._taken.get(start) != size:
            raise ValueError(f"the block of {size} GPUs at {start} is not taken.")
        del self._taken[start]
        while (start, size) not in self._whole:
            buddy = start ^ size
            if buddy not in self._free.get(size, set()):
                break
            self._free[size].remove(buddy)
            start, size = min(start, buddy), size * 2
        self._free.setdefault(size, set()).add(start)

    @property
    def free(self) -> int:
        return sum(size * len(starts) for size, starts in self._free.items())

    def blocks(self) -> list[tuple[int, int, bool]]:
        """(start, size, taken) of every block in order; together they are all GPUs."""
        taken = [(start, size, True) for start, size in self._taken.items()]
        return sorted(taken + [(start, size, False) for size, starts in self._free.items() for start in starts])


class Concurrency:
    """At most `limit` at once."""

    def __init__(self, limit: int):
        if not is_number(limit, 1):
            raise ValueError(f"`limit` of Concurrency must be a number from 1 to {MOST_AMOUNT:g}, not {shown(limit)}.")
        self.limit = self.allowed = float(limit)
        self._used = 0

    @property
    def in_use(self) -> float:
        return self._used / PARTS

    @property
    def most(self) -> float:
        return self.limit

    def fits(self, amount: float, now: float) -> bool:
        count = counted(amount)
        return self._used + count <= max(count, math.floor(self.allowed) * PARTS)

    def take(self, amount: float, now: float):
        self._used += counted(amount)

    def give(self, amount: float, now: float):
        self._used -= counted(amount)

    def ready_s(self, amount: float, now: float) -> float:
        """When to look again; infinity: when something is given back."""
        return math.inf

    def refused(self, now: float, retry_after_s: float = 0.0):
        """The provider answered 429: half as many at once from now on (AIMD)."""
        self.allowed = max(1.0, self.allowed / 2)

    def succeeded(self, now: float):
        """Regrows by about one for every round of `allowed` calls."""
        self.allowed = min(self.limit, self.allowed + 1 / self.allowed)


class TokenBucket:
    """`rate` calls a second on average and at most `burst` at once: in any window of T seconds, rate T + burst calls."""

    def __init__(self, rate: float, burst: float):
        if not (is_number(rate) and rate > 0 and is_number(burst, 1)):
            raise ValueError(
                f"`TokenBucket` must have a rate above 0 and a burst from 1, up to {MOST_AMOUNT:g}; got "
                f"rate={shown(rate)}, burst={shown(burst)}."
            )
        self.limit = self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at_s = -math.inf
        self._closed_until_s = -math.inf

    @property
    def most(self) -> float:
        return self.burst

    def _refill(self, now: float):
        if now > self._at_s:  # a clock that jumps back gives nothing
            if self._at_s > -math.inf:
                tokens = min(self.burst, self._tokens + self.rate * (now - self._at_s))
                if tokens == self._tokens < self.burst:
                    return  # too little to count: it has to add up
                self._tokens = tokens
            self._at_s = now

    def fits(self, amount: float, now: float) -> bool:
        self._refill(now)
        return now >= self._closed_until_s and self._tokens >= amount - 1e-9

    def take(self, amount: float, now: float):
        self._refill(now)
        self._tokens -= amount

    def give(self, amount: float, now: float):
        """A call that ended gives nothing back; time does."""

    def ready_s(self, amount: float, now: float) -> float:
        self._refill(now)
        return max(self._closed_until_s, now + max(0.0, amount - self._tokens) / self.rate)

    def refused(self, now: float, retry_after_s: float = 0.0):
        """429: half the rate, and nothing before `retry_after_s` has passed."""
        self._refill(now)
        self.rate = max(self.limit / 64, self.rate / 2)
        self._closed_until_s = max(self._closed_until_s, now + retry_after_s)

    def succeeded(self, now: float):
        self._refill(now)
        self.rate = min(self.limit, self.rate + self.limit / 100)


class Window:
    """At most `limit` calls in any `per_s` seconds."""

    def __init__(self, limit: int, per_s: float):
        if not (is_number(limit, 1) and is_number(per_s) and per_s > 0):
            raise ValueError(
                f"`Window` must have a limit from 1 and a time above 0, up to {MOST_AMOUNT:g}; got "
                f"limit={shown(limit)}, per_s={shown(per_s)}."
            )
        self.limit, self.per_s = limit, per_s
        self._calls: deque[tuple[float, int]] = deque()  # when, and how many, `counted`
        self._limit = counted(limit)
        self._used = 0
        self._closed_until_s = -math.inf

    @property
    def most(self) -> float:
        return self.limit

    def fits(self, amount: float, now: float) -> bool:
        while self._calls and self._calls[0][0] + self.per_s <= now:
            self._used -= self._calls.popleft()[1]
        return now >= self._closed_until_s and self._used + counted(amount) <= self._limit

    def take(self, amount: float, now: float):
        count = counted(amount)
        self._calls.append((max(now, self._calls[-1][0]) if self._calls else now, count))
        self._used += count

    def give(self, amount: float, now: float):
        """A call that ended still counts until its window has passed."""

    def ready_s(self, amount: float, now: float) -> float:
        used, count = self._used, counted(amount)
        for at_s, taken in self._calls:
            if used + count <= self._limit:
                break
            used -= taken
            now = max(now, at_s + self.per_s)
        return max(now, self._closed_until_s)

    def refused(self, now: float, retry_after_s: float = 0.0):
        self._closed_until_s = max(self._closed_until_s, now + (retry_after_s or self.per_s))

    def succeeded(self, now: float):
        """Nothing to regrow: the window is exact."""


Quota = Concurrency | TokenBucket | Window
