"""benchmarks/mimo_audio_*.py that train toys: what their data are, and the effect at a size that takes seconds."""

import math

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, MiMoAudioProcessor
from mimo_hf.modeling.mimo_audio.audio_layout import IGNORED

MARKERS = {
    "sosp": "<|sosp|>",
    "eosp": "<|eosp|>",
    "empty": "<|empty|>",
    "sostm": "<|sostm|>",
    "eostm": "<|eostm|>",
    "eot": "<|eot|>",
    "im_end": "<|im_end|>",
    "eos": "<|endoftext|>",
}


@pytest.fixture(scope="module")
def toy():
    import _mimo_audio_toy

    return _mimo_audio_toy


@pytest.fixture(scope="module")
def delay():
    import mimo_audio_delay

    return mimo_audio_delay


@pytest.fixture(scope="module")
def few_shot():
    import mimo_audio_few_shot

    return mimo_audio_few_shot


@pytest.fixture(scope="module")
def patching():
    import mimo_audio_patching

    return mimo_audio_patching


@pytest.fixture(scope="module")
def stages():
    import mimo_audio_two_stages

    return mimo_audio_two_stages


def processor_with_ids_of(toy, few_shot):
    """A processor whose tokenizer spells the study's ids: phones are letters, the prompt's texts one token or two."""
    words = {chr(ord("a") + phone): phone for phone in range(few_shot.PHONES)}
    first, second = few_shot.INSTRUCTION
    (line,), (gap,) = few_shot.LINE, few_shot.GAP
    words |= {"[Int]:": first, "copy\n": second, "\n": line, " \n\n": gap}
    words |= {MARKERS[name]: toy.TOKENS[f"{name}_token_id"] for name in toy.MARKERS}
    words |= {f"unused{place}": place for place in range(toy.WORDS) if place not in words.values()}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="unused8"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in words if not text.startswith("<|")])
    tokenizer.add_special_tokens([*MARKERS.values(), "<|im_start|>"])
    return MiMoAudioProcessor(
        MiMoAudioFeatureExtractor(), PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>"),
        speech_vocab_size=[toy.CODES + 1] * toy.CHANNELS,
    )  # fmt: skip


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_episodes_are_laid_out_as_the_processors_few_shots(toy, few_shot, shots):
    config = toy.toy_config()
    world = few_shot.World.of(0)
    one = few_shot.episode(world, shots, config, torch.Generator().manual_seed(3))
    # What is said, read back from the row: each clip of channel 0, once a patch.
    ids, codes = one.row["input_ids"], one.row["audio_codes"]
    spoken = codes[ids == config.empty_token_id]
    clips = spoken.reshape(2 * shots + 2, few_shot.PHONES, 4, toy.CHANNELS).flatten(1, 2)
    examples = [
        {
            "input": {"codes": clips[2 * shot]},
            "transcript": "".join(chr(ord("a") + int(phone)) for phone in clips[2 * shot][::4, 0]),
            "output": {"codes": clips[2 * shot + 1]},
        }
        for shot in range(shots)
    ]
    processor = processor_with_ids_of(toy, few_shot)
    prompt = processor.few_shot("copy", examples, {"codes": clips[-2]})
    assert prompt["input_ids"][0].tolist() == ids[: one.prompt].tolist()
    assert torch.equal(prompt["audio_codes"][0], codes[: one.prompt])
    assert torch.equal(clips[-1], one.answer)
    assert torch.equal(clips[-2][:, 0], clips[-1][:, 0])  # the same phones, in another voice
    assert not torch.equal(clips[-2], clips[-1])


def voices_of(episode, world, toy, few_shot):
    """Offsets of each utterance that is learned, `[utterances, channels - 1]`."""
    learned = episode.row["audio_codes"][episode.row["audio_labels"][:, 0, 0] != IGNORED]
    offsets = (learned[:, 0, 1:] - world.base[learned[:, 0, 0]]) % toy.CODES
    utterances = offsets.reshape(-1, few_shot.PHONES, toy.CHANNELS - 1)
    assert (utterances == utterances[:, :1]).all()  # one voice each
    return utterances[:, 0].tolist()


