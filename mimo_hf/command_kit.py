"""
What every `mimo-hf` command is made of: its parser, the options that several share, its errors, what it writes.

A room's `command.py` has `add_commands(kit)`, which `cli.py` calls with a `Kit`: none imports this module. An option that two
commands have is declared once, in `SHARED`, or by one function that both call: it has one type and one meaning.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from .drawing.target import FORMATS

MOST = 10**18
# All control characters but tab and line feed: a text that we did not write must not move the cursor or set a title.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class UsageError(ValueError):
    """What was typed is no call of the command `prog`; `missing`: for what it lacks."""

    def __init__(self, prog: str, message: str, missing: bool = False):
        super().__init__(message)
        self.prog = prog
        self.missing = missing


class Parser(argparse.ArgumentParser):
    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "allow_abbrev": False, "add_help": False})
        self._positionals.title = "arguments"
        self.old_names: dict[str, str] = {}
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args([self._todays(word) for word in args], namespace)

    def _todays(self, word: str) -> str:
        old, equals, value = word.partition("=")
        if old not in self.old_names:
            return word
        say(f"{self.prog}: warning: {old} is now {self.old_names[old]}; the old name goes with the next release.")
        return self.old_names[old] + equals + value

    def error(self, message: str):
        raise UsageError(self.prog, _plain_words(self, message), message.startswith("the following arguments"))


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples as written, and puts the default before the full stop."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if not action.help or default is None or isinstance(default, bool) or default == argparse.SUPPRESS:
            return action.help
        if "(default" in action.help:
            return action.help
        return f"{action.help.removesuffix('.')} (default: {str(default).replace('%', '%%')})."


# Values


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int = 1
    most: int = MOST

    def __call__(self, text: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII) and self.least <= int(text) <= self.most:
            return int(text)
        bounds = f"of at least {self.least}" if self.most >= MOST else f"from {self.least} to {self.most}"
        raise argparse.ArgumentTypeError(f"must be a whole number {bounds}; got {text!r}.")


@dataclass(frozen=True)
class Number:
    """A finite number; `above` and `least` are lower bounds without and with the bound itself."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def __call__(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        low = self.above is None or number > self.above, self.least is None or number >= self.least
        if abs(number) < float("inf") and all(low) and (self.most is None or number <= self.most):
            return number
        bounds = [f"above {self.above:g}"] if self.above is not None else []
        bounds += [f"at least {self.least:g}"] if self.least is not None else []
        bounds += [f"at most {self.most:g}"] if self.most is not None else []
        raise argparse.ArgumentTypeError(f"must be a number {' and '.join(bounds)}; got {text!r}.")


def text(value: str) -> str:
    if not value:
        raise argparse.ArgumentTypeError("is empty; give some text.")
    return value


def readable(value: str) -> Path:
    path = Path(value)
    if not path.exists() or path.is_dir():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise argparse.ArgumentTypeError(f"{value!r} {problem}; give a file that is there.")
    return path


def writable(value: str) -> Path:
    path = Path(value)
    if path.is_dir() or not value:
        raise argparse.ArgumentTypeError(f"{value!r} is a folder; give a file's path.")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{value!r} lies in a folder that does not exist; make it first.")
    return path


def device(value: str) -> str:
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:1 and so on, xpu or mps; got {value!r}.")
    return value


class WriteTo(argparse.Action):
    """A path whose ending says the form."""

    def __init__(self, *args, endings: tuple[str, ...], **options):
        super().__init__(*args, **options)
        self.endings = endings

    def __call__(self, parser, namespace, value, option_string=None):
        if value.suffix.lower() not in self.endings:
            raise argparse.ArgumentError(self, f"must end in {' or '.join(self.endings)}; got {value.name!r}.")
        setattr(namespace, self.dest, value)


class _Renamed(argparse.Action):
    """An option's old name: says the new one."""

    def __call__(self, parser, namespace, values, option_string=None):
        raise argparse.ArgumentError(self, f"is now {self.const}.")


# Options. The first sentence of the help is the meaning, which is one for all commands.

SHARED: dict[str, dict[str, Any]] = {
    "--model": {"metavar": "PATH_OR_ID", "help": "A checkpoint folder, or a model of the Hub as OWNER/NAME."},
    "--json": {"action": "store_true", "help": "Print the result as JSON."},
    "--out": {"action": WriteTo, "metavar": "PATH", "type": writable, "help": "Write the result to this file."},
    "--plot": {
        "action": WriteTo,
        "metavar": "PATH",
        "type": writable,
        "endings": FORMATS,
        "help": "Draw the result into this file (needs mimo-hf[plot]).",
    },
    "--seed": {"metavar": "N", "type": Whole(0), "default": 0, "help": "Seed of all that is drawn at random."},
    "--device": {
        "metavar": "DEVICE",
        "type": device,
        "default": "cpu",
        "help": "Where to compute: cpu, cuda, cuda:1 and so on, xpu or mps.",
    },
    "--repeats": {"metavar": "N", "type": Whole(), "help": "Timed runs."},
}


