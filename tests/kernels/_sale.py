"""SALE by loops in numpy, a pair at a time: what the tests of sale-attn compare with."""

import math

import numpy as np

BLOCK_Q, BLOCK_K, LOCAL, SEGMENT = 64, 32, 128, 128
SELECT, ATTEND = "select_blocks", "attend_blocks"


def areas_by_loops(queries, keys):
    """For each tile of queries: the tiles of keys that it sees, and those of them that are always kept (SALE's kernel, by hand)."""
    found = []
    for tile in range(math.ceil(queries / BLOCK_Q)):
        last = min((tile + 1) * BLOCK_Q, queries) - 1 + keys - queries
        visible = last // BLOCK_K + 1
        outside = visible - 1
        segments = math.ceil(outside / (SEGMENT / BLOCK_K))
        spare = outside - segments * (SEGMENT // BLOCK_K)
        local = (SEGMENT // BLOCK_K) * math.ceil((LOCAL // BLOCK_K - spare) / (SEGMENT // BLOCK_K)) + spare
        found.append((visible, {0, *range(max(0, visible - local), visible)}))
    return found


def codes_by_loops(x, role, quant, smooth):
    """Codes, scales a row and mean of `[N, d]`."""
    mean = x.mean(axis=0) if smooth else np.zeros(x.shape[1])
    values = x - mean
    members = {}
    for row in range(len(x)):
        if quant == "token":
            name = row
        elif quant == "block":
            name = row // (BLOCK_Q if role == "query" else BLOCK_K)
        elif role == "query":
            name = (row // 16, row % 16 % 8)
        else:
            name = (row // BLOCK_K, row % 8 // 2)
        members.setdefault(name, []).append(row)
    codes, scales = np.zeros_like(values), np.zeros(len(x))
    for rows in members.values():
        scale = np.abs(values[rows]).max() / 7
        scales[rows] = scale
        codes[rows] = np.round(values[rows] / scale) if scale else 0
    return codes, scales, mean


def scores_by_loops(q, k, quant, smooth):
    """Exact and estimated scores of one head, `[n, T]` each, without scale and without the product of q and the mean key."""
    mean = k.mean(axis=0) if smooth else np.zeros(k.shape[1])
    exact = q @ (k - mean).T
    if quant == "exact":
        return exact, exact
    q_codes, q_scales, q_mean = codes_by_loops(q, "query", quant, smooth)
    k_codes, k_scales, _ = codes_by_loops(k, "key", quant, smooth)
    estimate = (q_codes @ k_codes.T) * q_scales[:, None] * k_scales[None, :] + (k - mean) @ q_mean
    return exact, estimate


def margins_by_loops(q, k, tau, scale, quant="exact", smooth=True):
    """
    Of each tile, the largest logarithm of relative score over tau, `[nQ, nK]`: above 0 it is kept; infinity: always kept; NaN: not
    visible. One head.
    """
    exact, estimate = scores_by_loops(q, k, quant, smooth)
    queries, keys = exact.shape
    margins = np.full((math.ceil(queries / BLOCK_Q), math.ceil(keys / BLOCK_K)), np.nan)
    for tile, (visible, always) in enumerate(areas_by_loops(queries, keys)):
        for other in range(visible):
            margins[tile, other] = np.inf if other in always else -np.inf
        if len(always) == visible or tau == np.inf:
            continue
        for row in range(tile * BLOCK_Q, min((tile + 1) * BLOCK_Q, queries)):
            slot = row + keys - queries
            seen = [j for other in sorted(always) for j in range(other * BLOCK_K, (other + 1) * BLOCK_K) if j <= slot]
            top = exact[row, seen].max()
            total = np.exp(scale * (exact[row, seen] - top)).sum()
            for other in set(range(visible)) - always:
                best = estimate[row, other * BLOCK_K : (other + 1) * BLOCK_K].max()
                margin = scale * (best - top) - math.log(total) - math.log(tau)
                margins[tile, other] = max(margins[tile, other], margin)
    return margins


def attention_by_loops(q, k, v, kept, scale):
    """Of one head, over the keys of kept tiles: q `[n, d]`, k `[T, d]`, v `[T, dv]`, kept `[nQ, nK]`."""
    queries, keys = len(q), len(k)
    out = np.zeros((queries, v.shape[1]))
    for row in range(queries):
        slot = row + keys - queries
        seen = [j for j in range(slot + 1) if kept[row // BLOCK_Q, j // BLOCK_K]]
        logits = scale * (k[seen] @ q[row])
        weights = np.exp(logits - logits.max())
        out[row] = weights @ v[seen] / weights.sum()
    return out
