"""
How fast MiMo-Audio is on a CPU: its codec beside transformers' Mimi, a batch that speaks beside rows alone, and speech as it arrives.

    apt-get install asterisk-core-sounds-en-g722
    python benchmarks/mimo_audio_speed.py                # about a quarter of an hour on a machine that does nothing else
    python benchmarks/mimo_audio_speed.py --part batch
    python benchmarks/mimo_audio_speed.py --quick        # small and short, to see that it runs; writes nothing

Parts, all on random weights
    codec    encoding and decoding 60 s of recorded speech: ours and MimiModel, equal in parameters within 2 % and in frames a second, with
             eight codebooks of 1,024 entries. At 25 a second ours is the released plan, narrower, and Mimi's strides are 8, 5, 4, 3; at 12.5 Mimi's
             are the released ones and ours pools four frames. The goal: at most Mimi's time.
    batch    eight rows that speak together, beside the same rows one after the other, at the bundled model's shape and a larger one. The goal:
             three times the patches a second.
    stream   `stream_decode` at the bundled codec's shape: memory for 60 s and for 600 s, each in a process of its own; and a model that speaks
             through MiMoAudioStreamer: patches and seconds before the first sound, and seconds a second of sound (real-time factor). The goals:
             no more memory for the longer file, first sound after at most two patches.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

import torch
from _audio_speaking import (
    IDS,
    SMALL_MODEL,
    TINY_CODEC,
    TINY_MODEL,
    make_codec,
    make_model,
    make_prompts,
    random_codes,
    speak,
)
from _record import force_option, record
from _timing import in_turn, steady_ratio
from rich.console import Console
from transformers import MimiConfig, MimiModel

from mimo_hf.data import asterisk_prompts, word_tokenizer
from mimo_hf.modeling.mimo_audio import MiMoAudioStreamer, resample_to_mono
from mimo_hf.modeling.mimo_audio.codec_long import MiMoAudioStreamState

RATE = 24_000
PARTS = ("codec", "batch", "stream")
CODEC_GOAL, BATCH_GOAL, MEMORY_GOAL, PATCHES_GOAL = 1.0, 3.0, 1.1, 2
ROWS = 8
# Ours by frames a second. Wide as Mimi; layers and the vocoder's width make the parameters equal.
OURS = {
    "d_model": 512, "encoder_layers": 10, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_layers": 10,
    "decoder_attention_heads": 8, "decoder_ffn_dim": 2048, "vocoder_dim": 256, "vocoder_num_layers": 16,
    "vocoder_intermediate_dim": 1024, "num_quantizers": 8, "codebook_size": [1024],
}  # fmt: skip
PAIRS = {
    25.0: (OURS, {"upsampling_ratios": [8, 5, 4, 3]}),
    12.5: (OURS | {"avg_pooler": 4}, {}),
}
console = Console(stderr=True)


def parameters(model: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def recorded(seconds: float) -> torch.Tensor:
    """`[1, samples]`: prompts laid end to end."""
    pieces, length = [], 0
    for row in asterisk_prompts():
        pieces.append(resample_to_mono(row["audio"]["array"], row["audio"]["sampling_rate"], RATE))
        length += len(pieces[-1])
        if length >= seconds * RATE:
            break
    return torch.cat(pieces)[None, : round(seconds * RATE)]


def make_pair(rate: float):
    """Ours and theirs, random weights, and their parameters' ratio."""
    ours, theirs = PAIRS[rate]
    torch.manual_seed(0)
    mimi = MimiModel(MimiConfig(num_quantizers=8, codebook_size=1024, **theirs)).eval()
    return make_codec(**ours), mimi


