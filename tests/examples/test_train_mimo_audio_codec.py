"""examples/train_mimo_audio_codec.py: a few steps on recorded speech, and a folder that loads."""

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
