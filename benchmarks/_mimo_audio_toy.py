"""Small MiMo-Audio models for the studies of its mechanisms: their shape, their training, and text that needs no tokenizer."""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _record import RESULTS, record
from rich.console import Console
from rich.progress import Progress

from mimo_hf.drawing import save
from mimo_hf.modeling.mimo_audio import MiMoAudioConfig, MiMoAudioForConditionalGeneration, layout_audio
from mimo_hf.modeling.mimo_audio.prompt_rows import Row as PromptRow, labels_of, pad_rows

CHANNELS, CODES = 8, 16
# Text ids: words below `WORDS`, then the layout's markers.
WORDS = 24
MARKERS = ("sosp", "eosp", "empty", "sostm", "eostm", "eot", "im_end", "eos")
TOKENS = {f"{name}_token_id": WORDS + number for number, name in enumerate(MARKERS)}

Row = dict[str, torch.Tensor]
console = Console(stderr=True)


def weights_of(model: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def toy_config(**changes) -> MiMoAudioConfig:
    """Hidden width 128, 2 + 1 + 2 layers (language model, patch encoder, patch decoder), 8 channels of 16 codes."""
    fields = {
        "vocab_size": WORDS + len(MARKERS), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 1024, "rope_theta": 10_000.0,
        "speech_vocab_size": CODES + 1, "speech_zeroemb_idx": CODES, "local_dim": 64, "local_layers": 2, "local_attn_heads": 4,
        "local_ffn_dim": 128, "local_attn_dropout": 0.0, "input_local_layers": 1, "empty_loss_weight": 1.0,
        "audio_loss_weights": [1.0] * CHANNELS, "text_loss_weight": 1.0, "initializer_range": 0.09,  # 1 / sqrt(width)
    }  # fmt: skip
    return MiMoAudioConfig(**(fields | TOKENS | changes))


def toy_model(seed: int, **changes) -> MiMoAudioForConditionalGeneration:
    torch.manual_seed(seed)
    return MiMoAudioForConditionalGeneration(toy_config(**changes))


def lesson(ids: torch.Tensor, patches: torch.Tensor, is_target: torch.Tensor, config: MiMoAudioConfig) -> Row:
    """Positions with labels where `is_target` says so."""
    return {"input_ids": ids, "audio_codes": patches} | labels_of(PromptRow(ids, patches, is_target), config)


def speech_row(codes: torch.Tensor, config: MiMoAudioConfig) -> Row:
    """A clip `[frames, C]`, of which all is learned."""
    ids, patches = layout_audio(codes, config)
    return lesson(ids, patches, torch.arange(len(ids)) > 0, config)


def batch_of(rows: Sequence[Row], config: MiMoAudioConfig, side: str = "right") -> Row:
    return pad_rows(rows, TOKENS["eos_token_id"], config.speech_zero_ids, side)


def train(
    model: MiMoAudioForConditionalGeneration,
    batches: Iterator[Row],
    steps: int,
    learning_rate: float,
    progress: Progress | None = None,
    name: str = "training",
    every: int = 0,
    look: Callable[[int, object], None] | None = None,
) -> None:
    """
    AdamW, a rise over a twentieth of the steps, then half a cosine.

    Args:
        look: called with the number of steps done and the last output, first after none, then after each `every` steps.
    """
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rise = max(1, steps // 20)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    task = progress.add_task(name, total=steps) if progress else None
    output = None
    for step in range(steps + 1):
        if look and every and step % every == 0:
            model.eval()
            look(step, output)
        if step == steps:
            break
        model.train()
        output = model(**next(batches))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if progress:
            progress.advance(task)
    model.eval()


def run_study(
    doc: str | None,
    name: str,
    argv: list[str] | None,
    learn: Callable[[list[int], bool, Progress], list[dict]],
    summary: Callable[[list[dict]], list[dict]],
    picture: Callable[[list[dict]], Any],
    facts: dict,
) -> list[dict]:
    """
    A study's command line: trains, prints its table, and puts table, runs and picture on record.

    Args:
        name: of the result, without `mimo_audio_`.
        learn: the rows of these seeds; true: a few steps of everything, of which nothing is written.
        facts: what else the result says.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--small", action="store_true", help="a few steps of everything; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with Progress(console=console) as progress:
        rows = learn(options.seeds, options.small, progress)
    table = summary(rows)
    console.print_json(data=table)
    if not options.small:
        save(picture(rows), RESULTS / f"mimo_audio_{name}.png")
        payload = facts | {"seeds": options.seeds, "table": table, "runs": rows}
        console.print(f"wrote {record(f'mimo_audio_{name}', payload, timed=False).name}")
    return rows
