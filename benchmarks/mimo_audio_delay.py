"""
What the delay pattern is for (arXiv 2512.23808, section 2.2.3): channels of a frame that depend on each other, written one after another or at once.

    python benchmarks/mimo_audio_delay.py                  # three seeds, two models each: minutes on one core
    python benchmarks/mimo_audio_delay.py --seeds 0 --small

Frames are made so that channel c + 1 is a fixed permutation of channel c, and channel 0 is drawn evenly of 16 codes: a frame has 4 bits, not 32. Two
models that differ by `delay_pattern` alone learn them, 0-1-...-7 and all 0; then both write patches, sampled at temperature 1. A frame is consistent if
each of its seven pairs of neighbours is. Without delays the patch decoder draws all channels of a frame at once and none can see another: chance is
one in 16 for a pair, one in 16^7 for a frame.
"""

import math
import statistics
from collections.abc import Iterator

import torch
from _audio_speaking import only_speech
from _mimo_audio_toy import CHANNELS, CODES, TOKENS, batch_of, run_study, speech_row, toy_model, train, weights_of
from rich.progress import Progress

from mimo_hf.drawing import line_chart
from mimo_hf.metrics.codes import ChannelConsistency

PATTERNS = {"delays 0-1-2-3-4-5-6-7": "0-1-2-3-4-5-6-7", "no delays": 0}
STEPS, ROWS, PATCHES, RATE, LOOKS = 600, 16, 6, 3e-3, 12
SAMPLED = 200  # patches of each look
LIMITS = (
    "made-up codes of one known dependence, models of 0.8 million weights: the mechanism, not the paper's figures",
    "no delays is a model of our own making: the report has none to compare with",
)


def permutations(seed: int, count: int = CHANNELS - 1) -> torch.Tensor:
    """`[count, codes]`, as many as there are neighbours: the code of channel c + 1 for each of channel c."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.stack([torch.randperm(CODES, generator=generator) for _ in range(count)])


def frames_from(first: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """`[count, channels]` from codes of channel 0, `[count]`."""
    channels = [first]
    for table in tables:
        channels.append(table[channels[-1]])
    return torch.stack(channels, dim=1)


def frames(count: int, tables: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return frames_from(torch.randint(CODES, (count,), generator=generator), tables)


def batches(tables: torch.Tensor, config, seed: int) -> Iterator[dict]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = [speech_row(frames(4 * PATCHES, tables, generator), config) for _ in range(ROWS)]
        yield batch_of(rows, config)


@torch.no_grad()
def write(model, patches: int, seed: int) -> torch.Tensor:
    """Frames that the model writes, sampled at temperature 1."""
    torch.manual_seed(seed)
    lines = -(-patches // PATCHES)
    start = torch.full((lines, 1), TOKENS["sosp_token_id"])
    output = model.generate(
        input_ids=start, attention_mask=torch.ones_like(start), max_new_tokens=PATCHES, prefix_allowed_tokens_fn=only_speech(model.config), do_sample=True, audio_temperature=1.0, audio_top_k=0,
        audio_top_p=1.0, top_k=0, return_dict_in_generate=True,
    )  # fmt: skip
    return output.audio_codes[:, 1:].flatten(0, 2)[: 4 * patches]


def run(name: str, seed: int, steps: int, sampled: int, progress: Progress) -> dict:
    tables = permutations(seed)
    model = toy_model(seed, delay_pattern=PATTERNS[name])
    test = next(batches(tables, model.config, 5000 + seed))
    metric, known = ChannelConsistency(), frames_from(torch.arange(CODES), tables)
    curve: list[dict] = []

    def look(step: int, _) -> None:
        with torch.no_grad():
            losses = model(**test).audio_loss_per_channel.tolist()
        found = metric.compute(predictions=[write(model, sampled, seed)], references=[known])
        curve.append(
            {
                "step": step,
                "consistent_frames": found["frame_consistency"],
                "consistent_pairs": found["pair_consistency"],
                "loss_by_channel": losses,
            }
        )

    train(
        model, batches(tables, model.config, seed), steps, RATE, progress, f"{name}, seed {seed}", max(1, steps // LOOKS), look
    )  # fmt: skip
    return {"seed": seed, "pattern": name, **curve[-1], "curve": curve}


def summary(rows: list[dict]) -> list[dict]:
    found = []
    for name in dict.fromkeys(row["pattern"] for row in rows):
        own = [row for row in rows if row["pattern"] == name]
        joint = [row["consistent_frames"] for row in own]
        later = [statistics.fmean(row["loss_by_channel"][1:]) for row in own]
        found.append(
            {
                "pattern": name,
                "seeds": len(own),
                "consistent_frames": statistics.fmean(joint),
                "least_consistent_frames": min(joint),
                "most_consistent_frames": max(joint),
                "consistent_pairs": statistics.fmean(row["consistent_pairs"] for row in own),
                "loss_of_channel_0": statistics.fmean(row["loss_by_channel"][0] for row in own),
                "loss_of_channels_1_to_7": statistics.fmean(later),
            }
        )
    return found


def picture(rows: list[dict]):
    """Consistent frames by training step, the mean over seeds."""
    steps = [point["step"] for point in rows[0]["curve"]]
    series = {
        name: [
            statistics.fmean(row["curve"][place]["consistent_frames"] for row in rows if row["pattern"] == name)
            for place in range(len(steps))
        ]
        for name in PATTERNS
    }
    return line_chart(
        steps, series, x_label="training step", y_label="frames whose channels fit", title="Channels one after another, or at once"
    )  # fmt: skip


def main(argv: list[str] | None = None):
    def learn(seeds: list[int], small: bool, progress: Progress) -> list[dict]:
        steps, sampled = (4, 8) if small else (STEPS, SAMPLED)
        return [run(name, seed, steps, sampled, progress) for seed in seeds for name in PATTERNS]

    facts = {
        "weights": weights_of(toy_model(0)),
        "settings": {"steps": STEPS, "rows": ROWS, "patches": PATCHES, "learning_rate": RATE, "frames_written": 4 * SAMPLED},
        "chance": {"pair": 1 / CODES, "frame": CODES ** -(CHANNELS - 1), "loss": math.log(CODES)},
        "limits": list(LIMITS),
    }  # fmt: skip
    return run_study(__doc__, "delay", argv, learn, summary, picture, facts)


if __name__ == "__main__":
    main()
