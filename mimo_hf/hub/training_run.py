"""What every `training_run.json` says of where it was made."""

import datetime
import platform
import shlex
import sys
from importlib.metadata import version
from typing import Any


def run_facts(script: str, seed: int, device: str) -> dict[str, Any]:
    """
    The first entries of a training's record.

    Args:
        script: the script's path in this repository, as it would be typed.
        seed: of the training.
        device: type of the device that it ran on.

    Returns:
        `command`, as this process was called, `seed`, `versions`, `device` and `date`.
    """
    import torch
    import transformers

    return {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "mimo_hf": version("mimo_hf"),
        },
        "device": f"{device} ({platform.machine()}, torch threads: {torch.get_num_threads()})",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
