"""Decoding: rows that speak beside rows that write, lengths, sampling, speech as sound, and what is refused."""

import functools
import operator
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, StaticCache
from transformers.generation.streamers import BaseStreamer

from mimo_hf.modeling.mimo_audio import MiMoAudioGenerateOutput

EMPTY, IM_END, PAD = 32, 36, 37


def left_padded(config, prompts):
    """`input_ids`, `audio_codes` and `attention_mask` of (ids, codes) prompts of several lengths; padding holds what must not matter."""
    longest = max(len(ids) for ids, _ in prompts)
    rows = []
    for ids, codes in prompts:
        missing = longest - len(ids)
        noise = torch.full((missing, config.group_size, config.audio_channels), 3)
        mask = torch.tensor([0] * missing + [1] * len(ids))
        rows.append((torch.cat([torch.full((missing,), PAD), ids]), torch.cat([noise, codes]), mask))
    ids, codes, masks = map(torch.stack, zip(*rows, strict=True))
    return {"input_ids": ids, "audio_codes": codes, "attention_mask": masks}


def draw_prompts(config, rows, lengths, seed=0):
    return [
        (ids[0], codes[0])
        for ids, codes in (rows(config, 1, length, seed=seed + n) for n, length in enumerate(lengths))
    ]


def expected_rows(config, written, length):
    """Ids and codes of a row of new positions, padded to `length`."""
    silence = [config.speech_zero_ids] * config.group_size
    ids = [token for token, _ in written] + [PAD] * (length - len(written))
    codes = [patch or silence for _, patch in written] + [silence] * (length - len(written))
    return ids, codes


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_batch_is_each_row_alone_in_loops(speech_lm, speech_oracle, speech_rows, attention, use_cache):
    model = speech_lm(attention, seed=43)
    config, oracle = model.config, speech_oracle(model)
    prompts = draw_prompts(config, speech_rows, (9, 4, 7, 6))
    inputs = left_padded(config, prompts)
    output = model.generate(**inputs, max_new_tokens=10, do_sample=False, use_cache=use_cache)
    alone = [oracle.generate(ids, codes.tolist(), 10, stops=(IM_END, PAD)) for ids, codes in prompts]
    length = output.sequences.shape[1] - 9
    steps = [{row[step][0] == EMPTY for row in alone if step < len(row)} for step in range(length)]
    assert {True, False} in steps  # some rows speak while others write
    assert len({len(row) for row in alone}) > 1  # and they end at different steps
    for row, written in enumerate(alone):
        ids, codes = expected_rows(config, written, length)
        assert output.sequences[row, 9:].tolist() == ids
        assert output.audio_codes[row, 9:].tolist() == codes
    assert torch.equal(output.sequences[:, :9], inputs["input_ids"])
    assert torch.equal(output.audio_codes[:, :9], inputs["audio_codes"])


def test_codes_are_drawn_for_the_rows_that_speak_and_for_no_others(speech_lm, speech_rows, monkeypatch):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4, 7, 6)))
    asked, write = [], model.write_patches
    monkeypatch.setattr(
        model, "write_patches", lambda states, sampler: (asked.append(len(states)), write(states, sampler))[1]
    )
    output = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    speaking = (output.sequences[:, 9:] == EMPTY).sum(dim=0).tolist()
    assert asked == [rows for rows in speaking if rows > 0]
    assert 0 in speaking or min(asked) < 4


def test_prompts_of_text_alone_need_no_codes(speech_lm, speech_oracle):
    model = speech_lm(seed=1)
    ids = torch.tensor([[4, 8, 15]])
    output = model.generate(ids, max_new_tokens=6, do_sample=False)
    written = speech_oracle(model).generate(ids[0], [None] * 3, 6, stops=(IM_END, PAD))
    assert output.sequences[0, 3:].tolist() == [token for token, _ in written]
    assert (output.audio_codes[0, :3] == torch.tensor(model.config.speech_zero_ids)).all()


def test_lengths_count_positions_and_stop_ids_end_rows(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4, 7, 6)))
    free = model.generate(**inputs, max_new_tokens=12, do_sample=False).sequences[:, 9:]
    ends = [row.index(IM_END) for row in free.tolist() if IM_END in row]
    assert ends
    assert min(ends) < 8
    late = model.generate(**inputs, max_new_tokens=12, min_new_tokens=8, do_sample=False).sequences[:, 9:]
    assert not torch.isin(late[:, :8], torch.tensor([IM_END, PAD])).any()
    assert model.generate(**inputs, max_length=11, do_sample=False).sequences.shape[1] == 11
    other = int(free[0, 1])
    stopped = (
        model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=other).sequences[0, 9:].tolist()
    )
    first = stopped.index(other)
    assert first <= 1
    assert set(stopped[first + 1 :]) <= {PAD}


