"""
Plain and MTP decoding of one prompt, side by side.

Greedy MTP decoding gives the tokens of plain decoding in fewer forward passes of the trunk (arXiv 2601.02780, section 5).
"""

import platform
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..hub.checkpoints import RUN, read_object
from ..metrics.repetition import repetition_period
from ..modeling.mtp.mtp_statistics import MTPStatistics
from .checkpoint import Checkpoint, quiet
from .prompt import Prompt
from .terminal import TokenPrinter, stage, visible

PROMPT, PLAIN, OWN, ACCEPTED = "cyan", "dim", "", "bold green"
SHOWN_PROMPT_LINES = 12
WARM_UP_TOKENS = {"plain": 2, "mtp": 8}  # prefill and one step; some rounds of every number of drafts


@dataclass
class Decoding:
    """How to continue; `temperature` and `top_p` count where `sample` is true."""

    max_new_tokens: int = 160
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.sample}
        if self.sample:
            arguments |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return arguments


@dataclass
class Run:
    """The new tokens of one continuation, and the seconds it took, prefill included, printing not."""

    tokens: list[int]
    times_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return len(self.tokens) / median(self.times_s)


def encode(checkpoint: Checkpoint, prompt: Prompt, max_new_tokens: int) -> dict[str, torch.Tensor]:
    """The model's inputs. Raises ValueError where prompt and continuation don't fit into the context."""
    with quiet():
        inputs = checkpoint.tokenizer(prompt.text, return_tensors="pt").to(checkpoint.model.device)
    num_tokens = inputs["input_ids"].shape[1]
    context = getattr(checkpoint.model.config, "max_position_embeddings", None)
    if num_tokens == 0:
        raise ValueError("--prompt must give tokens; got none. Give some text to continue.")
    if context is not None and num_tokens + max_new_tokens > context:
        raise ValueError(
            f"--max-new-tokens must leave the prompt's {num_tokens} tokens room in the model's context of "
            f"{context}; got {max_new_tokens}, which makes {num_tokens + max_new_tokens}. Shorten the prompt "
            "(--prompt-tokens cuts a file) or lower --max-new-tokens."
        )
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}


def generate(checkpoint: Checkpoint, inputs, decoding: Decoding, use_mtp: bool, printer: TokenPrinter | None) -> Run:
    torch.manual_seed(decoding.seed)
    mtp = {"use_mtp": True} if use_mtp else {}
    with quiet():
        started = time.perf_counter()
        output = checkpoint.model.generate(**inputs, **decoding.arguments(), **mtp, streamer=printer)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        time_s = time.perf_counter() - started
    return Run(tokens, [time_s - (printer.time_s if printer else 0.0)])


@dataclass
class Comparison:
    plain: Run
    mtp: Run
    statistics: MTPStatistics
    sampled: bool

    @property
    def first_difference(self) -> int | None:
        """Index of the first new token that differs; None where all are equal."""
        pairs = enumerate(zip_longest(self.plain.tokens, self.mtp.tokens))
        return next((index for index, (plain, mtp) in pairs if plain != mtp), None)

    @property
    def outputs_equal(self) -> bool | None:
        """None when sampling: two samples of one distribution need not be equal."""
        return None if self.sampled else self.first_difference is None

    @property
    def speed_ratio(self) -> float:
        return self.mtp.tokens_per_second / self.plain.tokens_per_second

    @property
    def saved_forward_passes(self) -> float:
        """Share of the forward passes that plain decoding takes for the same number of tokens, one each."""
        return 1 - self.statistics.forward_passes / len(self.mtp.tokens)

    def lines(self) -> list[str]:
        """`name: value`, for scripts."""
        plain, mtp, statistics = self.plain, self.mtp, self.statistics
        equal = {True: "yes", False: "no", None: "not compared (two samples need not be equal)"}[self.outputs_equal]
        num_tokens = str(len(mtp.tokens))
        if len(plain.tokens) != len(mtp.tokens):
            num_tokens = f"{len(plain.tokens)} plain, {len(mtp.tokens)} MTP"
        lines = {
            "outputs equal": equal,
            "tokens": num_tokens,
            "acceptance length": f"{statistics.acceptance_length:.2f}",
            "acceptance by position": _shares(statistics),
            "tokens per second, plain": f"{plain.tokens_per_second:.1f}",
            "tokens per second, MTP": f"{mtp.tokens_per_second:.1f}",
            "speed ratio": f"{self.speed_ratio:.2f}",
            "forward passes": f"{statistics.forward_passes} instead of {len(mtp.tokens)} "
            f"(saved {100 * self.saved_forward_passes:.1f} %)",
        }
        if self.first_difference is not None and not self.sampled:
            lines["first difference"] = f"token {self.first_difference + 1}"
        return [f"{name}: {value}" for name, value in lines.items()]

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("", "plain", "with MTP"):
            table.add_column(column, justify="right" if column else "left")
        plain, mtp, statistics = self.plain, self.mtp, self.statistics
        table.add_row("tokens", str(len(plain.tokens)), str(len(mtp.tokens)))
        table.add_row("forward passes", str(len(plain.tokens)), str(statistics.forward_passes))
        table.add_row("acceptance length", "", f"{statistics.acceptance_length:.2f}")
        table.add_row("acceptance by position", "", _shares(statistics))
        table.add_row("seconds", f"{median(plain.times_s):.2f}", f"{median(mtp.times_s):.2f}")
        table.add_row("tokens per second", f"{plain.tokens_per_second:.1f}", f"{mtp.tokens_per_second:.1f}")
        return table

    def to_dict(self) -> dict[str, Any]:
        return {
            "outputs_equal": self.outputs_equal,
            "first_difference": None if self.sampled else self.first_difference,
            "plain": _figures(self.plain, forward_passes=len(self.plain.tokens)),
            "mtp": _figures(self.mtp, **self.statistics.to_dict()),
            "speed_ratio": self.speed_ratio,
            "saved_forward_passes": self.saved_forward_passes,
        }


