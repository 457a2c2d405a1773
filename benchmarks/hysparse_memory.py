"""
Bytes of the KV cache: full attention, hybrid sliding window and HySparse, by formula and in the real cache object.

    python benchmarks/hysparse_memory.py            # a few minutes on one core, 2 GB of memory
    python benchmarks/hysparse_memory.py --quick    # up to 32k; writes nothing

Parts
    published   sizes that arXiv 2609.26368 prints, and the same by `mimo_hf.modeling.hysparse.memory`
    formula     the shape of the paper's 80B model, 4k to 1M tokens
    measured    a model of the same 49 layers, 5 of them full, with small heads: bytes of its cache after a prefill (up to 4k
                tokens) and after as many keys and values have been put into the cache, layer by layer, as a prefill would
"""

import argparse

import torch
from _hysparse_arms import MAIN_ARMS, arm_config
from _record import record
from rich.console import Console
from rich.progress import track

from mimo_hf.modeling.hysparse import HySparseCache, HySparseConfig, HySparseForCausalLM
from mimo_hf.modeling.hysparse.memory import kv_bytes, kv_bytes_between_steps, memory_table

console = Console(stderr=True)

MILLION = 1 << 20
CONTEXTS = [4096, 16_384, 32_768, 131_072, MILLION]
RUN_UP_TO = 4096  # tokens that the model itself reads; time grows with the square
SHAPE = {
    "vocab_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 49,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "sparse_layers_per_full": 11,
}
# arXiv 2609.26368, figure 4 and section 4.2: FP8, a million tokens, in GB.
PUBLISHED = [
    ("HySparse, 5 full", 6.72, "hysparse", None, {"num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128}),
    (
        "hybrid sliding window, 9 full",
        12.09,
        "hybrid_swa",
        9,
        {"num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128},
    ),
    ("HySparse2, 5 full", 2.69, "hysparse", None, {"num_key_value_heads": 1, "head_dim": 256, "v_head_dim": 256}),
]


def published_rows() -> list[dict]:
    rows = []
    for name, gigabytes, system, full_layers, heads in PUBLISHED:
        config = HySparseConfig.from_preset("hysparse-80b-a3b", **heads)
        size = kv_bytes(config, MILLION, system, bytes_per_element=1, full_layers=full_layers)
        rows.append(
            {"model": name, "published_gb": gigabytes, "formula_gb": round(size / 1e9, 2), "formula_bytes": size}
        )
    return rows


@torch.no_grad()
def cache_after_prefill(config: HySparseConfig, context: int) -> HySparseCache:
    cache = HySparseCache(config)
    model = HySparseForCausalLM(config).to(torch.bfloat16).eval()
    model(torch.randint(config.vocab_size, (1, context)), past_key_values=cache, logits_to_keep=1)
    return cache


def filled_bytes(config: HySparseConfig, context: int) -> int:
    """What a cache holds once each layer got `context` keys and values; one layer at a time, so that all fit in memory."""
    held = 0
    for layer in range(config.num_hidden_layers):
        cache = HySparseCache(config)
        states = [
            torch.zeros(1, config.num_key_value_heads, context, width, dtype=torch.bfloat16)
            for width in (config.head_dim, config.v_head_dim)
        ]
        cache.update(*states, layer)
        held += sum(
            states.numel() * states.element_size() for states in (cache.layers[layer].keys, cache.layers[layer].values)
        )
    return held


def measured_rows(contexts: list[int]) -> list[dict]:
    rows = []
    for context in track(contexts, "caches", console=console):
        row: dict = {"context": context}
        for arm in MAIN_ARMS:
            config = arm_config(arm, SHAPE, 8)
            row[f"{arm}_bytes"] = filled_bytes(config, context)
            formula = kv_bytes_between_steps(HySparseConfig(**SHAPE), context, arm)
            row[f"{arm}_is_formula"] = row[f"{arm}_bytes"] == formula
            if context <= RUN_UP_TO:
                row[f"{arm}_after_prefill_bytes"] = cache_after_prefill(config, context).nbytes
        row["full_over_hysparse"] = row["full_bytes"] / row["hysparse_bytes"]
        rows.append(row)
    return rows


def longest_sparse_layer(context: int) -> int:
    """Tokens in the longest tensor that a sparse layer of HySparse holds after a prefill."""
    config = arm_config("hysparse", SHAPE, 8)
    cache = cache_after_prefill(config, context)
    return max(
        layer.keys.shape[2]
        for layer, kind in zip(cache.layers, config.layer_types, strict=True)
        if kind == "sliding_attention"
    )


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 32k tokens; writes nothing")
    args = parser.parse_args(argv)
    contexts = CONTEXTS[:3] if args.quick else CONTEXTS
    torch.manual_seed(0)
    table = memory_table(HySparseConfig.from_preset("hysparse-80b-a3b"), [128, *contexts])
    payload = {
        "published": published_rows(),
        "formula": {
            "shape": "hysparse-80b-a3b: 49 layers, 5 full, 4 key-value heads of 128 + 128, window 128; bf16, batch 1",
            "rows": table,
        },
        "measured": {
            "shape": "49 layers, 5 full, 1 key-value head of 4 + 4, window 128; bf16, batch 1",
            "tokens_in_the_longest_sparse_layer": longest_sparse_layer(contexts[0]),
            "rows": measured_rows(contexts),
        },
    }
    if not args.quick:
        console.print(f"wrote {record('hysparse_memory', payload, seed=0, timed=False).name}")
    console.print_json(data=payload)
    return payload


if __name__ == "__main__":
    main()
