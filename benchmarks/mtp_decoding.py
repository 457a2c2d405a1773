"""
MTP decoding of MiMo-V2-Flash: acceptance on real text, wall-clock ratios, and the cost of a round beside the trunk.

    python benchmarks/mtp_decoding.py                 # everything, about ten minutes on two cores
    python benchmarks/mtp_decoding.py --sections speed --quick

Sections
    acceptance  the bundled checkpoint continues held-out standard-library code; rounds are grouped by the mean entropy of
                the drafted positions, and y = (K+1)(1 - a x^b) is fitted (arXiv 2601.02780, figure 7)
    speed       MTP against plain decoding in turn, for the bundled checkpoint and for a random dense model of 24 layers x 512
                whose drafts are chosen to be accepted at a given rate
    overhead    time of a round outside the trunk, ours and transformers' own `use_mtp` on GLM-4-MoE of the same shape
"""

import argparse
import statistics
import time
from contextlib import contextmanager
from functools import wraps
from unittest.mock import patch

import numpy as np
import torch
from _record import force_option, record
from _timing import ratio_of, steady_ratio
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer, Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.generation.candidate_generator import MTPCandidateGenerator as UpstreamCandidateGenerator
from transformers.modeling_layers import MtpModel

import mimo_hf
from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM
from mimo_hf.data.stdlib_code import held_out_files
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.metrics.repetition import repetition_period
from mimo_hf.modeling.mtp.mtp import MTPCandidateGenerator

SECTIONS = ("acceptance", "speed", "overhead")
console = Console()


# Acceptance on real text


def held_out_prompts(tokenizer, count: int, length: int) -> list[torch.Tensor]:
    """The first `length` tokens after the middle of `count` held-out files, in the order of their paths."""
    prompts = []
    for path in held_out_files():
        ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt", verbose=False).input_ids
        start = ids.shape[1] // 2
        if ids.shape[1] - start >= length:
            prompts.append(ids[:, start : start + length])
        if len(prompts) == count:
            break
    return prompts


def entropies(logits: tuple[torch.Tensor, ...]) -> list[float]:
    """Entropy in nats of each emitted position's distribution."""
    log_probabilities = torch.cat(logits).float().log_softmax(dim=-1)
    return (-(log_probabilities.exp() * log_probabilities).sum(dim=-1)).tolist()


def fit_entropy_curve(entropy: np.ndarray, length: np.ndarray, weight: np.ndarray, cap: int) -> dict:
    """Least squares of log(1 - y / cap) = log a + b log x over the buckets, weighted by their rounds."""
    usable = (entropy > 0) & (length < cap)
    x, y = np.log(entropy[usable]), np.log(1 - length[usable] / cap)
    b, log_a = np.polyfit(x, y, 1, w=np.sqrt(weight[usable]))
    predicted = cap * (1 - np.exp(log_a) * entropy**b)
    mean = np.average(length, weights=weight)
    residual = np.average((length - predicted) ** 2, weights=weight)
    total = np.average((length - mean) ** 2, weights=weight)
    return {"a": float(np.exp(log_a)), "b": float(b), "r_squared": float(1 - residual / total)}


