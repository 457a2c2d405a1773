"""The public functions: one signature for every backend."""

from typing import Any

import torch

from ._shared.checks import backend_of, check_devices, check_tensors, triton_operations
from ._shared.tiles import DTYPES, HEAD_DIMS
from .quantize import QUANTS
from .reference import attend_blocks_reference, select_blocks_reference
from .tiling import TILING, Layout, Tiling

COMPUTES = ("native", "int8")
# What Triton's tiles may have; the sides of a tensor there are powers of two.
TRITON_BLOCKS = (16, 32, 64, 128)


def select_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    tau: float | torch.Tensor = 0.004,
    *,
    scale: float | None = None,
    quant: str = "thread",
    smooth: bool = True,
    share_group: bool = False,
    tiling: Tiling = TILING,
    backend: str | None = None,
) -> torch.Tensor:
    r"""
    Which tiles of the causal map of scores matter, from products of 4-bit codes (SALE, arXiv 2505.24179).

    A tile of `block_q` queries and `block_k` keys is kept if any of its pairs has a relative attention score above tau,

    $exp(scale (\hat s_{ij} - m_i)) / L_i > \tau_h$, $L_i = \sum_{j \in always} exp(scale (s_{ij} - m_i))$,

    with $\hat s$ estimated and $m_i$ the largest exact score of row i among the keys that are always kept: the first `sink_tokens` and
    the last `local_window` or some more. Queries and keys lose their mean over all rows first (`smooth`), which changes no
    softmax. The last query stands at the last key. What is not finite is kept.

    Args:
        q: `[B, H, n, d]`.
        k: `[B, K, T, d]`; H is a multiple of K, and T >= n.
        tau: threshold, or one a head, `[H]`; below 1e-5 a head keeps all tiles, infinity keeps none but those always kept.
        scale: factor on the scores, positive; None: `d ** -0.5`.
        quant: rows that share a scale: "thread" (what a thread of a matrix unit holds), "token", "block"; "exact": no estimate, all
            scores are computed, by the reference only.
        share_group: all heads of a group keep what any of them does; the paper's heads choose by themselves.
        tiling: sizes of tiles and of what is always kept.
        backend: "triton" (d/dv: 32/32, 64/64, 96/96, 128/128, 192/128; float32, float16, bfloat16; tiles of 16, 32, 64 or 128 rows),
            "reference" (PyTorch; any); None: "triton" for CUDA tensors, "reference" for others.

    Returns:
        Bits, uint8 `[B, H, ceil(n / block_q), ceil(ceil(T / block_k) / 8)]`, as `pack_tiles` packs them.

    Raises:
        ValueError, TypeError: an argument that can't be, or that the backend does not take.
        ImportError: the backend is Triton, and Triton can't be imported.
    """
    scale, tau = _check(q, k, k, scale, tau, tiling)
    if quant not in (*QUANTS, "exact"):
        raise ValueError(f"`quant` must be 'thread', 'token', 'block' or 'exact'; got {quant!r}.")
    options: dict[str, Any] = {
        "scale": scale,
        "quant": quant,
        "smooth": smooth,
        "share_group": share_group,
        "tiling": tiling,
    }
    if backend_of(q, backend) == "reference":
        with torch.no_grad():
            return select_blocks_reference(q, k, tau, **options)
    if quant == "exact":
        raise ValueError(
            "`quant` must be 'thread', 'token' or 'block' for backend 'triton'; got 'exact': pass backend=\"reference\" for PyTorch."
        )
    operations = _triton(q, k[..., : dict(HEAD_DIMS).get(k.shape[-1])], tiling)  # as wide as values that go with it
    with torch.no_grad(), torch.cuda.device_of(q):
        return operations.select_blocks(q, k, tau, **options)


def attend_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kept: torch.Tensor,
    *,
    scale: float | None = None,
    compute: str = "native",
    tiling: Tiling = TILING,
    backend: str | None = None,
) -> torch.Tensor:
    """
    Causal attention over the kept tiles only. Its cost grows with their number.

    Args:
        q, k: as in `select_blocks`.
        v: `[B, K, T, dv]`.
        kept: bits, as `select_blocks` returns them; what lies above the diagonal is not read. Each row of tiles keeps the diagonal.
        scale, tiling, backend: as in `select_blocks`.
        compute: "native": scores in the precision of the inputs; "int8": from codes of eight bits, one scale a tile.

    Returns:
        `[B, H, n, dv]`, in the type of q, in Triton laid out in memory as `[B, n, H, dv]`. Without gradients.

    Raises:
        ValueError, TypeError, ImportError: as `select_blocks`.
    """
    scale, _ = _check(q, k, v, scale, 1.0, tiling)
    if compute not in COMPUTES:
        raise ValueError(f"`compute` must be 'native' or 'int8'; got {compute!r}.")
    layout = Layout(q.shape[2], k.shape[2], tiling)
    shape = (*q.shape[:2], layout.query_tiles, -(-layout.key_tiles // 8))
    if tuple(kept.shape) != shape or kept.dtype != torch.uint8:
        raise ValueError(
            f"`kept` must be uint8 {list(shape)}, as select_blocks returns it with the same tiling; got {list(kept.shape)} "
            f"{kept.dtype}."
        )
    check_devices({"q": q, "kept": kept})
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError("`q`, `k` and `v` must not require gradients: attend_blocks has none. Use torch.no_grad().")
    if backend_of(q, backend) == "reference":
        with torch.no_grad():
            return attend_blocks_reference(q, k, v, kept, scale=scale, compute=compute, tiling=tiling)
    operations = _triton(q, v, tiling)
    with torch.no_grad(), torch.cuda.device_of(q):
        return operations.attend_blocks(q, k, v, kept, scale=scale, compute=compute, tiling=tiling)


def triton_lacks(head_dims: tuple[int, int], dtype: torch.dtype, tiling: Tiling = TILING) -> str | None:
    """
    What of a call the Triton backend has no code for, in words; None: it has all of it.

    Args:
        head_dims: of queries and keys, and of values.
    """
    if tuple(head_dims) not in HEAD_DIMS:
        return "head dims {}/{}".format(*head_dims)
    if dtype not in DTYPES:
        return str(dtype)
    wrong = [name for name in ("block_q", "block_k") if getattr(tiling, name) not in TRITON_BLOCKS]
    return f"`{wrong[0]}` of {getattr(tiling, wrong[0])}" if wrong else None


# Arguments


def _check(q, k, v, scale, tau, tiling) -> tuple[float, torch.Tensor]:
    """Scale and thresholds `[H]`."""
    check_tensors(q, k, v, None, None)
    tiling.check()
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if not 0 < scale < float("inf"):
        raise ValueError(f"`scale` must be a positive number; got {scale}.")
    heads = q.shape[1]
    given, tau = tau, torch.as_tensor(tau, dtype=torch.float32)
    if tau.dim() > 1 or (tau.dim() == 1 and len(tau) != heads):
        raise ValueError(f"`tau` must be one threshold, or one a head, [{heads}]; got {list(tau.shape)}.")
    if not bool((tau >= 0).all()):
        raise ValueError(f"`tau` must be 0 or more; got {given}.")
    return scale, tau.expand(heads)


def _triton(q, v, tiling):
    for name in ("block_q", "block_k"):
        if getattr(tiling, name) not in TRITON_BLOCKS:
            raise ValueError(
                f"`{name}` must be 16, 32, 64 or 128 for backend 'triton'; got {getattr(tiling, name)}: pass "
                'backend="reference" for PyTorch.'
            )
    return triton_operations(__package__, q, v)
