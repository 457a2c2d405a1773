"""
What a recogniser, a speaker model and a speech detector, all of other people, make of speech that went through a MiMo-Audio codec.

    pip install "mimo-hf[audio,audio-eval,plot]"
    apt-get install asterisk-core-sounds-en-g722 pocketsphinx-testdata espeak-ng
    python benchmarks/mimo_audio_codec.py                              # the bundled tiny codec; some minutes
    python benchmarks/mimo_audio_codec.py --codec outputs/codec --plot codec.svg
    python benchmarks/mimo_audio_codec.py --small                      # a few clips; writes nothing

Speech that the example's training never saw: every tenth of Asterisk's prompts, whose voice it knows from the others (`prompts`); readers and
players of other voices in pocketsphinx's clips (`other voices`); sentences of those prompts, read by two espeak-ng voices that no training
hears (`synthesiser`). For each number of codebooks, beside the recordings themselves and a codec of the same configuration that has learned nothing
(initial weights of a seed, codebooks by k-means over the prompts that are trained on):

    word_error_rate, character_error_rate   by Whisper tiny.en, against what is said; the recordings' own stands beside them
    similarity     cosine of the speaker model's vectors of recording and reconstruction; `references` has that of two recordings of one
                   voice and of two voices
    speech_kept    share of the recording's speech that the detector finds in the reconstruction, and `speech_added` of what it finds there that is
                   none in the recording
    mel_error, log_mel_error                as in examples/train_mimo_audio_codec.py

Intervals hold 95 % of 2,000 bootstrap draws of the clips, the same draws for all rows. Packages and licences: benchmarks/_audio_ears.py.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import torch
from _audio_ears import RATE as EAR_RATE, Ears, real_ears, versions
from _record import record
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mimo_hf.data import asterisk_prompts, espeak_speech, pocketsphinx_clips
from mimo_hf.data.spoken_numbers import UNHEARD
from mimo_hf.drawing import check_target, line_chart, save
from mimo_hf.hub.checkpoints import RUN, bundled
from mimo_hf.metrics.transcription import CharacterErrorRate, WordErrorRate
from mimo_hf.modeling.mimo_audio import MiMoAudioTokenizerModel, resample_to_mono
from mimo_hf.modeling.mimo_audio.processing_codec import codec_folder

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from train_mimo_audio_codec import HELD_OUT, RATE, mel_errors, samples_of

CODEBOOKS = (1, 2, 4, 8)
RECORDED = ("prompts", "other voices")
MEASURES = ("similarity", "speech_kept", "speech_added", "mel_error", "log_mel_error")
DRAWS = 2000
WORDS = 5  # least of a sentence for the synthesiser: fewer are hard to hear for any recogniser
LIMITS = [
    "The recogniser is Whisper's smallest and errs on short recordings without any codec: read a rate against the recordings' own.",
    "The speaker model hears lines as well as voices: two voices that were recorded alike are nearer than they sound.",
    "A tiny codec, trained for minutes on one voice and a synthesiser: nothing here is about the released codec.",
]
console = Console(stderr=True)


@dataclass(frozen=True)
class Clip:
    source: str
    speaker: str
    text: str
    samples: torch.Tensor  # 24 kHz


@dataclass(frozen=True)
class Heard:
    text: str
    voice: np.ndarray
    speech: np.ndarray  # true at the samples, 16 kHz, where someone speaks


def held_out_clips(small: bool) -> list[Clip]:
    """Prompts, other voices, and the synthesiser's, in this order."""
    prompts = asterisk_prompts()
    prompts = prompts.select(range(0, len(prompts), HELD_OUT))
    others = pocketsphinx_clips()
    if small:
        prompts, others = prompts.select(range(4)), others.select([0, 5])
    sentences = [text for text in prompts["text"] if len(text.split()) >= WORDS][: 1 if small else 12]
    read = espeak_speech(sentences, UNHEARD)
    return [
        Clip(source, speaker.partition(" at ")[0], text, samples)
        for source, part in zip((*RECORDED, "synthesiser"), (prompts, others, read), strict=True)
        for speaker, text, samples in zip(part["speaker"], part["text"], samples_of(part), strict=True)
    ]


