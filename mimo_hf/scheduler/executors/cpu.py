"""This machine's cores, and how an action is kept on those it was given."""

import os
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTEST_XDIST_AUTO_NUM_WORKERS", "MIMO_ACTION_CORES")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def parse_cpu_list(text: str) -> list[int]:
    """ "0-3,8" is [0, 1, 2, 3, 8]."""
    cores: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


def numa_nodes(root: Path = Path("/sys/devices/system/node")) -> list[list[int]]:
    """Cores of each NUMA node that this process may use, SMT siblings next to each other."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    lists = [parse_cpu_list((path / "cpulist").read_text()) for path in sorted(root.glob("node[0-9]*"))]
    nodes = [[core for core in cores if core in allowed] for cores in lists]
    known = {core for node in nodes for core in node}
    if known != allowed:
        nodes = [sorted(allowed)]
    return [_siblings_together(node) for node in nodes if node]


def _siblings_together(cores: list[int], root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    ordered: list[int] = []
    for core in cores:
        path = root / f"cpu{core}/topology/thread_siblings_list"
        siblings = parse_cpu_list(path.read_text()) if path.exists() else [core]
        ordered += [sibling for sibling in siblings if sibling in cores and sibling not in ordered]
    return ordered


def enforcement(wanted: str, cgroup_root: Path = CGROUP_ROOT) -> str:
    """
    The level that works here: "cgroup2" (a writable version-2 subtree with cpuset and cpu), "affinity", or "count", which
    only tells the action how many cores it has. ValueError if the wanted one does not work.
    """
    works = {"count"}
    if hasattr(os, "sched_setaffinity"):
        works.add("affinity")
    if cgroup2_parent(cgroup_root) is not None:
        works.add("cgroup2")
    if wanted == "auto":
        return next(level for level in ("cgroup2", "affinity", "count") if level in works)
    if wanted not in works:
        raise ValueError(
            f"`cpu_enforce` must be one of {', '.join(sorted(works))} on this machine; got {wanted!r}, which does "
            "not work here."
        )
    return wanted


def cgroup2_parent(root: Path = CGROUP_ROOT) -> Path | None:
    """A version-2 group whose children we may create and limit, never the root itself; None without one."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        for folder in (root / own.strip("/"), root / "mimo"):
            control = folder / "cgroup.subtree_control"
            writable = folder != root and control.exists() and os.access(folder, os.W_OK)
            if writable and {"cpuset", "cpu"} <= set(control.read_text().split()):
                return folder
    except (OSError, StopIteration):
        return None
    return None


class CpuGroup:
    """The cgroup of one worker: its cores and quota are rewritten when an action starts and when it ends."""

    def __init__(self, parent: Path, name: str):
        self.path = parent / name
        self.path.mkdir(exist_ok=True)

    def admit(self, pid: int):
        (self.path / "cgroup.procs").write_text(str(pid))

    def give(self, cores: tuple[int, ...], amount: float):
        """Whole cores by their numbers; a part of one as a quota on any; no limit for an action that costs none."""
        (self.path / "cpuset.cpus").write_text(",".join(map(str, cores)))
        quota = 100_000 * (len(cores) or amount)
        (self.path / "cpu.max").write_text(f"{max(1000, round(quota))} 100000" if quota else "max 100000")

    def rest(self):
        """Between actions: a hundredth of a core."""
        (self.path / "cpu.max").write_text("1000 100000")

    def freeze(self, frozen: bool):
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")

    def remove(self):
        self.path.rmdir()


def pin(cores: tuple[int, ...]):
    """Puts every thread of this process on `cores`; what it starts later inherits them."""
    for thread in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ["0"]:
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:
            continue


def thread_variables(cores: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(max(1, cores)))
