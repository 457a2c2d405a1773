"""
Real speech without a download: recordings that Debian packages ship, sentences that espeak-ng reads, and any audio column.

    apt-get install asterisk-core-sounds-en-g722    # 568 telephone prompts of one voice, 16 kHz, 26 minutes, CC-BY-SA-3.0
    apt-get install pocketsphinx-testdata           # ten transcribed clips of several voices, 16 kHz, BSD-2
    apt-get install espeak-ng                       # a synthesiser with many voices

Each function gives a `datasets.Dataset` with `audio`, `text` (what is said, in lower case), `name`, and `speaker`. A row's
`audio` is `{"array": float32 [samples], "sampling_rate": int}`, as transformers' pipelines and MiMo-Audio's processor take it; stored are
WAV files, so that `dataset.with_format(None).cast_column("audio", datasets.Audio())` is an audio column like any. Nothing is resampled.
"""

import csv
import io
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

ASTERISK = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
POCKETSPHINX = Path("/usr/share/pocketsphinx/test/data")
SPOKEN = Path(__file__).parent / "asterisk_prompts.tsv"
LONGEST = 600.0  # seconds of one sentence; espeak-ng reads what it is given for as long as it takes
HEADER = 44  # bytes in front of a WAV file's samples
# Recordings that have no transcription beside them, and what is said in them.
GO_FORWARD = {"goforward": "go forward ten meters"}


def asterisk_prompts(folder: str | Path = ASTERISK, include_wordless: bool = False) -> "Dataset":
    """
    The recorded prompts of the Asterisk telephone exchange, one voice (Allison Smith), decoded from G.722.

    Args:
        folder: of the `.g722` files.
        include_wordless: whether files without words are rows, with the text "": ten of silence, six of tones, one of monkeys.

    Returns:
        Sorted by `name`, such as `"digits/h-3"`. Names say where a prompt is used, not what is said ("third"): `text` was written for
        this project, by a recogniser and by hand.

    Raises:
        FileNotFoundError: the recordings are not installed. ImportError: G722 or soundfile is not. ValueError: other recordings.
    """
    paths = sorted(Path(folder).rglob("*.g722"))
    if not paths:
        raise FileNotFoundError(_absent(folder, "asterisk-core-sounds-en-g722", "`.g722` files"))
    decode = _g722_decoder()
    spoken = asterisk_transcripts()
    rows = []
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        text = spoken.get(name)
        if text is None or (not text and not include_wordless):  # another release's prompt, of which nothing is known
            continue
        rows.append(speech_row(_as_wave(decode(path.read_bytes())), text, name, "Allison Smith"))
    if not rows:
        raise ValueError(
            f"`folder` must hold Asterisk's English prompts, under their own names; got {str(folder)!r}, with {paths[0].name} and others."
        )
    return speech_dataset(rows)


def asterisk_transcripts() -> dict[str, str]:
    """
    What is said in each of the prompts, by name; "" where there are no words.

    Written down for this project; the words are those of the recordings, CC-BY-SA-3.0 as these are (Allison Smith, Digium).
    """
    with open(SPOKEN, encoding="utf-8", newline="") as file:
        return dict(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def pocketsphinx_clips(folder: str | Path = POCKETSPHINX) -> "Dataset":
    """
    The transcribed clips in pocketsphinx's test data: five of an audio book, five of card games, and a command to a robot.

    Args:
        folder: with `librivox`, `cards` and `goforward.raw`.

    Raises:
        FileNotFoundError: the recordings are not installed. ImportError: soundfile is not.
    """
    folder = Path(folder)
    if not (folder / "librivox").is_dir():
        raise FileNotFoundError(_absent(folder, "pocketsphinx-testdata", "`librivox`"))
    rows = []
    for part, transcription in {"librivox": "transcription", "cards": "cards.transcription"}.items():
        lines = (folder / part / transcription).read_text(encoding="utf-8")
        for text, name in re.findall(r"<s>\s*(.*?)\s*</s>\s*\((.*?)\)", lines):
            rows.append(speech_row((folder / part / f"{name}.wav").read_bytes(), text.lower(), f"{part}/{name}", part))
    for name, text in GO_FORWARD.items():
        rows.append(speech_row(_as_wave((folder / f"{name}.raw").read_bytes()), text, name, name))
    return speech_dataset(rows)


def espeak_speech(
    sentences: Sequence[str], voices: Sequence[str] = ("en-us",), words_per_minute: Sequence[int] = (160,)
) -> "Dataset":
    """
    Sentences as espeak-ng reads them: each by every voice at every speed.

    Args:
        sentences: read as they are, never as markup.
        voices: as `espeak-ng --voices` lists them, with a variant if wanted (`"en-us+f3"`).
        words_per_minute: 80 to 450.

    Returns:
        At 22,050 Hz; `speaker` is the voice and its speed.

    Raises:
        FileNotFoundError: espeak-ng is not installed. ImportError: soundfile is not. ValueError: an unknown voice, or a sentence of which nothing is said.
    """
    if (
        isinstance(sentences, str)
        or not sentences
        or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences)
    ):
        raise ValueError(f"`sentences` must be a list of texts with words in them; got {sentences!r}.")
    for name, given in {"voices": voices, "words_per_minute": words_per_minute}.items():
        if isinstance(given, str) or not given:
            raise ValueError(f"`{name}` must be a list with at least one; got {given!r}.")
    for speed in words_per_minute:
        if not 80 <= speed <= 450:
            raise ValueError(f"`words_per_minute` must be from 80 to 450; got {speed}.")
    return speech_dataset(
        [
            speech_row(read_aloud(sentence, voice, speed), sentence.lower(), f"{index}", f"{voice} at {speed}")
            for voice in voices
            for speed in words_per_minute
            for index, sentence in enumerate(sentences)
        ]
    )


