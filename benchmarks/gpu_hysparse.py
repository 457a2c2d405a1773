"""
The kernel hysparse-attn against PyTorch's fused attention, and its sparse layer against its full one, on a GPU.

    python benchmarks/gpu_hysparse.py
    python benchmarks/gpu_hysparse.py --device cpu --quick     # only to see that it runs; times nothing, writes nothing

One layer at a time in the two shapes of the paper (arXiv 2602.03560, section 4): 64 heads on 4 key-value heads and 32 on 8, 128
channels, blocks of 64, 16 of them selected, bfloat16, batch 1. `flash` is SDPA with its FlashAttention backend. The sparse
layer reads what the full layer chose for the same random queries: the lists of neighbours have little in common. Times are
medians between CUDA events, after a warm-up, with the L2 cache overwritten before each run.

Three goals are judged in both shapes: the full layer with its selection takes at most 1.1 times as long as flash in prefill; a
sparse layer is at least 8 times as fast as a full one at 64k tokens of prefill, and at 128k tokens while decoding.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from _record import force_option, record
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mimo_hf.hub import kernels

SHAPES = {"64/4": (64, 4), "32/8": (32, 8)}
HEAD_DIM, BLOCK_SIZE, TOPK = 128, 64, 16
CHECKED_ROWS = 64
WARM_UP, LEAST_RUNS = 3, 5

console = Console()


def make_inputs(heads: int, kv_heads: int, queries: int, slots: int, device: str) -> list[torch.Tensor]:
    """q, k and v."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = [(1, heads, queries, HEAD_DIM), (1, kv_heads, slots, HEAD_DIM), (1, kv_heads, slots, HEAD_DIM)]
    return [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal where all queries are there; the only query of a step of decoding sees everything."""
    only = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if q.is_cuda else contextlib.nullcontext()
    with only:
        return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)


def methods(q: torch.Tensor, idx: torch.Tensor, sinks: torch.Tensor) -> dict[str, Callable]:
    """By name, functions of q, k and v that give an output `[1, H, n, d]`."""
    kernel = kernels.load("hysparse-attn")
    options = {"block_size": BLOCK_SIZE, "topk": TOPK}
    full = partial(kernel.full_attention_with_block_scores, **options)
    if q.shape[2] == 1:
        full = partial(kernel.hysparse_decode, **options)
    without = partial(kernel.full_attention_with_block_scores, need_selection=False, **options)
    return {
        "flash": flash,
        "full": lambda q, k, v: full(q, k, v)[0],
        "full_without_selection": lambda q, k, v: without(q, k, v)[0],
        "sparse": lambda q, k, v: kernel.block_sparse_attention(q, k, v, idx, block_size=BLOCK_SIZE, sinks=sinks),
    }


def last_rows(inputs: list[torch.Tensor], sinks: torch.Tensor) -> dict:
    """What the reference gives in float32 for the last queries, and how many blocks of theirs the kernel names alike."""
    kernel = kernels.load("hysparse-attn")
    options = {"block_size": BLOCK_SIZE, "topk": TOPK}
    idx = kernel.full_attention_with_block_scores(*inputs, **options)[2]
    q, k, v = (x.float() for x in (inputs[0][:, :, -CHECKED_ROWS:], *inputs[1:]))
    out, _, expected = kernel.full_attention_with_block_scores_reference(q, k, v, **options)
    own = idx[:, :, -CHECKED_ROWS:]
    sparse = kernel.block_sparse_attention_reference(q, k, v, own, block_size=BLOCK_SIZE, sinks=sinks)
    alike = ((own[..., None] == expected[..., None, :]).any(-1) & (own >= 0)).sum() / (expected >= 0).sum()
    outputs = {"flash": out, "full": out, "full_without_selection": out, "sparse": sparse}
    return {"idx": idx, "outputs": outputs, "blocks_alike": alike.item()}


def median_ms(run: Callable, seconds: float) -> float:
    """Of at least five runs, for at least so many seconds in all."""
    for _ in range(WARM_UP):
        run()
    cache = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    times, end = [], time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        cache.zero_()
        begin, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        done.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(done))
    return statistics.median(times)


def gradients(attend: Callable, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    return list(torch.autograd.grad(output, leaves, torch.ones_like(output)))


def forward(attend: Callable, inputs: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return attend(*inputs)


def read_bytes(name: str, kv_heads: int, slots: int, element_bytes: int) -> int:
    """Keys and values that a step of decoding reads."""
    read = min(slots, TOPK * BLOCK_SIZE) if name == "sparse" else slots
    return read * kv_heads * 2 * HEAD_DIM * element_bytes


def measure(workload: dict, run: Callable, device: str, seconds: float) -> dict:
    """Median times in milliseconds, peak memory beyond the inputs, and relative errors of the last rows of the output."""
    heads, kv_heads = SHAPES[workload["heads"]]
    inputs = make_inputs(heads, kv_heads, workload["queries"], workload["slots"], device)
    sinks = torch.randn(heads, device=device)
    with torch.no_grad():
        truth = last_rows(inputs, sinks)
    row = workload | {"blocks_alike": truth["blocks_alike"]}
    for name, attend in methods(inputs[0], truth["idx"], sinks).items():
        expected = truth["outputs"][name]
        found = forward(attend, inputs)[:, :, -CHECKED_ROWS:].float()
        row[f"{name}_error"] = ((found - expected).norm() / expected.norm()).item()
        row[f"{name}_ms"] = row[f"{name}_peak_bytes"] = None
        if workload["queries"] == 1:
            row[f"{name}_read_bytes"] = read_bytes(name, kv_heads, workload["slots"], inputs[1].element_size())
        del found
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(attend, inputs)
            row[f"{name}_peak_bytes"] = torch.cuda.max_memory_allocated() - before
            row[f"{name}_ms"] = median_ms(partial(run, attend, inputs), seconds)
        else:
            run(attend, inputs)
    if row["full_ms"]:
        row["full_over_flash"] = row["full_ms"] / row["flash_ms"]
        row["full_over_sparse"] = row["full_ms"] / row["sparse_ms"]
    return row


def goals(prefill: list[dict], decoding: list[dict]) -> dict[str, dict]:
    """By goal and shape, the figure and whether it is reached; without the length that a goal is about, nothing."""
    found: dict[str, dict] = {}
    for heads in SHAPES:
        rows = {row["slots"]: row for row in prefill if row["heads"] == heads and row["full_ms"]}
        steps = {row["slots"]: row for row in decoding if row["heads"] == heads and row["full_ms"]}
        if rows:
            worst = max(row["full_over_flash"] for row in rows.values())
            found[f"full layer at most 1.1 x flash, prefill, {heads}"] = {"value": worst, "reached": worst <= 1.1}
        for name, length, known in (("prefill", 65536, rows), ("decoding", 131072, steps)):
            if length in known:
                ratio = known[length]["full_over_sparse"]
                goal = f"sparse layer at least 8 x as fast as full, {name} at {length // 1024}k, {heads}"
                found[goal] = {"value": ratio, "reached": ratio >= 8}
    return found


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--training-tokens", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=0)
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="160 tokens")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is present; --device cpu --quick shows that the script runs, and times nothing")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu goes with --quick: on a CPU nothing is timed")
    torch.manual_seed(args.seed)
    if args.quick:
        args.tokens = args.training_tokens = [160]

    def rows(lengths: list[int], run: Callable, queries: int | None = None) -> list[dict]:
        workloads = [
            {"heads": heads, "queries": queries or length, "slots": length} for heads in SHAPES for length in lengths
        ]
        return [measure(workload, run, args.device, args.seconds) for workload in workloads]

    payload: dict[str, object] = {"head_dim": HEAD_DIM, "block_size": BLOCK_SIZE, "topk": TOPK}
    prefill, decoding = rows(args.tokens, forward), rows(args.tokens, forward, queries=1)
    payload |= {"prefill": prefill, "decoding": decoding}
    payload |= {"forward_and_backward": rows(args.training_tokens, gradients), "goals": goals(prefill, decoding)}
    console.print_json(data=payload)
    if args.device == "cuda" and not args.quick:
        console.print(f"wrote {record('gpu_hysparse', payload, seed=args.seed, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
