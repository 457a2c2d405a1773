"""The names that a package shows are those that docs/reference.md documents, no more and no fewer."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402  a script beside the page that it writes

sys.path.remove(str(ROOT / "docs"))
PAGES = [
    ROOT / "README.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("mimo_hf/*/README.md"),
    *ROOT.glob("modeling/*/README.md"),
]


@pytest.mark.parametrize("face", reference.FACES)
def test_a_face_shows_its_documented_names_and_no_others(face):
    module = importlib.import_module(face)
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    section = page.partition(f"## `{face}`:")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert documented == {name for name in dir(module) if not name.startswith("_")}
    assert documented == {name for name in module.__all__ if not name.startswith("_")}
    assert all(getattr(module, name) is not None for name in documented)


def test_every_package_that_exports_names_is_on_the_page():
    found = set()
    for folder, package in {
        "mimo_hf": "mimo_hf",
        "modeling": "mimo_hf.modeling",
        "trainers": "mimo_hf.trainers",
    }.items():
        for file in (ROOT / folder).rglob("__init__.py"):
            if "__all__ = [" in file.read_text(encoding="utf-8"):
                found.add(".".join([package, *file.parent.relative_to(ROOT / folder).parts]))
    assert found - {"mimo_hf.modeling"} == set(reference.FACES)  # that holds packages


def test_the_page_says_what_the_docstrings_say():
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == reference.reference()


def test_a_name_without_a_docstring_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "face").mkdir()
    (tmp_path / "face" / "__init__.py").write_text('from .home import f, g, h\n\n__all__ = ["f", "g", "h"]\n')
    (tmp_path / "face" / "home.py").write_text('def f():\n    """Does it (eq. 1). Well."""\n\n\ng = 1  # one\nh = 2\n')
    assert (reference.says("face", "f"), reference.says("face", "g")) == ("Does it (eq. 1).", "One.")
    with pytest.raises(ValueError, match=r"`face\.home\.h` must have a docstring"):
        reference.says("face", "h")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_imports_from_a_face_is_there(page):
    for face, names in re.findall(
        r"^from (mimo_hf[\w.]*) import ([\w, ]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        module = importlib.import_module(face)
        for name in names.split(", "):
            is_module = importlib.util.find_spec(f"{face}.{name}") if hasattr(module, "__path__") else None
            assert is_module or face not in reference.FACES or name in module.__all__, f"from {face} import {name}"