@torch.no_grad()
def through(codec: MiMoAudioTokenizerModel, samples: torch.Tensor, number: int) -> torch.Tensor:
    """Samples of a clip's first `number` codebooks, as many as it has."""
    codes = codec.encode(input_values=samples[None], num_quantizers=number).audio_codes
    return codec.decode(codes).audio_values[0, 0, : len(samples)].clamp(-1, 1)


def untrained(codec: MiMoAudioTokenizerModel, seed: int) -> MiMoAudioTokenizerModel:
    """A codec of this configuration as training begins: its codebooks stand in the frames that its encoder makes of prompts."""
    torch.manual_seed(seed)
    made = MiMoAudioTokenizerModel(codec.config).train()
    prompts = asterisk_prompts().select(range(1, 9))
    length = 2 * RATE
    clips = [clip[:length] for clip in samples_of(prompts)]
    made(input_values=torch.stack([torch.nn.functional.pad(clip, (0, length - len(clip))) for clip in clips]))
    return made.eval()


def hear(ears: Ears, samples: torch.Tensor) -> Heard:
    heard = resample_to_mono(samples, RATE, EAR_RATE).numpy().astype(np.float32)
    speech = np.zeros(len(heard), dtype=bool)
    for begin, end in ears.speech(heard):
        speech[begin:end] = True
    return Heard(ears.words(heard), ears.voice(heard), speech)


def compare(clip: Clip, original: Heard, made: torch.Tensor, heard: Heard) -> dict[str, float]:
    """NaN where a share has no whole."""
    both = float((original.speech & heard.speech).sum())
    mel, logarithm = mel_errors(made[None], clip.samples[None])
    return {
        "similarity": float(original.voice @ heard.voice),
        "speech_kept": both / original.speech.sum() if original.speech.any() else math.nan,
        "speech_added": 1 - both / heard.speech.sum() if heard.speech.any() else math.nan,
        "mel_error": mel,
        "log_mel_error": logarithm,
    }


@cache
def metrics() -> tuple[WordErrorRate, CharacterErrorRate]:
    return WordErrorRate(), CharacterErrorRate()


def mistakes(said: str, heard: str) -> list[int]:
    """Wrong and all words, wrong and all characters, of what is said."""
    found = []
    for metric in metrics():
        counts = metric.compute(predictions=[heard], references=[said])
        wrong = counts["substitutions"] + counts["deletions"]
        found += [wrong + counts["insertions"], wrong + counts["hits"]]
    return found


def interval(draws: np.ndarray) -> list[float] | None:
    """None where no draw has a value: nobody spoke in any clip, say."""
    known = draws[~np.isnan(draws)]
    return [float(value) for value in np.quantile(known, [0.025, 0.975])] if len(known) else None


def summary(counts: np.ndarray, values: dict[str, np.ndarray], seed: int) -> dict:
    """Rates and means of clips with their intervals; counts `[clips, 4]` of `mistakes`, values by measure `[clips]`."""
    draws = np.random.default_rng(seed).integers(len(counts), size=(DRAWS, len(counts)))
    row: dict = {"clips": len(counts), "words": int(counts[:, 1].sum())}
    for name, wrong in {"word_error_rate": 0, "character_error_rate": 2}.items():
        row[name] = float(counts[:, wrong].sum() / counts[:, wrong + 1].sum())
        row[f"{name}_range"] = interval(counts[:, wrong][draws].sum(1) / counts[:, wrong + 1][draws].sum(1))
    for name, own in values.items():
        mean = float(means_of(own[None])[0])
        row[name] = None if math.isnan(mean) else mean
        row[f"{name}_range"] = interval(means_of(own[draws]))
    return row


