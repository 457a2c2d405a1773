"""Sampled responses: one by one as in a batch, where they end, chat templates, and what is left alone."""

import pytest
import torch

from mimo_hf.data import word_tokenizer
from mimo_hf.trainers import sample_responses


@pytest.fixture
def policy(make_model):
    return make_model(seed=1).train(), word_tokenizer([*map(str, range(10)), "yes", "no", "solve"])


def test_responses_end_with_the_end_token_or_at_the_limit(policy):
    model, tokenizer = policy
    torch.manual_seed(0)
    responses = sample_responses(model, tokenizer, ["1 2 3", "4"] * 40, 3, max_new_tokens=6, batch_size=7)
    assert [len(samples) for samples in responses] == [3] * 80
    flat = [ids for samples in responses for ids in samples]
    assert {len(ids) for ids in flat} == {1, 2, 3, 4, 5, 6}
    assert all(1 not in ids[:-1] for ids in flat)
    assert all(ids[-1] == 1 for ids in flat if len(ids) < 6)
    assert model.training


def test_padding_does_not_change_what_a_prompt_is_followed_by(policy):
    model, tokenizer = policy
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)  # the likeliest token has nearly all the probability
    prompts = ["1", "1 2 3 4 5", "9 9", "yes no"]
    together = sample_responses(model, tokenizer, prompts, max_new_tokens=4)
    assert together == [sample_responses(model, tokenizer, [prompt], max_new_tokens=4)[0] for prompt in prompts]


def test_the_distribution_is_the_models_own(policy):
    model, tokenizer = policy
    torch.manual_seed(0)
    first = [ids[0] for ids in sample_responses(model, tokenizer, ["1 2"], 4000, max_new_tokens=1)[0]]
    with torch.no_grad():
        wanted = model(**tokenizer(["1 2"], return_tensors="pt")).logits[0, -1].softmax(-1)
    shares = torch.bincount(torch.tensor(first), minlength=len(wanted)) / 4000
    assert (shares - wanted).abs().max() < 0.03


def test_conversations_go_through_the_chat_template(policy):
    model, tokenizer = policy
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}solve"
    chats = [[{"role": "user", "content": "1 2"}], [{"role": "user", "content": "7"}]]
    torch.manual_seed(3)
    found = sample_responses(model, tokenizer, chats, max_new_tokens=4)
    torch.manual_seed(3)
    assert found == sample_responses(model, tokenizer, ["1 2 solve", "7 solve"], max_new_tokens=4)


def test_padding_on_the_right_is_refused(policy):
    model, tokenizer = policy
    tokenizer.padding_side = "right"
    with pytest.raises(ValueError, match="padding_side = 'left'"):
        sample_responses(model, tokenizer, ["1"], max_new_tokens=2)


def test_responses_end_with_any_end_token_of_the_model(policy):
    model, tokenizer = policy
    model.generation_config.eos_token_id = [1, 5, 6]
    torch.manual_seed(0)
    flat = [ids for (ids,) in sample_responses(model, tokenizer, ["1 2 3"] * 100, max_new_tokens=8)]
    assert {ids[-1] for ids in flat if len(ids) < 8} == {1, 5, 6}
    assert not any({1, 5, 6} & set(ids[:-1]) for ids in flat)
