"""
MTP decoding of batches: acceptance and wall-clock of `generate(use_mtp=True)` beside plain `generate`, at several batch sizes.

    python benchmarks/mtp_batch.py                 # everything, about ten minutes on two cores
    python benchmarks/mtp_batch.py --sections forced --batch-sizes 4

Sections
    text    the bundled checkpoint continues held-out standard-library code; prompts differ in length, padding on the left
    forced  a random dense model of 24 layers x 512 whose drafts are chosen to be accepted at a given rate; the rows of a
            batch accept different numbers in each round
"""

import argparse
from unittest.mock import patch

import mtp_decoding
import torch
from _record import force_option, record
from mtp_decoding import acceptance_schedule, console, decoding_ratio, dense_model, held_out_prompts
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer

import mimo_hf
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.mtp.mtp_batch import _BatchDecoder

SECTIONS = ("text", "forced")


def left_padded(prompts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch `[rows, longest]` of prompts `[1, length]`, and its mask."""
    longest = max(prompt.shape[1] for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - prompt.shape[1] :] = prompt[0]
        mask[row, longest - prompt.shape[1] :] = 1
    return ids, mask


def measure_text(batch_sizes: list[int], new_tokens: int, repeats: int) -> list[dict]:
    folder = bundled("mimo-v2-flash")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = held_out_prompts(tokenizer, max(batch_sizes), 128)
    prompts = [prompt[:, 8 * (row % 4) :] for row, prompt in enumerate(prompts)]
    rows = []
    for batch_size in track(batch_sizes, "text", console=console):
        ids, mask = left_padded(prompts[:batch_size])
        # Without an end-of-text token every row runs to the last one, so that both ways emit the same number.
        arguments = {"attention_mask": mask, "eos_token_id": None, "pad_token_id": 0}
        rows.append({"batch": batch_size, **decoding_ratio(model, ids, new_tokens, repeats, **arguments)})
    return rows


class ForcedDrafts:
    """Stands for `_BatchDecoder._choose_drafts`: every head is paid for, and a prescribed number of drafts is right."""

    def __init__(self, continuations: torch.Tensor, schedule: list[int]):
        self.continuations = continuations
        self.schedule = schedule

    def __call__(self, decoder: _BatchDecoder, logits: torch.Tensor, k: int) -> torch.Tensor:
        number = decoder.statistics.forward_passes - 1  # of the round
        drafts = logits.argmax(dim=-1)
        for i, row in enumerate(decoder.rows):
            known = self.continuations[row, decoder.lengths[row] + k]
            is_right = k < self.schedule[(number + 3 * row) % len(self.schedule)]
            drafts[i] = known if is_right else (known + 1) % logits.shape[-1]
        return drafts


def forced_batches(
    model, batch_sizes: list[int], context: int, new_tokens: int, repeats: int, targets: tuple[float, ...]
) -> list[dict]:
    """One row for each batch size and mean acceptance length; a batch of 1 takes the decoding of one sequence."""
    rows = []
    for batch_size in batch_sizes:
        prompt = torch.randint(model.config.vocab_size, (batch_size, context))
        if batch_size == 1:
            of_one = mtp_decoding.forced_acceptance(model, prompt, new_tokens, repeats, targets)
            rows += [{"batch": 1, **row} for row in of_one["rows"]]
            continue
        with console.status(f"reference continuation, batch {batch_size}"):
            # Longer than any run reads: the last rounds draft past the end of the text.
            continuations = model.generate(prompt, max_new_tokens=new_tokens + 8, do_sample=False)
        for target in track(targets, f"batch {batch_size}", console=console):
            forced = ForcedDrafts(continuations, acceptance_schedule(target))
            with patch.object(_BatchDecoder, "_choose_drafts", lambda *args, forced=forced: forced(*args)):
                result = decoding_ratio(model, prompt, new_tokens, repeats)
            rows.append({"batch": batch_size, "target": target, **result})
    return rows


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument(
        "--targets", type=float, nargs="+", default=[1.0, 2.0, 2.8, 3.4, 4.0], help="mean acceptance lengths to force"
    )
    parser.add_argument("--new-tokens", type=int, default=96, help="tokens a row (default: %(default)s)")
    parser.add_argument("--context", type=int, default=128, help="prompt of the dense model (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed runs, of which the median (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="short runs of a small model, to see that it runs")
    parser.add_argument("--name", default="mtp_batch", help="name of the JSON under benchmarks/results")
    force_option(parser)
    args = parser.parse_args(argv)
    layers, hidden = 24, 512
    if args.quick:
        layers, hidden, args.new_tokens, args.repeats, args.context = 4, 128, 24, 1, 32
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    mimo_hf.register()
    payload: dict = {}
    if "text" in args.sections:
        rows = measure_text(args.batch_sizes, args.new_tokens, args.repeats)
        payload["text"] = {
            "checkpoint": "mimo_hf/hub/tiny/mimo-v2-flash",
            "new_tokens": args.new_tokens,
            "batches": rows,
        }
    if "forced" in args.sections:
        model = dense_model(layers, hidden)
        rows = forced_batches(
            model, args.batch_sizes, args.context, args.new_tokens, args.repeats, tuple(args.targets)
        )
        payload["forced"] = {
            "layers": layers,
            "hidden_size": hidden,
            "weights": "random, float32; drafts forced",
            "new_tokens": args.new_tokens,
            "batches": rows,
        }
    path = record(args.name, payload, seed=args.seed, timed=True, force=args.force)
    console.print(f"wrote {path.name}")
    console.print_json(data=payload)


if __name__ == "__main__":
    main()
