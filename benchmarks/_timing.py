"""Timings that can be quoted: things compared take turns, and each figure comes with its spread and the machine's load."""

import os
import statistics
import time
from collections.abc import Callable, Mapping

import psutil

STEADY = 0.15  # spread of the pairs above which a row is timed again, and marked if that does not help
QUIET = 0.05  # share of all cores that others may keep busy before a run counts as one on a busy machine


class Load:
    """What the rest of the machine did since this was made: neither this process nor those below it."""

    def __init__(self):
        self.began_s = time.monotonic()
        self.all_s, self.own_s = _all_processor_s(), _own_processor_s()
        self.load_average = os.getloadavg()[0]

    def figures(self) -> dict[str, float | int]:
        wall_s = max(time.monotonic() - self.began_s, 1e-3)
        others_s = (_all_processor_s() - self.all_s) - (_own_processor_s() - self.own_s)
        return {
            "cores": psutil.cpu_count() or 1,
            "busy_cores_elsewhere": round(max(0.0, others_s / wall_s), 3),
            "load_average_before": round(self.load_average, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "measured_for_s": round(wall_s, 1),
        }


def is_busy(load: Mapping) -> bool:
    """Whether others kept more than `QUIET` of the cores busy."""
    return load["busy_cores_elsewhere"] > QUIET * load["cores"]


def _all_processor_s() -> float:
    """Of all processes; what a hypervisor took away counts, since it slows us down all the same."""
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")  # guests' time is in user
    return sum(getattr(times, kind, 0.0) for kind in kinds)


def _own_processor_s() -> float:
    """Of this process, of all below it, and of those of them that have ended."""
    me, total = psutil.Process(), 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and the same of ended children
        except psutil.NoSuchProcess:
            continue
    return total


def in_turn(functions: Mapping[str, Callable[[], object]], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """
    Seconds of `repeats` calls of each function. They take turns, every other round backwards, so that a machine whose speed
    drifts meets all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for turn in range(-warmups, repeats):
        for name in order if turn % 2 == 0 else reversed(order):
            began = time.perf_counter()
            functions[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio_of(above: list[float], below: list[float]) -> dict[str, float]:
    """Pair by pair: median, least and largest ratio, and the spread: the middle half of the ratios over their median."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    middle = statistics.median(ratios)
    first, _, third = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [middle] * 3
    return {"ratio": middle, "ratio_min": ratios[0], "ratio_max": ratios[-1], "spread": (third - first) / middle}


def steady_ratio(
    functions: Mapping[str, Callable[[], object]],
    above: str,
    below: str,
    repeats: int,
    warmups: int = 1,
    attempts: int = 3,
) -> tuple[dict, dict[str, list[float]]]:
    """
    `ratio_of` two of the functions, timed in turn; once more, up to `attempts` times, while its spread is over `STEADY`.

    Returns:
        The figures of the steadiest attempt, with `steady`, `attempts`, `repeats` and `busy_cores_elsewhere`, and its seconds.
    """
    best: tuple[dict, dict[str, list[float]]] | None = None
    for attempt in range(1, attempts + 1):
        load = Load()
        seconds = in_turn(functions, repeats, warmups if attempt == 1 else 0)
        figures = ratio_of(seconds[above], seconds[below])
        figures |= {"busy_cores_elsewhere": load.figures()["busy_cores_elsewhere"], "repeats": repeats}
        if best is None or figures["spread"] < best[0]["spread"]:
            best = figures, seconds
        if best[0]["spread"] <= STEADY:
            break
    assert best is not None, "attempts is at least 1"
    return best[0] | {"steady": best[0]["spread"] <= STEADY, "attempts": attempt}, best[1]
