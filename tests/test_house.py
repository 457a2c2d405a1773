"""The shape of the repository: folders, what `import` finds, what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path

import kernels
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["mimo_hf", "modeling", "trainers", "kernels", "spaces", "examples", "benchmarks", "tests"]


def run_python(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_top_level_folder_exists(folder):
    assert (ROOT / folder).is_dir()


@pytest.mark.parametrize("folder", ["kernels", "spaces"])
def test_folder_is_no_package(folder):
    assert [
        *ROOT.glob(f"{folder}.py"),
        *ROOT.glob(f"{folder}/__init__.py"),
        *ROOT.glob(f"{folder}/*/__init__.py"),
    ] == []


def test_import_kernels_gives_the_library_here():
    assert callable(kernels.get_kernel)


def test_import_kernels_gives_the_library_from_the_repository_root():
    found = run_python("-c", "import kernels; print(kernels.__file__); kernels.get_kernel").stdout
    assert not Path(found.strip()).is_relative_to(ROOT / "kernels")


def test_import_mimo_hf_imports_neither_torch_nor_transformers():
    report = run_python("-X", "importtime", "-c", "import mimo_hf").stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in report.splitlines()}
    assert "mimo_hf" in imported
    assert imported.isdisjoint({"torch", "transformers"})


def test_the_package_shows_its_own_names_and_no_others():
    import mimo_hf

    shown = {name for name in dir(mimo_hf) if not name.startswith("_")}
    assert shown == {name for name in mimo_hf.__all__ if not name.startswith("_")}
    assert all(getattr(mimo_hf, name) is not None for name in shown)


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("DynamicSamplingGRPOTrainer", "trainers"),
        ("ActionScheduler", "scheduler"),
        ("Sandbox", "rewards"),
        ("Corpus", None),
    ],
)
def test_a_name_of_a_room_is_refused_with_the_line_that_works(name, room):
    with pytest.raises(ImportError) as caught:
        exec(f"from mimo_hf import {name}", {})
    if room is None:
        assert "cannot import name 'Corpus'" in str(caught.value)
    else:
        (line,) = re.findall(r"write `(.*)`", str(caught.value))
        assert line == f"from mimo_hf.{room} import {name}"


WAIVER = re.compile(
    r"#\s*(?:noqa|nosec)\b(?P<codes>:? [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*)?(?P<reason>[^#]*(?:#.*)?)", re.IGNORECASE
)


def unexplained_waivers(file):
    """Comments that switch a rule of ruff or bandit off without naming it and saying why, there or in the line above."""
    with tokenize.open(file) as opened:
        comments = [token for token in tokenize.generate_tokens(opened.readline) if token.type == tokenize.COMMENT]
    explained = {token.start[0] for token in comments if not token.line.strip().partition("#")[0]}
    for token in comments:
        if waiver := WAIVER.search(token.string):
            has_reason = len(re.findall(r"\w+", waiver["reason"])) >= 2 or token.start[0] - 1 in explained
            if not (waiver["codes"] and has_reason):
                yield f"{file.name}:{token.start[0]}: {token.string}"


@pytest.mark.parametrize("folder", [".", "findings", *FOLDERS])
def test_every_waiver_of_a_rule_says_why(folder):
    files = ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    assert [line for file in files for line in unexplained_waivers(file)] == []


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("x = 1  # noqa", True),
        ("x = 1  # noqa: S603", True),
        ("x = 1  # noqa: S603, S607", True),
        ("x = 1  # noqa  because of this", True),
        ("x = 1  # nosec B615", True),
        ("x = 1  # nosec", True),
        ("# What is above.\n\nx = 1  # noqa: S603", True),
        ("x = 1  # noqa: S603  this Python", False),
        ("x = 1  # noqa: S603, S607 - this Python", False),
        ("x = 1  # nosec B615  # a bundled folder", False),
        ("# A bundled folder.\nx = 1  # nosec B615", False),
        ("x = '# noqa'", False),
    ],
)
def test_a_waiver_needs_its_rule_and_a_reason(tmp_path, text, is_refused):
    file = tmp_path / "a.py"
    file.write_text(f"{text}\n", encoding="utf-8")
    assert bool(list(unexplained_waivers(file))) == is_refused


def test_a_file_of_more_than_500_lines_says_why_in_its_first():
    long = set()
    for folder in [*FOLDERS, "findings", "docs"]:
        for file in (ROOT / folder).rglob("*.py"):
            lines = file.read_text(encoding="utf-8").splitlines()
            if len(lines) > 500 and "500 lines since" not in lines[0]:
                long.add(file.relative_to(ROOT).as_posix())
    assert long == set()


def test_readme_opens_with_the_two_commands():
    opening = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make demo" in opening
    assert "make test" in opening


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """Names in a wheel built from a copy of the tree, where no earlier build has left anything."""
    copy = tmp_path_factory.mktemp("wheel") / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", os.pardir, "."]
    run_python(*pip, cwd=copy)
    (wheel,) = copy.parent.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_one_package(wheel_names):
    top_level = {name.split("/")[0] for name in wheel_names}
    endings = sorted(name.rpartition(".")[2] for name in top_level if name != "mimo_hf")
    assert {name.partition("-")[0] for name in top_level} == {"mimo_hf"}
    assert endings == ["data", "dist-info"]


def test_wheel_holds_the_guides_and_the_examples(wheel_names):
    shared = {name.partition(".data/data/")[2] for name in wheel_names if ".data/data/" in name}
    expected = {
        f"share/doc/mimo_hf/{path.name}"
        for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
    }
    expected |= {f"share/doc/mimo_hf/examples/{path.name}" for path in ROOT.glob("examples/*") if path.is_file()}
    assert shared == expected
    guides = {
        f"mimo_hf/{path.relative_to(ROOT / 'mimo_hf')}"
        for path in ROOT.glob("mimo_hf/*/README.md")
        if not path.parent.is_symlink()
    }
    assert guides | {"mimo_hf/trainers/README.md"} <= wheel_names


@pytest.mark.parametrize(
    ("folder", "pattern", "target"),
    [
        ("mimo_hf", "**/*.py", "mimo_hf"),
        ("mimo_hf", "py.typed", "mimo_hf"),
        ("mimo_hf/data", "*.tsv", "mimo_hf/data"),
        ("mimo_hf/hub/tiny", "*/*", "mimo_hf/hub/tiny"),
        ("modeling", "**/*.py", "mimo_hf/modeling"),
        ("modeling", "*/README.md", "mimo_hf/modeling"),
        ("trainers", "**/*.py", "mimo_hf/trainers"),
        ("kernels", "README.md", "mimo_hf/hub_kernels"),
        ("kernels", "[!_]*/*.*", "mimo_hf/hub_kernels"),  # each has a copy of _shared
        ("kernels", "*/torch-ext/**/*.*", "mimo_hf/hub_kernels"),
        ("kernels", "*/torch-ext/*/_shared/*.py", "mimo_hf/hub_kernels"),
        ("kernels", "*/benchmarks/*.py", "mimo_hf/hub_kernels"),
        ("kernels", "*/tests/*.py", "mimo_hf/hub_kernels"),
    ],
)
def test_wheel_holds_every_file(wheel_names, folder, pattern, target):
    files = [file for file in (ROOT / folder).glob(pattern) if file.is_file()]
    expected = {f"{target}/{file.relative_to(ROOT / folder).as_posix()}" for file in files}
    assert expected
    assert expected <= wheel_names
