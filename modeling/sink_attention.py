"""`attn_implementation="mimo_sink"`: scaled dot-product attention with a learned sink per head.

A sink is one more key that every query sees, with a learned logit and a zero value, so that the weights of the real
keys sum to less than one (arXiv 2601.02780, eq. 1-4). PyTorch's fused attention has no such key. Here queries and keys
get one more channel, zero on every real key, that carries `sink / scaling` to one appended key: the logit comes out as
`sink`, and the mask stays boolean and shared by all heads.

A few queries (decoding, verification of drafts) take another way: the heads of a group are stacked as more queries of
their key-value head, so that the cache is neither repeated nor padded.
"""

import torch
from torch.nn.functional import dropout as drop, pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mimo_sink"  # transformers refuses names that contain "sdpa" where a model declares no SDPA support
FEW_QUERIES = 16


def sink_attention_forward(
    module: torch.nn.Module | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    s_aux: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    r"""
    Attention with a sink under `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        module: tells `num_key_value_groups`; None: keys and values are repeated to one a head where queries are many.
        query: `[batch, heads, query_length, head_dim]`.
        key: `[batch, key_value_heads, key_length, head_dim]`.
        value: `[batch, key_value_heads, key_length, v_head_dim]`.
        attention_mask: boolean (True: may attend) or additive, `[batch, 1, query_length, key_length]`; None: causal
            from the first key on, and one query sees every key.
        scaling: factor on the logits; None: `head_dim ** -0.5`.
        s_aux: sink logits, `[heads]`; None: plain attention.

    Returns:
        `[batch, query_length, heads, v_head_dim]` and None (attention weights are not handed out).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_length, key_length = query.shape[2], key.shape[2]
    if attention_mask is None and query_length > 1 and (s_aux is not None or query_length <= FEW_QUERIES):
        attention_mask = torch.ones(query_length, key_length, dtype=torch.bool, device=query.device).tril()[None, None]
    if query_length <= FEW_QUERIES and (attention_mask is None or attention_mask.shape[1] == 1):
        return _attend_few(query, key, value, attention_mask, scaling, dropout, s_aux), None

    # The fused kernels want one width for queries, keys and values, a multiple of eight: zero channels change nothing.
    v_head_dim = value.shape[-1]
    width = -(-max(query.shape[-1] + (s_aux is not None), v_head_dim) // 8) * 8
    value = pad(value, (0, width - v_head_dim))
    if s_aux is None:
        query, key = pad(query, (0, width - query.shape[-1])), pad(key, (0, width - key.shape[-1]))
        arguments = kwargs
    else:
        assert attention_mask is not None  # noqa: S101  for type checkers: made above for more than one query
        channel = (s_aux / scaling).to(query.dtype).view(1, -1, 1, 1).expand(query.shape[0], -1, query_length, 1)
        spare = width - query.shape[-1] - 1
        query = pad(torch.cat([query, channel], dim=-1), (0, spare))
        key = pad(key, (0, spare + 1, 0, 1))
        key[..., -1, -1 - spare] = 1.0
        value = pad(value, (0, 0, 0, 1))
        attention_mask = pad(attention_mask, (0, 1), value=True if attention_mask.dtype == torch.bool else 0.0)
        arguments = {"is_causal": False}
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
    )
    return output[..., :v_head_dim], None


def _attend_few(query, key, value, attention_mask, scaling, dropout, sinks) -> torch.Tensor:
    batch, heads, query_length, head_dim = query.shape
    key_value_heads = key.shape[1]
    groups = heads // key_value_heads
    query = query.reshape(batch, key_value_heads, groups * query_length, head_dim)
    if attention_mask is not None and groups > 1:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)

    if sinks is None:
        output = scaled_dot_product_attention(query, key, value, attention_mask, dropout_p=dropout, scale=scaling)
    else:
        logits = torch.matmul(query * scaling, key.transpose(2, 3))
        if attention_mask is not None:
            if attention_mask.dtype == torch.bool:
                logits = logits.masked_fill(~attention_mask, float("-inf"))
            else:
                logits = logits + attention_mask
        column = sinks.to(logits.dtype).view(1, key_value_heads, groups, 1, 1)
        column = column.expand(batch, -1, -1, query_length, 1).reshape(batch, key_value_heads, -1, 1)
        precision = torch.promote_types(logits.dtype, torch.float32)
        weights = torch.cat([logits, column], dim=-1).softmax(dim=-1, dtype=precision)[..., :-1].to(value.dtype)
        output = torch.matmul(drop(weights, p=dropout) if dropout else weights, value)
    return output.view(batch, heads, query_length, -1).transpose(1, 2)


AttentionInterface.register(NAME, sink_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)  # boolean, or None where a causal mask is implied