def read_aloud(sentence: str, voice: str, speed: int) -> bytes:
    """A WAV file of a sentence as espeak-ng reads it; errors as of `espeak_speech`."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError(
            "espeak-ng must be installed to read sentences; found none. Run `apt-get install espeak-ng`."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"  # its header is right; that of `--stdout` claims hours
        command = [program, "-v", voice, "-s", str(speed), "-b", "1", "-w", str(path), "--stdin"]
        said = subprocess.run(  # noqa: S603  # the program that is installed, and words on its input
            command, input=sentence.encode(), capture_output=True, timeout=LONGEST, check=False
        )
        if said.returncode:
            raise ValueError(
                f"`voices` must be known to espeak-ng; got {voice!r} ({said.stderr.decode(errors='replace').strip()}). "
                "`espeak-ng --voices` lists them."
            )
        stored = path.read_bytes()
    if not any(stored[HEADER:]):
        raise ValueError(f"`sentences` must have words that {voice!r} can say; got {sentence!r}.")
    return stored


def with_decoded_audio(dataset: "Dataset", column: str = "audio") -> "Dataset":
    """
    A data set whose audio column soundfile decodes, where datasets' own decoder (torchcodec, which needs FFmpeg) can't be had.

    Args:
        dataset: with a column of `datasets.Audio`, of paths, or of `{"bytes", "path"}`.
        column: its name.

    Returns:
        The same rows; a row's `column` is `{"array": float32 [samples] or [samples, channels], "sampling_rate": int}` when it is read.

    Raises:
        ValueError: no such column. ImportError: soundfile is not installed.
    """
    from datasets import Audio

    _soundfile()
    if column not in dataset.column_names:
        raise ValueError(f"`column` must be one of {dataset.column_names}; got {column!r}.")
    if isinstance(dataset.features[column], Audio):
        dataset = dataset.cast_column(column, Audio(decode=False))

    return dataset.with_transform(_Decoded(column))


@dataclass(frozen=True)
class _Decoded:
    """A transform that datasets can hash, and send to other processes."""

    column: str

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        if self.column not in batch:
            return batch
        cells = []
        for cell in batch[self.column]:
            stored, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
            array, rate = _soundfile().read(io.BytesIO(stored) if stored else path, dtype="float32")
            cells.append({"array": array, "sampling_rate": rate})
        return batch | {self.column: cells}


def speech_row(stored: bytes, text: str, name: str, speaker: str) -> dict[str, Any]:
    """A row of `speech_dataset`; `stored`: a WAV file."""
    return {"audio": {"bytes": stored, "path": None}, "text": text, "name": name, "speaker": speaker}


def speech_dataset(rows: list[dict[str, Any]]) -> "Dataset":
    """Rows of `speech_row`, whose audio is decoded when it is read."""
    from datasets import Audio, Dataset

    return with_decoded_audio(Dataset.from_list(rows).cast_column("audio", Audio(decode=False)))


def _as_wave(samples: bytes, rate: int = 16_000) -> bytes:
    """A WAV file of 16-bit samples of one channel."""
    stored = io.BytesIO()
    with wave.open(stored, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples)
    return stored.getvalue()


def _g722_decoder():
    try:
        from G722 import G722
    except ImportError as error:
        raise ImportError("Recordings in G.722 need G722: pip install 'mimo-hf[audio]'.") from error
    return lambda stored: np.asarray(G722(16_000, 64_000).decode(stored), dtype="<i2").tobytes()


def _soundfile():
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("Audio columns need soundfile: pip install 'mimo-hf[audio]'.") from error
    return soundfile


def _absent(folder: str | Path, package: str, wanted: str) -> str:
    return f"`folder` must hold {wanted}; got {str(folder)!r}. Run `apt-get install {package}` on Debian, or give the folder of an unpacked one."
