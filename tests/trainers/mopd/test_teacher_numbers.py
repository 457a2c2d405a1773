"""The numbers of a served teacher are the model's, whoever else asks at the time."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mimo_hf.trainers.mopd import teacher_engine
from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError
from mimo_hf.trainers.mopd.teacher_engine import Sequence, TeacherEngine, batches
from mimo_hf.trainers.mopd.teacher_server import serve_teacher

from ..conftest import make_model
from ._served_model import LENGTHS, SEQUENCES, ask, direct

pytestmark = pytest.mark.usefixtures("no_key")


# Numbers


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_client_and_server_give_what_the_model_says(model, url, temperature):
    scores = ServerTeacher(url, concurrency=2).score(SEQUENCES, LENGTHS, temperature, top_k=3)
    outside = 0
    for score, ids, length in zip(scores, SEQUENCES, LENGTHS, strict=True):
        right = direct(model, ids, temperature)
        own = [right[place - 1, ids[place]].item() for place in range(length, len(ids))]
        assert score.logps == pytest.approx(own, abs=1e-4)
        for place in range(length, len(ids)):
            values, tokens = right[place - 1].topk(3)
            assert score.top_ids[place - length] == tokens.tolist()
            assert score.top_logps[place - length] == pytest.approx(values.tolist(), abs=1e-4)
            outside += ids[place] not in tokens.tolist()
    assert outside > 0


def test_the_check_before_training_passes_at_any_temperature(url):
    for temperature in (1.0, 0.7, 1.5):
        ServerTeacher(url).check(temperature, 18, 18)


@pytest.mark.parametrize("most", [1, 18 * 2, 18 * 7])
def test_numbers_do_not_depend_on_how_logits_are_cut(model, url, monkeypatch, most):
    whole = ServerTeacher(url).score(SEQUENCES, LENGTHS, 0.7, top_k=2)
    monkeypatch.setattr(teacher_engine, "MOST_LOGITS", most)
    monkeypatch.setattr(teacher_engine, "CACHED_LOGITS", 18 * 3)
    for cut, score in zip(ServerTeacher(url).score(SEQUENCES, LENGTHS, 0.7, top_k=2), whole, strict=True):
        assert cut.top_ids == score.top_ids
        assert cut.logps == pytest.approx(score.logps, abs=1e-5)


def test_no_pass_of_the_head_is_larger_than_the_bound(model, monkeypatch):
    sizes = []
    monkeypatch.setattr(teacher_engine, "MOST_LOGITS", 18 * 4)
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    teacher_engine.score(model, [Sequence(ids, 2, generate=True) for ids in SEQUENCES])
    hook.remove()
    assert max(sizes) <= 18 * 4
    assert sum(sizes) == 18 * sum(map(len, SEQUENCES))


def test_scales_and_caps_behind_the_head_are_applied():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=18, num_key_value_heads=1, final_logit_softcapping=0.5, sliding_window=4, **sizes)
    ).eval()
    for parameter in model.parameters():
        parameter.data *= 8
    with serve_teacher(model) as url:
        scores = ServerTeacher(url).score(SEQUENCES, LENGTHS, 1.0)
    for score, ids, length in zip(scores, SEQUENCES, LENGTHS, strict=True):
        right = direct(model, ids)
        assert score.logps == pytest.approx([right[p - 1, ids[p]].item() for p in range(length, len(ids))], abs=1e-4)


def test_a_model_of_this_package(model):
    from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM

    from ...conftest import TINY

    torch.manual_seed(0)
    flash = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**TINY)).eval()
    with serve_teacher(flash) as url:
        scores = ServerTeacher(url).score(SEQUENCES, LENGTHS, 1.0)
    for score, ids, length in zip(scores, SEQUENCES, LENGTHS, strict=True):
        right = direct(flash, ids)
        assert score.logps == pytest.approx([right[p - 1, ids[p]].item() for p in range(length, len(ids))], abs=1e-4)


def test_adapters_are_part_of_the_teacher():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        make_model(), peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    )
    plain = direct(make_model(), SEQUENCES[0])
    with serve_teacher(adapted) as url:
        (score,) = ServerTeacher(url).score(SEQUENCES[:1], [1], 1.0)
    right = direct(adapted.eval(), SEQUENCES[0])
    assert score.logps == pytest.approx([right[p - 1, SEQUENCES[0][p]].item() for p in range(1, 6)], abs=1e-4)
    assert (right - plain).abs().max() > 1e-2


def test_others_may_use_the_model_meanwhile(model):
    right, seen = direct(model, SEQUENCES[0]), []

    def use(module, inputs, output):
        if not seen:
            seen.append(None)
            seen.append(direct(model, SEQUENCES[0]))

    hook = model.lm_head.register_forward_hook(use)
    teacher_engine.score(model, [Sequence(SEQUENCES[2], 2)])
    hook.remove()
    assert torch.equal(seen[1], right)


def test_a_forward_that_others_have_put_on_the_model_is_passed_by():
    model = make_model().eval()
    right = direct(model, SEQUENCES[0])
    model.forward = lambda **arguments: pytest.fail("not the model's own")
    [(positions, _)] = teacher_engine.score(model, [Sequence(SEQUENCES[0], 0)])
    assert [position.logp for position in positions] == pytest.approx(
        [right[p - 1, SEQUENCES[0][p]].item() for p in range(1, 6)], abs=1e-4
    )


def test_a_model_is_given_back_as_it_was():
    model = make_model(attention_dropout=0.5).train()
    with serve_teacher(model):
        assert not model.training
    assert model.training


# Batches


def test_batches_hold_similar_lengths_and_no_more_tokens_than_allowed():
    sequences = [Sequence([0] * length, 0) for length in (5, 1, 30, 4, 5, 2, 9)]
    found = [[len(sequence.ids) for sequence in batch] for batch in batches(sequences, 20)]
    assert found == [[1, 2, 4, 5], [5, 9], [30]]


def test_requests_that_wait_are_put_together(model, monkeypatch):
    sizes, first = [], threading.Event()
    whole = teacher_engine.score

    def slow_score(model, batch):
        sizes.append(len(batch))
        first.wait(20)
        return whole(model, batch)

    monkeypatch.setattr(teacher_engine, "score", slow_score)
    engine = TeacherEngine(model, 10_000)
    sequences = [Sequence(ids, 0) for ids in SEQUENCES * 5]
    engine.submit(sequences[0])
    while not sizes:
        time.sleep(0.01)
    for sequence in sequences[1:]:
        engine.submit(sequence)
    first.set()
    results = [sequence.result.result(30) for sequence in sequences]
    engine.close()
    assert sizes == [1, 19]
    for sequence, (positions, token) in zip(sequences, results, strict=True):
        assert token is None
        assert [position.token for position in positions] == sequence.ids[1:]


def test_many_clients_at_once(model, url):
    def one(number):
        ids = [(number * 7 + place * 5) % 18 for place in range(2 + number % 9)]
        (score,) = ServerTeacher(url).score([ids], [1], 1.0)
        return ids, score

    with ThreadPoolExecutor(8) as pool:
        for ids, score in pool.map(one, range(40)):
            right = direct(model, ids)
            assert score.logps == pytest.approx([right[p - 1, ids[p]].item() for p in range(1, len(ids))], abs=1e-4)


def test_a_fault_of_the_model_reaches_those_who_asked_and_no_others(url, model, monkeypatch):
    whole = teacher_engine.score

    def fails(model, batch):
        if any(sequence.ids == [13, 13] for sequence in batch):
            raise torch.OutOfMemoryError("too large")
        return whole(model, batch)

    monkeypatch.setattr(teacher_engine, "score", fails)
    answer = ask(url, {"prompt": [13, 13], "max_tokens": 0, "prompt_logprobs": 0})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "OutOfMemoryError: too large"
    assert "Traceback" not in answer.text
    assert ask(url, {"prompt": [1, 2], "max_tokens": 0, "prompt_logprobs": 0}).status_code == 200


def test_logits_that_are_no_numbers_are_an_error():
    model = make_model()
    model.lm_head.weight.data[3] = math.nan
    with serve_teacher(model) as url, pytest.raises(TeacherError, match=r"500.*NaN.*dtype"):
        ServerTeacher(url, retries=0).score([[1, 2]], [1], 1.0)


def test_minus_infinity_is_written_as_vllm_writes_it_and_refused_by_the_client():
    model = make_model()
    model.lm_head = torch.nn.Linear(16, 18)
    with torch.no_grad():
        model.lm_head.bias[3] = -math.inf
    with serve_teacher(model) as url:
        entries = ask(url, {"prompt": [1, 3], "max_tokens": 0, "prompt_logprobs": 0}).json()["choices"][0][
            "prompt_logprobs"
        ]
        assert entries[1]["3"]["logprob"] == -9999.0
        with pytest.raises(TeacherError, match=r"minus infinity.*row 0, position 1, token 3"):
            ServerTeacher(url).score([[1, 3]], [1], 1.0)
