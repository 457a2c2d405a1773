"""
Writes a benchmark's numbers to `benchmarks/results/<name>.json` with what is needed to judge and repeat them: command, seed,
date, commit, device, versions, and what else the machine did meanwhile.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from _timing import Load, is_busy

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("mimo_hf", "torch", "transformers", "trl", "kernels", "triton", "numpy")
SINCE_IMPORT = Load()


class BusyMachineError(SystemExit):
    """Timings from a busy machine were not put in the place of earlier ones."""


def force_option(parser: argparse.ArgumentParser):
    """`--force`, of a script whose results are timings."""
    parser.add_argument("--force", action="store_true", help="put the result on record even if the machine was busy")


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"CPU: {model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Of the checkout that the script lies in, with `+` where files differ from it; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def record(
    name: str,
    payload: dict,
    seed: int | None = None,
    command: str | None = None,
    folder: Path = RESULTS,
    *,
    timed: bool,
    force: bool = False,
) -> Path:
    """
    Args:
        name: file name without suffix.
        payload: the numbers, JSON-serialisable.
        command: how to repeat the run; None: this process's own command line.
        timed: the payload holds timings. Those of a busy machine never take the place of a result on record: they go to
            `<name>.busy.json` beside it.
        force: they do, all the same; the file says so.

    Raises:
        BusyMachineError: after writing `<name>.busy.json`; it names the file, the load and the way to insist.
    """
    script = Path(sys.argv[0]).resolve()
    own_command = shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])
    machine = SINCE_IMPORT.figures()
    busy = timed and is_busy(machine)
    content = {
        "command": command or own_command,
        "seed": seed,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": device_name(),
        "machine": machine | {"busy": busy} if timed else machine,
        "versions": versions(),
        **payload,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    refused = busy and not force and path.exists()
    written = path.with_suffix(".busy.json") if refused else path
    written.write_text(json.dumps(content, indent=2) + "\n")
    if refused:
        raise BusyMachineError(
            f"{path.name} stays as it is: other programs kept {machine['busy_cores_elsewhere']:.2f} of {machine['cores']} cores "
            f"busy during this run, whose figures are in {written.name}. Run it again on a quiet machine, or with --force."
        )
    return path
