"""Model code as files in one folder: all that transformers' loader of remote code can follow."""

import ast
import re
from pathlib import Path

_FROM = re.compile(rb"from\s+\.[.\s]*[\w.]*\s+import\b")
_OURS = {"mimo_hf", "modeling", "trainers"}


def flatten(files: list[Path], package: Path, header: str) -> dict[str, bytes]:
    """
    The source of `files` and of all that they import relatively, with each relative import made one from the same folder.

    Nothing else changes, but for a first line and, before `from . import x`, a line that makes transformers copy `x.py`.

    Args:
        files: Python files somewhere below `package`.
        package: the outermost folder that a relative import may reach.
        header: the first line of each file; `{path}` in it becomes the file's path within `package`.

    Returns:
        file name -> source.

    Raises:
        ValueError: a file imports mimo_hf by name, or something relatively that is no single file below `package`, or two
            files have the same name.
    """
    waiting = list(files)
    origins: dict[str, Path] = {}
    flat: dict[str, bytes] = {}
    while waiting:
        path = waiting.pop()
        if path.name in origins:
            if origins[path.name] != path:
                raise ValueError(
                    f"{path} and {origins[path.name]} must have different names to share a folder; rename one."
                )
            continue
        origins[path.name] = path
        source, imported = _flat_source(path, package)
        first_line = header.format(path=path.relative_to(package).as_posix())
        flat[path.name] = f"{first_line}\n".encode() + source
        waiting += imported
    return dict(sorted(flat.items()))


def _flat_source(path: Path, package: Path) -> tuple[bytes, list[Path]]:
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    imported = []
    for node in ast.walk(ast.parse(source)):
        _refuse_our_name(node, path)
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        files = _imported_files(node, path, package)
        imported += files
        line = lines[node.lineno - 1]
        indent, statement = line[: node.col_offset], line[node.col_offset :]
        if indent.strip() or not _FROM.match(statement):
            raise ValueError(
                f"{path}:{node.lineno}: `from .x import` must stand on one line of its own, so that it can be "
                "rewritten."
            )
        module, marks = files[0].stem, []
        if not node.module:
            # transformers looks for the files that it has to copy in lines of this form only.
            marks = [f"from .{file.stem} import __name__ as _  # names the file for transformers\n" for file in files]
            module = ""
        statement = _FROM.sub(f"from .{module} import".encode(), statement, count=1)
        lines[node.lineno - 1] = b"".join(indent + text for text in [*map(str.encode, marks), statement])
    return b"".join(lines), imported


def _imported_files(node: ast.ImportFrom, path: Path, package: Path) -> list[Path]:
    folder = path.parents[node.level - 1]
    if node.module:
        files = [folder.joinpath(*node.module.split(".")).with_suffix(".py")]
    else:
        files = [folder / f"{alias.name}.py" for alias in node.names]
    for file in files:
        if not file.is_relative_to(package) or not file.is_file():
            raise ValueError(
                f"{path}:{node.lineno}: a published model must import single files below {package.name}/ only; got "
                f"{file}. Import the file that defines the name."
            )
    return files


def _refuse_our_name(node: ast.AST, path: Path):
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [node.module or ""]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
        names = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    for name in names:
        if name.split(".")[0] in _OURS:
            raise ValueError(
                f"{path} must import what is there where the published model is loaded; got `{name}`. Use a relative "
                "import of a single file."
            )
