"""
Bytes that HySparse holds and passes through, beside full attention and a hybrid sliding window of the same shape.

Everything is computed from a configuration alone; `HySparseCache.nbytes` counts what a run really holds.
"""

from typing import Any

BYTES_PER_ELEMENT = {"fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
SYSTEMS = ("full", "hybrid_swa", "hysparse")
SCORE_BYTES = INDEX_BYTES = 4  # float32, int32


def kv_bytes(
    config: Any,
    context: int,
    system: str = "hysparse",
    *,
    batch_size: int = 1,
    bytes_per_element: int = 2,
    full_layers: int | None = None,
) -> int:
    r"""
    Keys and values of `context` tokens as papers count them, a full window of w tokens in every sparse layer:

    $$M(T) = b\,(L_{full}\,T\,K + L_{sparse}\,\min(T, w)\,K')\,(d + d_v)$$

    The sizes of arXiv 2602.03560 and 2609.26368 follow from it.

    Args:
        config: a `HySparseConfig`, or anything with its fields.
        context: T, tokens a sequence.
        system: `"full"` (every layer is full), `"hybrid_swa"` (sparse layers have the window only) or `"hysparse"`.
        batch_size: sequences.
        bytes_per_element: b; see `BYTES_PER_ELEMENT`.
        full_layers: how many layers are full, where it isn't as many as in `config`; of `"full"` all are.

    Raises:
        ValueError: a negative context, an unknown system, or more full layers than layers.
    """
    return _kv_bytes(config, context, system, batch_size, bytes_per_element, full_layers, config.sliding_window)


def kv_bytes_between_steps(
    config: Any,
    context: int,
    system: str = "hysparse",
    *,
    batch_size: int = 1,
    bytes_per_element: int = 2,
    full_layers: int | None = None,
) -> int:
    """
    The same for transformers' `DynamicCache`: between two steps a sparse layer keeps w - 1 tokens, since the next one brings
    the w-th with it.
    """
    window = config.sliding_window - 1
    return _kv_bytes(config, context, system, batch_size, bytes_per_element, full_layers, window)


def score_bytes(config: Any, context: int, queries: int | None = None, *, batch_size: int = 1) -> int:
    """
    Block scores of one full layer, float32, before the best are chosen: a number for each query, block and key-value head.

    Args:
        queries: how many at a time; None: all `context` of them, which is what chunks are there to avoid.
    """
    _check_context(context)
    blocks = -(-context // config.sparse_block_size)
    queries = context if queries is None else min(queries, context)
    return batch_size * queries * blocks * config.num_key_value_heads * SCORE_BYTES


def index_bytes(config: Any, context: int, *, batch_size: int = 1) -> int:
    """Block indices that one full layer hands to its sparse layers, int32."""
    _check_context(context)
    topk = config.sparse_topk_tokens // config.sparse_block_size
    return batch_size * context * topk * config.num_key_value_heads * INDEX_BYTES


def memory_table(
    config: Any,
    contexts: list[int],
    *,
    batch_size: int = 1,
    bytes_per_element: int = 2,
    hybrid_full_layers: int | None = None,
) -> list[dict]:
    """
    One row a context: bytes of the three systems, how many times smaller than full attention two of them are, and what a
    prefill passes through.

    Args:
        hybrid_full_layers: of the hybrid sliding window; None: as many as HySparse has, and so the same bytes.
    """
    rows = []
    for context in contexts:
        sizes: dict[str, int] = {
            system: kv_bytes(
                config,
                context,
                system,
                batch_size=batch_size,
                bytes_per_element=bytes_per_element,
                full_layers=hybrid_full_layers if system == "hybrid_swa" else None,
            )
            for system in SYSTEMS
        }
        rows.append(
            {
                "context": context,
                **{f"{system}_bytes": size for system, size in sizes.items()},
                "full_over_hybrid_swa": sizes["full"] / sizes["hybrid_swa"] if context else 1.0,
                "full_over_hysparse": sizes["full"] / sizes["hysparse"] if context else 1.0,
                "all_scores_bytes": score_bytes(config, context, batch_size=batch_size),
                "scores_bytes_a_query": score_bytes(config, context, 1, batch_size=batch_size),
                "indices_bytes": index_bytes(config, context, batch_size=batch_size),
            }
        )
    return rows


def _kv_bytes(config, context, system, batch_size, bytes_per_element, full_layers, window) -> int:
    _check_context(context)
    if system not in SYSTEMS:
        raise ValueError(f"`system` must be one of {', '.join(SYSTEMS)}; got {system!r}.")
    layers = config.num_hidden_layers
    if system == "full":
        full_layers = layers
    elif full_layers is None:
        full_layers = config.layer_types.count("full_attention")
    if not 1 <= full_layers <= layers:
        raise ValueError(f"`full_layers` must lie between 1 and the {layers} layers of the model; got {full_layers}.")
    has_window = system == "hybrid_swa" or (config.use_swa_branch and not config.swa_shares_kv)
    tokens_and_heads = full_layers * context * config.num_key_value_heads
    if has_window:
        tokens_and_heads += (layers - full_layers) * min(context, window) * config.swa_num_key_value_heads
    return batch_size * bytes_per_element * tokens_and_heads * (config.head_dim + config.v_head_dim)


def _check_context(context: int):
    if context < 0:
        raise ValueError(f"`context` must be 0 or more tokens; got {context}.")


__all__ = [
    "BYTES_PER_ELEMENT",
    "SYSTEMS",
    "index_bytes",
    "kv_bytes",
    "kv_bytes_between_steps",
    "memory_table",
    "score_bytes",
]
