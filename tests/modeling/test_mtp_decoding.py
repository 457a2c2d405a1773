"""`generate(use_mtp=True)` gives the tokens of plain greedy decoding, whatever is drafted and accepted."""

from itertools import chain

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch.testing import assert_close
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

HEADS = [1, 2, 3]
GREEDY = {"do_sample": False}


@pytest.fixture(scope="module")
def followers(follower_model):
    """Models with 1, 2 and 3 heads on the same trunk, five symbols."""
    return {k: follower_model(vocab_size=5, noise=1.5, num_mtp_layers=k) for k in HEADS}


@pytest.fixture(scope="module")
def follower(follower_model):
    """Three heads, 29 symbols."""
    return follower_model()


def both(model, ids, **arguments):
    """Plain greedy output and the output with drafts."""
    arguments = GREEDY | arguments
    return model.generate(ids, **arguments), model.generate(ids, use_mtp=True, **arguments)


def test_all_models_have_the_same_trunk(followers, tokens):
    with torch.no_grad():
        logits = [model(tokens(1, 20, vocab=5)).logits for model in followers.values()]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_prompts_of_every_length(followers, tokens):
    """One to 200 tokens, around a window of 5; every head count, and every number of accepted drafts occurs."""
    accepted = {k: set() for k in HEADS}
    for length in range(1, 201):
        ids = tokens(1, length, seed=length, vocab=5)
        expected = followers[1].generate(ids, max_new_tokens=9, **GREEDY)
        for k in HEADS if length <= 12 else [HEADS[length % 3]]:
            output = followers[k].generate(ids, use_mtp=True, max_new_tokens=9, **GREEDY)
            assert torch.equal(output, expected), f"{k} heads, prompt of {length}"
            accepted[k].update(followers[k].mtp_statistics.accepted)
    assert accepted == {k: set(range(k + 1)) for k in HEADS}


@pytest.mark.parametrize("k", HEADS)
def test_budgets(followers, tokens, k):
    for length in (1, 3, 11):
        ids = tokens(1, length, seed=length, vocab=5)
        for budget in [*range(1, k + 3), 64]:
            expected, output = both(followers[k], ids, max_new_tokens=budget)
            assert torch.equal(output, expected)
            assert output.shape[1] == length + budget


@pytest.mark.parametrize("seed", range(3))
def test_random_heads(tiny_model, tokens, seed):
    """Heads that know nothing cost rounds and change no token."""
    model = tiny_model(seed=seed)
    expected, output = both(model, tokens(1, 9, seed=seed), max_new_tokens=30)
    assert torch.equal(output, expected)
    assert model.mtp_statistics.acceptance_length < 2


def test_eager_attention(follower_model, tokens):
    model = follower_model(attention="eager", vocab_size=5, noise=1.5)
    expected, output = both(model, tokens(1, 9, vocab=5), max_new_tokens=40)
    assert torch.equal(output, expected)


def test_stops_at_the_end_of_sequence_inside_a_draft(follower, tokens, chunks):
    """Each token of the plain output serves as end of sequence once; some fall inside an accepted run."""
    inside = 0
    for seed in range(3):
        ids = tokens(1, 7, seed=seed)
        streamer = chunks()
        plain = follower.generate(ids, use_mtp=True, streamer=streamer, max_new_tokens=24, **GREEDY)[0, 7:].tolist()
        for token in dict.fromkeys(plain):
            expected, output = both(follower, ids, max_new_tokens=24, eos_token_id=token)
            assert torch.equal(output, expected)
            assert output[0, 7:].tolist() == plain[: plain.index(token) + 1]
            statistics = follower.mtp_statistics
            assert sum(statistics.accepted) + statistics.forward_passes == output.shape[1] - 7
            chunk = next(chunk for chunk in streamer.chunks[1:] if token in chunk)
            inside += chunk.index(token) + 1 < len(chunk)
    assert inside >= 3


def test_several_ends_of_sequence(follower, tokens):
    ids = tokens(1, 7)
    plain = follower.generate(ids, max_new_tokens=24, **GREEDY)[0, 7:].tolist()
    expected, output = both(follower, ids, max_new_tokens=24, eos_token_id=[plain[9], plain[14]])
    assert torch.equal(output, expected)
    assert output.shape[1] < 7 + 24