def test_sampling_repeats_with_its_seed(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4)))
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(model.generate(**inputs, max_new_tokens=12, do_sample=True, audio_temperature=2.0))
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert torch.equal(runs[0].audio_codes, runs[1].audio_codes)
    assert not torch.equal(runs[0].sequences, runs[2].sequences)


def test_patches_never_hold_the_zero_id_and_texts_hold_nothing_else(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    zeros = torch.tensor(model.config.speech_zero_ids)
    with torch.no_grad():
        for head, zero in zip(model.local_transformer_lm_heads, model.config.speech_zero_ids, strict=True):
            head.weight[zero] = 50 * head.weight[0]
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4)))
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=20, do_sample=True, num_return_sequences=5, eos_token_id=39)
    assert len(output.sequences) == 10
    ids, codes = output.sequences[:, 9:], output.audio_codes[:, 9:]
    assert (codes[ids == EMPTY] < zeros).all()
    assert (codes[ids != EMPTY] == zeros).all()
    assert (ids == EMPTY).any()


def test_text_and_audio_are_sampled_by_their_own_options(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4, 7)))
    options = {**inputs, "max_new_tokens": 10, "eos_token_id": 39}
    greedy = model.generate(**options, do_sample=False)

    def first_patches(**sampling):
        torch.manual_seed(0)
        output = model.generate(**options, **sampling)
        ids = output.sequences[:, 9:]
        places = [(row, tokens.index(EMPTY)) for row, tokens in enumerate(ids.tolist()) if EMPTY in tokens]
        return ids[:, 0], torch.stack([output.audio_codes[row, 9 + place] for row, place in places])

    expected = first_patches(do_sample=False)
    hot = {
        "do_sample": False,
        "audio_do_sample": True,
        "audio_temperature": 50.0,
        "audio_top_k": 0,
        "audio_top_p": 1.0,
    }
    assert torch.equal(first_patches(**hot)[0], expected[0])
    assert not torch.equal(first_patches(**hot)[1], expected[1])
    for narrow in ({"audio_top_k": 1}, {"audio_top_p": 1e-6}, {"audio_temperature": 1e-4}):
        found = model.generate(**options, **{**hot, **narrow})
        assert torch.equal(found.sequences, greedy.sequences)
        assert torch.equal(found.audio_codes, greedy.audio_codes)
    # Options in a configuration count as those in the call do.
    configuration = GenerationConfig(max_new_tokens=10, eos_token_id=39, pad_token_id=PAD, **{**hot, "audio_top_k": 1})
    found = model.generate(**inputs, generation_config=configuration)
    assert torch.equal(found.audio_codes, greedy.audio_codes)


def frequencies(model, state, **options):
    """How often each code of channel 0 comes first, of 4000 draws."""
    from mimo_hf.modeling.mimo_audio.generation_mimo_audio import AUDIO_OPTIONS, _audio_sampler

    given = SimpleNamespace(do_sample=True, **dict.fromkeys(AUDIO_OPTIONS) | {"audio_do_sample": True} | options)
    torch.manual_seed(0)
    codes = model.write_patches(state.expand(4000, -1), _audio_sampler(given))
    return torch.bincount(codes[:, 0, 0], minlength=7) / 4000


@torch.no_grad()
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.9, 3, 1.0), (1.5, 0, 0.6), (1.5, 4, 0.7)]
)
def test_codes_come_as_often_as_temperature_top_k_and_top_p_say(speech_lm, speech_oracle, temperature, top_k, top_p):
    model = speech_lm()
    state = torch.randn(1, model.config.local_dim, generator=torch.Generator().manual_seed(2))
    logits = speech_oracle(model).patch_logits(state[0].double().numpy(), [[0] * 3] * 2)[0, 0][:6] / temperature
    order = sorted(range(6), key=lambda code: -logits[code])[: top_k or 6]
    weights = {code: 2.718281828 ** logits[code] for code in order}
    total, kept, share = sum(weights.values()), {}, 0.0
    for code in order:  # the smallest set of likeliest codes that reaches top_p
        if share >= top_p:
            break
        kept[code] = weights[code]
        share += weights[code] / total
    expected = torch.tensor([kept.get(code, 0.0) / sum(kept.values()) for code in range(7)])
    found = frequencies(model, state, audio_temperature=temperature, audio_top_k=top_k, audio_top_p=top_p)
    assert (found - expected).abs().max() < 0.03
    assert ((found > 0) <= (expected > 0)).all()


