"""
Waiting actions, one queue for each set of resources, so that a scarce resource holds up only those who need it.

Who leaves out of turn stays listed, told by its `bucket`, until it comes to the head or the dead outnumber the waiting.
"""

import math
from bisect import bisect_left
from collections import deque
from heapq import heapify, heappop, heappush
from operator import attrgetter

from .book import Entry
from .policies import Policy

SLACK = 64


class Queue:
    """Waiting actions that need the same resources, in order of submission."""

    def __init__(self, priority: int, resources: frozenset[str], task, share, policy: Policy):
        self.priority = priority
        self.resources = resources
        self.task = task
        self.share = share
        self.policy = policy
        self.size = 0
        self._entries: deque[Entry] = deque()

    def key(self, now: float) -> tuple:
        """What the heads of several queues are compared by."""
        share = self.share.get(self.task, 0) if self.share is not None else 0
        return self.priority, share, self.head(now).seq

    def push(self, entry: Entry):
        """Behind those submitted before it: one that comes back from a decision, or from another queue, is no newcomer."""
        self.size += 1
        entries = self._entries
        if not entries or entries[-1].seq < entry.seq:
            entries.append(entry)
        else:
            entries.insert(bisect_left(entries, entry.seq, key=attrgetter("seq")), entry)

    def head(self, now: float) -> Entry:
        while self._entries[0].bucket is not self:
            self._entries.popleft()
        return self._entries[0]

    def pop(self, entry: Entry):
        """Takes the head."""
        entry.bucket = None
        self.size -= 1
        self._entries.popleft()

    def remove(self, entry: Entry):
        """Takes it out of turn."""
        entry.bucket = None
        self.size -= 1
        if len(self._entries) > 2 * self.size + SLACK:
            self._entries = deque(waiting for waiting in self._entries if waiting.bucket is self)

    def first(self, count: int) -> list[Entry]:
        found: list[Entry] = []
        for entry in self._entries:
            if len(found) >= count:
                break
            if entry.bucket is self:
                found.append(entry)
        return found


class OrderedQueue(Queue):
    """The same in the order "srpt" or "hrrn"."""

    def __init__(self, *args):
        super().__init__(*args)
        self._by_work: list[tuple[float, int, Entry]] = []
        self._by_deadline: list[tuple[float, int, Entry]] = []
        self._by_ratio: list[tuple[float, int, Entry]] = []
        self._ratios_at_s = -math.inf

    def key(self, now: float) -> tuple:
        share = self.share.get(self.task, 0) if self.share is not None else 0
        entry = self.head(now)
        overdue = self.policy.order == "srpt" and entry.deadline_s <= now
        rank = entry.t1_s if self.policy.order == "srpt" else -_response_ratio(entry, now)
        return self.priority, share, not overdue, rank, entry.seq

    def push(self, entry: Entry):
        self.size += 1
        entry.deadline_s = entry.submit_s + self.policy.max_overtake * entry.t1_s
        self._ratios_at_s = -math.inf
        heappush(self._by_work, (entry.t1_s, entry.seq, entry))
        if self.policy.order == "srpt":
            heappush(self._by_deadline, (entry.deadline_s, entry.seq, entry))

    def head(self, now: float) -> Entry:
        if self.policy.order == "hrrn":
            if self._ratios_at_s != now:  # they cross as time goes by
                waiting = (entry for _, _, entry in self._by_work if entry.bucket is self)
                self._by_ratio = [(-_response_ratio(entry, now), entry.seq, entry) for entry in waiting]
                heapify(self._by_ratio)
                self._ratios_at_s = now
            while self._by_ratio[0][2].bucket is not self:
                heappop(self._by_ratio)
            return self._by_ratio[0][2]
        while self._by_deadline[0][2].bucket is not self:
            heappop(self._by_deadline)
        if self._by_deadline[0][0] <= now:
            return self._by_deadline[0][2]
        while self._by_work[0][2].bucket is not self:
            heappop(self._by_work)
        return self._by_work[0][2]

    def pop(self, entry: Entry):
        self.remove(entry)

    def remove(self, entry: Entry):
        entry.bucket = None
        self.size -= 1
        if len(self._by_work) > 2 * self.size + SLACK:
            self._by_work = self._living(self._by_work)
        if len(self._by_deadline) > 2 * self.size + SLACK:
            self._by_deadline = self._living(self._by_deadline)

    def _living(self, heap: list[tuple[float, int, Entry]]) -> list[tuple[float, int, Entry]]:
        kept = [item for item in heap if item[2].bucket is self]
        heapify(kept)
        return kept

    def first(self, count: int) -> list[Entry]:
        waiting = {item[1]: item for item in self._by_work if item[2].bucket is self}.values()
        return [entry for _, _, entry in sorted(waiting, key=lambda item: item[:2])[:count]]


def _response_ratio(entry: Entry, now: float) -> float:
    return (now - entry.submit_s + entry.t1_s) / max(entry.t1_s, 1e-9)
