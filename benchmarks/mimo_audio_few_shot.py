"""
A task that is only shown, not trained: how few-shot speech-to-speech comes up in training (arXiv 2512.23808, figure 1 and section 3.3).

    python benchmarks/mimo_audio_few_shot.py                 # three seeds: ten minutes each on one core
    python benchmarks/mimo_audio_few_shot.py --seeds 0 --small

A toy of voice conversion. An utterance is four "phones", each once, a patch each; channel 0 says the phone, channels 1 to 7 say it in a speaker's
voice: code = (base[phone, channel] + offset[speaker, channel]) mod 16. An episode has speakers A and B whose offsets are drawn anew, 16^7 of each, so that no speaker is seen
twice; some pairs "A says it, B says the same", and a query by A to be said by B, in the layout of the processor's few-shot prompts, transcripts included. Models learn
to predict all speech of episodes with 0 to 4 pairs, as pretraining does. They are asked in episodes with 0, 1 and 4, by generating greedily: right is a code of channels 1 to 7 that is B's.
In the control the pairs show other speakers than the one that is asked for.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _mimo_audio_toy import CHANNELS, CODES, TOKENS, batch_of, lesson, run_study, toy_model, train, weights_of
from rich.progress import Progress

from mimo_hf.drawing import line_chart
from mimo_hf.modeling.mimo_audio import interleave_text_and_audio, layout_audio, layout_text

PHONES = 4
# Words of the prompt, as ids below `_mimo_audio_toy.WORDS`: phones are the first.
INSTRUCTION, LINE, GAP = [20, 21], [22], [23]
SHOTS = {"0 shots": 0, "1 shot": 1, "4 shots": 4, "4 shots of others": 4}
SHAPE = {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 384, "local_layers": 1}
STEPS, ROWS, RATE, LOOKS = 1800, 16, 2e-3, 12
TEST, TEST_AT_END = 24, 96  # episodes of each kind, on the way and at the end
LIMITS = (
    "made-up speakers and phones, models of a million weights: it shows that the mechanism exists, nothing about the paper's tasks",
    "episodes are what the models are trained on; in the paper such episodes are no part of the training",
    "steps, rate, shape and the number of phones were chosen on seed 9; no more steps were tried than these",
    "the first patch of an answer without pairs can't be right but by chance; those after it are told from the patches written before, which are then another's voice",
)


@dataclass(frozen=True)
class World:
    """`base[phone, channel]` of channels 1 to 7, the same in all episodes of a seed."""

    base: torch.Tensor

    @classmethod
    def of(cls, seed: int) -> "World":
        generator = torch.Generator().manual_seed(2000 + seed)
        return cls(torch.randint(CODES, (PHONES, CHANNELS - 1), generator=generator))

    def say(self, phones: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Frames `[4 * phones, channels]`."""
        voice = (self.base[phones] + offsets) % CODES
        return torch.cat([phones[:, None], voice], dim=1).repeat_interleave(4, dim=0)


@dataclass(frozen=True)
class Episode:
    """Row of the whole episode, where its prompt ends, and the frames that B should say."""

    row: dict[str, torch.Tensor]
    prompt: int
    answer: torch.Tensor


def episode(world: World, shots: int, config, generator: torch.Generator, others: bool = False) -> Episode:
    """`others`: the pairs are of two more speakers."""

    def offsets() -> torch.Tensor:
        return torch.randint(CODES, (CHANNELS - 1,), generator=generator)

    ask = (offsets(), offsets())
    shown = (offsets(), offsets()) if others else ask
    parts, learned = [layout_text(torch.tensor(INSTRUCTION), config)], [False]

    def text(words: list[int]) -> None:
        parts.append(layout_text(torch.tensor(words), config))
        learned.append(False)

    prompt = 0
    for turn in range(shots + 1):
        phones = torch.randperm(PHONES, generator=generator)
        a, b = shown if turn < shots else ask
        parts.append(layout_audio(world.say(phones, a), config))
        learned.append(True)
        text(LINE)
        prompt = sum(len(ids) for ids, _ in parts) + 1  # behind <|sostm|>
        answer = world.say(phones, b)
        parts.append(interleave_text_and_audio(phones, answer, config))
        learned.append(True)
        if turn < shots:
            text(GAP)
    ids, codes = (torch.cat(part) for part in zip(*parts, strict=True))
    is_target = torch.cat([torch.full((len(part),), mark) for (part, _), mark in zip(parts, learned, strict=True)])
    is_target &= ids != TOKENS["sostm_token_id"]
    return Episode(lesson(ids, codes, is_target, config), prompt, answer)


