"""Who may import whom: every import statement in the source folders is checked against the tables below."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Where each source folder stands in the package. kernels/ stands nowhere: its name here only resolves relative imports.
FOLDERS = {
    "mimo_hf": "mimo_hf",
    "modeling": "mimo_hf.modeling",
    "trainers": "mimo_hf.trainers",
    "kernels": "mimo_hf.kernels",
}

# A room may import itself and the rooms in its line ("scheduler.sharing.client" is that one module). Only TOP may import all.
TOP = {"__init__", "__main__", "cli", "command_kit", "demo", "recipe"}
LOWER = {"data", "hub", "metrics", "modeling", "oam"}
MAY_IMPORT = {
    "trainers": {"drawing", "lazy", "moved", *LOWER} - {"modeling"},
    "rewards": LOWER | {"lazy", "processes", "scheduler.sharing.client"},
    "scheduler": LOWER | {"drawing", "lazy", "moved", "processes"},
    "lazy": set(),
    "moved": set(),
    "processes": set(),
    "drawing": {"lazy"},
    "modeling": {"hub", "lazy", "moved"},
    "metrics": {"hub"},
    "data": {"hub"},
    "oam": {"lazy", "moved"},
    "hub": set(),
    "kernels": set(),
    "lost_heads": set(),
}

# From outside the project, these files may import the standard library and these packages only.
ONLY_PACKAGES = {
    "mimo_hf/oam/**/*.py": {"torch"},
    "kernels/*/torch-ext/**/*.py": {"torch", "triton"},
    "kernels/_shared/*.py": {"torch", "triton"},
}

TRAINERS_SHARE = {"analysis", "checkpoints", "launcher", "reward_guard", "sampling"}
# Streets of a room, and which of them each may import; files of the room itself may be imported where the second set says so. "" are
# the files beside the streets.
STREETS = {
    "scheduler": {
        "core": {"errors"},
        "executors": {"core", "errors"},
        "services": {"core", "config", "errors"},
        "simulate": {"core", "services", "errors"},
        "sharing": {"core", "executors", "config", "errors"},
        "live": {"core", "executors", "services", "simulate", "sharing", "config", "errors"},
    },
    "trainers": {
        "": TRAINERS_SHARE,
        "rollout": TRAINERS_SHARE,
        "mimo_rl": {"rollout", *TRAINERS_SHARE},
        "judge_rlvr": {"mimo_rl", "rollout", *TRAINERS_SHARE},
        "mopd": {"mimo_rl", "rollout", *TRAINERS_SHARE},
    },
}

# The simulator and the live scheduler run the same code: no clock, no input or output, no threads, no torch in this street.
PURE = "mimo_hf/scheduler/core"
PURE_IMPORTS = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "typing",
}


def module_name(path):
    """modeling/mimo/modeling_mimo.py is mimo_hf.modeling.mimo.modeling_mimo."""
    folder, *parts = path.with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")])


def imports(root, path):
    """(line, absolute name) of every import statement in the file, those inside functions too."""
    module = module_name(path)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def room(name):
    """The room of an absolute name; names that mimo_hf itself exports belong to its __init__."""
    head = name.split(".")[1:2]
    return head[0] if head and head[0] in {*MAY_IMPORT, *TOP} else "__init__"


def room_violations(root, path):
    own = path.stem if path.parts[:-1] == ("mimo_hf",) or path.stem == "__main__" else module_name(path).split(".")[1]
    if own not in {*MAY_IMPORT, *TOP}:
        yield f"{path}: {own} has no line in MAY_IMPORT"
        return
    for line, name in imports(root, path):
        if name.split(".")[0] in {"modeling", "trainers"}:
            yield f"{path}:{line}: {name} is called mimo_hf.{name}"
        elif name.split(".")[0] == "mimo_hf" and own not in TOP:
            allowed = [f"mimo_hf.{other}." for other in MAY_IMPORT[own] | {own}]
            if not f"{name}.".startswith(tuple(allowed)):
                yield f"{path}:{line}: {own} may not import {name} ({room(name)})"


def package_violations(root):
    for pattern, packages in ONLY_PACKAGES.items():
        for file in sorted(root.glob(pattern)):
            path = file.relative_to(root)
            for line, name in imports(root, path):
                head = name.split(".")[0]
                if head not in {"mimo_hf", *packages, *sys.stdlib_module_names}:
                    yield f"{path}:{line}: only {sorted(packages)} and the standard library, not {name}"


def street_violations(root):
    for room, streets in STREETS.items():
        for street, others in streets.items():
            home = root / room if room in FOLDERS else root / "mimo_hf" / room
            files = (home / street).rglob("*.py") if street else set(home.glob("*.py")) - {home / "__init__.py"}
            for file in sorted(files):
                path = file.relative_to(root)
                for line, name in imports(root, path):
                    parts = name.split(".")
                    if parts[:2] == ["mimo_hf", room] and not {*parts[2:3]} <= {street, *others}:
                        yield f"{path}:{line}: {room}.{street} may not import {name}"


def purity_violations(root):
    for file in sorted((root / PURE).glob("*.py")):
        path = file.relative_to(root)
        for line, name in imports(root, path):
            if name.split(".")[0] not in {*PURE_IMPORTS, "mimo_hf"}:
                yield f"{path}:{line}: the scheduler's core is pure and may not import {name}"


def first_imports(root, path):
    """Names of modules that are imported when the file is, not later by a function nor by type checkers alone."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    later = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    later += [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    hidden = {inner.lineno for node in later for inner in ast.walk(node) if hasattr(inner, "lineno")}
    return {name for line, name in imports(root, path) if line not in hidden}


