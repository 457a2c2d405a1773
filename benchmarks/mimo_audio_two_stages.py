"""
What a first stage of text losses alone is for (arXiv 2512.23808, section 3.2): text kept, speech understood, and a patch decoder that waits.

    python benchmarks/mimo_audio_two_stages.py               # three seeds, two ways each: minutes on one core
    python benchmarks/mimo_audio_two_stages.py --seeds 0 --small

A language of twelve words in which seven of ten words follow from the word before; each word is also a "phone", a patch of four frames whose codes are
fixed. A model first learns the language from text alone. Then it learns to write down what is said and to say what is written, with text among
it, in as many steps either way:

    two stages    a third of the steps with text losses alone and a frozen patch decoder, then all losses (`set_training_stage`)
    joint         all losses from the start

On the way are measured: nats a word of text, and what the best predictor pays; words written down right, each told the right ones before it; nats a
frame of what is said. Whether the first stage moved a bit of the patch decoder is looked at, not assumed.
"""

import math
import statistics
from collections.abc import Iterator

import torch
from _mimo_audio_toy import (
    CHANNELS,
    CODES,
    TOKENS,
    Row,
    batch_of,
    lesson,
    run_study,
    toy_model,
    train,
    weights_of,
)
from rich.progress import Progress

from mimo_hf.drawing import line_chart
from mimo_hf.modeling.mimo_audio import layout_audio, layout_text, set_training_stage
from mimo_hf.modeling.mimo_audio.audio_layout import IGNORED
from mimo_hf.modeling.mimo_audio.fine_tuning import part_of

WORDS, FOLLOWS = 12, 0.7
LENGTH = 10  # words of a row
WRITE_DOWN, SAY = 20, 21
KINDS = ("text", "write down", "say")
WAYS = ("two stages", "joint")
STEPS, ROWS, RATE, LOOKS = {"language": 300, "first": 300, "second": 600}, 16, 2e-3, 6
TEST_ROWS = 64
MEASURES = ("text_loss", "words_right", "speech_loss")
LIMITS = (
    "a made-up language of twelve words and models of 0.8 million weights: whether stages pay for a model that has read the web is not seen here",
    "both ways have the same rows in the same order; in the paper the stages have other data too",
)