def continue_plainly(console: Console, checkpoint: Checkpoint, prompt: Prompt, decoding: Decoding) -> Run:
    """Prints the continuation, and nothing else."""
    inputs = encode(checkpoint, prompt, decoding.max_new_tokens)
    return generate(checkpoint, inputs, decoding, False, TokenPrinter(console, checkpoint.tokenizer))


def compare(
    console: Console, checkpoint: Checkpoint, prompt: Prompt, decoding: Decoding, repeats: int = 1
) -> Comparison:
    """Continues the prompt both ways, the first of `repeats` times before the user's eyes."""
    inputs = encode(checkpoint, prompt, decoding.max_new_tokens)
    _warm_up(checkpoint, inputs, decoding, use_mtp=False)
    console.print(f"{checkpoint.name}: {checkpoint.describe()}", soft_wrap=True)
    _show_prompt(console, prompt, inputs["input_ids"].shape[1])
    _heading(console, "plain decoding, one token a forward pass")
    _show_last_line(console, prompt)
    plain = generate(checkpoint, inputs, decoding, False, TokenPrinter(console, checkpoint.tokenizer, PLAIN, PLAIN))
    _warm_up(checkpoint, inputs, decoding, use_mtp=True)
    _heading(console, _legend(console))
    _show_last_line(console, prompt)
    mtp = generate(checkpoint, inputs, decoding, True, TokenPrinter(console, checkpoint.tokenizer, OWN, ACCEPTED))
    for repeat in range(2, repeats + 1):
        with stage(f"timing, {repeat} of {repeats}"):
            plain.times_s += generate(checkpoint, inputs, decoding, False, printer=None).times_s
            mtp.times_s += generate(checkpoint, inputs, decoding, True, printer=None).times_s
    return Comparison(plain, mtp, checkpoint.model.mtp_statistics, decoding.sample)


def _warm_up(checkpoint: Checkpoint, inputs, decoding: Decoding, use_mtp: bool):
    """The first call of anything in torch takes longer; it would be counted as decoding."""
    num_tokens = min(WARM_UP_TOKENS["mtp" if use_mtp else "plain"], decoding.max_new_tokens)
    with stage("warming up"):
        generate(checkpoint, inputs, Decoding(max_new_tokens=num_tokens), use_mtp, printer=None)


def show(console: Console, comparison: Comparison):
    _heading(console, "result")
    console.print(comparison.table())
    for line in comparison.lines():
        console.print(line, soft_wrap=True)


def about_loops(comparison: Comparison, folder: Path) -> str:
    """
    Whether this continuation ends in a loop, which is easy to draft, and what the checkpoint's own run found over many texts.
    """
    period = repetition_period(comparison.mtp.tokens)
    this = "this text ends in none" if period is None else f"this text ends in one of {period} tokens, easy to draft"
    run = read_object(folder / RUN) if (folder / RUN).is_file() else {}
    greedy = run.get("acceptance", {}).get("greedy", {})
    if not {"acceptance_length", "acceptance_length_without_loops", "loops", "prompts"} <= greedy.keys():
        return f"loops: {this}"
    return (
        f"loops: {this}; of {greedy['prompts']} held-out texts {greedy['loops']} do, with them the acceptance length is "
        f"{greedy['acceptance_length']:.2f}, without them {greedy['acceptance_length_without_loops']:.2f}"
    )


def _heading(console: Console, title: str | Text):
    console.print()
    console.rule(title, align="left", style="dim")


def _legend(console: Console) -> Text:
    title = Text("MTP decoding")
    if console.color_system is not None or console.record:
        title.append(": ").append("accepted drafts", ACCEPTED).append(" and ").append("the trunk's own tokens", OWN)
    return title


def _show_prompt(console: Console, prompt: Prompt, num_tokens: int):
    _heading(console, "prompt")
    console.print(f"{num_tokens} tokens: {visible(prompt.source)}", style="dim", soft_wrap=True)
    lines = visible(prompt.text).splitlines()
    if len(lines) > SHOWN_PROMPT_LINES:
        console.print(f"... {len(lines) - SHOWN_PROMPT_LINES} lines above", style="dim")
    for line in lines[-SHOWN_PROMPT_LINES:]:
        console.print(line, style=PROMPT, soft_wrap=True)


def _show_last_line(console: Console, prompt: Prompt):
    """The continuation begins behind it."""
    console.print(visible(prompt.text).rpartition("\n")[2], style=PROMPT, end="", soft_wrap=True)


def _shares(statistics: MTPStatistics) -> str:
    return " ".join(f"{share:.2f}" for share in statistics.acceptance_by_position)


def _figures(run: Run, **more) -> dict[str, Any]:
    figures = {"tokens": len(run.tokens), "times_s": run.times_s, "tokens_per_second": run.tokens_per_second} | more
    return {name: _without_nan(value) for name, value in figures.items()}


def _without_nan(value):
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def circumstances(checkpoint: Checkpoint) -> dict[str, Any]:
    """Versions, device and date, for numbers that are kept."""
    model = checkpoint.model
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.machine()
    return {
        "model": checkpoint.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": f"{model.device} ({device}, threads: {torch.get_num_threads()})",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "mimo_hf": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


__all__ = ["Comparison", "Decoding", "Run", "about_loops", "circumstances", "compare", "continue_plainly", "show"]