def test_all_speech_of_an_episode_is_learned_and_the_control_shows_other_voices(toy, few_shot):
    config, world = toy.toy_config(), few_shot.World.of(0)
    one, others = (
        few_shot.episode(world, 2, config, torch.Generator().manual_seed(3), others=others) for others in (False, True)
    )
    a, b = (voices_of(one, world, toy, few_shot)[place] for place in (0, 1))
    assert voices_of(one, world, toy, few_shot) == [a, b] * 3
    shown = voices_of(others, world, toy, few_shot)
    assert shown[:4] == shown[:2] * 2
    assert shown[4] != shown[0]
    assert shown[5] != shown[1]


def test_channels_fit_each_other_with_delays_and_not_without(delay, monkeypatch):
    """The study itself, a quarter of its steps with half of its rows."""
    from rich.progress import Progress

    monkeypatch.setattr(delay, "ROWS", 8)
    with Progress(disable=True) as progress:
        rows = {name: delay.run(name, 0, 160, 60, progress) for name in delay.PATTERNS}
    with_delays, without = rows.values()
    assert with_delays["consistent_pairs"] > 0.9
    assert without["consistent_pairs"] < 0.2
    assert without["consistent_frames"] == 0
    later = [sum(row["loss_by_channel"][1:]) / 7 for row in (with_delays, without)]
    assert later[0] < 0.4
    assert later[1] > 0.9 * math.log(16)


def test_frames_follow_each_other_as_often_as_said_and_the_best_loss_is_that_entropy(patching, delay):
    *tables, step = delay.permutations(0, patching.CHANNELS)
    generator = torch.Generator().manual_seed(0)
    clips = torch.stack([patching.frames(20, step, torch.stack(tables), generator) for _ in range(400)])
    likely = patching.STAY + (1 - patching.STAY) / patching.CODES
    assert float((step[clips[:, :-1, 0]] == clips[:, 1:, 0]).float().mean()) == pytest.approx(likely, abs=0.02)
    assert torch.equal(tables[0][clips[..., 0]], clips[..., 1])
    chances = torch.full((16,), (1 - patching.STAY) / 16)
    chances[3] = likely
    each = float(-(chances * chances.log()).sum())
    assert patching.best_loss(1) == pytest.approx(math.log(16))
    assert patching.best_loss(3) == pytest.approx((math.log(16) + 2 * each) / 3)


def test_a_patch_of_four_frames_is_one_place_in_the_cache(patching):
    row = patching.time_row("toy", patching.TINY_MODEL | patching.IDS, 0.64, 2, 1)
    assert row["cache_entries"] == {"4": 4, "1": 16}
    assert row["frames"] == 16
    assert row["language_model_alone"]["seconds_by_group_1"] < row["seconds_by_group_1"]


def test_the_first_stage_moves_no_bit_of_the_patch_decoder(stages, monkeypatch):
    from rich.progress import Progress

    monkeypatch.setattr(stages, "TEST_ROWS", 4)
    with Progress(disable=True) as progress:
        two, joint = stages.run(0, {"language": 2, "first": 3, "second": 3}, progress)
    assert two["patch_decoder_changed_in_first"] == 0
    assert two["patch_decoder_changed_in_second"] > 0.9 * two["patch_decoder_weights"]
    assert joint["patch_decoder_changed_in_first"] > 0.9 * joint["patch_decoder_weights"]
    assert two["curve"][0] == joint["curve"][0]  # from one model


def test_rows_of_the_language_learn_what_is_answered(stages, toy):
    config, language = toy.toy_config(), stages.Language(0)
    for kind, spoken, written in (("text", 0, 10), ("write down", 0, 10), ("say", 10, 0)):
        row = language.row(kind, config, torch.Generator().manual_seed(1))
        learned = row["labels"] != IGNORED
        assert int((row["audio_labels"][:, 0, 0] != IGNORED).sum()) == spoken
        assert int((learned & (row["input_ids"] < stages.WORDS)).sum()) == written
    words = torch.stack([language.sentence(torch.Generator().manual_seed(seed)) for seed in range(300)])
    follows = torch.tensor(language.successor)[words[:, :-1]] == words[:, 1:]
    likely = stages.FOLLOWS + (1 - stages.FOLLOWS) / stages.WORDS
    assert float(follows.float().mean()) == pytest.approx(likely, abs=0.03)


@pytest.mark.parametrize("name", ["delay", "few_shot", "patching", "stages"])
def test_the_small_form_runs_and_writes_nothing(name, toy, request, monkeypatch):
    bench = request.getfixturevalue(name)
    monkeypatch.setattr(bench if name == "patching" else toy, "record", None)
    bench.main(["--seeds", "0", "--small"])
