"""
What patches are for (arXiv 2512.23808, section 2.2): the language model at 6.25 positions a second, four frames each, beside one position a frame.

    python benchmarks/mimo_audio_patching.py                     # both parts: minutes on a core that does nothing else
    python benchmarks/mimo_audio_patching.py --part loss --seeds 0 --small

Parts
    loss    two models that differ by `group_size` alone learn the same frames: channel 0 goes from frame to frame by a fixed permutation in seven
            of ten, else evenly; channel c + 1 is a permutation of channel c. What the best predictor pays is known, nats a frame.
    time    seconds to write the same number of frames, at random weights and two shapes, in turn; of them those of the language model alone,
            which is what patches spare (the rest is the patch decoder's); and entries in the language model's cache.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator

import torch
from _audio_speaking import IDS, SMALL_MODEL, TINY_MODEL, make_model, speak
from _mimo_audio_toy import CHANNELS, CODES, batch_of, speech_row, toy_model, train, weights_of
from _record import RESULTS, force_option, record
from _timing import in_turn, ratio_of, steady_ratio
from mimo_audio_delay import frames_from, permutations
from rich.console import Console
from rich.progress import Progress

from mimo_hf.drawing import line_chart, save

PARTS = ("loss", "time")
GROUPS = (4, 1)
STAY = 0.7
STEPS, ROWS, FRAMES, RATE, LOOKS = 600, 16, 32, 3e-3, 12
SHAPES = {"bundled": TINY_MODEL | IDS, "larger": SMALL_MODEL | IDS}
SECONDS = 8.0
FRAMES_A_SECOND = 25
LIMITS = (
    "made-up codes whose next frame hangs on the last one alone: patches lose nothing in them, which says nothing about speech",
    "one position a frame is a model of our own making: the report has none to compare with",
)
console = Console(stderr=True)


def frames(count: int, step: torch.Tensor, tables: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`[count, channels]`; `step[code]` is the likely code of channel 0 in the next frame."""
    first = [int(torch.randint(CODES, (), generator=generator))]
    drawn = torch.randint(CODES, (count,), generator=generator).tolist()
    stays = (torch.rand(count, generator=generator) < STAY).tolist()
    for code, stay in zip(drawn[1:], stays[1:], strict=True):
        first.append(int(step[first[-1]]) if stay else code)
    return frames_from(torch.tensor(first), tables)


def best_loss(count: int) -> float:
    """Nats a frame of who knows how clips of `count` frames are made: channel 0's, since the others follow."""
    likely, other = STAY + (1 - STAY) / CODES, (1 - STAY) / CODES
    step = -likely * math.log(likely) - (CODES - 1) * other * math.log(other)
    return (math.log(CODES) + (count - 1) * step) / count


def batches(seed: int, draw: int, config) -> Iterator[dict]:
    *tables, step = permutations(seed, CHANNELS)
    generator = torch.Generator().manual_seed(draw)
    while True:
        rows = [speech_row(frames(FRAMES, step, torch.stack(tables), generator), config) for _ in range(ROWS)]
        yield batch_of(rows, config)


