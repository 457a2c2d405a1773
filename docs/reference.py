"""
Writes docs/reference.md: every public name, where it is imported from, and what its docstring or comment says first.

    python docs/reference.py
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FACES = {
    "mimo_hf": "what most scripts need",
    "mimo_hf.modeling.hysparse": "HySparse, models whose sparse layers read the keys that full ones choose",
    "mimo_hf.modeling.mimo": "MiMo-7B",
    "mimo_hf.modeling.mimo_audio": "MiMo-Audio, speech in and out",
    "mimo_hf.modeling.mimo_v2_flash": "MiMo-V2-Flash",
    "mimo_hf.modeling.sale": "SALE, sparse prefill for any causal language model",
    "mimo_hf.trainers": "trainers as subclasses of TRL's",
    "mimo_hf.trainers.judge_rlvr": "JudgeRLVR",
    "mimo_hf.trainers.mimo_rl": "reinforcement learning with dynamic sampling",
    "mimo_hf.trainers.mopd": "MOPD, one student with a teacher a domain",
    "mimo_hf.trainers.rollout": "where a trainer's batches come from",
    "mimo_hf.rewards": "verifiers of mathematics, programs and verdicts",
    "mimo_hf.scheduler": "actions that share cores, GPUs and quotas",
    "mimo_hf.data": "corpora, toy domains and training sets",
    "mimo_hf.oam": "OAM radio links",
    "mimo_hf.drawing": "pictures of results",
}
OPENING = """\
# Public names

What can be imported from where, and nothing else is promised: a module's other names may change without notice. Written by
`python docs/reference.py` from the docstrings, which say more: `python -m pydoc mimo_hf.oam.bepre`, or `help(...)`.
"""


def names(face: str) -> list[str]:
    """The `__all__` of a package."""
    for node in _tree(face).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    raise ValueError(f"`face` must be a package with `__all__`; got {face!r}.")


def says(module: str, name: str) -> str:
    """The first sentence of what is written about a name, in the module that defines it."""
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return _sentence(ast.get_docstring(node) or "", f"{module}.{name}")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                return _sentence(_comment(module, node), f"{module}.{name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            return says(f"{package}.{node.module}" if node.level else str(node.module), name)
    raise ValueError(f"`name` must be defined in {module}; got {name!r}.")


def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _comment(module: str, node: ast.stmt) -> str:
    lines = _file(module).read_text(encoding="utf-8").splitlines()
    trailing = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
    above = lines[node.lineno - 2]
    return trailing or (above.removeprefix("# ") if above.startswith("# ") else "")


def _sentence(text: str, name: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    first = re.sub(r"\\+[()]", "$", first)
    for end in re.finditer(r"[.:;](?: (?=[A-Z`(])|$)", first):
        if all(
            first.count(opening, 0, end.start()) == first.count(closing, 0, end.start())
            for opening, closing in ("()", "[]")
        ):
            first = first[: end.start()]
            break
    if not first:
        raise ValueError(f"`{name}` must have a docstring, or as a constant a comment; got none. Write one.")
    return first[0].upper() + first[1:] + "."


def reference() -> str:
    """The page."""
    parts = [OPENING]
    for face, about in FACES.items():
        rows = [
            f"| `{name}` | {says(face, name).replace('|', chr(92) + '|')} |"
            for name in sorted(names(face), key=str.lower)
        ]
        parts.append("\n".join([f"## `{face}`: {about}\n", "| name | what |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
