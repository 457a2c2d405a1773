"""`sink_swa_attention`: one signature for every backend."""

import torch

from ._shared.checks import backend_of, check_tensors, placing, triton_operations
from .reference import sink_swa_attention_reference


def sink_swa_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None = None,
    window: int | None = None,
    scaling: float | None = None,
    kv_start: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    r"""
    Causal attention over a window, with a sink that takes a share of each row and gives nothing:

    $s_{ij} = \exp(a_{ij} - m_i) / (\exp(sink - m_i) + \sum_{j'} \exp(a_{ij'} - m_i))$, $a_{ij} = scaling \, q_i k_j$
    (MiMo-V2-Flash, arXiv 2601.02780, eq. 1-4). The last query stands at the last key: query i at
    $p_i = T - n + i$. It sees the keys $p_i - window < j \le p_i$ with $j \ge kv\_start$; a query that sees none gives
    zeros. Differentiable in query, key, value and sinks; the same bits in every run.

    Args:
        query: `[B, H, n, d]`; n = T when training, few when decoding.
        key: `[B, K, T, d]`; H is a multiple of K, and T >= n.
        value: `[B, K, T, dv]`.
        sinks: logit of each head's sink, `[H]`; None: plain softmax.
        window: number of positions that a query sees, itself among them; None: all before it.
        scaling: factor on the logits; None: `d ** -0.5`.
        kv_start: first key of each row of a left-padded batch, `[B]`, integers; None: 0. What lies before is not read.
        backend: "triton" (d/dv: 32/32, 64/64, 96/96, 128/128, 192/128; float32, float16, bfloat16), "reference"
            (PyTorch; any); None: "triton" for CUDA tensors, "reference" for others.

    Returns:
        `[B, H, n, dv]`, laid out in memory as `[B, n, H, dv]` by the Triton backend.

    Raises:
        ValueError, TypeError: an argument that can't be, or that the backend does not take.
        ImportError: the backend is Triton, and Triton can't be imported.
    """
    check_tensors(query, key, value, sinks, kv_start, ("query", "key", "value"))
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(
            f"`window` must be the positions that a query sees, with itself, at least 1, or None for all; got {window!r}."
        )
    if backend_of(query, backend) == "reference":
        return sink_swa_attention_reference(query, key, value, sinks, window, scaling, kv_start)
    operations = triton_operations(__package__, query, value, "query")
    scaling, kv_start = placing(query, scaling, kv_start)
    with torch.cuda.device_of(query):
        return operations.SinkSWAFunction.apply(query, key, value, sinks, window, scaling, kv_start)
