"""Whether a teacher is the one that a checkpoint was trained with."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

MANIFEST = "mopd_manifest.json"
SAMPLE = 16  # values of each tensor


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of some values of every tensor: other weights have another."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().flatten()
        places = torch.linspace(0, max(values.numel() - 1, 0), min(SAMPLE, values.numel())).long().to(values.device)
        digest.update(f"{name} {list(tensors[name].shape)} {values[places].float().tolist()}".encode())
    return digest.hexdigest()[:16]


def model_fingerprint(model: nn.Module) -> str:
    """Without adapters, whichever the model has."""
    own = {name: parameter for name, parameter in model.named_parameters() if ".lora_" not in name}
    return fingerprint({name.replace("base_layer.", ""): parameter for name, parameter in own.items()})


def file_sha256(folder: str) -> str | None:
    """Of an adapter's weights; None for one that is not in a local folder."""
    for path in sorted(Path(folder).glob("adapter_model.*")):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def write_manifest(folder: Path, teachers: Mapping[str, Any]) -> None:
    """Of each domain, what its teacher is."""
    (folder / MANIFEST).write_text(json.dumps(teachers, indent=2) + "\n", encoding="utf-8")


def differences(checkpoint: str, teachers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each teacher that is not the checkpoint's; what differs only in where it lies is the same."""
    path = Path(checkpoint, MANIFEST)
    if not path.is_file():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for name in sorted(before.keys() | teachers.keys()):
        if name not in teachers:
            found.append(f"{name!r} is missing")
        elif name not in before:
            found.append(f"{name!r} is new")
        else:
            fields = [key for key in sorted(before[name].keys() | teachers[name].keys()) if key != "source"]
            changed = [key for key in fields if before[name].get(key) != teachers[name].get(key)]
            found += [
                f"{name!r} has {key} {teachers[name].get(key)!r} instead of {before[name].get(key)!r}"
                for key in changed
            ]
    return found
