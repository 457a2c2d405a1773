"""The `mimo-hf` command. A sub-command imports what it needs when it is called: `mimo-hf --help` is quick."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from . import __version__
from .hub.kernels_command import add_kernels_command

DEMO_CHECKPOINT = "mimo-v2-flash"
USER_ERROR, INTERRUPTED, NO_READER = 2, 130, 141

WHY_FLOAT32 = (
    "of the weights while decoding. In 16 bits, a forward pass over several tokens can round differently from one token "
    "at a time: where two tokens are nearly tied, MTP may then choose the other"
)


def main(argv: list[str] | None = None) -> int:
    """
    Runs a sub-command; `argv` without the program's name.

    Returns:
        The exit code: 0; 1 where MTP changed a greedy output; 2 for what the user can put right; 130 for
        Ctrl-C; 141 where nobody reads the output any more.
    """
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = _parser(argv[:1] == ["oam"]).parse_args(argv)
        args.command_line = shlex.join(["mimo-hf", *argv])
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`mimo-hf demo | head`); Python's flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in argv:
            raise
        from .demo.terminal import say

        say(f"error: {error}")
        return USER_ERROR


# Options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message} (see `{self.prog} --help`)")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the examples as written, and tells the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def _parser(with_oam: bool = False) -> argparse.ArgumentParser:
    """`with_oam`: with the options of `mimo-hf oam`, which take torch to write down."""
    parser = _Parser(
        prog="mimo-hf",
        description="MiMo's published research as Hugging Face plug-ins.",
        epilog="`mimo-hf COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"mimo-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in (_add_demo, _add_generate, _add_hysparse, _add_publish, _add_space):
        add_command(commands)
    add_kernels_command(commands, _add_command, _positive_integer, _writable)
    if with_oam:
        from .oam.cli import add_oam_commands

        add_oam_commands(commands)
    else:
        commands.add_parser("oam", help="Simulate OAM radio links: `mimo-hf oam --help`.", add_help=False)
    from .scheduler.cli import add_schedule_commands
    from .trainers.judge_rlvr import add_judge_rlvr_command

    add_schedule_commands(commands)
    add_judge_rlvr_command(commands, _add_command)
    return parser


def _add_command(commands, name: str, run, summary: str, examples: str) -> argparse.ArgumentParser:
    epilog = f"examples:\n{examples}"
    parser = commands.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=_Help)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)  # errors with their traceback
    return parser


def _add_demo(commands):
    parser = _add_command(
        commands,
        "demo",
        _demo,
        "Continue text with the bundled MiMo-V2-Flash, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf demo\n"
        "  mimo-hf demo --seed 3 --max-new-tokens 300\n"
        "  mimo-hf demo --prompt 'def fibonacci(n):'\n"
        "  mimo-hf demo --file setup.py --repeats 5 --json demo.json",
    )
    _add_prompt_options(parser)
    _add_decoding_options(parser)
    parser.set_defaults(no_mtp=False)


def _add_generate(commands):
    parser = _add_command(
        commands,
        "generate",
        _generate,
        "Continue text with any MiMo checkpoint, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf generate --model XiaomiMiMo/MiMo-V2-Flash --dtype bfloat16 --device cuda --prompt 'Once'\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --sample --temperature 0.8\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --no-mtp > continuation.txt",
    )
    parser.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="a checkpoint folder or a repository of the Hub"
    )
    parser.add_argument(
        "--no-mtp", action="store_true", help="decode plainly and print the continuation, nothing else on stdout"
    )
    _add_prompt_options(parser)
    _add_decoding_options(parser)


def _add_hysparse(commands):
    summary = "Calculate the memory of HySparse models."
    hysparse = commands.add_parser("hysparse", help=summary, description=summary)
    parser = _add_command(
        hysparse.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "memory",
        _hysparse_memory,
        "Bytes of the KV cache: full attention, hybrid sliding window, HySparse.",
        "  mimo-hf hysparse memory --config hysparse-80b-a3b --context 4k,32k,1M --dtype fp8\n"
        "  mimo-hf hysparse memory --config ./my-checkpoint --batch 8 --json memory.json",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="PATH_OR_PRESET",
        help="a checkpoint folder, its config.json, or hysparse-7b, hysparse-80b-a3b",
    )
    parser.add_argument(
        "--context",
        metavar="LENGTHS",
        type=_lengths,
        default="4k,32k,128k,1M",
        help="tokens a sequence, with commas between; k is 1024, M is 1024 times that",
    )
    parser.add_argument("--dtype", choices=["fp8", "bf16", "fp16", "fp32"], default="bf16", help="of keys and values")
    parser.add_argument("--batch", metavar="N", type=_positive_integer, default=1, help="sequences")
    parser.add_argument(
        "--hybrid-full-layers",
        metavar="N",
        type=_positive_integer,
        help="full layers of the hybrid sliding window; default: as many as HySparse has",
    )
    parser.add_argument("--json", metavar="PATH", type=_writable, help="save the numbers here")


def _add_publish(commands):
    parser = _add_command(
        commands,
        "publish",
        _publish,
        "Write a folder that transformers loads with trust_remote_code=True where mimo_hf is not installed.",
        "  mimo-hf publish ./my-checkpoint ./to-upload\n  hf upload my-name/my-model ./to-upload",
    )
    parser.add_argument("model", metavar="MODEL", help="the checkpoint folder")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")


def _add_space(commands):
    parser = _add_command(
        commands,
        "space",
        _space,
        "Serve one of the Gradio Spaces on this machine.",
        "  mimo-hf space oam\n  mimo-hf space oam --port 8080",
    )
    parser.add_argument("name", metavar="NAME", help="`oam`: the OAM link simulator")
    parser.add_argument("--port", metavar="N", type=_positive_integer, help="default: the first free one from 7860")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")


def _add_prompt_options(parser: argparse.ArgumentParser):
    group = parser.add_argument_group(
        "prompt", "without --prompt and --file: a file of Python's library, held out from training"
    )
    source = group.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", type=_text, help="the text to continue")
    source.add_argument("--file", metavar="PATH", help="continue the beginning of this file")
    group.add_argument(
        "--prompt-tokens", metavar="N", type=_positive_integer, default=128, help="how much of a file to read, at most"
    )


def _add_decoding_options(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("decoding")
    group.add_argument(
        "--max-new-tokens", metavar="N", type=_positive_integer, default=160, help="tokens to add, at most"
    )
    group.add_argument("--sample", action="store_true", help="sample; two samples differ, so outputs are not compared")
    group.add_argument("--temperature", type=_positive_number, help="with --sample (default: 1.0)")
    group.add_argument("--top-p", type=_share, help="with --sample (default: 1.0)")
    group.add_argument("--seed", type=int, default=0, help="of the samples, and of the choice of a held-out text")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    group.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help=WHY_FLOAT32)

    group = parser.add_argument_group("result")
    group.add_argument(
        "--repeats", metavar="N", type=_positive_integer, default=1, help="timed runs; the median counts"
    )
    group.add_argument("--no-color", action="store_true", help="no colours, and no mark on accepted drafts")
    group.add_argument("--json", metavar="PATH", type=_writable, help="save the numbers here")
    group.add_argument("--svg", metavar="PATH", type=_writable, help=argparse.SUPPRESS)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; give some text to continue")
    return text


def _positive_integer(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return number


def _lengths(text: str) -> list[int]:
    units = {"k": 1024, "M": 1024**2}
    lengths = []
    for part in text.split(","):
        digits, unit = (part[:-1], units[part[-1]]) if part[-1:] in units else (part, 1)
        number = int(digits) if digits.isdecimal() else 0
        if number < 1:
            raise argparse.ArgumentTypeError(f"must be numbers of tokens such as 4k,32768,1M; got {text!r}")
        lengths.append(number * unit)
    return lengths


def _positive_number(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return number


def _share(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1; got {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is a folder or lies in one that does not exist; give a file's path"
        )
    return path


# Commands


def _demo(args: argparse.Namespace) -> int:
    from .demo.command import run
    from .hub.checkpoints import bundled

    return run(args, bundled(DEMO_CHECKPOINT), held_out_is_unseen=True)


def _generate(args: argparse.Namespace) -> int:
    from .demo.command import run

    return run(args, args.model)


def _hysparse_memory(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    with stage("reading the configuration"):
        from .modeling.hysparse.memory_command import run

    return run(args)


def _publish(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    with stage("writing the folder"):
        from .hub.publish import publish

        publish(args.model, args.out, overwrite=args.overwrite)
    print(f"{args.out}: ready to upload")
    return 0


def _space(args: argparse.Namespace) -> int:
    from .hub.spaces import launch

    launch(args.name, port=args.port, host=args.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
