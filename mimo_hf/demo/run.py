"""What `mimo-hf demo` and `mimo-hf generate` do, step by step."""

import gc
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .prompt import Prompt, first_tokens, held_out_prompt, read_beginning
from .terminal import open_console

OUTPUTS_DIFFER = 1


def run(kit: Any, args: Namespace, model: str | Path, held_out_is_unseen: bool = False) -> int:
    """
    Continues a text and compares, or only continues it with `--no-mtp`.

    Args:
        kit: `mimo_hf.command_kit`.
        args: the options of `mimo-hf generate`.
        model: folder or id of the checkpoint.
        held_out_is_unseen: say that the model was trained without the held-out files.

    Returns:
        The exit code.
    """
    if not args.do_sample and (args.temperature or args.top_p):
        raise ValueError("--temperature and --top-p must go with --do-sample; without it decoding is greedy.")
    if args.no_mtp and (args.json or args.out or args.repeats > 1):
        raise ValueError(
            "--json, --out and --repeats must not go with --no-mtp: they measure plain against MTP decoding."
        )
    file_text = None if args.file is None else read_beginning(args.file, args.prompt_tokens)
    console = open_console(color=not args.no_color, record=args.svg is not None, silent=args.json)

    with _no_garbage_collection():
        with kit.stage("importing torch and transformers"):
            from .checkpoint import load, quiet, require_heads
            from .comparison import Decoding, about_loops, circumstances, compare, continue_plainly, show

        with kit.stage("loading the checkpoint"):
            checkpoint = load(model, args.dtype, args.device)
    if not args.no_mtp:
        require_heads(checkpoint)
    if checkpoint.extra_heads:
        kit.say(
            f"mimo-hf: warning: {checkpoint.name} has MTP tensors that are not used: {', '.join(checkpoint.extra_heads)}."
        )

    with quiet():
        if args.prompt is not None:
            prompt = Prompt(args.prompt, "from --prompt")
        elif file_text is not None:
            text = first_tokens(file_text, checkpoint.tokenizer, args.prompt_tokens)
            prompt = Prompt(text, f"the beginning of {args.file}")
        else:
            prompt = held_out_prompt(checkpoint.tokenizer, args.prompt_tokens, args.seed)
            prompt.source += ", never seen by the model" if held_out_is_unseen else ""

    decoding = Decoding(
        max_new_tokens=args.max_new_tokens,
        sample=args.do_sample,
        temperature=args.temperature or 1.0,
        top_p=args.top_p or 1.0,
        seed=args.seed,
    )
    if args.no_mtp:
        continue_plainly(console, checkpoint, prompt, decoding)
        return 0

    comparison = compare(console, checkpoint, prompt, decoding, args.repeats)
    show(console, comparison)
    if not args.do_sample:
        console.print(about_loops(comparison, Path(model).expanduser()), soft_wrap=True)
    origin = {"command": args.command_line, "seed": args.seed, "prompt": prompt.source}
    report = origin | circumstances(checkpoint) | {"decoding": decoding.arguments()} | comparison.to_dict()
    kit.write(args, kit.as_json(report))
    if args.svg:
        console.save_svg(str(args.svg), title=args.command_line.partition(" --svg")[0])
    return OUTPUTS_DIFFER if comparison.outputs_equal is False else 0


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Imports make a million objects that stay; to look for garbage among them again and again takes a part of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
