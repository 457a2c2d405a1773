"""examples/train_mimo_audio_codec.py: a few steps on recorded speech, and a folder that loads."""

import math
import sys
from pathlib import Path

import pytest
import torch

from mimo_hf.data.speech import ASTERISK
from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, MiMoAudioTokenizerModel

SCRIPT = Path(__file__).parents[2] / "examples" / "train_mimo_audio_codec.py"


@pytest.mark.needs(str(ASTERISK))
def test_a_few_steps_write_a_codec_that_loads(warm_python, tmp_path):
    result = warm_python.run(SCRIPT, "--quick", "--use_cpu", "--output_dir", tmp_path / "codec")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "22.1 minutes of speech, 2.2 held out" in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.split("│")] for line in lines]
    assert [row[1] for row in rows] == ["silence", "1", "2", "4", "8"]
    assert rows[0][2] == rows[0][3]  # silence is what it was
    assert rows[4][2] != rows[4][3]
    codec = MiMoAudioTokenizerModel.from_pretrained(tmp_path / "codec")
    extractor = MiMoAudioFeatureExtractor.from_pretrained(tmp_path / "codec")
    codes = codec.encode(**extractor(torch.randn(4800).numpy(), sampling_rate=24_000, return_tensors="pt")).audio_codes
    assert codec.decode(codes).audio_values.shape == (1, 1, 6 * 960)


def test_absent_recordings_are_named(warm_python, tmp_path):
    result = warm_python.run(SCRIPT, "--recordings", tmp_path, "--output_dir", tmp_path / "codec")
    assert result.returncode
    assert "asterisk-core-sounds-en-g722" in result.stderr
    assert not (tmp_path / "codec").exists()


def test_errors_are_of_magnitudes_then_of_logarithms():
    examples = str(SCRIPT.parent)
    sys.path.append(examples)
    import train_mimo_audio_codec as script

    sys.path.remove(examples)
    tone = torch.sin(torch.arange(24_000) / 20)[None] / 4
    magnitude, logarithm = script.mel_errors(tone / 2, tone)
    loud = script.frames_of(tone) > -2.0
    # Half as loud: magnitudes are half as large, logarithms less by ln 2 wherever there is sound.
    assert script.mel_errors(tone, tone) == (0, 0)
    assert magnitude == pytest.approx(script.mel_errors(torch.zeros_like(tone), tone)[0] / 2, rel=0.01)
    distance = script.frames_of(tone) - script.frames_of(tone / 2)
    assert distance[loud].mean() == pytest.approx(math.log(2), abs=0.01)
    assert logarithm == pytest.approx(float(distance.abs().mean()))
