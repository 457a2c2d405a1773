"""
MiMo-Audio at the released shape on a GPU: patches a second by batch, seconds before the first sound, the codec's real-time factor.

    python benchmarks/gpu_mimo_audio.py
    python benchmarks/gpu_mimo_audio.py --device cpu --quick     # a tiny model, only to see that it runs; times nothing, writes nothing

Random weights in bfloat16, 8.0 billion of the language model and 1.3 of the codec; what is said means nothing, what it costs is the same.
A patch is 0.16 s of speech: the real-time factor is seconds of work a second of speech, for one row.

The floor: a patch of one row reads each weight of the language model once, and each of the patch decoder's once for each of its steps (four
frames and the largest delay). `weights_read_bytes` is their sum; over the memory's bandwidth it is the least time of a patch.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _audio_speaking import IDS, TINY_CODEC, TINY_MODEL, make_codec, make_model, make_prompts, random_codes, speak
from _record import force_option, record
from mimo_audio_speed import first_sounds
from rich.console import Console

from mimo_hf.modeling.mimo_audio.fine_tuning import part_of

BATCHES = (1, 8, 32)
PATCHES, PROMPT_PATCHES, REPEATS = 50, 60, 5
CLIP_S = 60.0
SECONDS_A_PATCH, FRAMES_A_SECOND = 0.16, 25
console = Console()


def weights_read(model) -> int:
    """Bytes of a patch of one row, embeddings left out."""
    config = model.config
    steps = {"llm": 1, "patch_encoder": 1, "patch_decoder": config.group_size + max(config.delays)}
    return sum(
        weights.numel() * weights.element_size() * steps[part_of(name)]
        for name, weights in model.named_parameters()
        if "embed" not in name
    )


def seconds_of(call: Callable, device: str, repeats: int) -> list[float] | None:
    """Of `repeats` calls, after one that is not timed; None on a CPU."""
    call()
    if device != "cuda":
        return None
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return found


def speaking_row(model, rows: int, device: str, patches: int, prompt_patches: int, repeats: int) -> dict:
    inputs = vars(make_prompts(model.config, rows, prompt_patches, device))
    found = seconds_of(lambda: speak(model, inputs, patches), device, repeats)
    row = {"rows": rows, "patches": patches, "prompt_patches": prompt_patches}
    if found:
        middle = statistics.median(found)
        row |= {
            "patches_a_second": rows * patches / middle,
            "real_time_factor": middle / (patches * SECONDS_A_PATCH),
            "seconds": found,
            "peak_bytes": torch.cuda.max_memory_allocated(),
        }
    return row


@torch.no_grad()
def codec_row(codec, device: str, seconds: float, repeats: int) -> dict:
    samples = torch.randn(1, round(seconds * codec.config.sampling_rate), device=device) / 10
    codes = random_codes(codec.config.codebook_sizes[:8], round(seconds * FRAMES_A_SECOND))[None].to(device)
    row: dict = {"seconds_of_speech": seconds}
    for name, call in {
        "encode": lambda: codec.encode_long(input_values=samples, num_quantizers=8),
        "decode": lambda: codec.decode_long(codes),
    }.items():
        found = seconds_of(call, device, repeats)
        if found:
            row |= {f"{name}_real_time_factor": statistics.median(found) / seconds, f"{name}_seconds": found}
    return row


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few patches")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is present; --device cpu --quick shows that the script runs, and times nothing")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu goes with --quick: it times nothing")
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    shape, codec_shape = (TINY_MODEL | IDS, TINY_CODEC) if args.quick else ({}, {})
    patches, prompt_patches, clip = (6, 4, 2.0) if args.quick else (PATCHES, PROMPT_PATCHES, CLIP_S)
    with console.status("making the models"):
        model, codec = make_model(args.device, dtype, **shape), make_codec(args.device, dtype, **codec_shape)
    payload: dict = {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "codec_parameters": sum(weights.numel() for weights in codec.parameters()),
        "weights_read_bytes": weights_read(model),
        "speaking": [],
    }
    for rows in args.batches if not args.quick else [1, 3]:
        payload["speaking"].append(speaking_row(model, rows, args.device, patches, prompt_patches, REPEATS))
        console.print(payload["speaking"][-1])
    if args.device == "cuda":
        payload["first_sound"] = first_sounds(model, codec, 40, REPEATS, 4)
    payload["codec"] = codec_row(codec, args.device, clip, REPEATS)
    console.print(payload["codec"])
    if not args.quick:
        console.print(f"wrote {record('gpu_mimo_audio', payload, 0, timed=True, force=args.force).name}")
    return payload


if __name__ == "__main__":
    main()
