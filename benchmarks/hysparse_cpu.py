"""
HySparse on a CPU: time of a decoding step at 32k tokens beside full attention's, and peak memory of a prefill of 16k.

    python benchmarks/hysparse_cpu.py            # some minutes
    python benchmarks/hysparse_cpu.py --quick    # 2k tokens; writes nothing

Steps of the two models alternate in one process; their caches hold random keys and values, as many as a prefill leaves.
A step includes what transformers' DynamicCache does in it: each full layer's keys and values are copied to grow by one.
Peak memory is the resident set of a process that does nothing else.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from functools import partial

import torch
from _hysparse_arms import arm_config, num_parameters
from _record import force_option, record
from _timing import STEADY, Load, in_turn, ratio_of
from rich.console import Console

from mimo_hf.modeling.hysparse import HySparseCache, HySparseConfig, HySparseForCausalLM

console = Console(stderr=True)

HEADS = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512}
SHAPES = {
    "7b": {**HEADS, "num_hidden_layers": 12, "sparse_layers_per_full": 3},  # 4 of 12 layers full, as 10 of 36
    "80b": {**HEADS, "num_hidden_layers": 13, "sparse_layers_per_full": 11},  # 2 of 13 full, as 5 of 49
}
PREFILL_SHAPE = {**HEADS, "num_hidden_layers": 5, "sparse_layers_per_full": 3}


def filled_cache(config: HySparseConfig, context: int) -> HySparseCache:
    cache = HySparseCache(config)
    for layer in range(config.num_hidden_layers):
        cache.update(*torch.randn(2, 1, config.num_key_value_heads, context, config.head_dim), layer)
    return cache


@torch.no_grad()
def decode_ratio(shape: dict, context: int, steps: int) -> dict:
    """Medians of `steps` steps of each model, in turn, and of their ratios."""
    models = {arm: HySparseForCausalLM(arm_config(arm, shape, 512)).eval() for arm in ("full", "hysparse")}
    caches = {arm: filled_cache(model.config, context) for arm, model in models.items()}
    token = torch.zeros(1, 1, dtype=torch.long)
    load = Load()
    with console.status(f"decoding, {steps} steps of each model"):
        # The caches grow alike: one token of each model a turn.
        ways = {arm: partial(model, token, past_key_values=caches[arm]) for arm, model in models.items()}
        times = in_turn(ways, steps, warmups=3)
    ratio = ratio_of(times["full"], times["hysparse"])
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    return {
        "layers": shape["num_hidden_layers"],
        "full_layers": models["hysparse"].config.layer_types.count("full_attention"),
        "context": context,
        "steps": steps,
        "full_ms": round(1e3 * medians["full"], 2),
        "hysparse_ms": round(1e3 * medians["hysparse"], 2),
        "full_over_hysparse": round(ratio["ratio"], 3),
        **{f"full_over_hysparse_{name}": round(ratio[f"ratio_{name}"], 3) for name in ("min", "max")},
        "spread": round(ratio["spread"], 3),
        "steady": ratio["spread"] <= STEADY,
        "busy_cores_elsewhere": load.figures()["busy_cores_elsewhere"],
        "full_cache_bytes": caches["full"].nbytes,
        "hysparse_cache_bytes": caches["hysparse"].nbytes,
    }


@torch.no_grad()
def prefill_alone(arm: str, context: int) -> dict:
    """To be called in a process of its own: peak memory before and after a prefill."""
    torch.manual_seed(0)
    model = HySparseForCausalLM(arm_config(arm, PREFILL_SHAPE, 512)).eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cache = HySparseCache(model.config)
    model(torch.randint(512, (1, context)), past_key_values=cache, logits_to_keep=1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "arm": arm,
        "layers": PREFILL_SHAPE["num_hidden_layers"],
        "parameters": num_parameters(model),
        "context": context,
        "peak_before_bytes": before,
        "peak_bytes": after,
        "cache_bytes": cache.nbytes,
    }


def prefill_peak(arm: str, context: int) -> dict:
    command = [
        sys.executable,
        __file__,
        "--prefill-alone",
        arm,
        "--context",
        str(context),
        "--threads",
        str(torch.get_num_threads()),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"the prefill of `{arm}` ended with {run.returncode}: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> dict | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2k tokens; writes nothing")
    parser.add_argument(
        "--steps", type=int, default=30, help="timed decoding steps of each model (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--prefill-alone", choices=["full", "hysparse"], help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=16_384, help=argparse.SUPPRESS)
    force_option(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.prefill_alone:
        print(json.dumps(prefill_alone(args.prefill_alone, args.context)))
        return None
    torch.manual_seed(0)
    decode_context, prefill_context = (2048, 2048) if args.quick else (32_768, args.context)
    payload = {
        "prefill": [prefill_peak(arm, prefill_context) for arm in ("hysparse", "full")],
        "decode": [
            {"layout": name, **decode_ratio(shape, decode_context, args.steps)} for name, shape in SHAPES.items()
        ],
    }
    if not args.quick:
        console.print(f"wrote {record('hysparse_cpu', payload, seed=0, timed=True, force=args.force).name}")
    console.print_json(data=payload)
    return payload


if __name__ == "__main__":
    main()
