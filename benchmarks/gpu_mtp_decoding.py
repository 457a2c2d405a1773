"""
MTP against plain decoding at batch 1 on a GPU: random bf16 weights, forced acceptance, contexts of 4k and 16k tokens.

    python benchmarks/gpu_mtp_decoding.py
    python benchmarks/gpu_mtp_decoding.py --device cpu --quick     # only to see that it runs; writes nothing

The paper reports a speed-up of 2.6 at an acceptance length of 3.6 (arXiv 2601.02780, abstract).
"""

import argparse

import torch
from _record import force_option, record
from mtp_decoding import console, dense_model, forced_acceptance


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--new-tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    force_option(parser)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    if args.quick:
        args.layers, args.hidden_size, args.contexts, args.new_tokens, args.repeats = 2, 64, [64], 24, 1
    torch.manual_seed(args.seed)
    model = dense_model(args.layers, args.hidden_size).to(device=args.device, dtype=torch.bfloat16)
    payload = {"layers": args.layers, "hidden_size": args.hidden_size, "weights": "random, bfloat16; drafts forced"}
    for context in args.contexts:
        prompt = torch.randint(model.config.vocab_size, (1, context), device=args.device)
        payload[f"context_{context}"] = forced_acceptance(
            model, prompt, args.new_tokens, args.repeats, targets=(1.0, 2.8, 3.2, 3.6, 4.0)
        )
    console.print_json(data=payload)
    if args.device == "cuda" and not args.quick:
        console.print(
            f"wrote {record('gpu_mtp_decoding', payload, seed=args.seed, timed=True, force=args.force).name}"
        )


if __name__ == "__main__":
    main()
