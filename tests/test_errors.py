"""
Every ValueError and TypeError is of one grammar: "`argument` must be ...; got 3. Do y."

It names what was given (an argument or option, or the file and line where it stands), says what is allowed, shows what was
found unless that is nothing, and is a sentence.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mimo_hf", "modeling", "trainers", "spaces", "kernels")
# Raised where only a fault of our own leads, or put together from sentences that are checked where they stand.
EXCEPTIONS = {
    "mimo_hf/scheduler/core/resources.py": "cores and blocks that the book hands out: no user's argument comes here",
    "mimo_hf/scheduler/executors/worker.py": "caught two lines below",
    "trainers/judge_rlvr/problems.py": "several lines of a file in one message",
    "trainers/mimo_rl/moved_options.py": "the class, and what `where_moved` says",
}
NAMED = re.compile(r"`[^`]+`|(?<!\w)--[a-z]|\A\{|\b(SPACE|MODEL|OUT|PATH_OR_ID)\b")
SHOWN = re.compile(r"\{|\bgot \S|\bmust (be given|not|go with|stand)\b")


def messages(source):
    """(line, text) of each ValueError and TypeError that is raised with a text; an inserted value is `{its code}`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = written(node.exc.args[0])
            if ast.unparse(node.exc.func) in ("ValueError", "TypeError") and text is not None:
                yield node.lineno, text


def written(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in node.values
        )
    if isinstance(node, ast.BinOp):
        parts = [written(node.left), written(node.right)]
        return None if parts == [None, None] else "".join("{}" if part is None else part for part in parts)
    return None


def faults(text):
    found = {
        "names nothing": not NAMED.search(text),
        "says nothing of what is allowed": " must " not in text,
        "does not show what was given": not SHOWN.search(text),
        "does not end with a full stop": not text.rstrip("`").endswith((".", "}")),
    }
    return [fault for fault, is_there in found.items() if is_there]


def ungrammatical(folder):
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT)
        if {"build", "tests", "benchmarks"}.isdisjoint(path.parts) and path.as_posix() not in EXCEPTIONS:
            for line, text in messages(file.read_text(encoding="utf-8")):
                for fault in faults(text):
                    yield f"{path}:{line} {fault}: {text}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_error_is_of_the_one_grammar(folder):
    assert list(ungrammatical(folder)) == []


@pytest.mark.parametrize(
    ("text", "faulty"),
    [
        ("`size` must be at least 1; got {size}.", []),
        ("--seed must be a whole number; got {text!r}. Give one.", []),
        ("{path}:{line}: the line must be JSON; got {error}.", []),
        ("`name` must be given.", []),
        ("size must be at least 1; got {size}.", ["names nothing"]),
        ("`size` can't be {size}.", ["says nothing of what is allowed"]),
        ("`size` must be at least 1.", ["does not show what was given"]),
        ("`size` must be at least 1; got {size}, which is less", ["does not end with a full stop"]),
    ],
)
def test_what_is_not_of_the_grammar_is_found(text, faulty):
    assert faults(text) == faulty


def test_every_exception_is_needed():
    for path in EXCEPTIONS:
        assert any(faults(text) for _, text in messages((ROOT / path).read_text(encoding="utf-8"))), path