def means_of(draws: np.ndarray) -> np.ndarray:
    """Of each row, NaN left out; NaN for a row that has nothing else."""
    counts = (~np.isnan(draws)).sum(axis=1)
    return np.divide(np.nansum(draws, axis=1), counts, out=np.full(len(draws), np.nan), where=counts > 0)


def references(clips: Sequence[Clip], voices: Sequence[np.ndarray]) -> dict[str, dict]:
    """Cosines of two recordings: of one voice, in each source, and of two voices."""
    cosines: dict[str, list[float]] = {}
    for (one, own), (other, its) in combinations(zip(clips, voices, strict=True), 2):
        if one.speaker == other.speaker:
            cosines.setdefault(f"one voice, {one.source}", []).append(float(own @ its))
        else:
            cosines.setdefault("two voices", []).append(float(own @ its))
    return {
        name: {"similarity": float(np.mean(found)), "similarity_range": interval(np.array(found)), "pairs": len(found)}
        for name, found in cosines.items()
    }


def error_by_codebooks(codec: MiMoAudioTokenizerModel, clips: Sequence[Clip]) -> list[dict]:
    """Mean errors of recorded clips for every number of codebooks."""
    rows = []
    for number in range(1, codec.config.num_quantizers + 1):
        errors = [mel_errors(through(codec, clip.samples, number)[None], clip.samples[None]) for clip in clips]
        mel, logarithm = np.mean(errors, axis=0)
        rows.append({"codebooks": number, "mel_error": float(mel), "log_mel_error": float(logarithm)})
    return rows


def bits_a_second(codec: MiMoAudioTokenizerModel, number: int) -> float:
    config = codec.config
    return (
        sum(math.log2(size) for size in config.codebook_sizes[:number])
        * config.sampling_rate
        / config.samples_per_code
    )


def rows_of(
    clips: Sequence[Clip],
    originals: Sequence[Heard],
    made: Sequence[torch.Tensor] | None,
    ears: Ears,
    name: str,
    seed: int,
) -> list[dict]:
    """A row for all clips, for the recorded ones and for each source. `made` None: of the recordings themselves."""
    counts, values = [], []
    for index, clip in enumerate(track(clips, f"listening: {name}", console=console, transient=True)):
        heard = originals[index] if made is None else hear(ears, made[index])
        counts.append(mistakes(clip.text, heard.text))
        values.append({} if made is None else compare(clip, originals[index], made[index], heard))
    rows = []
    for source in ("all", "recorded", *dict.fromkeys(clip.source for clip in clips)):
        taken = [
            i
            for i, clip in enumerate(clips)
            if source in ("all", clip.source) or (source == "recorded" and clip.source in RECORDED)
        ]
        means = {key: np.array([values[i][key] for i in taken]) for key in values[0]}
        rows.append({"source": source, **summary(np.array(counts)[taken], means, seed)})
    return rows  # fmt: skip


def study(codec: MiMoAudioTokenizerModel, clips: Sequence[Clip], ears: Ears, seeds: Sequence[int], seed: int) -> dict:
    most = codec.config.num_quantizers
    originals = [
        hear(ears, clip.samples) for clip in track(clips, "listening: recordings", console=console, transient=True)
    ]
    rows = [
        {"what": "recording", "codebooks": None} | row
        for row in rows_of(clips, originals, None, ears, "recordings", seed)
    ]
    ways: list[tuple[str, MiMoAudioTokenizerModel, int, int | None]] = [
        ("codec", codec, number, None) for number in sorted({n for n in (*CODEBOOKS, most) if n <= most})
    ]
    ways += [("untrained", untrained(codec, own), most, own) for own in seeds]
    for what, own, number, own_seed in ways:
        made = [through(own, clip.samples, number) for clip in clips]
        name = f"{what}, {number} codebooks"
        head = {"what": what, "codebooks": number, "bits_a_second": bits_a_second(own, number)}
        head |= {} if own_seed is None else {"untrained_seed": own_seed}
        rows += [head | row for row in rows_of(clips, originals, made, ears, name, seed)]
    curve = error_by_codebooks(codec, [clip for clip in clips if clip.source in RECORDED])
    return {
        "rows": rows,
        "references": references(clips, [heard.voice for heard in originals]),
        "error_by_codebooks": curve,
        "falls_with_each_codebook": {
            key: all(after[key] < before[key] for before, after in pairwise(curve))
            for key in ("mel_error", "log_mel_error")
        },
    }  # fmt: skip