def circles(root):
    """Modules that import each other, if there are any, as a list that ends where it began."""
    modules = {}
    for folder in ("mimo_hf", "modeling", "trainers"):
        for file in (root / folder).rglob("*.py"):
            modules[module_name(file.relative_to(root))] = file.relative_to(root)
    graph = {}
    for module, path in modules.items():
        names = {name if name in modules else name.rpartition(".")[0] for name in first_imports(root, path)}
        graph[module] = names & modules.keys() - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def violations(root):
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root)
            if "build" not in path.parts:
                yield from room_violations(root, path)
    yield from package_violations(root)
    yield from purity_violations(root)
    yield from street_violations(root)


def test_no_modules_import_each_other():
    assert circles(ROOT) == []


def test_a_circle_is_found(tmp_path):
    plant(tmp_path, "mimo_hf/oam/a.py", "from .b import f")
    (tmp_path / "mimo_hf/oam/b.py").write_text("from . import a")
    assert set(circles(tmp_path)) == {"mimo_hf.oam.a", "mimo_hf.oam.b"}
    (tmp_path / "mimo_hf/oam/b.py").write_text("def g():\n    from . import a")
    assert circles(tmp_path) == []


def test_every_import_keeps_the_rules():
    assert list(violations(ROOT)) == []


FORBIDDEN = [
    ("modeling/mimo/modeling_mimo.py", "from mimo_hf.trainers import MOPDTrainer"),
    ("modeling/mimo/modeling_mimo.py", "from ...trainers.mopd_config import MOPDConfig"),
    ("modeling/mtp/mtp.py", "from ... import rewards"),
    ("modeling/mtp/mtp.py", "def f():\n    import mimo_hf.cli"),
    ("modeling/mtp/mtp.py", "from mimo_hf import MiMoForCausalLM"),
    ("modeling/mtp/mtp.py", "from modeling.mimo import MiMoConfig"),
    ("trainers/mopd_trainer.py", "from ..modeling.mimo import MiMoForCausalLM"),
    ("trainers/mopd_trainer.py", "from mimo_hf import modeling"),
    ("trainers/rollout/seamless.py", "from ..mimo_rl.mimo_rl_config import MiMoRLConfig"),
    ("trainers/mimo_rl/mimo_rl_trainer.py", "def f():\n    from ..judge_rlvr import hand_over"),
    ("trainers/checkpoints.py", "from .mimo_rl import MiMoRLConfig"),
    ("mimo_hf/rewards/code.py", "from ..scheduler import core"),
    ("mimo_hf/hub/publish.py", "from ..modeling import mtp"),
    ("mimo_hf/hub/publish.py", "from ..hubble import x"),
    ("mimo_hf/data/corpus.py", "import mimo_hf.recipe"),
    ("mimo_hf/oam/channel.py", "import numpy as np"),
    ("mimo_hf/oam/channel.py", "from ..hub import tiny"),
    ("mimo_hf/oam/experiments.py", "from ..drawing import line_chart"),
    ("mimo_hf/drawing/charts.py", "from ..oam import UCA"),
    ("mimo_hf/scheduler/core/scheduler.py", "import time"),
    ("mimo_hf/scheduler/core/policies.py", "from ..live import dispatch"),
    ("mimo_hf/scheduler/core/policies.py", "import torch"),
    ("mimo_hf/newroom/x.py", "import math"),
    ("kernels/sale-attn/torch-ext/sale_attn/layers.py", "import numpy"),
    ("kernels/sale-attn/torch-ext/sale_attn/layers.py", "import kernels"),
    ("kernels/_shared/launch.py", "import numpy"),
    ("kernels/sale-attn/tests/test_sale_attn.py", "from mimo_hf.hub import kernels"),
]

ALLOWED = [
    ("modeling/mimo/modeling_mimo.py", "from ..mtp import MTPHead\nfrom ...hub import tiny\nimport kernels"),
    ("trainers/mopd/mopd_trainer.py", "from trl import SFTTrainer\nfrom .mopd_config import MOPDConfig"),
    (
        "mimo_hf/rewards/code.py",
        "from ..scheduler.sharing.client import SchedulerClient\nfrom ..scheduler.sharing import client",
    ),
    ("trainers/judge_rlvr/judge_rlvr_trainer.py", "from ..mimo_rl.x import Y\nfrom ..checkpoints import write_whole"),
    ("mimo_hf/cli.py", "from . import recipe\nfrom .trainers import mopd_trainer"),
    ("mimo_hf/__init__.py", "from .modeling.mimo import MiMoConfig"),
    ("mimo_hf/oam/channel.py", "import cmath\nimport torch.nn\nfrom .geometry import ring"),
    ("mimo_hf/scheduler/sharing/server.py", "import asyncio\nfrom . import core"),
    ("mimo_hf/scheduler/simulate/export.py", "from ... import drawing"),
    ("kernels/sale-attn/torch-ext/sale_attn/__init__.py", "from . import layers\nimport triton.language as tl"),
]


def plant(root, path, source):
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(source)


@pytest.mark.parametrize(("path", "source"), FORBIDDEN)
def test_a_forbidden_import_is_caught(tmp_path, path, source):
    plant(tmp_path, path, source)
    assert any(path in violation for violation in violations(tmp_path))


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_an_allowed_import_passes(tmp_path, path, source):
    plant(tmp_path, path, source)
    assert list(violations(tmp_path)) == []


def test_all_of_the_scheduler_core_is_pure(tmp_path):
    plant(tmp_path, "mimo_hf/scheduler/core/resources.py", "import os")
    assert [violation.split(":")[0] for violation in violations(tmp_path)] == ["mimo_hf/scheduler/core/resources.py"]