def batches(world: World, config, seed: int) -> Iterator[dict]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        shots = int(torch.randint(5, (), generator=generator))
        yield batch_of([episode(world, shots, config, generator).row for _ in range(ROWS)], config)


@torch.no_grad()
def accuracy(model, world: World, shots: int, count: int, seed: int, others: bool = False) -> dict[str, float]:
    """Of answers that the model writes greedily: right codes of channels 1 to 7, and right phones (channel 0)."""
    generator = torch.Generator().manual_seed(9000 + seed)
    found = [episode(world, shots, model.config, generator, others) for _ in range(count)]
    prompts = [{name: one.row[name][: one.prompt] for name in ("input_ids", "audio_codes")} for one in found]
    batch = batch_of(prompts, model.config, "left")
    start = batch["input_ids"].shape[1]
    longest = max(len(one.row["input_ids"]) - one.prompt for one in found)
    output = model.generate(
        **batch, max_new_tokens=longest, do_sample=False, audio_do_sample=False, eos_token_id=TOKENS["eostm_token_id"],
        return_dict_in_generate=True,
    )  # fmt: skip
    voices, phones = [], []
    for ids, codes, one in zip(output.sequences[:, start:], output.audio_codes[:, start:], found, strict=True):
        said = codes[ids == model.config.empty_token_id].flatten(0, 1)[: len(one.answer)]
        right = torch.zeros_like(one.answer, dtype=torch.bool)
        right[: len(said)] = said == one.answer[: len(said)]
        voices.append(right[:, 1:].float().mean())
        phones.append(right[:, 0].float().mean())
    return {"voice": float(torch.stack(voices).mean()), "phones": float(torch.stack(phones).mean())}


def run(seed: int, steps: int, test: tuple[int, int], progress: Progress) -> dict:
    world = World.of(seed)
    model = toy_model(seed, **SHAPE)
    curve: list[dict] = []
    positions = 0

    def counted() -> Iterator[dict]:
        nonlocal positions
        for batch in batches(world, model.config, seed):
            positions += int(batch["attention_mask"].sum())
            yield batch

    def measured(count: int) -> dict[str, dict[str, float]]:
        return {
            name: accuracy(model, world, shots, count, seed, others=name.endswith("others"))
            for name, shots in SHOTS.items()
        }

    def look(step: int, output) -> None:
        curve.append(
            {
                "step": step,
                "positions": positions,
                "loss": None if output is None else float(output.loss.detach()),
                **{name: found["voice"] for name, found in measured(test[0]).items()},
            }
        )

    train(
        model, counted(), steps, RATE, progress, f"seed {seed}", max(1, steps // LOOKS), look
    )  # fmt: skip
    return {"seed": seed, "right": measured(test[1]), "positions": positions, "curve": curve}


def summary(rows: list[dict]) -> list[dict]:
    return [
        {
            "shown": name,
            "seeds": len(rows),
            "voice": statistics.fmean(row["right"][name]["voice"] for row in rows),
            "voice_least": min(row["right"][name]["voice"] for row in rows),
            "voice_most": max(row["right"][name]["voice"] for row in rows),
            "phones": statistics.fmean(row["right"][name]["phones"] for row in rows),
        }
        for name in SHOTS
    ]


def picture(rows: list[dict]):
    """Right codes by training positions, the mean over seeds."""
    curves = [row["curve"] for row in rows]
    positions = [statistics.fmean(curve[place]["positions"] for curve in curves) for place in range(len(curves[0]))]
    series = {
        name: [statistics.fmean(curve[place][name] for curve in curves) for place in range(len(positions))]
        for name in SHOTS
    }
    return line_chart(
        positions, series, x_label="training positions", y_label="right codes of the voice", title="A voice that is only shown"
    )  # fmt: skip


def main(argv: list[str] | None = None):
    def learn(seeds: list[int], small: bool, progress: Progress) -> list[dict]:
        steps, test = (3, (2, 2)) if small else (STEPS, (TEST, TEST_AT_END))
        return [run(seed, steps, test, progress) for seed in seeds]

    facts = {
        "weights": weights_of(toy_model(0, **SHAPE)),
        "settings": {
            "steps": STEPS, "rows": ROWS, "learning_rate": RATE, "phones": PHONES, "shape": SHAPE, "episodes_measured": TEST_AT_END,
        },
        "chance": 1 / CODES,
        "one_channel": (1 + (CHANNELS - 2) / CODES) / (CHANNELS - 1),  # right, the others by chance
        "limits": list(LIMITS),
    }  # fmt: skip
    return run_study(__doc__, "few_shot", argv, learn, summary, picture, facts)


if __name__ == "__main__":
    main()