def shared(parser: Any, option: str, more: str = "", **changes: Any) -> None:
    """
    Adds an option of `SHARED`.

    Args:
        more: sentences after the one that all commands have.
        changes: of the default; `endings` of an option that writes a file.
    """
    declared = SHARED[option]
    endings = {**declared, **changes}.get("endings")
    named = f"Its ending says the form: {' or '.join(endings)}." if endings else ""
    help = " ".join(filter(None, (declared["help"], named, more)))
    parser.add_argument(option, **{**declared, **changes, "help": help})


def renamed(parser: Any, old: str, new: str, is_read: bool = False) -> None:
    """
    The option had another name, which is answered with the new one.

    Args:
        is_read: for one release the old name still does its work, with a warning. `parser` then is a command's.
    """
    if is_read:
        parser.old_names[old] = new
        return
    parser.add_argument(
        old, dest=argparse.SUPPRESS, nargs="?", action=_Renamed, const=new, default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )  # fmt: skip


# Parsing


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """The options; UsageError for what is none."""
    try:
        args, unknown = parser.parse_known_args(_with_negative_values(argv))
    except UsageError as error:
        # Of a mistyped option, argparse only says that the right one is missing.
        unknown = [
            word
            for word in argv
            if word.startswith("--") and word.partition("=")[0] not in _options(parser, error.prog)
        ]
        if not error.missing or not unknown:
            raise
        raise UsageError(error.prog, _unknown(parser, error.prog, unknown, argv)) from None
    if unknown:
        raise UsageError(args.prog, _unknown(parser, args.prog, unknown, argv))
    return args


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser of every command that runs something."""
    return (found for found in _walk(parser) if not _children(found))


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for child in _children(parser):
        yield from _walk(child)


def _children(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [child for action in actions for child in action.choices.values()]


def _options(parser: argparse.ArgumentParser, prog: str) -> list[str]:
    """The options that the command `prog` shows."""
    chosen = next(found for found in _walk(parser) if found.prog == prog)
    return [name for action in chosen._actions if action.help != argparse.SUPPRESS for name in action.option_strings]


def _with_negative_values(argv: list[str]) -> list[str]:
    """argparse takes `-4k` and `-10,0` for options: a value that begins like a negative number joins its option."""
    joined: list[str] = []
    for word in argv:
        before = joined[-1] if joined else ""
        if re.match(r"-(\.?\d|inf|nan)", word) and before.startswith("--") and "=" not in before and len(before) > 2:
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _unknown(parser: Parser, prog: str, unknown: list[str], argv: list[str]) -> str:
    """`unknown` holds what no option or argument took."""
    see = f" (see `{prog} --help`)"
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    if not word.startswith("-"):
        before = argv[argv.index(word) - 1] if word in argv else ""
        if before in ("--json", "--csv"):
            return f"{before} takes no value: it prints the result. To write a file use --out {word}."
        return f"{word!r} is one argument too many{see}."
    name = word.partition("=")[0]
    near = difflib.get_close_matches(name, _options(parser, prog), 1, 0.6)
    return f"there is no option {name}; did you mean {near[0]}?{see}" if near else f"there is no option {name}{see}."


def _plain_words(parser: Parser, message: str) -> str:
    """argparse's message in the words of ours: the option as typed, what is wrong, what is allowed."""
    see = f" (see `{parser.prog} --help`)"
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = match[1].split(", ")
        commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction) and a.metavar in names]
        if commands:
            what = str(commands[0].metavar).lower()
            return f"give {'an' if what[0] in 'aeiou' else 'a'} {what}: {', '.join(commands[0].choices)}{see}."
        return f"{' and '.join(names)} must be given{see}."
    match = re.fullmatch(r"argument ([^\s:]+): (.*)", message, re.DOTALL)
    if match is None:
        return f"{message}{see}."
    name, problem = match.groups()
    if problem.startswith("expected"):
        return f"{name} needs a value{see}."
    if found := re.fullmatch(r"not allowed with argument (.*)", problem):
        return f"{name} can't be given together with {found[1]}."
    if found := re.fullmatch(r"ignored explicit argument (.*)", problem):
        return f"{name} takes no value; got {found[1]}."
    if found := re.match(r"invalid choice: (.*) \((?:choose|maybe)", problem, re.DOTALL):
        action = next(a for a in parser._actions if name in (*a.option_strings, a.metavar, a.dest))
        allowed = [str(choice) for choice in action.choices or ()]
        if isinstance(action, argparse._SubParsersAction):
            near = difflib.get_close_matches(found[1].strip("'\""), allowed, 1)
            meant = f"; did you mean {near[0]}?" if near else ";"
            return f"there is no {str(action.metavar).lower()} {found[1]}{meant} There are {', '.join(allowed)}{see}."
        return f"{name} must be one of {', '.join(allowed)}; got {found[1]}."
    return f"{name} {problem}"


