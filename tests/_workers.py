"""Which tests go to one process when they run in several (`pytest -n`): those of a file, or of files that share something costly."""

import re

from xdist.scheduler import LoadFileScheduling

# Each of these has something costly for a session: a warm Python, a browser, a published folder.
TOGETHER = {
    "tests/examples/": "warm python",
    "tests/trainers/judge_rlvr/test_judge_rlvr.py": "warm python",
    "tests/spaces/": "browser",
    "tests/hub/test_publish": "published",
    "tests/hub/test_upgrade.py": "published",
    "tests/hub/test_private.py": "published",
}
# Each of its parameters compiles for itself.
APART = ("tests/kernels/test_aot.py",)


def unit(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    if file in APART:
        return file + "".join(re.findall(r"\[.*\]", nodeid))
    return next((name for start, name in TOGETHER.items() if file.startswith(start)), file)


class Scheduler(LoadFileScheduling):
    def _split_scope(self, nodeid):
        return unit(nodeid)


def longest_first(items):
    """By unit, those with the most slow tests first: a long one that begins late would keep the other processes waiting."""
    slow: dict[str, int] = {}
    for item in items:
        slow[unit(item.nodeid)] = slow.get(unit(item.nodeid), 0) - (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: slow[unit(item.nodeid)])