def describe(codec: MiMoAudioTokenizerModel, folder: Path, is_bundled: bool) -> dict:
    run = folder / RUN
    return {
        "folder": f"bundled {folder.parent.name}" if is_bundled else folder.name,
        "parameters": sum(weights.numel() for weights in codec.parameters()),
        "codebook_sizes": codec.config.codebook_sizes,
        "training": json.loads(run.read_text(encoding="utf-8")) if run.exists() else None,
    }


def plot(rows: Sequence[dict], path: Path):
    """Word error rates over codebooks, all clips."""
    chosen = [row for row in rows if row["source"] == "all"]
    curve = [row for row in chosen if row["what"] == "codec"]
    numbers = [row["codebooks"] for row in curve]
    flat = {
        what: np.mean([row["word_error_rate"] for row in chosen if row["what"] == what])
        for what in ("recording", "untrained")
    }
    series = {"through the codec": [row["word_error_rate"] for row in curve]}
    series |= {name: [float(value)] * len(numbers) for name, value in flat.items()}
    save(
        line_chart(
            numbers,
            series,
            title="Held-out speech, heard by Whisper tiny.en",
            x_label="codebooks",
            y_label="word error rate",
        ),
        path,
    )


def table_of(rows: Sequence[dict]) -> Table:
    table = Table("what", "codebooks", "bit/s", "source", "WER", "CER", *MEASURES)
    for row in rows:
        numbers = [row["word_error_rate"], row["character_error_rate"], *(row.get(name) for name in MEASURES)]
        table.add_row(
            row["what"], str(row["codebooks"] or ""), f"{row.get('bits_a_second', 0):.0f}", row["source"],
            *("" if number is None else f"{number:.3f}" for number in numbers),
        )  # fmt: skip
    return table


def folder_of(given: Path | None) -> Path:
    """Of a codec, also of one within MiMo-Audio's folder. Raises FileNotFoundError."""
    folder = Path(codec_folder(given or bundled("mimo-audio")))
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"`--codec` must be the folder of a codec, with config.json; got {str(given)!r}.")
    return folder


def main(argv: list[str] | None = None, ears: Ears | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--codec", type=Path, help="folder of a codec, or of a processor with one; left out: the bundled one"
    )
    parser.add_argument("--small", action="store_true", help="eight clips; writes nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--untrained-seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG, SVG or PDF: word error rate by codebooks")
    args = parser.parse_args(argv)
    if args.plot:
        check_target(args.plot, "--plot")
    try:
        folder = folder_of(args.codec)
        with console.status("loading codec and ears"):
            codec = MiMoAudioTokenizerModel.from_pretrained(folder, dtype=torch.float32).eval()
            named = versions() if ears is None else []
            ears = real_ears() if ears is None else ears
        with console.status("reading recordings"):
            clips = held_out_clips(args.small)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    found = study(codec, clips, ears, args.untrained_seeds[: 1 if args.small else None], args.seed)
    console.print(table_of([row for row in found["rows"] if row["source"] in ("all", "recorded")]))
    console.print(found["references"], found["falls_with_each_codebook"])
    payload = {
        "codec": describe(codec, folder, args.codec is None),
        "sampling_rate": RATE,
        "seconds": sum(len(clip.samples) for clip in clips) / RATE,
        "bootstrap_draws": DRAWS,
        "untrained_seeds": args.untrained_seeds,
        **found,
        "ears": named,
        "limits": LIMITS,
    }
    if args.plot:
        plot(found["rows"], args.plot)
    if not args.small:
        console.print(f"wrote {record('mimo_audio_codec', payload, args.seed, timed=False).name}")
    return payload


if __name__ == "__main__":
    main()
