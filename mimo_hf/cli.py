"""The `mimo-hf` command: lists the rooms' commands. One imports what it needs when it is called, so that `mimo-hf COMMAND --help` is quick."""

import argparse
import os
import shlex
import sys

from . import __version__, command_kit as kit
from .demo import command as demo
from .hub import command as hub
from .modeling import command as modeling
from .oam import command as oam
from .scheduler import command as scheduler
from .trainers.judge_rlvr import command as judge_rlvr
from .trainers.mopd import command as mopd

ROOMS = (demo, modeling, hub, oam, scheduler, judge_rlvr, mopd)
USER_ERROR, INTERRUPTED, NO_READER = 2, 130, 141


def main(argv: list[str] | None = None) -> int:
    """
    Runs a sub-command; `argv` without the program's name.

    Returns:
        The exit code: 0; 1 where MTP changed a greedy output, or a check found something; 2 for what the user can put
        right; 130 for Ctrl-C; 141 where nobody reads the output any more.
    """
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = command_parser()
    prog = parser.prog
    try:
        args = kit.parse(parser, argv)
        prog = args.prog
        args.command_line = shlex.join(["mimo-hf", *argv])
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`mimo-hf demo | head`); Python's flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except kit.UsageError as error:
        kit.say(f"{error.prog}: error: {error}")
        return USER_ERROR
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in argv:
            raise
        kit.say(f"{prog}: error: {kit.as_typed(parser, prog, kit.sentence(error))}")
        return USER_ERROR


def command_parser() -> kit.Parser:
    """The parser of all commands."""
    parser = kit.Parser(
        prog="mimo-hf",
        description="MiMo's published research as Hugging Face plug-ins.",
        epilog="`mimo-hf COMMAND --help` shows a command's options and examples. Words: docs/glossary.md.",
        formatter_class=kit.Help,
    )
    parser.add_argument(
        "--version", action="version", version=f"mimo-hf {__version__}", help="Show the version and exit."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    place = kit.Kit(commands)
    for room in ROOMS:
        room.add_commands(place)
    _add_completion(place)
    return parser


def _add_completion(place: kit.Kit) -> None:
    parser = place.command(
        "completion",
        _completion,
        "Print a script that completes commands, options and files in your shell.",
        "  mimo-hf completion bash > ~/.local/share/bash-completion/completions/mimo-hf\n"
        "  mimo-hf completion zsh > ~/.zfunc/_mimo-hf\n"
        "  mimo-hf completion fish > ~/.config/fish/completions/mimo-hf.fish\n\n"
        "zsh reads ~/.zfunc where ~/.zshrc has: fpath+=(~/.zfunc); autoload -U compinit; compinit",
    )
    parser.add_argument(
        "shell", metavar="SHELL", choices=["bash", "zsh", "fish"], help="Your shell: bash, zsh or fish."
    )


def _completion(place: kit.Kit, args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise ImportError("completion needs shtab: pip install 'mimo-hf[completion]'") from None
    parser = command_parser()
    for leaf in kit.leaves(parser):
        for action in leaf._actions:
            if action.metavar in ("PATH", "TRACE", "MODEL", "OUT", "PATH_OR_ID"):
                vars(action)["complete"] = shtab.FILE
    print(shtab.complete(parser, args.shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
