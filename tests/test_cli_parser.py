"""The tree of `mimo-hf`'s commands: one meaning for each option, one voice in their help, nothing heavy imported for it."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from mimo_hf import cli, command_kit

from ._cli import ENVIRONMENT, refused

# The options of judge-rlvr are the fields of TRL's parser, in TRL's names and style.
LEAVES = {leaf.prog: leaf for leaf in command_kit.leaves(cli.command_parser())}
JUDGE_RLVR = LEAVES.pop("mimo-hf judge-rlvr")


def options_of(leaf):
    for action in leaf._actions:
        if action.help != argparse.SUPPRESS:
            yield from ((name, action) for name in action.option_strings)


def test_an_option_means_the_same_in_every_command():
    known = {}
    for prog, leaf in LEAVES.items():
        for name, action in options_of(leaf):
            meaning = re.split(r"\. | \(default|\.$", action.help)[0]
            found = (type(action), action.type, action.metavar, action.nargs, action.choices, meaning)
            first = known.setdefault(name, (prog, found))
            assert found == first[1], f"{name} of `{prog}` and of `{first[0]}`"
    assert len(known) > 50
    assert {name for name, _ in options_of(JUDGE_RLVR)} & known.keys() == {"-h", "--help"}


def test_help_has_one_voice():
    for prog, leaf in LEAVES.items():
        texts = [leaf.description, *(action.help for action in leaf._actions if action.help != argparse.SUPPRESS)]
        for text in texts:
            assert re.match(r"[A-Z`.]", text), f"`{prog}`: {text}"
            assert text.endswith("."), f"`{prog}`: {text}"
        names = [name for name, _ in options_of(leaf)]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"--[a-z][a-z-]+|-h", name) for name in names)


def test_every_example_of_the_help_is_a_call_that_parses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in (
        "notes.txt",
        "setup.py",
        "my_trace.jsonl",
        "run.jsonl",
        "recorded.jsonl",
        "speech.wav",
        "speech.safetensors",
    ):
        (tmp_path / name).touch()
    count = 0
    for prog, leaf in LEAVES.items():
        lines = re.findall(r"^  (?:\w+=\S+ )?(mimo-hf .*)$", leaf.epilog, re.MULTILINE)
        assert any(line.startswith(prog) for line in lines), prog
        for line in lines:
            words = shlex.split(line.partition(" > ")[0])
            count += command_kit.parse(cli.command_parser(), words[1:]).prog == prog
    assert count >= len(LEAVES)


def test_help_and_usage_errors_import_nothing_heavy():
    """In one process: the help of every command, and an option that none has. What they import would stay in sys.modules."""
    script = """
import contextlib, io, sys
from mimo_hf import cli, command_kit
commands = [leaf.prog.split()[1:] for leaf in command_kit.leaves(cli.command_parser())]
groups = sorted({tuple(command[:1]) for command in commands})
shown = io.StringIO()
for command in [[], *map(list, groups), *commands]:
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
for command in commands:
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*command, "--no-such-option"]) == 2
heavy = {"torch", "transformers", "gradio", "ray", "numpy", "datasets", "tokenizers", "safetensors", "rich", "kernels", "trl"}
print(len(commands), shown.getvalue().count("usage: mimo-hf"), sorted(heavy & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    commands, shown, heavy = run.stdout.split(" ", 2)
    assert int(commands) == len(LEAVES) + 1
    assert int(shown) >= len(LEAVES) + 2
    assert heavy.strip() == "[]"


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -"), ("zsh", "#compdef mimo-hf"), ("fish", "complete -c")]
)
def test_completion_knows_commands_and_options(shell, words, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert words in script
    for name in ("hysparse", "max-new-tokens", "kv-cache-dtype", "distance-m", "simulate"):
        assert name in script
    assert "debug" not in script


def test_completion_without_shtab_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install 'mimo-hf[completion]'" in refused(capsys, "completion", "bash")
