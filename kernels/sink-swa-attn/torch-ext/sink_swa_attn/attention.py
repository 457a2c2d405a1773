"""`sink_swa_attention`: one signature for every backend."""

import torch

from .reference import sink_swa_attention_reference
from .tiles import DTYPES, HEAD_DIMS

BACKENDS = ("triton", "reference")


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
    $p_i = N_k - N_q + i$. It sees the keys $p_i - window < j \le p_i$ with $j \ge kv\_start$; a query that sees none gives
    zeros. Differentiable in query, key, value and sinks; the same bits in every run.

    Args:
        query: `[B, H, Nq, D]`; Nq = Nk when training, few when decoding.
        key: `[B, Hk, Nk, D]`; H is a multiple of Hk, and Nk >= Nq.
        value: `[B, Hk, Nk, Dv]`.
        sinks: logit of each head's sink, `[H]`; None: plain softmax.
        window: number of positions that a query sees, itself among them; None: all before it.
        scaling: factor on the logits; None: `D ** -0.5`.
        kv_start: first key of each row of a left-padded batch, `[B]`, integers; None: 0. What lies before is not read.
        backend: "triton" (D/Dv: 32/32, 64/64, 96/96, 128/128, 192/128; float32, float16, bfloat16), "reference"
            (PyTorch; any); None: "triton" for CUDA tensors, "reference" for others.

    Returns:
        `[B, H, Nq, Dv]`, laid out in memory as `[B, Nq, H, Dv]` by the Triton backend.

    Raises:
        ValueError, TypeError: an argument that can't be, or that the backend does not take.
        ImportError: the backend is Triton, and Triton can't be imported.
    """
    _check(query, key, value, sinks, window, kv_start)
    if backend is None:
        backend = "triton" if query.is_cuda else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: there are {', '.join(map(repr, BACKENDS))}, and None for the default")
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if backend == "reference":
        return sink_swa_attention_reference(query, key, value, sinks, window, scaling, kv_start)

    function = _triton_function(query, value)
    if kv_start is not None:
        kv_start = kv_start.to(device=query.device, dtype=torch.int32).contiguous()
    with torch.cuda.device_of(query):
        return function.apply(query, key, value, sinks, window, scaling, kv_start)


def _check(query, key, value, sinks, window, kv_start):
    shapes = {"query": query.shape, "key": key.shape, "value": value.shape}
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    if any(len(shape) != 4 for shape in shapes.values()):
        raise ValueError(f"{shown}: expected [B, H, Nq, D], [B, Hk, Nk, D] and [B, Hk, Nk, Dv]")
    batch, heads, query_length, head_dim = query.shape
    kv_heads, key_length = key.shape[1:3]
    if key.shape != (batch, kv_heads, key_length, head_dim) or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"{shown}: expected [B, H, Nq, D], [B, Hk, Nk, D] and [B, Hk, Nk, Dv] with equal B, D, Hk, Nk"
        )
    if kv_heads == 0 or heads % kv_heads or heads == 0:
        raise ValueError(f"{heads} heads of the query and {kv_heads} of the keys: the first must be a multiple")
    if not 1 <= query_length <= key_length:
        raise ValueError(
            f"{query_length} queries and {key_length} keys: the last query stands at the last key, so there must be at "
            "least one query, and as many keys as queries; pass the keys of the cache and of the queries together"
        )
    if not query.dtype == key.dtype == value.dtype or not query.dtype.is_floating_point:
        raise TypeError(f"query {query.dtype}, key {key.dtype}, value {value.dtype}: expected one floating-point type")
    devices = {tensor.device for tensor in (query, key, value, sinks) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"query, key, value and sinks lie on {sorted(map(str, devices))}: move them to one device")
    if sinks is not None and (sinks.shape != (heads,) or not sinks.dtype.is_floating_point):
        raise ValueError(
            f"sinks {list(sinks.shape)} {sinks.dtype}: expected one floating-point logit a head, [{heads}]"
        )
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(
            f"window={window!r}: expected how many positions a query sees, itself among them, at least 1; None: all"
        )
    if kv_start is not None and (kv_start.shape != (batch,) or kv_start.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"kv_start {list(kv_start.shape)} {kv_start.dtype}: expected int32 or int64, [{batch}]")


def _triton_function(query, value):
    remedy = 'pass backend="reference" for PyTorch'
    dims = (query.shape[-1], value.shape[-1])
    if dims not in HEAD_DIMS:
        known = ", ".join(f"{d}/{dv}" for d, dv in HEAD_DIMS)
        raise ValueError(f"head dims D/Dv {dims[0]}/{dims[1]}: backend 'triton' takes {known}; {remedy}")
    if query.dtype not in DTYPES:
        raise ValueError(f"{query.dtype}: backend 'triton' takes float32, float16 and bfloat16; {remedy}")
    try:
        from . import triton_attention
    except ImportError as error:
        raise ImportError(f"backend 'triton' needs Triton (pip install triton): {error}; or {remedy}") from error
    if query.is_cuda:
        capability = torch.cuda.get_device_capability(query.device)
        if torch.version.cuda and capability < (8, 0):
            raise ValueError(
                f"backend 'triton' needs compute capability 8.0 or higher; {query.device} has "
                f"{capability[0]}.{capability[1]}; {remedy}"
            )
    elif not triton_attention.INTERPRETED:
        raise ValueError(f"backend 'triton' needs CUDA tensors; query is on {query.device}: move it, or {remedy}")
    return triton_attention.SinkSWAFunction
