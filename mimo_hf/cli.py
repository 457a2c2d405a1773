"""The `mimo-hf` command. A sub-command imports what it needs when it is called: `mimo-hf COMMAND --help` is quick."""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from . import __version__, command_kit as kit
from .hub.kernels_command import add_kernels_command
from .oam.command import add_oam_commands
from .scheduler.command import add_schedule_commands
from .trainers.judge_rlvr.command_line import add_judge_rlvr_command
from .trainers.mopd.command import add_teacher_commands

DEMO_CHECKPOINT = "mimo-v2-flash"
USER_ERROR, INTERRUPTED, NO_READER = 2, 130, 141

WHY_FLOAT32 = (
    "Number format of the weights. In 16 bits, a forward pass over several tokens can round differently from "
    "one token at a time: where two tokens are nearly tied, MTP may then choose the other."
)


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


# Options


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
    for add_command in (_add_demo, _add_generate, _add_hysparse, _add_publish, _add_space):
        add_command(commands)
    for add_commands in (add_kernels_command, add_oam_commands, add_schedule_commands):
        add_commands(commands, kit)
    add_judge_rlvr_command(commands, kit.add_command)
    add_teacher_commands(commands, kit, _register)
    _add_completion(commands)
    return parser


def _add_demo(commands):
    parser = kit.add_command(
        commands,
        "demo",
        _demo,
        "Continue text with the bundled MiMo-V2-Flash, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf demo\n"
        "  mimo-hf demo --seed 3 --max-new-tokens 300\n"
        "  mimo-hf demo --prompt 'def fibonacci(n):'\n"
        "  mimo-hf demo --file setup.py --repeats 5 --out demo.json",
    )
    _add_prompt_options(parser)
    _add_decoding_options(parser)
    parser.set_defaults(no_mtp=False)


def _add_generate(commands):
    parser = kit.add_command(
        commands,
        "generate",
        _generate,
        "Continue text with any MiMo checkpoint, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf generate --model XiaomiMiMo/MiMo-V2-Flash --dtype bfloat16 --device cuda --prompt 'Once'\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --do-sample --temperature 0.8\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --no-mtp > continuation.txt",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_ID",
        help="A checkpoint folder, or a model of the Hub as OWNER/NAME.",
    )
    parser.add_argument(
        "--no-mtp", action="store_true", help="Decode plainly and print the continuation, nothing else on stdout."
    )
    _add_prompt_options(parser)
    _add_decoding_options(parser)


def _add_hysparse(commands):
    parser = kit.add_command(
        kit.add_group(commands, "hysparse", "Calculate the memory of HySparse models."),
        "memory",
        _hysparse_memory,
        "Bytes of the KV cache: full attention, hybrid sliding window, HySparse.",
        "  mimo-hf hysparse memory --config hysparse-80b-a3b --context 4k,32k,1M --kv-cache-dtype fp8\n"
        "  mimo-hf hysparse memory --config ./my-checkpoint --batch 8 --out memory.json",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="PATH_OR_PRESET",
        help="A checkpoint folder, its config.json, or hysparse-7b, hysparse-80b-a3b.",
    )
    parser.add_argument(
        "--context",
        metavar="LENGTHS",
        type=_lengths,
        default="4k,32k,128k,1M",
        help="Tokens a sequence, with commas between; k is 1024, M is 1024 times that.",
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=["fp8", "bf16", "fp16", "fp32"],
        default="bf16",
        help="Number format of keys and values.",
    )
    kit.renamed(parser, "--dtype", "--kv-cache-dtype")
    parser.add_argument("--batch", metavar="N", type=kit.Whole(), default=1, help="Sequences at once.")
    parser.add_argument(
        "--hybrid-full-layers",
        metavar="N",
        type=kit.Whole(),
        help="Full layers of the hybrid sliding window (default: as many as HySparse has).",
    )
    _add_result_options(parser)


def _add_publish(commands):
    parser = kit.add_command(
        commands,
        "publish",
        _publish,
        "Write a folder that transformers loads with trust_remote_code=True where mimo_hf is not installed.",
        "  mimo-hf publish ./my-checkpoint ./to-upload\n"
        "  hf upload my-name/my-model ./to-upload\n\n"
        "the code of a folder that an earlier version has written:\n"
        "  mimo-hf publish --check ./to-upload\n"
        "  mimo-hf publish --upgrade ./to-upload",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="The checkpoint folder, or a model of the Hub.")
    parser.add_argument("out", metavar="OUT", nargs="?", help="The folder to write.")
    parser.add_argument("--overwrite", action="store_true", help="Replace OUT where it exists.")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--upgrade",
        metavar="FOLDER",
        help="Instead: rewrite the code of a published folder as this version writes it; weights and card stay.",
    )
    instead.add_argument(
        "--check",
        metavar="FOLDER",
        help="Instead: load a published folder without mimo_hf and list what --upgrade would change; nothing is changed, and the exit "
        "code is 1 if there is something.",
    )


def _add_space(commands):
    parser = kit.add_command(
        commands,
        "space",
        _space,
        "Serve one of the Gradio Spaces on this machine.",
        "  mimo-hf space oam\n  mimo-hf space oam --port 8080",
    )
    parser.add_argument("name", metavar="SPACE", help="`oam`: the OAM link simulator.")
    parser.add_argument(
        "--port",
        metavar="N",
        type=kit.Whole(1, 65535),
        help="Port to listen on (default: the first free one from 7860).",
    )
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")