def measure_acceptance(num_prompts: int, new_tokens: int, prompt_length: int = 128, num_buckets: int = 8) -> dict:
    folder = bundled("mimo-v2-flash")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    num_heads = model.config.num_mtp_layers
    rounds, continuations = [], []
    for prompt in track(held_out_prompts(tokenizer, num_prompts, prompt_length), "acceptance", console=console):
        arguments = {"max_new_tokens": new_tokens, "do_sample": False, "return_dict_in_generate": True}
        drafted = model.generate(prompt, use_mtp=True, output_logits=True, **arguments)
        plain = model.generate(prompt, **arguments)
        tokens = drafted.sequences[0, prompt.shape[1] :].tolist()
        figures = model.mtp_statistics
        entropy = entropies(drafted.logits)
        start = 1  # the prefill emits the first token
        for proposed, accepted in zip(figures.drafted, figures.accepted, strict=True):
            window = entropy[start : start + num_heads]
            if proposed == num_heads and len(window) == num_heads:
                rounds.append((sum(window) / num_heads, accepted + 1))
            start += accepted + 1
        continuations.append(
            {
                "equal": torch.equal(drafted.sequences, plain.sequences),
                "loop_period": repetition_period(tokens),
                "acceptance_length": figures.acceptance_length,
                "acceptance_by_position": figures.acceptance_by_position,
                "rounds": figures.rounds,
            }
        )

    def mean_length(chosen: list[dict]) -> float | None:
        total = sum(c["rounds"] for c in chosen)
        return sum(c["acceptance_length"] * c["rounds"] for c in chosen) / total if total else None

    looping = [c for c in continuations if c["loop_period"] is not None]
    free = [c for c in continuations if c["loop_period"] is None]
    weights = [c["rounds"] for c in continuations]
    by_position = np.average([c["acceptance_by_position"] for c in continuations], axis=0, weights=weights)
    rounds.sort()
    buckets = [
        {
            "rounds": len(part),
            "mean_entropy_nats": float(np.mean([e for e, _ in part])),
            "acceptance_length": float(np.mean([n for _, n in part])),
        }
        for part in (
            rounds[i * len(rounds) // num_buckets : (i + 1) * len(rounds) // num_buckets] for i in range(num_buckets)
        )
    ]
    columns = [np.array([b[key] for b in buckets]) for key in ("mean_entropy_nats", "acceptance_length", "rounds")]
    return {
        "checkpoint": "mimo_hf/hub/tiny/mimo-v2-flash",
        "num_heads": num_heads,
        "prompts": len(continuations),
        "prompt_tokens": prompt_length,
        "new_tokens": new_tokens,
        "outputs_equal": all(c["equal"] for c in continuations),
        "acceptance_length": mean_length(continuations),
        "acceptance_by_position": by_position.tolist(),
        "looping_continuations": len(looping),
        "acceptance_length_looping": mean_length(looping),
        "acceptance_length_without_loops": mean_length(free),
        "entropy_buckets": buckets,
        "curve": {"form": "y = (K+1)(1 - a x^b)", **fit_entropy_curve(*columns, cap=num_heads + 1)},
        "paper": {"a": 0.58, "b": 0.58, "r_squared": 0.995, "source": "arXiv 2601.02780, figure 7 (309B model)"},
    }


# Wall-clock


class ForcedAcceptance(MTPCandidateGenerator):
    """Pays for every head, then drafts the known continuation so that each round accepts a prescribed number."""

    continuation: list[int] = []
    schedule: list[int] = []

    def _draft(self, input_ids):
        self.accept = self.schedule[self.statistics.rounds % len(self.schedule)]
        self.position = input_ids.shape[1]
        self.drafted = 0
        return super()._draft(input_ids)

    def _choose(self, logits):
        chosen = super()._choose(logits)
        known = self.continuation[self.position + self.drafted]
        chosen.fill_(known if self.drafted < self.accept else (known + 1) % logits.shape[-1])
        self.drafted += 1
        return chosen


def acceptance_schedule(acceptance_length: float, rounds: int = 20) -> list[int]:
    """Accepted drafts of each round, as even as possible, whose mean is `acceptance_length` - 1."""
    return [int((i + 1) * (acceptance_length - 1)) - int(i * (acceptance_length - 1)) for i in range(rounds)]


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def dense_model(num_layers: int, hidden_size: int) -> MiMoV2FlashForCausalLM:
    config = MiMoV2FlashConfig(
        vocab_size=4096,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        mlp_layer_types=["dense"] * num_layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=96,
        v_head_dim=64,
        num_mtp_layers=3,
        max_position_embeddings=4096,
        bos_token_id=None,
    )
    return MiMoV2FlashForCausalLM(config).eval()


def timed(function) -> tuple[float, object]:
    synchronize()
    started = time.perf_counter()
    result = function()
    synchronize()
    return time.perf_counter() - started, result


@contextmanager
def timing_of(owner, name: str):
    """Collects the seconds of every call of a method."""
    method, seconds = getattr(owner, name), []

    @wraps(method)  # generate reads the signature of forward
    def wrapper(*args, **kwargs):
        spent, result = timed(lambda: method(*args, **kwargs))
        seconds.append(spent)
        return result

    setattr(owner, name, wrapper)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def decoding_ratio(model, prompt, new_tokens: int, repeats: int, **arguments) -> dict:
    """Plain and MTP decoding in turn, then both once more with a watch on the trunk."""
    arguments |= {"max_new_tokens": new_tokens, "do_sample": False}
    outputs = {}

    def decode(name: str, **more):
        outputs[name] = model.generate(prompt, **arguments, **more)
        synchronize()

    ways = {"plain": lambda: decode("plain"), "mtp": lambda: decode("mtp", use_mtp=True)}
    ratio, seconds = steady_ratio(ways, "plain", "mtp", repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    with timing_of(type(model), "forward") as steps:
        model.generate(prompt, **arguments)
    with timing_of(type(model), "forward") as passes:
        spent, _ = timed(lambda: model.generate(prompt, use_mtp=True, **arguments))
    step, rounds = statistics.median(steps[1:]), len(passes) - 1
    outside = (spent - sum(passes)) / rounds
    emitted = prompt.shape[0] * new_tokens
    return {
        "outputs_equal": torch.equal(outputs["plain"], outputs["mtp"]),
        "acceptance_length": model.mtp_statistics.acceptance_length,
        "plain_tokens_per_s": emitted / median["plain"],
        "mtp_tokens_per_s": emitted / median["mtp"],
        **ratio,
        "trunk_step_ms": 1e3 * step,
        "trunk_pass_with_drafts_ms": 1e3 * statistics.median(passes[1:]),
        "draft_ms_per_round": 1e3 * model.mtp_statistics.draft_time_s / rounds,
        "round_outside_trunk_ms": 1e3 * outside,
        "round_outside_trunk_over_step": outside / step,
    }


def measure_speed(new_tokens: int, repeats: int, quick: bool) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
    tiny = AutoModelForCausalLM.from_pretrained(bundled("mimo-v2-flash"), dtype=torch.float32).eval()
    with console.status("bundled checkpoint"):
        prompt = held_out_prompts(tokenizer, 1, 128)[0]
        decoding_ratio(tiny, prompt, 16, 1)
        result: dict = {"bundled_checkpoint": decoding_ratio(tiny, prompt, new_tokens, repeats)}

    layers, hidden = (4, 128) if quick else (24, 512)
    model = dense_model(layers, hidden)
    prompt = torch.randint(model.config.vocab_size, (1, 256))
    result["dense_model"] = {
        "layers": layers,
        "hidden_size": hidden,
        "weights": "random, float32; drafts forced",
        **forced_acceptance(model, prompt, new_tokens, repeats),
    }
    return result


def forced_acceptance(
    model,
    prompt: torch.Tensor,
    new_tokens: int,
    repeats: int,
    targets: tuple[float, ...] = (1.0, 2.0, 2.8, 3.4, 3.6, 4.0),
) -> dict:
    """MTP against plain decoding, with drafts chosen to be accepted at each of the given mean lengths."""
    model.mtp_candidate_generator_class = ForcedAcceptance
    with console.status("reference continuation"):
        # Longer than any run reads: the last rounds draft past the end of the text.
        continuation = model.generate(prompt, max_new_tokens=new_tokens + 8, do_sample=False)
    ForcedAcceptance.continuation = continuation[0].tolist()
    rows = []
    for target in track(targets, "forced acceptance", console=console):
        ForcedAcceptance.schedule = acceptance_schedule(target)
        rows.append({"target": target, **decoding_ratio(model, prompt, new_tokens, repeats)})
    slopes = [row["ratio"] / row["acceptance_length"] for row in rows]
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    in_heads = sum(n for name, n in sizes.items() if ".mtp." in name) + 3 * sizes["lm_head.weight"]
    in_trunk = sum(n for name, n in sizes.items() if name.startswith("model.layers.")) + sizes["lm_head.weight"]
    return {
        "rows": rows,
        "slope_ratio_over_acceptance_length": {
            "median": statistics.median(slopes),
            "min": min(slopes),
            "max": max(slopes),
        },
        "floor": {
            "weights_read_by_heads_over_trunk_step": in_heads / in_trunk,
            "note": "at batch 1 a pass reads every weight once, so this share bounds round_outside_trunk_over_step from below",
        },
    }


# Overhead beside the trunk


def overhead_ms(model, generator_class, prompt, new_tokens: int) -> dict:
    with timing_of(type(model), "forward") as trunk, timing_of(generator_class, "get_candidates") as drafting:
        total, _ = timed(lambda: model.generate(prompt, use_mtp=True, max_new_tokens=new_tokens, do_sample=False))
    rounds = len(trunk) - 1
    return {
        "drafting_ms": 1e3 * statistics.median(drafting[1:]),
        "outside_trunk_ms": 1e3 * (total - sum(trunk)) / rounds,
        "rounds": rounds,
    }


def measure_overhead(new_tokens: int, repeats: int) -> dict:
    shape = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
    }
    ours = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**shape, v_head_dim=16, num_mtp_layers=3)).eval()
    theirs_config = Glm4MoeConfig(
        **shape, first_k_dense_replace=1, n_shared_experts=1, num_mtp_layers=3, partial_rotary_factor=0.5
    )
    theirs = Glm4MoeForCausalLM(theirs_config).eval()
    prompt = torch.randint(shape["vocab_size"], (1, 200))
    runs: dict[str, list[dict]] = {"mimo_hf": [], "transformers": []}
    heads = MtpModel(theirs, 3).eval()
    from_memory = patch.object(MtpModel, "from_pretrained", lambda model, device_map=None: heads)
    with from_memory, console.status("overhead"):
        for _ in range(repeats + 1):
            runs["mimo_hf"].append(overhead_ms(ours, MTPCandidateGenerator, prompt, new_tokens))
            runs["transformers"].append(overhead_ms(theirs, UpstreamCandidateGenerator, prompt, new_tokens))
    columns = {
        name: {key: [run[key] for run in some[1:]] for key in ("drafting_ms", "outside_trunk_ms")}
        for name, some in runs.items()
    }
    medians = {name: {key: statistics.median(column) for key, column in of.items()} for name, of in columns.items()}
    drafting, outside = (
        ratio_of(columns["mimo_hf"][key], columns["transformers"][key]) for key in ("drafting_ms", "outside_trunk_ms")
    )
    return {
        "shape": shape,
        "per_round": medians,
        "drafting": drafting,
        "outside_trunk": outside,
        "note": "transformers reads its heads from disk in every generate call; here it gets them from memory instead",
    }


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--prompts", type=int, default=32, help="held-out files to continue (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=160, help="tokens a continuation (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed runs, of which the median (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few prompts and a small model, to see that it runs")
    parser.add_argument("--name", default="mtp_decoding", help="name of the JSON under benchmarks/results")
    force_option(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.prompts, args.new_tokens, args.repeats = 4, 48, 1
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    mimo_hf.register()
    payload = {}
    if "acceptance" in args.sections:
        payload["acceptance"] = measure_acceptance(args.prompts, args.new_tokens)
    if "speed" in args.sections:
        payload["speed"] = measure_speed(args.new_tokens, args.repeats, args.quick)
    if "overhead" in args.sections:
        payload["overhead"] = measure_overhead(args.new_tokens, args.repeats)
    path = record(args.name, payload, seed=args.seed, timed=True, force=args.force)
    console.print(f"wrote {path.name}")
    console.print_json(data=payload)


if __name__ == "__main__":
    main()