def test_presets_are_arguments_of_generate(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 1, 5)
    presets = model.generation_presets
    assert presets["asr"]["do_sample"] is False
    assert presets["few_shot_speech"]["do_sample"] is False
    assert {name: preset["temperature"] for name, preset in presets.items() if preset["do_sample"]} == {
        "understanding": 0.3,
        "text_chat": 0.4,
        "tts": 0.6,
        "instruct_tts": 0.6,
        "spoken_dialogue": 0.6,
        "speech_to_text_dialogue": 0.6,
        "default": 0.6,
    }
    assert presets["tts"]["top_p"] == 1.0
    assert presets["tts"]["eos_token_id"] == presets["spoken_dialogue"]["eos_token_id"] == [37, 36, 34]
    assert presets["asr"]["eos_token_id"] == [37, 36]
    assert presets["few_shot_speech"]["eos_token_id"] == [37, 34]
    assert {preset["audio_temperature"] for preset in presets.values()} == {0.9}
    for preset in presets.values():
        assert isinstance(model.generate(ids, audio_codes=codes, max_new_tokens=2, **preset), MiMoAudioGenerateOutput)


def test_scores_logits_and_states_of_each_step(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    ids, codes = speech_rows(model.config, 2, 5)
    output = model.generate(
        ids,
        audio_codes=codes,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=39,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
    )
    whole = model(output.sequences, output.audio_codes).logits[:, 4:-1]
    torch.testing.assert_close(torch.stack(output.logits, dim=1), whole, atol=1e-4, rtol=1e-4)
    assert [len(record) for record in (output.scores, output.logits, output.hidden_states)] == [4, 4, 4]
    assert output.attentions is None


@pytest.mark.parametrize("kind", ["static", "own", "again"])
def test_other_caches_give_the_same(speech_lm, speech_rows, kind):
    model = speech_lm(seed=43)
    ids, codes = speech_rows(model.config, 2, 6)
    options = {"do_sample": False, "eos_token_id": 39}
    expected = model.generate(ids, audio_codes=codes, max_new_tokens=8, **options)
    if kind == "static":
        found = model.generate(ids, audio_codes=codes, max_new_tokens=8, cache_implementation="static", **options)
    elif kind == "own":
        cache = StaticCache(config=model.config, max_cache_len=30)
        found = model.generate(ids, audio_codes=codes, max_new_tokens=8, past_key_values=cache, **options)
    else:  # go on where an earlier call ended
        begun = model.generate(ids, audio_codes=codes, max_new_tokens=3, **options)
        cache = begun.get("cache", begun.get("past_key_values"))
        found = model.generate(
            begun.sequences, audio_codes=begun.audio_codes, past_key_values=cache, max_new_tokens=5, **options
        )
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.audio_codes, expected.audio_codes)


class Chunks(BaseStreamer):
    def __init__(self):
        self.chunks, self.ended = [], 0

    def put(self, value):
        self.chunks.append(value.reshape(-1).tolist())

    def end(self):
        self.ended += 1


def test_a_text_streamer_gets_prompt_and_ids(speech_lm, speech_rows):
    model, chunks = speech_lm(seed=43), Chunks()
    ids, codes = speech_rows(model.config, 1, 6)
    output = model.generate(ids, audio_codes=codes, max_new_tokens=5, do_sample=False, streamer=chunks)
    assert functools.reduce(operator.iadd, chunks.chunks, []) == output.sequences[0].tolist()
    assert chunks.ended == 1


class Codec:
    """Stands for a codec: ten samples a frame that repeat the frame's codes."""

    def decode(self, audio_codes):
        assert audio_codes.dim() == 3
        assert audio_codes.shape[:2] == (1, 3)
        return SimpleNamespace(audio_values=audio_codes.sum(dim=1, keepdim=True).float().repeat_interleave(10, dim=-1))