class Language:
    """Of a seed: which word follows, and the codes `[words, 4, channels]` of each."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(3000 + seed)
        self.successor = torch.randperm(WORDS, generator=generator).tolist()
        self.codes = torch.randint(CODES, (WORDS, 4, CHANNELS), generator=generator)

    def sentence(self, generator: torch.Generator) -> torch.Tensor:
        words = [int(torch.randint(WORDS, (), generator=generator))]
        while len(words) < LENGTH:
            follows = float(torch.rand((), generator=generator)) < FOLLOWS
            other = int(torch.randint(WORDS, (), generator=generator))
            words.append(self.successor[words[-1]] if follows else other)
        return torch.tensor(words)

    def row(self, kind: str, config, generator: torch.Generator) -> Row:
        """What is asked is given, what is answered is learned."""
        words = self.sentence(generator)
        text, speech = layout_text(words, config), layout_audio(self.codes[words].flatten(0, 1), config)
        asked = {"text": (), "write down": (speech,), "say": (text,)}[kind]
        sign = {"text": TOKENS["eos_token_id"], "write down": WRITE_DOWN, "say": SAY}[kind]
        parts = [*asked, layout_text(torch.tensor([sign]), config), speech if kind == "say" else text]
        ids, patches = (torch.cat(part) for part in zip(*parts, strict=True))
        return lesson(ids, patches, torch.arange(len(ids)) >= len(ids) - len(parts[-1][0]), config)


def best_text_loss() -> float:
    """Nats a word of who knows the language."""
    likely, other = FOLLOWS + (1 - FOLLOWS) / WORDS, (1 - FOLLOWS) / WORDS
    step = -likely * math.log(likely) - (WORDS - 1) * other * math.log(other)
    return (math.log(WORDS) + (LENGTH - 1) * step) / LENGTH


def batches(language: Language, config, seed: int, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield batch_of([language.row(kinds[row % len(kinds)], config, generator) for row in range(ROWS)], config)


def tests(language: Language, config, seed: int) -> dict[str, Row]:
    generator = torch.Generator().manual_seed(7000 + seed)
    return {
        kind: batch_of([language.row(kind, config, generator) for _ in range(TEST_ROWS)], config) for kind in KINDS
    }


@torch.no_grad()
def measure(model, held_out: dict[str, Row]) -> dict[str, float]:
    weights, model.config.audio_loss_weights = model.config.audio_loss_weights, [1.0] * CHANNELS
    outputs = {kind: model(**batch) for kind, batch in held_out.items()}
    model.config.audio_loss_weights = weights
    labels = held_out["write down"]["labels"][:, 1:]
    right = outputs["write down"].logits[:, :-1].argmax(-1) == labels
    return {
        "text_loss": float(outputs["text"].text_loss),
        "words_right": float(right[labels != IGNORED].float().mean()),
        "speech_loss": float(outputs["say"].audio_loss_per_channel.sum()),
    }


def patch_decoder(model) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone() for name, value in model.named_parameters() if part_of(name) == "patch_decoder"
    }


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> int:
    """Weights whose bits differ."""
    return sum(int((value.view(torch.int32) != after[name].view(torch.int32)).sum()) for name, value in before.items())


def learn_way(way: str, knowing, language: Language, seed: int, steps: dict[str, int], progress: Progress) -> dict:
    """One way, on a copy of the model that knows the language."""
    model = toy_model(seed)
    model.load_state_dict(knowing.state_dict())
    held_out, source = tests(language, model.config, seed), batches(language, model.config, 100 + seed)
    curve: list[dict] = [{"step": 0, **measure(model, held_out)}]
    counts: dict[str, int] = {}

    def look(step: int, _) -> None:
        if step:
            curve.append({"step": begun + step, **measure(model, held_out)})

    begun = 0
    for leg in ("first", "second"):
        set_training_stage(model, 1 if (way, leg) == ("two stages", "first") else 2, [1.0] * CHANNELS)
        before = patch_decoder(model)
        name = f"seed {seed}: {way}, {leg} part"
        train(model, source, steps[leg], RATE, progress, name, max(1, steps[leg] // LOOKS), look)
        counts[f"patch_decoder_changed_in_{leg}"] = changed(before, patch_decoder(model))
        begun += steps[leg]
    weights = sum(value.numel() for value in patch_decoder(model).values())
    return {"seed": seed, "way": way, **curve[-1], "patch_decoder_weights": weights, **counts, "curve": curve}


def run(seed: int, steps: dict[str, int], progress: Progress) -> list[dict]:
    """Both ways, from one model."""
    language, knowing = Language(seed), toy_model(seed)
    text = batches(language, knowing.config, seed, ("text",))
    train(knowing, text, steps["language"], RATE, progress, f"seed {seed}: language")
    return [learn_way(way, knowing, language, seed, steps, progress) for way in WAYS]


def summary(rows: list[dict]) -> list[dict]:
    """A row a way: means over seeds with least and most, and the largest loss on text that was met on the way."""
    table = []
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        line: dict = {"way": way, "seeds": len(own)}
        for name in MEASURES:
            values = [row[name] for row in own]
            line |= {name: statistics.fmean(values), f"{name}_least": min(values), f"{name}_most": max(values)}
        line["worst_text_loss"] = statistics.fmean(max(point["text_loss"] for point in row["curve"]) for row in own)
        line["patch_decoder_changed_in_first"] = max(row["patch_decoder_changed_in_first"] for row in own)
        table.append(line)
    return table


def picture(rows: list[dict]):
    """Nats a frame by training step, the mean over seeds."""
    steps = [point["step"] for point in rows[0]["curve"]]
    series = {
        way: [
            statistics.fmean(row["curve"][place]["speech_loss"] for row in rows if row["way"] == way)
            for place in range(len(steps))
        ]
        for way in WAYS
    }
    return line_chart(
        steps, series, x_label="training step", y_label="loss of speech, nats a frame", title="Text losses first, or all at once"
    )  # fmt: skip


def main(argv: list[str] | None = None):
    def learn(seeds: list[int], small: bool, progress: Progress) -> list[dict]:
        steps = dict.fromkeys(STEPS, 3) if small else STEPS
        return [row for seed in seeds for row in run(seed, steps, progress)]

    facts = {
        "weights": weights_of(toy_model(0)),
        "settings": {"steps": STEPS, "rows": ROWS, "learning_rate": RATE, "words": WORDS, "follows": FOLLOWS},
        "best_text_loss": best_text_loss(),
        "limits": list(LIMITS),
    }  # fmt: skip
    return run_study(__doc__, "two_stages", argv, learn, summary, picture, facts)


if __name__ == "__main__":
    main()