class NoRepeatOfSecondLast(LogitsProcessor):
    """Depends on the exact text so far: shifted by one token it forbids another symbol."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids[:, -2:-1], float("-inf"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 20, "eos_token_id": list(range(14))},
        {"bad_words_ids": [[4], [6, 8], [1, 3, 5]]},
        {"suppress_tokens": list(range(0, 29, 3))},
        {"sequence_bias": [[[4], 3.0], [[7, 9], -6.0]]},
        {"logits_processor": LogitsProcessorList([NoRepeatOfSecondLast()])},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_logits_processors(follower, tokens, arguments):
    accepted = set()
    changed = 0
    for seed in range(4):
        ids = tokens(1, 8, seed=seed)
        expected, output = both(follower, ids, max_new_tokens=30, **arguments)
        assert torch.equal(output, expected)
        accepted.update(follower.mtp_statistics.accepted)
        changed += not torch.equal(expected, follower.generate(ids, max_new_tokens=30, **GREEDY))
    assert changed  # the processor had something to do
    assert max(accepted) > 0


def test_left_padding_changes_no_token_and_no_draft(follower, tokens):
    ids = tokens(1, 9)
    alone = follower.generate(ids, use_mtp=True, max_new_tokens=30, **GREEDY)[:, 9:]
    accepted = follower.mtp_statistics.accepted
    for padding in (1, 4, 30):
        padded = torch.cat([torch.zeros(1, padding, dtype=torch.long), ids], dim=1)
        mask = (torch.arange(padding + 9) >= padding).long().unsqueeze(0)
        expected, output = both(follower, padded, attention_mask=mask, max_new_tokens=30)
        assert torch.equal(output, expected)
        assert torch.equal(output[:, padding + 9 :], alone)
        assert follower.mtp_statistics.accepted == accepted


def test_streamers_get_every_token_once_and_in_order(follower, tokens, chunks):
    ids = tokens(1, 6)
    streamer = chunks()
    output = follower.generate(ids, use_mtp=True, streamer=streamer, max_new_tokens=30, **GREEDY)
    assert list(chain.from_iterable(streamer.chunks)) == output[0].tolist()
    assert streamer.chunks[0] == ids[0].tolist()
    # After the prompt and its first token, a chunk is a round; the last token may come without drafts.
    accepted = follower.mtp_statistics.accepted
    matches = [len(chunk) - 1 for chunk in streamer.chunks[2:]]
    assert matches[: len(accepted)] == accepted
    assert matches[len(accepted) :] in ([], [0])
    assert streamer.ended == 1


def test_scores_and_logits_have_one_entry_a_token(follower, tokens):
    arguments = GREEDY | {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    arguments |= {"max_new_tokens": 23, "repetition_penalty": 1.3}
    ids = tokens(1, 6)
    plain = follower.generate(ids, **arguments)
    drafted = follower.generate(ids, use_mtp=True, **arguments)
    assert torch.equal(drafted.sequences, plain.sequences)
    assert len(drafted.scores) == len(drafted.logits) == 23
    for field in ("scores", "logits"):
        assert_close(torch.stack(drafted[field]), torch.stack(plain[field]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first_turn_drafts", [True, None], ids=["drafted", "plain"])
def test_a_second_turn_with_the_cache_of_the_first(follower, tokens, first_turn_drafts):
    accepted = set()
    for seed, padding in enumerate([0, 0, 0, 2, 4, 5]):
        arguments = GREEDY | {"return_dict_in_generate": True, "max_new_tokens": 9}
        ids = tokens(1, 6, seed=seed)
        mask = (torch.arange(19) >= padding).long()[None]
        first = follower.generate(ids, attention_mask=mask[:, :6], use_mtp=first_turn_drafts, **arguments)
        text = torch.cat([first.sequences, tokens(1, 4, seed=50 + seed)], dim=1)
        arguments = GREEDY | {"attention_mask": mask, "max_new_tokens": 20}
        expected = follower.generate(text, **arguments)
        output = follower.generate(text, use_mtp=True, past_key_values=first.past_key_values, **arguments)
        assert torch.equal(output, expected)
        accepted.update(follower.mtp_statistics.accepted)
    assert {0, 3} <= accepted


def test_a_second_turn_needs_the_whole_text(follower, tokens):
    first = follower.generate(tokens(1, 6), max_new_tokens=9, return_dict_in_generate=True, **GREEDY)
    mask = torch.ones(1, 18, dtype=torch.long)
    arguments = GREEDY | {"attention_mask": mask, "past_key_values": first.past_key_values, "max_new_tokens": 4}
    with pytest.raises(ValueError, match=r"whole text.*got 4 tokens, a mask for 18 and a cache of 14"):
        follower.generate(tokens(1, 4), use_mtp=True, **arguments)


class StopAt(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.tensor([input_ids.shape[1] >= self.length])


def test_the_cache_of_a_stopped_turn_serves_the_next(follower, tokens):
    """A criterion that holds inside an accepted run rolls the cache back with the text."""
    cut_rounds = 0
    for length in range(8, 28):
        criteria = StoppingCriteriaList([StopAt(length)])
        first = follower.generate(
            tokens(1, 7),
            use_mtp=True,
            stopping_criteria=criteria,
            return_dict_in_generate=True,
            max_new_tokens=24,
            **GREEDY,
        )
        assert first.sequences.shape[1] == length
        cut_rounds += follower.mtp_statistics.accepted[-1:] < follower.mtp_statistics.drafted[-1:]
        prompt = torch.cat([first.sequences, tokens(1, 3, seed=9)], dim=1)
        expected = follower.generate(prompt, max_new_tokens=6, **GREEDY)
        output = follower.generate(
            prompt, use_mtp=True, past_key_values=first.past_key_values, max_new_tokens=6, **GREEDY
        )
        assert torch.equal(output, expected)
    assert cut_rounds > 3


def test_stop_strings(follower, tokens):
    core = Tokenizer(models.WordLevel({chr(ord("A") + token): token for token in range(30)}, unk_token="^"))
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    plain = follower.generate(tokens(1, 7), max_new_tokens=24, **GREEDY)[0, 7:].tolist()
    for token in dict.fromkeys(plain):
        arguments = {"max_new_tokens": 24, "stop_strings": [tokenizer.convert_ids_to_tokens(token)]}
        expected, output = both(follower, tokens(1, 7), tokenizer=tokenizer, **arguments)
        assert torch.equal(output, expected)
        assert output[0, 7:].tolist() == plain[: plain.index(token) + 1]


def test_new_heads_decode_from_memory(follower_model, tokens):
    """Heads made after loading are used as they are: perfect ones save passes, spoilt ones do not."""
    model = follower_model(noise=0.0, num_mtp_layers=1)
    model.name_or_path = model.config.name_or_path = "/nowhere"
    model.replicate_mtp_heads(3)
    expected, output = both(model, tokens(1, 6), max_new_tokens=25)
    assert torch.equal(output, expected)
    assert model.mtp_statistics.accepted == [3] * 6
    with torch.no_grad():
        model.mtp_heads[1].eh_proj.weight.neg_()
    output = model.generate(tokens(1, 6), use_mtp=True, max_new_tokens=25, **GREEDY)
    assert torch.equal(output, expected)
    assert model.mtp_statistics.accepted == [1] * 12


def test_heads_that_are_right_save_the_passes_that_they_should(follower_model, tokens):
    """25 tokens: one pass for the prompt and its first token, then 24 tokens, K + 1 a pass."""
    for k in HEADS:
        model = follower_model(noise=0.0, num_mtp_layers=k)
        passes = []
        hook = model.model.register_forward_hook(lambda *arguments, passes=passes: passes.append(1))
        model.generate(tokens(1, 6), use_mtp=True, max_new_tokens=25, **GREEDY)
        hook.remove()
        assert len(passes) == 1 + 24 // (k + 1)
        assert model.mtp_statistics.acceptance_length == k + 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "Static|cache that can be cropped"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_beams": 2}, "num_beams"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"assistant_early_exit": 1}, "assistant_early_exit"),
        ({"dola_layers": "low"}, "dola_layers"),
        ({"output_attentions": True, "return_dict_in_generate": True}, r"set_attn_implementation\('eager'\)"),
    ],
)
def test_what_does_not_go_together_is_refused(follower, tokens, arguments, named):
    with pytest.raises(ValueError, match=named):
        follower.generate(tokens(1, 6), use_mtp=True, max_new_tokens=4, **(GREEDY | arguments))


def test_the_refusal_of_beams_is_all_that_is_said(follower, tokens, caplog):
    with pytest.raises(ValueError, match=r"`num_beams` must be 1 with `use_mtp=True`.*got 2"):
        follower.generate(tokens(1, 6), use_mtp=True, max_new_tokens=4, num_beams=2, **GREEDY)
    assert caplog.records == []


def test_a_second_drafter_is_refused(follower, tiny_model, tokens):
    with pytest.raises(ValueError, match="must not go with `assistant_model`, another way to draft"):
        follower.generate(tokens(1, 6), use_mtp=True, assistant_model=tiny_model(), max_new_tokens=4, **GREEDY)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gradient_checkpointing_in_training_mode_is_refused(tiny_model, tokens, batch_size):
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"gradient_checkpointing_disable\(\)"):
        model.generate(tokens(batch_size, 6), use_mtp=True, max_new_tokens=4, **GREEDY)
    assert model.eval().generate(tokens(batch_size, 6), use_mtp=True, max_new_tokens=4, **GREEDY).shape[1] == 10


def test_embeddings_as_a_prompt_are_refused(follower, tokens):
    embeddings = follower.get_input_embeddings()(tokens(1, 6))
    with pytest.raises(ValueError, match="input_ids"):
        follower.generate(inputs_embeds=embeddings, use_mtp=True, max_new_tokens=4, **GREEDY)


def test_a_model_without_heads_says_how_to_get_them(tiny_model, tokens):
    with pytest.raises(ValueError, match=r"num_mtp_layers=K"):
        tiny_model(num_mtp_layers=0).generate(tokens(1, 6), use_mtp=True, max_new_tokens=4, **GREEDY)
