"""Writes a live run as the trace that the simulator reads."""

import json
from typing import Any

from ..simulate.trace import FORMAT, cost_as_json


class Recorder:
    """Appends one line for every action that has ended."""

    def __init__(self, path: str, nodes: dict[str, dict[str, float]], policy: str):
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by `close`
        self._line({"format": FORMAT, "version": 1, "nodes": nodes, "policy": policy})

    def write(self, handle: Any):
        action, lease, timing = handle.action, handle.lease, handle.timing
        start_s, end_s = timing.get("start_s"), timing["end_s"]
        line: dict[str, Any] = {"id": handle.number, "kind": action.kind, "cost": cost_as_json(action.cost)}
        for name in ("trajectory", "task", "env", "est_s"):
            if getattr(action, name) is not None:
                line[name] = getattr(action, name)
        if action.priority:
            line["priority"] = action.priority
        line["submit_s"] = timing["submit_s"]
        if lease is not None and start_s is not None:
            line.update(start_s=start_s, end_s=end_s, release_s=end_s, node=lease.node.name)
            if lease.units:
                line["units"] = lease.units
            if lease.cores:
                line["cores"] = list(lease.cores)
        else:
            line["t1_s"] = 0.0  # it never ran
        if "restore_s" in timing:
            line["restore_s"] = timing["restore_s"]
        line.update(attempt=handle.attempt, outcome=handle.state)
        self._line(line)

    def _line(self, content: dict[str, Any]):
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def close(self):
        self._file.close()
