"""What the tests of hysparse-attn share: cases, and loops in numpy that say what the right answers are."""

import numpy as np
import torch

FULL, SPARSE, DECODE = "full_attention_with_block_scores", "block_sparse_attention", "hysparse_decode"
EXACT = {"rtol": 1e-5, "atol": 2e-5}
ROUNDED = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


def case(queries, slots, heads, kv_heads, dims=(32, 32), block_size=16, topk=2, **options):
    shapes = {
        "q": (2, heads, queries, dims[0]),
        "k": (2, kv_heads, slots, dims[0]),
        "v": (2, kv_heads, slots, dims[1]),
    }
    return shapes, {"block_size": block_size, "topk": topk} | options


CASES = {
    "one key": case(1, 1, 2, 2),
    "shorter than a block": case(5, 5, 4, 2, (64, 64)),
    "ragged": case(37, 37, 4, 2, (64, 64)),
    "no groups": case(17, 33, 3, 3),
    "three heads a group": case(19, 35, 6, 2),
    "four heads a group, one group": case(12, 34, 4, 1, (128, 128)),
    "sixteen heads a group": case(10, 26, 16, 1, (192, 128)),
    "head dims that are no powers of two": case(12, 28, 2, 1, (96, 96)),
    "blocks of three tiles": case(10, 100, 2, 1, block_size=48),
    "more blocks to name than there are": case(20, 40, 2, 1, topk=5),
    "queries at the end": case(9, 80, 4, 2, topk=3),
    "a cache with room": case(9, 90, 4, 2, q_offset=40),
    "decoding": case(1, 100, 8, 2, topk=3),
    "decoding in a cache with room": case(1, 100, 8, 2, q_offset=69, kv_start=(0, 21)),
    "left padding": case(24, 24, 4, 2, topk=1, kv_start=(0, 5)),
    "left padding, later queries": case(6, 80, 4, 2, topk=3, kv_start=(37, 5)),
    "a row of padding only": case(20, 20, 2, 1, kv_start=(20, 3)),
    "forced blocks": case(12, 90, 2, 1, topk=4, kv_start=(0, 9), forced_local_blocks=2, forced_initial_blocks=1),
}
TRAINED = [
    "shorter than a block",
    "three heads a group",
    "sixteen heads a group",
    "head dims that are no powers of two",
]
TRAINED += ["blocks of three tiles", "a cache with room", "left padding", "a row of padding only"]


def draw(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments_of(name, dtype=torch.float32):
    shapes, options = CASES[name]
    arguments = {x: draw(shape, dtype, seed) for seed, (x, shape) in enumerate(shapes.items())}
    if "kv_start" in options:
        options = options | {"kv_start": torch.tensor(options["kv_start"])}
    return arguments | options


def sparse_of(arguments, idx, with_sinks=True):
    """The sparse layer's arguments: queries of its own, the full layer's keys and values."""
    kept = {x: arguments[x] for x in ("k", "v", "block_size", "kv_start", "q_offset") if x in arguments}
    q = draw(arguments["q"].shape, arguments["q"].dtype, 7)
    sinks = {"sinks": draw(q.shape[1], seed=8)} if with_sinks else {}
    return {"q": q, "idx": idx} | sinks | kept


def in_float64(arguments):
    return {
        name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }


# The yardstick: loops over rows, heads and queries


def rows(q, k, kv_start=None, q_offset=None):
    """Row of the batch, head, its group, query, and the slots that the query sees."""
    (batch, heads, queries), (kv_heads, slots) = q.shape[:3], k.shape[1:3]
    for b in range(batch):
        start = 0 if kv_start is None else int(kv_start[b])
        for h in range(heads):
            for r in range(queries):
                slot = r + (slots - queries if q_offset is None else q_offset)
                yield b, h, h // (heads // kv_heads), r, start, np.arange(start, slot + 1)


def softmax_of_loops(q, k, v, rows, sinks=None):
    """out, lse, and the logarithms of the probabilities by (b, h, r)."""
    out, lse, log_p = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf), {}
    for b, h, g, r, seen in rows:
        logits = k[b, g, seen] @ q[b, h, r] / np.sqrt(q.shape[3])
        everything = logits if sinks is None else np.append(logits, sinks[h])
        if len(everything):
            top = everything.max()
            lse[b, h, r] = top + np.log(np.exp(everything - top).sum())
        log_p[b, h, r] = logits - lse[b, h, r]
        out[b, h, r] = np.exp(log_p[b, h, r]) @ v[b, g, seen]
    return out, lse, log_p


def full_by_loops(q, k, v, block_size, topk, forced_local_blocks=0, forced_initial_blocks=0, **place):
    q, k, v = (x.double().numpy() for x in (q, k, v))
    every = list(rows(q, k, **place))
    out, lse, log_p = softmax_of_loops(q, k, v, [(b, h, g, r, seen) for b, h, g, r, _, seen in every])
    idx = np.full((q.shape[0], k.shape[1], q.shape[2], topk), -1)
    scores = {}
    for b, h, g, r, start, seen in every:
        for slot, score in zip(seen, log_p[b, h, r], strict=True):
            of_block = scores.setdefault((b, g, r), {})
            block = (slot - start) // block_size
            of_block[block] = max(score, of_block.get(block, -np.inf))
    for place, of_block in scores.items():
        last = max(of_block)
        forced = {x for x in of_block if x > last - forced_local_blocks or x < forced_initial_blocks}
        order = sorted(forced) + sorted(of_block.keys() - forced, key=lambda x: (-of_block[x], x))
        idx[place][: min(topk, len(order))] = order[:topk]
    return torch.from_numpy(out), torch.from_numpy(lse), torch.from_numpy(idx)


def sparse_by_loops(q, k, v, idx, block_size, sinks=None, **place):
    q, k, v = (x.double().numpy() for x in (q, k, v))
    chosen = []
    for b, h, g, r, start, seen in rows(q, k, **place):
        mine = np.isin((seen - start) // block_size, idx[b, g, r].numpy())
        chosen.append((b, h, g, r, seen[mine]))
    out, lse, _ = softmax_of_loops(q, k, v, chosen, None if sinks is None else sinks.double().numpy())
    return torch.from_numpy(out), torch.from_numpy(lse)


# Gradients


def gradients_of(run, function, arguments, seed=20):
    """For out and lse together, so that neither can hide the other."""
    shape = (*arguments["q"].shape[:3], arguments["v"].shape[3])
    dtype = arguments["q"].dtype
    lse_grad = draw(shape[:3], torch.promote_types(dtype, torch.float32), seed + 1)
    grads = (draw(shape, dtype, seed), lse_grad)
    if function == SPARSE:
        return run(function, arguments | {"return_lse": True}, grads)[1]
    return run(function, arguments, (*grads, None))[1]


def both(name, module, dtype=torch.float32):
    """The arguments of both functions by function, the sparse layer's blocks taken from the reference."""
    arguments = arguments_of(name, dtype)
    idx = module.full_attention_with_block_scores_reference(**arguments)[2]
    return {FULL: arguments, SPARSE: sparse_of(arguments, idx)}
