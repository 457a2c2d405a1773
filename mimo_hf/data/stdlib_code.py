"""
The sources of Python's own standard library as a corpus of code.

The split is by file and depends on nothing but the file's path below the library folder, so it is the same on every
machine with the same Python version, and a module stays on its side of the split when Python is upgraded.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "held_out")
HELD_OUT_SHARE = 13 / 256  # of the files

MIN_BYTES, MAX_BYTES = 500, 300_000
# Third-party packages; tests; tables instead of code; folders that differ from one build of Python to the next.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
SKIPPED_PREFIXES = ("config-", "_sysconfigdata_")


def is_held_out(path: str | os.PathLike) -> bool:
    """
    Whether a file belongs to the held-out split.

    Args:
        path: relative to the standard library's folder, such as `"json/decoder.py"`.
    """
    path = PurePath(path)
    if path.is_absolute():
        raise ValueError(
            f"`path` must be relative to the standard library's folder, as in 'json/decoder.py'; got {str(path)!r}."
        )
    return hashlib.sha256(path.as_posix().encode()).digest()[0] < HELD_OUT_SHARE * 256


def held_out_files() -> list[Path]:
    """Absolute paths of the held-out files, sorted. UTF-8 text. Needs neither `datasets` nor torch."""
    root = _root()
    return [root / path for path, _ in _documents("held_out")]


def stdlib_code(split: str) -> "Dataset":
    """
    The running interpreter's standard library, without tests, tables, and very short or very long files.

    Args:
        split: `"train"` or `"held_out"` (about one file in twenty).

    Returns:
        A `datasets.Dataset` with the columns `path` (relative to the library's folder) and `text`, sorted by path.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    from datasets import Dataset

    paths, texts = zip(*_documents(split), strict=True)
    return Dataset.from_dict({"path": [path.as_posix() for path in paths], "text": list(texts)})


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _documents(split: str) -> Iterator[tuple[PurePath, str]]:
    root = _root()
    for path in _sources(root):
        if is_held_out(path) == (split == "held_out"):
            try:
                yield path, (root / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def _sources(root: Path) -> list[PurePath]:
    sources = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not _is_of_a_build(name)]
        for name in files:
            if name.endswith(".py") and not _is_of_a_build(name):
                path = Path(folder, name)
                if path.is_file() and MIN_BYTES <= path.stat().st_size <= MAX_BYTES:
                    sources.append(path.relative_to(root))
    return sorted(sources, key=PurePath.as_posix)


def _is_of_a_build(name: str) -> bool:
    return name.startswith(SKIPPED_PREFIXES)
