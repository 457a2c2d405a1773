"""benchmarks/mimo_audio_speed.py: pairs are equal in size, rows that speak are the same, and it runs."""

import pytest
import torch

from mimo_hf.data.speech import ASTERISK


@pytest.fixture(scope="module")
def bench():
    import mimo_audio_speed

    return mimo_audio_speed


@pytest.mark.parametrize("rate", [25.0, 12.5])
def test_the_codecs_have_equal_parameters_and_frames(bench, rate):
    ours, mimi = bench.make_pair(rate)
    assert bench.parameters(ours) / bench.parameters(mimi) == pytest.approx(1, abs=0.02)
    samples = torch.randn(1, 2 * bench.RATE) / 10
    with torch.no_grad():
        codes, their_codes = ours.encode(input_values=samples).audio_codes, mimi.encode(samples[:, None]).audio_codes
    assert codes.shape[1] == their_codes.shape[1] == 8
    assert their_codes.shape[2] == 2 * rate
    assert codes.shape[2] == their_codes.shape[2] + 1  # the mel frame that begins at the end


def test_each_row_speaks_alone_as_it_does_in_the_batch(bench):
    from _audio_speaking import make_prompts, speak

    model = bench.make_model(**bench.TINY_MODEL, **bench.IDS)
    prompts = make_prompts(model.config, 3, 4)
    greedy = {"audio_do_sample": False}
    together = model.generate(**vars(prompts), max_new_tokens=3, do_sample=False, **greedy)
    for row in range(3):
        alone = model.generate(**prompts.alone(row), max_new_tokens=3, do_sample=False, **greedy)
        assert torch.equal(alone.audio_codes[0, -3:], together.audio_codes[row, -3:])
    spoken = speak(model, vars(prompts), 5)
    assert (spoken.sequences[:, -5:] == model.config.empty_token_id).all()


@pytest.mark.needs(str(ASTERISK))
def test_all_parts_run(bench, monkeypatch):
    monkeypatch.setattr(bench, "record", None)
    found = bench.main(["--quick"])
    assert [row["frames_a_second"] for row in found["codec"]] == [25.0, 12.5]
    assert found["batch"][0]["rows"] == 8
    assert found["stream"]["patches_reached"]
    assert found["stream"]["speaking"][0]["patches_before_sound"] == 2
