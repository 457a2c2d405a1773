"""Flattened code is the same code, in one folder, as transformers' loader can follow it."""

import ast

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from mimo_hf.hub.flatten import flatten

HEADER = "# Made from {path}."


def plant(root, files):
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(source.encode())


def flat(root, files, entry="m/modeling_m.py"):
    plant(root, files)
    return {name: code.decode() for name, code in flatten([root / entry], root, HEADER).items()}


def test_only_the_relative_imports_change(tmp_path):
    source = '"""Doc: from ..mtp import x."""\n\nimport torch\nfrom ..mtp import (  # why\n    Head,\n)\nfrom .routing import a as b\n\nx = "ü" if b else "from ..mtp import"\n'
    code = flat(tmp_path, {"m/modeling_m.py": source, "mtp.py": "Head = 1\n", "m/routing.py": "a = 2\n"})
    assert sorted(code) == ["modeling_m.py", "mtp.py", "routing.py"]
    assert code["modeling_m.py"] == "# Made from m/modeling_m.py.\n" + source.replace("\nfrom ..mtp", "\nfrom .mtp")
    assert code["mtp.py"] == "# Made from mtp.py.\nHead = 1\n"


def test_line_ends_stay(tmp_path):
    code = flat(tmp_path, {"m/modeling_m.py": "from ..mtp import Head\r\nx = 1\r\n", "mtp.py": "Head = 1\n"})
    assert code["modeling_m.py"].endswith("from .mtp import Head\r\nx = 1\r\n")


@pytest.mark.parametrize(
    "statement",
    [
        "from .. import sink",
        "from .. import sink as s, mtp",
        "from .. import (\n    sink,\n    mtp,\n)",
        "from . import routing",
        "from ..other.deep import x",
        "def f():\n    from ..sink import x\n    from .. import mtp",
        "if True:\n    from .. import sink",
    ],
)
def test_transformers_finds_every_file_and_python_every_name(tmp_path, statement):
    files = dict.fromkeys(["sink.py", "mtp.py", "m/routing.py", "other/deep.py"], "x = 1\n")
    code = flat(tmp_path / "package", files | {"m/modeling_m.py": f"{statement}\n"})
    folder = tmp_path / "flat"
    plant(folder, code)
    followed = {f"{folder}/modeling_m.py", *get_relative_import_files(folder / "modeling_m.py")}
    assert {str(folder / name) for name in code} == followed
    assert len(code) > 1
    imports = [node for node in ast.walk(ast.parse(code["modeling_m.py"])) if isinstance(node, ast.ImportFrom)]
    assert {node.level for node in imports} == {1}


def test_files_behind_files_come_along(tmp_path):
    chain = {
        "m/modeling_m.py": "from ..a import x\n",
        "a.py": "from .b import x\n",
        "b.py": "from . import c\nx = 1\n",
        "c.py": "",
    }
    assert sorted(flat(tmp_path, chain)) == ["a.py", "b.py", "c.py", "modeling_m.py"]


@pytest.mark.parametrize(
    "statement",
    [
        "import mimo_hf",
        "import torch, mimo_hf.hub as hub",
        "from mimo_hf.modeling import mtp",
        "def f():\n    import mimo_hf.oam",
        "try:\n    from mimo_hf import register\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('mimo_hf.oam')",
        "from modeling import mtp",
    ],
)
def test_an_import_of_mimo_hf_is_refused(tmp_path, statement):
    with pytest.raises(ValueError, match=r"modeling_m\.py must import .*got `(mimo_hf|modeling)"):
        flat(tmp_path, {"m/modeling_m.py": statement})


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from ..absent import x", "single files below"),
        ("from ..other import x", "single files below"),
        ("from .. import other", "single files below"),
        ("from ...outside import x", "single files below"),
        ("import os; from ..mtp import x", "on one line of its own"),
        ("from \\\n  ..mtp import x", "on one line of its own"),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(tmp_path, statement, message):
    files = {"package/other/__init__.py": "x = 1\n", "package/mtp.py": "x = 1\n", "outside.py": "x = 1\n"}
    plant(tmp_path, files | {"package/m/modeling_m.py": f"{statement}\n"})
    with pytest.raises(ValueError, match=message):
        flatten([tmp_path / "package/m/modeling_m.py"], tmp_path / "package", HEADER)


def test_two_files_of_one_name_are_refused(tmp_path):
    files = {
        "m/modeling_m.py": "from ..a.routing import x\nfrom .routing import y\n",
        "a/routing.py": "",
        "m/routing.py": "",
    }
    with pytest.raises(ValueError, match="different names"):
        flat(tmp_path, files)