def test_new_speech_comes_as_sound(speech_lm, speech_rows, monkeypatch):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4, 7, 6)))
    options = {**inputs, "max_new_tokens": 8, "do_sample": False, "audio_tokenizer": Codec()}
    output = model.generate(**options, output_audio=True)
    for row in range(4):
        patches = [
            output.audio_codes[row, t]
            for t in range(9, output.sequences.shape[1])
            if output.sequences[row, t] == EMPTY
        ]
        samples = [float(frame.sum()) for patch in patches for frame in patch for _ in range(10)]
        assert output.audio[row].tolist() == samples
    audio = model.generate(**options, output_audio=True, return_dict_in_generate=False)
    assert [row.tolist() for row in audio] == [row.tolist() for row in output.audio]
    assert torch.equal(model.generate(**options, return_dict_in_generate=False), output.sequences)

    warned = []
    monkeypatch.setattr("mimo_hf.modeling.mimo_audio.generation_mimo_audio.logger.warning", warned.append)
    silent = model.generate(**options, output_audio=True, suppress_tokens=[EMPTY])
    assert [len(row) for row in silent.audio] == [0] * 4
    assert warned[0] == "Row 0 has no new speech; its audio is empty."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beams": 2}, "`num_beams` must not be given .* got 2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "`penalty_alpha` must not be given .* got 0.6"),
        ({"prompt_lookup_num_tokens": 3}, "`prompt_lookup_num_tokens` must not be given .* draft codes"),
        ({"assistant_model": object()}, "`assistant_model` must not be given .* got 'object'"),
        ({"dola_layers": "low"}, "`dola_layers` must not be given .* got 'low'"),
        ({"prefill_chunk_size": 4}, "`prefill_chunk_size` must not be given .* got 4"),
        ({"cache_implementation": "paged"}, "`cache_implementation` must not be given .* got 'paged'"),
        ({"custom_generate": "someone/decoding"}, "`custom_generate` must not be given"),
        ({"generation_config": GenerationConfig(num_beams=3)}, "`num_beams` must not be given .* got 3"),
        ({"audio_temperature": 0.0}, "`audio_temperature` must be more than 0; got 0.0. Use `audio_do_sample=False`"),
        ({"audio_top_k": -1}, "`audio_top_k` must be a whole number of at least 0; got -1"),
        ({"audio_top_p": 1.5}, "`audio_top_p` must be more than 0 and at most 1; got 1.5"),
        ({"output_audio": True}, "`audio_tokenizer` must be given with `output_audio=True`"),
        ({"audio_codes": torch.zeros(1, 4, 2, 3).long()}, r"`audio_codes` must be .* got the shape \[1, 4, 2, 3\]"),
        (
            {"audio_codes": None, "input_ids": torch.tensor([[EMPTY, 1]])},
            "`audio_codes` must be given, as `input_ids` has",
        ),
        (
            {"input_ids": torch.zeros(1, 300).long(), "audio_codes": None},
            "`input_ids` must be shorter than the context .* got 300",
        ),
        ({"input_ids": None}, "`input_ids` must be given"),
        ({"inputs_embeds": torch.zeros(1, 5, 16)}, "`inputs_embeds` must not be given"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_patches_can_not_be_written_with_is_refused(speech_lm, speech_rows, options, says):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 1, 5)
    with pytest.raises(ValueError, match=says):
        model.generate(**({"input_ids": ids, "audio_codes": codes, "max_new_tokens": 2} | options))


def test_continuous_batching_and_checkpointed_training_are_refused(speech_lm, speech_rows):
    model = speech_lm()
    ids, codes = speech_rows(model.config, 1, 5)
    with pytest.raises(NotImplementedError, match="can't run in continuous batching"):
        model.generate_batch([[1, 2]])
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(ValueError, match=r"`model.training` must be False"):
        model.generate(ids, audio_codes=codes, max_new_tokens=2)


def test_the_mode_audio_ends_rows_at_the_end_of_speech_too(speech_lm, speech_rows):
    model = speech_lm(seed=43)
    inputs = left_padded(model.config, draw_prompts(model.config, speech_rows, (9, 4)))
    with torch.no_grad():
        model.lm_head.weight[model.config.eostm_token_id] = 3 * model.lm_head.weight[EMPTY]
    spoken = model.generate(**inputs, max_new_tokens=8, do_sample=False, generation_mode="audio")
    stops = [*model.config.stop_token_ids, model.config.eostm_token_id]
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=stops)
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False, generation_mode="text")
    assert torch.equal(spoken.sequences, expected.sequences)
    ends = (spoken.sequences == model.config.eostm_token_id).nonzero().tolist()
    assert ends
    for row, place in ends:
        assert set(spoken.sequences[row, place + 1 :].tolist()) <= {PAD}
        assert written.sequences[row, place].item() == model.config.eostm_token_id
        assert written.sequences[row, place + 1].item() != PAD
    assert spoken.prompt_length == 9
    with pytest.raises(ValueError, match="`generation_mode` must be 'text' or 'audio'; got 'image'"):
        model.generate(**inputs, generation_mode="image")
