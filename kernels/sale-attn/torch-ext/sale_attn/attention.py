"""The public functions: one signature for every backend."""

import torch

from ._shared.checks import backend_of, check_tensors
from .quantize import QUANTS
from .reference import attend_blocks_reference, select_blocks_reference
from .tiling import TILING, Layout, Tiling

COMPUTES = ("native", "int8")


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
            scores are computed.
        share_group: all heads of a group keep what any of them does; the paper's heads choose by themselves.
        tiling: sizes of tiles and of what is always kept.
        backend: "reference" (PyTorch) or None, which is the same until there is another.

    Returns:
        Bits, uint8 `[B, H, ceil(n / block_q), ceil(ceil(T / block_k) / 8)]`, as `pack_tiles` packs them.

    Raises:
        ValueError, TypeError: an argument that can't be.
    """
    scale, tau = _check(q, k, k, scale, tau, tiling, backend)
    if quant not in (*QUANTS, "exact"):
        raise ValueError(f"`quant` must be 'thread', 'token', 'block' or 'exact'; got {quant!r}.")
    with torch.no_grad():
        return select_blocks_reference(
            q, k, tau, scale=scale, quant=quant, smooth=smooth, share_group=share_group, tiling=tiling
        )


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
        `[B, H, n, dv]`, in the type of q. Without gradients.

    Raises:
        ValueError, TypeError: an argument that can't be.
    """
    scale, _ = _check(q, k, v, scale, 1.0, tiling, backend)
    if compute not in COMPUTES:
        raise ValueError(f"`compute` must be 'native' or 'int8'; got {compute!r}.")
    layout = Layout(q.shape[2], k.shape[2], tiling)
    shape = (*q.shape[:2], layout.query_tiles, -(-layout.key_tiles // 8))
    if tuple(kept.shape) != shape or kept.dtype != torch.uint8:
        raise ValueError(
            f"`kept` must be uint8 {list(shape)}, as select_blocks returns it with the same tiling; got {list(kept.shape)} "
            f"{kept.dtype}."
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError("`q`, `k` and `v` must not require gradients: attend_blocks has none. Use torch.no_grad().")
    with torch.no_grad():
        return attend_blocks_reference(q, k, v, kept, scale=scale, compute=compute, tiling=tiling)


def _check(q, k, v, scale, tau, tiling, backend) -> tuple[float, torch.Tensor]:
    """Scale and thresholds `[H]`."""
    check_tensors(q, k, v, None, None)
    backend_of(q, backend)
    if backend == "triton":
        raise ValueError("`backend` must be 'reference' or None; got 'triton', which this kernel does not have yet.")
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
