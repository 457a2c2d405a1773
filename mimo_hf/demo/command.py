"""`mimo-hf demo` and `mimo-hf generate`: their options."""

import argparse
from pathlib import Path
from typing import Any

DEMO_CHECKPOINT = "mimo-v2-flash"

WHY_FLOAT32 = (
    "Number format of the weights. In 16 bits, a forward pass over several tokens can round differently from "
    "one token at a time: where two tokens are nearly tied, MTP may then choose the other."
)


def add_commands(kit: Any) -> None:
    """Adds `demo` and `generate`."""
    parser = kit.command(
        "demo",
        _demo,
        "Continue text with the bundled MiMo-V2-Flash, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf demo\n"
        "  mimo-hf demo --seed 3 --max-new-tokens 300\n"
        "  mimo-hf demo --prompt 'def fibonacci(n):'\n"
        "  mimo-hf demo --file setup.py --repeats 5 --out demo.json",
    )
    _add_prompt_options(kit, parser)
    _add_decoding_options(kit, parser)
    parser.set_defaults(no_mtp=False)

    parser = kit.command(
        "generate",
        _generate,
        "Continue text with any MiMo checkpoint, plainly and with its MTP heads, and compare the two.",
        "  mimo-hf generate --model XiaomiMiMo/MiMo-V2-Flash --dtype bfloat16 --device cuda --prompt 'Once'\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --do-sample --temperature 0.8\n"
        "  mimo-hf generate --model ./my-checkpoint --file notes.txt --no-mtp > continuation.txt",
    )
    kit.shared(parser, "--model", required=True)
    parser.add_argument(
        "--no-mtp", action="store_true", help="Decode plainly and print the continuation, nothing else on stdout."
    )
    _add_prompt_options(kit, parser)
    _add_decoding_options(kit, parser)


def _add_prompt_options(kit: Any, parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "prompt", "Without --prompt and --file: a file of Python's library, held out from training."
    )
    source = group.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", type=kit.text, help="The text to continue.")
    source.add_argument("--file", metavar="PATH", type=kit.readable, help="Continue the beginning of this file.")
    group.add_argument(
        "--prompt-tokens", metavar="N", type=kit.Whole(), default=128, help="How much of a file to read, at most."
    )


def _add_decoding_options(kit: Any, parser: argparse.ArgumentParser) -> None:
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
    kit.shared(group, "--json")
    kit.shared(group, "--out", endings=(".json",))
    group.add_argument("--svg", metavar="PATH", type=kit.writable, help=argparse.SUPPRESS)


def _demo(kit: Any, args: argparse.Namespace) -> int:
    from ..hub.checkpoints import bundled
    from .run import run

    return run(kit, args, bundled(DEMO_CHECKPOINT), held_out_is_unseen=True)


def _generate(kit: Any, args: argparse.Namespace) -> int:
    _check_model(args.model)
    from .run import run

    return run(kit, args, args.model)


def _check_model(name: str):
    """What can be said of a checkpoint before torch is imported."""
    from ..hub.checkpoints import HUB_ID, check_checkpoint

    folder = Path(name).expanduser()
    if folder.exists():
        check_checkpoint(folder)
    elif not HUB_ID.fullmatch(name):
        raise ValueError(
            f"--model must be a checkpoint folder, or a model of the Hub as OWNER/NAME; got {name}, which does "
            "not exist."
        )
