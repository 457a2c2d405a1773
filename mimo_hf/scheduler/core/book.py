"""The capacity book: nodes, the actions that wait for them, and the leases they hold."""

import math
from collections.abc import Mapping
from typing import Any

from .numbers import MOST_AMOUNT, PARTS, counted, is_name, is_number, shown
from .policies import SortedEnds
from .resources import Cores, GpuCells
from .types import Shape


class Node:
    """
    One machine's part of the capacity book.

    Attributes:
        total, left: what there is of each resource and what is free, `counted`.
    """

    def __init__(
        self, name: str, capacity: Mapping[str, float], cores: Cores | None = None, gpus: GpuCells | None = None
    ):
        for resource, amount in capacity.items():
            if not (is_name(resource) and is_number(amount)):
                raise ValueError(
                    f"{shown(resource)} on node {shown(name)} must be a number from 0 to {MOST_AMOUNT:g}, and its name a "
                    f"word without control characters; got {shown(amount)}."
                )
        self.name = name
        self.capacity = dict(capacity)
        self.total = {resource: counted(amount) for resource, amount in capacity.items()}
        self.left = dict(self.total)
        self.cores = cores
        self.gpus = gpus
        self.ends: dict[str, SortedEnds] = {}

    def most(self, key: str) -> int:
        """The most units of a resource that one action can get here, when all are free."""
        units = int(self.capacity.get(key, 0))
        return units if key != "gpu" or self.gpus is None else min(units, self.gpus.largest)

    @property
    def free(self) -> dict[str, float]:
        """What is free of each resource."""
        return {resource: count / PARTS for resource, count in self.left.items()}

    def finishes(self, key: str, count: int) -> list[tuple[float, int]]:
        return self.ends[key].first(count) if key in self.ends else []


class Entry:
    """An action in the queue."""

    __slots__ = (
        "action",
        "attempt",
        "block",
        "bucket",
        "deadline_s",
        "home",
        "node",
        "overtaken",
        "seq",
        "shape",
        "submit_s",
        "t1_s",
        "units",
    )

    def __init__(self, action: Any, seq: int, shape: Shape, submit_s: float, t1_s: float, attempt: int):
        self.action = action
        self.seq = seq
        self.shape = shape
        self.submit_s = submit_s
        self.t1_s = t1_s
        self.attempt = attempt
        self.units = 0
        self.node: Any = None
        self.bucket: Any = None
        self.block: tuple[int, ...] = ()
        self.home: str | None = None
        self.overtaken = 0
        self.deadline_s = math.inf


class Lease:
    """
    A grant: `units` of the key resource `key` and all fixed costs of `action`, on `node`, from `t_grant_s` on.

    Attributes:
        cores, gpus: which ones, where the node names them.
    """

    __slots__ = (
        "action",
        "attempt",
        "cores",
        "end_s",
        "entry",
        "gpus",
        "key",
        "node",
        "released",
        "seq",
        "submit_s",
        "t_grant_s",
        "units",
    )

    def __init__(self, entry: Entry, now: float):
        self.entry = entry
        self.action = entry.action
        self.seq = entry.seq
        self.attempt = entry.attempt
        self.node = entry.node
        self.key = entry.shape.key
        self.units = entry.units
        self.submit_s = entry.submit_s
        self.t_grant_s = now
        self.end_s = 0.0
        self.cores: tuple[int, ...] = ()
        self.gpus: tuple[int, ...] = entry.block
        self.released = False

    @property
    def resources(self) -> dict[str, float]:
        """Amount of each resource."""
        fixed: dict[str, float] = {resource: amount for resource, amount, _ in self.entry.shape.fixed}
        return fixed if self.key is None else {**fixed, self.key: self.units}
