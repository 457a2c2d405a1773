"""
The kernel sink-swa-attn against FlexAttention, SDPA and eager attention at MiMo-V2-Flash's sliding-window geometry, on a GPU.

    python benchmarks/gpu_sink_swa.py
    python benchmarks/gpu_sink_swa.py --device cpu --quick     # only to see that it runs; times nothing, writes nothing

64 heads on 8 key-value heads, 192 channels of query and key with 128 of value, a sink per head, bfloat16. FlexAttention
gets the sink as a factor on its output, sigmoid(lse - sink); SDPA gets it as one more key, as in `mimo_sink`; eager is
transformers' own code. The last two hold or read all pairs of a query and a key; where memory ends, there is no figure.
"""

import argparse
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from _record import force_option, record
from rich.console import Console
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.utils.benchmark import Timer
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import eager_attention_forward

from mimo_hf.hub import kernels
from mimo_hf.modeling.sink_attention import sink_attention_forward

HEADS, KV_HEADS, HEAD_DIM, V_HEAD_DIM, WINDOW = 64, 8, 192, 128, 128
SCALING = HEAD_DIM**-0.5
LAYER = SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, training=False, is_causal=True)

console = Console()


def make_inputs(batch: int, queries: int, keys: int, device: str) -> list[torch.Tensor]:
    """Query, key, value and sinks."""
    shapes = [
        (batch, HEADS, queries, HEAD_DIM),
        (batch, KV_HEADS, keys, HEAD_DIM),
        (batch, KV_HEADS, keys, V_HEAD_DIM),
    ]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
    return [*inputs, torch.randn(HEADS, device=device)]


def visible_pairs(queries: int, keys: int, window: int | None, device: str) -> torch.Tensor:
    """Boolean `[1, 1, queries, keys]`."""
    pairs = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return (pairs if window is None else pairs.triu(keys - queries - window + 1))[None, None]


def methods(queries: int, keys: int, window: int | None, device: str) -> dict[str, Callable]:
    """By name, functions that make a function of query, key, value and sinks, whose output is `[B, H, Nq, Dv]`."""

    def kernel():
        attend = kernels.load("sink-swa-attn").sink_swa_attention
        return partial(attend, window=window, scaling=SCALING)

    def flex():
        def visible(b, h, i, j):
            at = i + keys - queries
            return (j <= at) if window is None else (j <= at) & (j > at - window)

        mask = create_block_mask(visible, None, None, queries, keys, device=device)
        fused = torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention

        def attend(query, key, value, sinks):
            options = {"block_mask": mask, "scale": SCALING, "enable_gqa": True}
            output, aux = fused(query, key, value, return_aux=AuxRequest(lse=True), **options)
            return output * torch.sigmoid(aux.lse - sinks[:, None])[..., None].to(output.dtype)

        return attend

    def sdpa():
        mask = visible_pairs(queries, keys, window, device)

        def attend(query, key, value, sinks):
            return sink_attention_forward(LAYER, query, key, value, mask, scaling=SCALING, s_aux=sinks)[0].transpose(
                1, 2
            )

        return attend

    def eager():
        mask = visible_pairs(queries, keys, window, device)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        added = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)

        def attend(query, key, value, sinks):
            layer = SimpleNamespace(**vars(LAYER), sinks=sinks.to(dtype))
            return eager_attention_forward(layer, query, key, value, added, scaling=SCALING)[0].transpose(1, 2)

        return attend

    return {"sink_swa": kernel, "flex": flex, "sdpa": sdpa, "eager": eager}


def gradients(attend: Callable, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    return list(torch.autograd.grad(output, leaves, torch.ones_like(output)))


def forward(attend: Callable, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [attend(*inputs)]


def measure(workload: dict, run: Callable, device: str, seconds: float) -> dict:
    """Median times in milliseconds, and each method's relative error against the reference in float32."""
    batch, queries, keys, window = (workload[name] for name in ("batch", "queries", "keys", "window"))
    inputs = make_inputs(batch, queries, keys, device)
    truth = kernels.load("sink-swa-attn").sink_swa_attention_reference
    expected = run(partial(truth, window=window, scaling=SCALING), [tensor.float() for tensor in inputs])
    row = dict(workload)
    for name, make in methods(queries, keys, window, device).items():
        row[f"{name}_ms"] = None
        try:
            attend = make()
            found = run(attend, inputs)
            errors = [(a.float() - b).norm() / b.norm() for a, b in zip(found, expected, strict=True)]
            row[f"{name}_error"] = max(errors).item()
            del found
            if device == "cuda":
                timer = Timer("run(attend, inputs)", globals={"run": run, "attend": attend, "inputs": inputs})
                row[f"{name}_ms"] = 1e3 * timer.blocked_autorange(min_run_time=seconds).median
        except RuntimeError as error:  # out of memory, or nothing that FlexAttention's compiler can make
            if name == "sink_swa":
                raise
            row[f"{name}_error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        if device == "cuda":
            torch.cuda.empty_cache()
    if row["sink_swa_ms"]:
        others = [name for name in ("flex", "sdpa", "eager") if row[f"{name}_ms"]]
        row |= {f"faster_than_{name}": row[f"{name}_ms"] / row["sink_swa_ms"] for name in others}
    return row


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 32768])
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
    tokens = [160] if args.quick else args.tokens
    payload: dict[str, object] = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "v_head_dim": V_HEAD_DIM}

    whole = [{"batch": 1, "queries": length, "keys": length, "window": WINDOW} for length in tokens]
    payload["forward"] = [measure(workload, forward, args.device, args.seconds) for workload in whole]
    payload["forward_and_backward"] = [measure(workload, gradients, args.device, args.seconds) for workload in whole]
    decoding = [
        {"batch": batch, "queries": queries, "keys": keys, "window": window}
        for batch, queries, keys, window in [
            (32, 1, WINDOW, WINDOW),
            (32, 4, WINDOW + 3, WINDOW),
            (1, 1, tokens[-1], None),
        ]
    ]
    payload["decoding"] = [measure(workload, forward, args.device, args.seconds) for workload in decoding]
    console.print_json(data=payload)
    if args.device == "cuda" and not args.quick:
        console.print(f"wrote {record('gpu_sink_swa', payload, seed=args.seed, timed=True, force=args.force).name}")


if __name__ == "__main__":
    main()
