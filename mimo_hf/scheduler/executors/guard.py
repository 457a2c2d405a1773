"""
Waits for its owner to die, then ends what the owner's workers started and removes its folder, its cgroups and its
containers: `python -m mimo_hf.scheduler.executors.guard OWNER FOLDER CONTAINERS`, with docker, podman or "" as CONTAINERS.

The owner writes to its standard input when it closes; the kernel closes that pipe however the owner ends, unless a forked child
of the owner holds it open.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

from ...processes import kill_trees
from .cpu import cgroup2_parent

CHECK_S = 0.5


def tagged(tag: str, leader: int | None = None) -> list[int]:
    """Living processes that a worker has started (see `kill_trees.tagged`)."""
    return kill_trees.tagged("MIMO_WORKER_TAG", tag, leader)


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    owner = int(sys.argv[1].partition("-")[0])
    while os.getppid() == owner and not select.select([sys.stdin], [], [], CHECK_S)[0]:
        continue
    for _ in range(100):
        left = tagged(f"{sys.argv[1]}-")
        if not left:
            break
        kill_trees.send(left, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    if (parent := cgroup2_parent()) is not None:
        for group in parent.glob(f"mimo-{sys.argv[1]}-*"):
            with contextlib.suppress(OSError):
                group.rmdir()
    if containers := sys.argv[3]:
        listed = [containers, "ps", "-aq", "--filter", f"name=mimo-{sys.argv[1]}-"]
        found = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603  docker or podman, and a tag of our making
        if found:
            subprocess.run([containers, "rm", "-f", *found], capture_output=True, check=False)  # noqa: S603  as above


if __name__ == "__main__":
    main()
