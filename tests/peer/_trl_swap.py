"""
A pytest plugin: TRL's trainer tests with the trainer that `PEER_TRAINER` names in the place of `GRPOTrainer`, and the weights that
each training ends with, as lines of JSON in the file that `PEER_WEIGHTS` names.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import random
import re
from typing import Any

import pytest

CONTROL = "GRPOTrainer"
# Names of the Hub in a test's source; `_trl_stand_ins.py` lays models and texts under some of them into the working folder.
HUB_NAMES = re.compile(r"[\"']((?:trl-internal-testing|Qwen|HuggingFaceTB|kernels-community)/[\w.-]+)[\"']")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: as TRL marks it")
    add_missing_checks()


def add_missing_checks():
    """Tests of another version of TRL may ask for packages that the installed one has no check for."""
    import trl.import_utils as checks

    def __getattr__(name: str):
        match = re.fullmatch(r"is_(\w+)_available", name)
        if match is None:
            raise AttributeError(name)
        return lambda: importlib.util.find_spec(match[1]) is not None

    if not hasattr(checks, "__getattr__"):
        checks.__getattr__ = __getattr__


def trainer_and_config(name: str):
    """The trainer of that name and its configuration, with every feature off and TRL's own clipping."""
    import torch
    import trl

    if name == CONTROL:
        return trl.GRPOTrainer, trl.GRPOConfig
    import mimo_hf.trainers

    trainer: Any = getattr(mimo_hf.trainers, name)
    parent: Any = trainer._default_config

    @dataclasses.dataclass
    class Config(parent):
        epsilon_high: float | None = None
        use_cpu: bool = (
            not torch.accelerator.is_available()
        )  # TRL's conftest sets it later, when `bf16` is chosen here

    Config.__qualname__ = "Config"  # a checkpoint pickles its configuration by this name
    globals()["Config"] = Config
    trainer._default_config = Config
    return trainer, Config


def put(modules, trainer: type, config: type):
    """In tests that name them, these two stand for TRL's."""
    for module in modules:
        for name, ours in (("GRPOTrainer", trainer), ("GRPOConfig", config)):
            if hasattr(module, name):
                setattr(module, name, ours)


def missing(function, values=()) -> list[str]:
    """Names of the Hub in a test's source and parameters that have no stand-in in the working folder."""
    named = HUB_NAMES.findall(inspect.getsource(function))
    named += [value for value in values if isinstance(value, str) and "/" in value]
    return sorted({name for name in named if not os.path.isdir(name)})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    put({item.module for item in items}, *trainer_and_config(os.environ.get("PEER_TRAINER", CONTROL)))
    for item in items:
        parameters = item.callspec.params.values() if getattr(item, "callspec", None) else ()
        names = missing(item.function, parameters)
        if names:
            item.add_marker(pytest.mark.skip(reason=f"no stand-in for {', '.join(names)}"))


@pytest.fixture(autouse=True)
def seeded():
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 - the state that code under test may draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def weights_are_recorded(monkeypatch, request):
    import transformers

    train = transformers.Trainer.train

    def recording(self, *arguments, **options):
        result = train(self, *arguments, **options)
        line = {"test": request.node.nodeid, "weights": digest(self.model.state_dict())}
        with open(os.environ["PEER_WEIGHTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return result

    monkeypatch.setattr(transformers.Trainer, "train", recording)


def digest(weights: dict) -> str:
    """Of names and values; every type of the weights fits into float64 without loss."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().to("cpu", torch.float64).numpy().tobytes())
    return found.hexdigest()[:16]