def _add_completion(commands):
    parser = kit.add_command(
        commands,
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


def _add_prompt_options(parser: argparse.ArgumentParser):
    group = parser.add_argument_group(
        "prompt", "Without --prompt and --file: a file of Python's library, held out from training."
    )
    source = group.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", type=kit.text, help="The text to continue.")
    source.add_argument("--file", metavar="PATH", type=kit.readable, help="Continue the beginning of this file.")
    group.add_argument(
        "--prompt-tokens", metavar="N", type=kit.Whole(), default=128, help="How much of a file to read, at most."
    )


def _add_decoding_options(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("decoding")
    group.add_argument("--max-new-tokens", metavar="N", type=kit.Whole(), default=160, help="Tokens to add, at most.")
    group.add_argument(
        "--do-sample", action="store_true", help="Sample. Two samples differ, so outputs are not compared."
    )
    kit.renamed(group, "--sample", "--do-sample")
    group.add_argument("--temperature", metavar="X", type=kit.Number(above=0), help="With --do-sample (default: 1.0).")
    group.add_argument(
        "--top-p", metavar="X", type=kit.Number(above=0, most=1), help="With --do-sample (default: 1.0)."
    )
    kit.shared(group, "--seed", "Here: the samples, and the choice of a held-out text.")
    kit.shared(group, "--device")
    group.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help=WHY_FLOAT32)

    group = parser.add_argument_group("result")
    kit.shared(group, "--repeats", "The median counts.", default=1)
    group.add_argument("--no-color", action="store_true", help="No colours, and no mark on accepted drafts.")
    _add_result_options(group)
    group.add_argument("--svg", metavar="PATH", type=kit.writable, help=argparse.SUPPRESS)


def _add_result_options(parser):
    kit.shared(parser, "--json")
    kit.shared(parser, "--out", endings=(".json",))


def _lengths(text: str) -> list[int]:
    units = {"": 1, "k": 1024, "M": 1024**2}
    lengths = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,12})([kM]?)", part, re.ASCII)
        if match is None or int(match[1]) < 1:
            raise argparse.ArgumentTypeError(f"must be numbers of tokens such as 4k,32768,1M; got {text!r}.")
        lengths.append(int(match[1]) * units[match[2]])
    return lengths


# Commands


def _demo(args: argparse.Namespace) -> int:
    from .demo.command import run
    from .hub.checkpoints import bundled

    return run(args, bundled(DEMO_CHECKPOINT), held_out_is_unseen=True)


def _generate(args: argparse.Namespace) -> int:
    _check_model(args.model)
    from .demo.command import run

    return run(args, args.model)


def _check_model(name: str):
    """What can be said of a checkpoint before torch is imported."""
    from .hub.checkpoints import check_checkpoint

    folder = Path(name).expanduser()
    if folder.exists():
        check_checkpoint(folder)
    elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(
            f"--model {name} does not exist; give a checkpoint folder, or a model of the Hub as OWNER/NAME."
        )


def _hysparse_memory(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    with stage("reading the configuration"):
        from .modeling.hysparse.memory_command import run

    return run(args)


def _publish(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    if args.upgrade is not None or args.check is not None:
        option = "--check" if args.upgrade is None else "--upgrade"
        if args.model is not None or args.overwrite:
            raise kit.UsageError(args.prog, f"{option} FOLDER stands alone; leave out MODEL, OUT and --overwrite.")
        return _check(args) if args.upgrade is None else _upgrade(args)

    names = {"MODEL": args.model, "OUT": args.out}
    if missing := [name for name, value in names.items() if value is None]:
        raise kit.UsageError(args.prog, f"{' and '.join(missing)} must be given (see `{args.prog} --help`)")
    with stage("writing the folder"):
        from .hub.publish import publish

        publish(args.model, args.out, overwrite=args.overwrite)
    print(f"{args.out}: ready to upload with: hf upload OWNER/NAME {shlex.quote(args.out)}")
    print(
        "Tell its readers: it loads with trust_remote_code=True, or after mimo_hf.register(); else MTP heads are lost."
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    with stage("loading the folder in a process without mimo_hf"):
        from .hub.upgrade import outdated, private, trouble

        changes, fields, problem = outdated(args.check), private(args.check), trouble(args.check)
    for name, what in changes.items():
        print(f"{name} {what}")
    for place, why in fields.items():
        print(f"{place} is {why}: remove it, or publish the checkpoint again")
    print(problem or f"{args.check}: loads where mimo_hf is not installed")
    remedy = f"out of date; run: {args.prog} --upgrade {shlex.quote(args.check)}"
    print(f"{args.check}: {remedy if changes else 'up to date'}")
    return 1 if changes or fields or problem else 0


def _upgrade(args: argparse.Namespace) -> int:
    from .demo.terminal import stage

    with stage("loading the folder with today's code"):
        from .hub.upgrade import upgrade

        changes = upgrade(args.upgrade)
    for name, what in changes.items():
        print(f"{name} {what}")
    print(f"{args.upgrade}: {'upgraded' if changes else 'up to date'}")
    return 0


def _space(args: argparse.Namespace) -> int:
    from .hub.spaces import launch

    launch(args.name, port=args.port, host=args.host)
    return 0


def _register() -> None:
    from . import register

    register()


def _completion(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise ImportError("completion needs shtab: pip install 'mimo-hf[completion]'") from None
    parser = command_parser()
    for leaf in kit.leaves(parser):
        for action in leaf._actions:
            if action.metavar in ("PATH", "TRACE", "MODEL", "OUT", "PATH_OR_ID", "PATH_OR_PRESET"):
                vars(action)["complete"] = shtab.FILE
    print(shtab.complete(parser, args.shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