@torch.no_grad()
def codec_row(rate: float, seconds: float, repeats: int, attempts: int) -> dict:
    ours, mimi = make_pair(rate)
    samples = recorded(seconds)
    codes = ours.encode(input_values=samples).audio_codes
    their_codes = mimi.encode(samples[:, None]).audio_codes
    ways = {
        "ours": lambda: ours.decode(ours.encode(input_values=samples).audio_codes),
        "mimi": lambda: mimi.decode(mimi.encode(samples[:, None]).audio_codes),
    }
    halves = {
        "encode": partial(ours.encode, input_values=samples),
        "mimi_encode": partial(mimi.encode, samples[:, None]),
        "decode": partial(ours.decode, codes),
        "mimi_decode": partial(mimi.decode, their_codes),
    }
    figures, taken = steady_ratio(ways, "ours", "mimi", repeats, attempts=attempts)
    parts = in_turn(halves, max(2, repeats // 2))
    counts = parameters(ours), parameters(mimi)
    return {
        "frames_a_second": rate,
        "seconds": seconds,
        "frames": codes.shape[2],
        "mimi_frames": their_codes.shape[2],
        "parameters": counts[0],
        "mimi_parameters": counts[1],
        "parameters_ratio": counts[0] / counts[1],
        **{f"{name}_s": statistics.median(own) for name, own in (taken | parts).items()},
        "real_time_factor": statistics.median(taken["ours"]) / seconds,
        "mimi_real_time_factor": statistics.median(taken["mimi"]) / seconds,
        "goal": CODEC_GOAL,
        "reached": figures["steady"] and figures["ratio"] <= CODEC_GOAL,
        **figures,
    }


def batch_row(name: str, shape: dict, patches: int, prompt_patches: int, repeats: int, attempts: int) -> dict:
    model = make_model(**shape)
    prompts = make_prompts(model.config, ROWS, prompt_patches)
    alone = [prompts.alone(row) for row in range(ROWS)]
    ways = {
        "alone": lambda: [speak(model, inputs, patches) for inputs in alone],
        "together": lambda: speak(model, vars(prompts), patches),
    }
    figures, taken = steady_ratio(ways, "alone", "together", repeats, attempts=attempts)
    rates = {way: ROWS * patches / statistics.median(own) for way, own in taken.items()}
    return {
        "shape": name,
        "parameters": parameters(model),
        "rows": ROWS,
        "new_patches": patches,
        "prompt_patches": prompt_patches,
        **{f"{way}_patches_a_second": rate for way, rate in rates.items()},
        "goal": BATCH_GOAL,
        "reached": figures["steady"] and figures["ratio"] >= BATCH_GOAL,
        **figures,
    }


@torch.no_grad()
def stream_alone(seconds: float) -> dict:
    """To be called in a process of its own: bytes that a stream of this length holds beyond what its first ten seconds do."""
    codec = make_codec(**TINY_CODEC)
    unit = codec.config.samples_per_code
    frames = round(seconds * RATE / unit)
    piece = 20
    for _ in codec.stream_decode(
        random_codes(codec.config.codebook_sizes, piece, first)[None] for first in range(0, 400, piece)
    ):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began, samples = time.perf_counter(), 0
    arriving = (random_codes(codec.config.codebook_sizes, piece, first)[None] for first in range(0, frames, piece))
    for audio in codec.stream_decode(arriving):
        samples += audio.shape[2]
    taken = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": samples / RATE,
        "peak_bytes": peak,
        "peak_more_bytes": peak - before,
        "real_time_factor": taken / (samples / RATE),
    }  # fmt: skip


def in_process(seconds: float) -> dict:
    command = [sys.executable, __file__, "--stream-alone", str(seconds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def patches_before_sound(codec, group: int, right_context: int) -> int:
    """Patches that the codec must have been given before it gives the first samples."""
    state = MiMoAudioStreamState(right_context=right_context)
    codes = random_codes(codec.config.codebook_sizes, 40 * group)[None]
    for patch in range(40):
        if codec.decode_chunk(codes[:, :, patch * group : (patch + 1) * group], state).shape[2] > 0:
            return patch + 1
    raise ValueError(f"`right_context` must be less than 40 patches; got {right_context} frames.")


def first_sounds(model, codec, patches: int, repeats: int, right_context: int) -> dict:
    """Seconds to the first sound and for all of it, from the call of `generate` on a prompt of three seconds."""
    inputs = make_prompts(model.config, 1, 18).alone(0)
    inputs = {name: values.to(model.device) for name, values in inputs.items()}
    tokenizer = word_tokenizer(["?"])  # nothing is said in text
    firsts, wholes = [], []
    for turn in range(repeats + 1):
        streamer = MiMoAudioStreamer(tokenizer, model.config, codec, right_context=right_context)
        began, first, samples = time.perf_counter(), None, 0
        for kind, piece in streamer.run(partial(speak, model), inputs=inputs, patches=patches):
            if kind == "audio":
                first = first or time.perf_counter() - began
                samples += len(piece)
        if turn:
            firsts.append(first)
            wholes.append((time.perf_counter() - began) / (samples / RATE))
    return {
        "right_context": right_context,
        "patches_before_sound": patches_before_sound(codec, model.config.group_size, right_context),
        **spread_of("first_sound_s", firsts),
        **spread_of("real_time_factor", wholes),
        "patches": patches,
        "repeats": repeats,
    }


def spread_of(name: str, values: list[float]) -> dict[str, float]:
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_spread": (third - first) / middle}


def stream_part(lengths: tuple[float, float], patches: int, repeats: int) -> dict:
    rows = [in_process(seconds) for seconds in lengths]
    ratio = rows[1]["peak_bytes"] / rows[0]["peak_bytes"]
    model, codec = make_model(**TINY_MODEL, **IDS), make_codec(**TINY_CODEC)
    speaking = [first_sounds(model, codec, patches, repeats, right) for right in (4, 40)]
    before = speaking[0]["patches_before_sound"]
    return {
        "memory": rows,
        "peak_ratio": ratio,
        "memory_goal": MEMORY_GOAL,
        "memory_reached": ratio <= MEMORY_GOAL,
        "speaking": speaking,
        "patches_goal": PATCHES_GOAL,
        "patches_reached": before <= PATCHES_GOAL,
    }


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", choices=PARTS, nargs="+", default=PARTS, help="only these; they replace those of the file on record"
    )
    parser.add_argument("--repeats", type=int, default=7, help="turns of each comparison, at least five on record")
    force_option(parser)
    parser.add_argument("--quick", action="store_true", help="small and short; writes nothing")
    parser.add_argument("--stream-alone", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.stream_alone:
        print(json.dumps(stream_alone(args.stream_alone)))
        return None
    if args.repeats < 5 and not args.quick:
        parser.error(f"--repeats must be at least 5; got {args.repeats}")
    quick, repeats, attempts = args.quick, 2 if args.quick else args.repeats, 1 if args.quick else 3
    payload: dict = {}
    if "codec" in args.part:
        with console.status("codec"):
            payload["codec"] = [codec_row(rate, 0.8 if quick else 60.0, repeats, attempts) for rate in PAIRS]
        console.print(payload["codec"])
    if "batch" in args.part:
        shapes = {"bundled": TINY_MODEL | IDS} | ({} if quick else {"larger": SMALL_MODEL | IDS})
        with console.status("batch"):
            payload["batch"] = [
                batch_row(name, shape, 3 if quick else 40, 6 if quick else 25, repeats, attempts)
                for name, shape in shapes.items()
            ]
        console.print(payload["batch"])
    if "stream" in args.part:
        with console.status("stream"):
            payload["stream"] = stream_part((2.0, 4.0) if quick else (60.0, 600.0), 12 if quick else 60, repeats)
        console.print(payload["stream"])
    for part, found in payload.items():
        name = f"mimo_audio_speed_{part}"
        if not quick:
            console.print(
                f"wrote {record(name, {'rows': found} if isinstance(found, list) else found, seed=0, timed=True, force=args.force).name}"
            )
    return payload


if __name__ == "__main__":
    main()