# Results and messages


def visible(message: str) -> str:
    r"""The text with control characters written out, as in `\x1b`; tabs and line feeds stay."""
    return CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", message)


def say(message: str) -> None:
    """A message of the program in one line on stderr."""
    print(visible(" ".join(message.split())), file=sys.stderr)


def sentence(error: BaseException) -> str:
    """What an error says, with the system's own errors in words."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error) or type(error).__name__
    words = {
        FileNotFoundError: "does not exist",
        IsADirectoryError: "is a folder, not a file",
        NotADirectoryError: "lies in a file, not in a folder",
        PermissionError: "may not be used by this user",
        FileExistsError: "is there already",
    }
    return f"{error.filename} {words.get(type(error), f'can not be used: {error.strerror}')}."


def as_typed(parser: Parser, prog: str, message: str) -> str:
    """The message with `some_name` written as the option --some-name, where the command `prog` has that option."""
    options = _options(parser, prog)

    def option(match: re.Match[str]) -> str:
        name = "--" + match[1].replace("_", "-")
        value = "" if match[2] is None else f" {match[2][1:].strip(chr(39))}"
        return f"{name}{value}" if name in options else match[0]

    return re.sub(r"`(\w+)(=[^`]*)?`", option, message)


def drawing() -> ModuleType:
    """The room that draws, for a command that will write a picture; ImportError at once where matplotlib is missing."""
    from . import drawing
    from .drawing import look  # noqa: F401  it looks for matplotlib

    return drawing


def register_models() -> None:
    """Tells transformers of this package's models, for rooms that may not import them."""
    from . import register

    register()


def as_json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(args: argparse.Namespace, result: str, in_file: str | None = None) -> bool:
    """
    Writes to the file of --out, and prints with --json.

    Args:
        result: as JSON.
        in_file: what the file holds, if that is something else.

    Returns:
        Whether it was printed, in place of what the command prints for people.
    """
    if args.out is not None:
        args.out.write_text(result if in_file is None else in_file, encoding="utf-8")
    if args.json:
        sys.stdout.write(result)
    return args.json


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines with columns of even width, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr that the function given moves with (done, all); None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def stage(title: str) -> AbstractContextManager[None]:
    """A spinner on stderr for work of unknown length."""
    from .demo.terminal import stage

    return stage(title)


# What a room is given


class Kit:
    """Where a room adds its commands, and all that they are made of."""

    Number, Whole, WriteTo = Number, Whole, WriteTo
    text, readable, writable = staticmethod(text), staticmethod(readable), staticmethod(writable)
    shared, renamed = staticmethod(shared), staticmethod(renamed)
    aligned, as_json, write = staticmethod(aligned), staticmethod(as_json), staticmethod(write)
    register_models = staticmethod(register_models)
    drawing, progress, stage = staticmethod(drawing), staticmethod(progress), staticmethod(stage)
    say, visible = staticmethod(say), staticmethod(visible)
    UsageError = UsageError

    def __init__(self, commands: Any):
        self._commands = commands

    def group(self, name: str, summary: str, metavar: str = "COMMAND") -> "Kit":
        """A command that has sub-commands; gives the kit that adds these."""
        parser = self._commands.add_parser(name, help=summary, description=summary, formatter_class=Help)
        parser.epilog = f"`{parser.prog} {metavar} --help` shows the options and examples of one."
        return Kit(parser.add_subparsers(title="commands", metavar=metavar, required=True))

    def command(
        self, name: str, run: Callable[["Kit", argparse.Namespace], int], summary: str, examples: str
    ) -> Parser:
        """A command; `examples` are lines that begin with two spaces, and further paragraphs after an empty line."""
        parser = self._commands.add_parser(
            name, help=summary, description=summary, epilog=f"examples:\n{examples}", formatter_class=Help
        )
        parser.set_defaults(run=partial(run, self), prog=parser.prog)
        parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)  # errors with their traceback
        return parser