def learn(group: int, seed: int, steps: int, progress: Progress) -> dict:
    model = toy_model(seed, group_size=group)
    source = batches(seed, 5000 + seed, model.config)
    test = [next(source) for _ in range(4)]
    curve: list[dict] = []

    def look(step: int, _) -> None:
        with torch.no_grad():
            losses = torch.stack([model(**batch).audio_loss_per_channel for batch in test]).mean(0)
        curve.append({"step": step, "loss": float(losses.sum()), "loss_by_channel": losses.tolist()})

    train(
        model, batches(seed, seed, model.config), steps, RATE, progress, f"{group} frames a patch, seed {seed}", max(1, steps // LOOKS), look
    )  # fmt: skip
    return {"seed": seed, "group_size": group, **curve[-1], "positions_a_clip": FRAMES // group, "curve": curve}


def loss_table(rows: list[dict]) -> list[dict]:
    found = []
    for group in GROUPS:
        own = [row["loss"] for row in rows if row["group_size"] == group]
        found.append(
            {
                "group_size": group,
                "seeds": len(own),
                "loss": statistics.fmean(own),
                "least": min(own),
                "most": max(own),
            }
        )
    return found


def picture(rows: list[dict]):
    """Loss by training step, the mean over seeds."""
    steps = [point["step"] for point in rows[0]["curve"]]
    series = {
        f"{group} frames a position": [
            statistics.fmean(row["curve"][place]["loss"] for row in rows if row["group_size"] == group)
            for place in range(len(steps))
        ]
        for group in GROUPS
    }
    series["the best predictor"] = [best_loss(FRAMES)] * len(steps)
    return line_chart(
        steps, series, x_label="training step", y_label="loss, nats a frame", title="Patches of four frames, or of one"
    )


class Decoder:
    """A model that writes frames, and how long its patch decoder takes."""

    def __init__(self, shape: dict, group: int):
        self.model = make_model(**shape, group_size=group)
        self.group, self.patch_seconds = group, [0.0]
        write = self.model.write_patches

        def timed(*args):
            began = time.perf_counter()
            patches = write(*args)
            self.patch_seconds[-1] += time.perf_counter() - began
            return patches

        self.model.write_patches = timed

    def write(self, num_frames: int):
        """`num_frames` from `<|sosp|>` on."""
        self.patch_seconds.append(0.0)
        start = torch.full((1, 1), self.model.config.sosp_token_id)
        inputs = {"input_ids": start, "attention_mask": torch.ones_like(start)}
        return speak(self.model, inputs, num_frames // self.group)


def time_row(name: str, shape: dict, seconds: float, repeats: int, attempts: int) -> dict:
    num_frames = round(seconds * FRAMES_A_SECOND) // GROUPS[0] * GROUPS[0]
    decoders = {group: Decoder(shape, group) for group in GROUPS}
    entries = {
        group: decoder.write(num_frames).past_key_values.get_seq_length() for group, decoder in decoders.items()
    }
    ways = {str(group): lambda decoder=decoder: decoder.write(num_frames) for group, decoder in decoders.items()}
    figures, taken = steady_ratio(ways, "1", "4", repeats, attempts=attempts)
    for decoder in decoders.values():
        decoder.patch_seconds = []
    whole = in_turn(ways, repeats, warmups=0)
    alone = {
        name: [all_of - patch for all_of, patch in zip(whole[name], decoders[int(name)].patch_seconds, strict=True)]
        for name in whole
    }
    return {
        "shape": name,
        "frames": num_frames,
        "cache_entries": {str(group): count for group, count in entries.items()},
        "cache_entries_ratio": entries[1] / entries[4],
        **{f"seconds_by_group_{name}": statistics.median(own) for name, own in taken.items()},
        "language_model_alone": {
            **{f"seconds_by_group_{name}": statistics.median(own) for name, own in alone.items()},
            **ratio_of(alone["1"], alone["4"]),
        },
        **figures,
    }


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of `loss`; default: 0 1 2")
    parser.add_argument("--repeats", type=int, default=7, help="turns of `time`; default: 7")
    force_option(parser)
    parser.add_argument("--small", action="store_true", help="a few steps of everything; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict = {}
    if "loss" in options.part:
        with Progress(console=console) as progress:
            steps = 4 if options.small else STEPS
            rows = [learn(group, seed, steps, progress) for seed in options.seeds for group in GROUPS]
        found["loss"] = {
            "weights": weights_of(toy_model(0)),
            "settings": {"steps": STEPS, "rows": ROWS, "frames": FRAMES, "learning_rate": RATE, "stay": STAY},
            "best_loss": best_loss(FRAMES),
            "seeds": options.seeds,
            "limits": list(LIMITS),
            "table": loss_table(rows),
            "runs": rows,
        }
        console.print_json(data=[found["loss"]["table"], found["loss"]["best_loss"]])
    if "time" in options.part:
        shapes = {"bundled": SHAPES["bundled"]} if options.small else SHAPES
        seconds, repeats, attempts = (0.64, 2, 1) if options.small else (SECONDS, options.repeats, 3)
        with console.status("writing frames"):
            rows = [time_row(name, shape, seconds, repeats, attempts) for name, shape in shapes.items()]
        found["time"] = {"rows": rows}
        console.print_json(data=rows)
    if options.small:
        return found
    if "loss" in found:
        save(picture(found["loss"]["runs"]), RESULTS / "mimo_audio_patching.png")
        console.print(f"wrote {record('mimo_audio_patching', found['loss'], timed=False).name}")
    if "time" in found:
        path = record("mimo_audio_patching_time", found["time"], 0, timed=True, force=options.force)
        console.print(f"wrote {path.name}")
    return found


if __name__ == "__main__":
    main()
