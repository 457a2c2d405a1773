"""The server of a local teacher: its numbers are the model's, its answers have vLLM's shape, and what is wrong is refused."""

import http.client
import json
import math
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import torch

from mimo_hf.trainers.mopd import teacher_engine, teacher_server
from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError
from mimo_hf.trainers.mopd.teacher_engine import Sequence, TeacherEngine, batches
from mimo_hf.trainers.mopd.teacher_server import TeacherServer, serve_teacher

from ..conftest import make_model, make_tokenizer

SEQUENCES = [[3, 5, 7, 2, 11, 4], [17, 3], [9, 9, 1, 4, 4, 4, 8, 0, 2, 16, 5], [6, 1, 12]]
LENGTHS = [2, 1, 7, 1]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture(scope="module")
def model():
    model = make_model()
    for parameter in model.parameters():
        parameter.data *= 8  # far from uniform
    return model


@pytest.fixture(scope="module")
def url(model):
    with serve_teacher(model, make_tokenizer(), max_logprobs=18) as url:
        yield url


def direct(model, ids, temperature=1.0):
    """Log-probabilities of every next token, from a pass of this sequence alone."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float() / temperature, -1)


def ask(url, body, **options):
    return requests.post(f"{url}/v1/completions", json=body, timeout=30, **options)


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


# Shapes


def test_the_answer_has_vllms_shape(model, url):
    answer = ask(
        url, {"prompt": [SEQUENCES[0], SEQUENCES[1]], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 2}
    ).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 2,
        "total_tokens": 10,
        "prompt_tokens_details": None,
    }
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    choice = answer["choices"][0]
    assert choice["prompt_logprobs"][0] is None
    assert len(choice["prompt_logprobs"]) == 6
    right = direct(model, SEQUENCES[0])
    tokenizer = make_tokenizer()
    for place, entry in enumerate(choice["prompt_logprobs"][1:]):
        own, best = SEQUENCES[0][place + 1], right[place].topk(2).indices.tolist()
        assert set(entry) == {str(token) for token in (own, *best)}
        assert next(iter(entry)) == str(own)
        for token, value in entry.items():
            assert set(value) == {"logprob", "rank", "decoded_token"}
            assert value["rank"] == 1 + (right[place] > right[place, int(token)]).sum().item()
            assert value["decoded_token"] == tokenizer.decode([int(token)])


def test_one_prompt_and_text_are_taken_too(url):
    tokens = make_tokenizer()("3 5 yes")["input_ids"]
    answers = [
        ask(url, {"prompt": prompt, "max_tokens": 0, "prompt_logprobs": 1}).json()["choices"]
        for prompt in (tokens, [tokens], "3 5 yes", ["3 5 yes"])
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]["text"] == ""
    assert ask(url, {"prompt": tokens, "max_tokens": 0}).json()["choices"][0]["prompt_logprobs"] is None
    assert ask(url, {"prompt": [4], "max_tokens": 0, "prompt_logprobs": 1}).json()["choices"][0][
        "prompt_logprobs"
    ] == [None]


def test_the_next_token_is_the_best_one_or_drawn(model, url):
    right = direct(model, SEQUENCES[0])[-1]
    tokenizer = make_tokenizer()

    def token(**options):
        (choice,) = ask(url, {"prompt": SEQUENCES[0], "max_tokens": 1, **options}).json()["choices"]
        assert choice["text"] in (tokenizer.decode(choice["token_ids"]), "")
        return choice["token_ids"][0]

    assert token(temperature=0) == right.argmax().item()
    drawn = [token(temperature=100.0, seed=seed) for seed in range(12)]
    assert drawn == [token(temperature=100.0, seed=seed) for seed in range(12)]
    assert len(set(drawn)) > 3
    before = torch.random.get_rng_state()
    assert len({token(temperature=100.0) for _ in range(12)}) > 3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_models_and_health(url):
    (card,) = requests.get(f"{url}/v1/models", timeout=30).json()["data"]
    assert (card["object"], card["parent"], card["max_model_len"]) == ("model", None, 128)
    assert requests.get(f"{url}/health", timeout=30).status_code == 200
    assert ServerTeacher(url).describe()["max_model_len"] == 128


def test_all_of_the_vocabulary_can_be_asked_for(url):
    (choice,) = ask(url, {"prompt": [1, 2, 3], "max_tokens": 0, "prompt_logprobs": -1}).json()["choices"]
    for entry in choice["prompt_logprobs"][1:]:
        assert sum(math.exp(value["logprob"]) for value in entry.values()) == pytest.approx(1, abs=1e-5)
        assert sorted(value["rank"] for value in entry.values()) == list(range(1, 19))


# Bad requests


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ([], 400, "JSON object"),
        ({}, 400, "`max_tokens`.*got 16"),
        ({"prompt": None}, 400, "`prompt`"),
        ({"prompt": []}, 400, "`prompt`"),
        ({"prompt": [[]]}, 400, "`prompt`"),
        ({"prompt": ""}, 400, "`prompt`"),
        ({"prompt": [[1], 2]}, 400, "`prompt`"),
        ({"prompt": [[1.0]]}, 400, "`prompt`"),
        ({"prompt": [[True]]}, 400, "`prompt`"),
        ({"prompt": [[1, 18]]}, 400, "Token id 18 is out of vocabulary"),
        ({"prompt": [[-1]]}, 400, "Token id -1"),
        ({"prompt": [[10**30]]}, 400, "out of vocabulary"),
        ({"prompt": [[1] * 129]}, 400, "maximum context length is 128 tokens.*129"),
        ({"prompt": [[1]] * 1025}, 400, "1025 entries"),
        ({"model": "other"}, 404, "`other` does not exist; this server has"),
        ({"max_tokens": 2}, 400, "`max_tokens` must be 0 or 1.*got 2"),
        ({"max_tokens": None}, 400, "`max_tokens`.*got 16"),
        ({"temperature": -1}, 400, "`temperature`.*got -1"),
        ({"temperature": "hot"}, 400, "`temperature`"),
        ({"temperature": 1e-9}, 400, "`temperature`"),
        ({"prompt_logprobs": 19}, 400, "prompt logprobs of 19, which is greater than max allowed: 18"),
        ({"prompt_logprobs": -2}, 400, "`prompt_logprobs`"),
        ({"prompt_logprobs": True}, 400, "`prompt_logprobs`"),
        ({"seed": 2**70}, 400, "`seed`"),
        ({"stream": True}, 400, "`stream` is not supported"),
        ({"n": 2}, 400, "`n` is not supported"),
        ({"top_p": 0.5}, 400, "`top_p` is not supported"),
        ({"logprobs": 1}, 400, "`logprobs` is not supported"),
    ],
)
def test_a_bad_request_is_answered_with_what_is_wrong(url, body, status, words):
    if isinstance(body, dict) and body:
        body = {"prompt": [1, 2], "max_tokens": 1, "prompt_logprobs": 0} | body
    answer = ask(url, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
    assert re.search(words, error["message"])


def test_neutral_and_unknown_fields_change_nothing(url):
    body = {"prompt": [1, 2], "max_tokens": 0, "prompt_logprobs": 0}
    more = {"n": 1, "top_p": 1.0, "top_k": -1, "stream": False, "echo": None, "stop": [], "user": "me", "novelty": [1]}
    assert ask(url, body | more).json()["choices"] == ask(url, body).json()["choices"]


def raw(url, text):
    """The status and the JSON of the answer to bytes."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, "headers"),
        (b"BREW / HTTP/1.1\r\n\r\n", 501, "BREW"),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 404, "/v1/completions"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404, "there is no POST /v1/chat/completions"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 415, "application/json"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", 411, "Content-Length"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n", 411, "Content-Length"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n", 413, "at most"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", 400, "too early"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{]", 400, "not JSON"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n" + b"[" * 90_000, 400, "not JSON"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, ""),
    ],
)  # fmt: skip
def test_what_is_no_request_is_answered_in_the_same_form(url, request_, status, words):
    found, answer = raw(url, request_)
    assert (found, answer["error"]["code"]) == (status, status)
    assert words in answer["error"]["message"]


def test_what_follows_a_refused_request_is_not_taken_for_another_one(url):
    body = b"GET /health HTTP/1.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_slow_request_is_given_up(model, monkeypatch):
    monkeypatch.setattr(teacher_server._Handler, "timeout", 0.2)
    with (
        serve_teacher(model) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as slow,
    ):
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 408
        assert "within 0.2 seconds" in answer.read().decode()


def test_answers_have_a_bound(url, model, monkeypatch):
    monkeypatch.setattr(teacher_server, "MOST_ENTRIES", 10)
    assert "at most 10 at once" in ask(url, {"prompt": [1] * 6, "max_tokens": 0, "prompt_logprobs": 1}).text
    monkeypatch.setattr(teacher_server, "MOST_WAITING", 2)
    answer = ask(url, {"prompt": [[1]] * 3, "max_tokens": 0, "prompt_logprobs": 1})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_keys(model, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with serve_teacher(model) as url:
        assert len(ServerTeacher(url).score([[1, 2]], [1], 1.0)[0].logps) == 1
        with pytest.raises(TeacherError, match=r"401.*VLLM_API_KEY"):
            ServerTeacher(url, api_key="guess").describe()
        assert requests.get(f"{url}/health", timeout=30).status_code == 200


def test_without_a_tokenizer_text_is_refused(model):
    with serve_teacher(model, name="math") as url:
        assert "no tokenizer" in ask(url, {"prompt": "a", "max_tokens": 0}).text
        assert ServerTeacher(url).describe()["model"] == "math"
        (choice,) = ask(url, {"prompt": [1, 2], "max_tokens": 1, "prompt_logprobs": 0}).json()["choices"]
        assert choice["prompt_logprobs"][1]["2"]["decoded_token"] is None


def test_closing_answers_those_who_wait(model, monkeypatch):
    running, first = threading.Event(), threading.Event()
    whole = teacher_engine.score

    def slow_score(model, batch):
        running.set()
        first.wait(20)
        return whole(model, batch)

    monkeypatch.setattr(teacher_engine, "score", slow_score)
    server = TeacherServer(model)
    body = {"prompt": [1, 2], "max_tokens": 0, "prompt_logprobs": 0}
    with ThreadPoolExecutor(3) as pool:
        runs = pool.submit(ask, server.url, body)
        assert running.wait(20)
        waits = pool.submit(ask, server.url, body)
        while server.engine.waiting < 2:
            time.sleep(0.01)
        closing = pool.submit(server.close)
        while not server.engine._is_closed:
            time.sleep(0.01)
        first.set()
        closing.result(30)
        assert runs.result(30).status_code == 200
        assert waits.result(30).status_code == 503


def test_closing_hangs_up_on_clients_that_keep_their_connection(model):
    with requests.Session() as session:
        server = TeacherServer(model)
        assert session.get(f"{server.url}/health", timeout=30).status_code == 200
        server.close()
        with pytest.raises(requests.ConnectionError):
            session.get(f"{server.url}/health", timeout=30)


def test_what_can_not_be_served_is_refused(model):
    with pytest.raises(ValueError, match=r"`model` must be a causal language model.*Qwen2Model"):
        TeacherServer(model.model)
    with serve_teacher(model) as url, pytest.raises(OSError, match="in use"):
        TeacherServer(model, port=int(url.rpartition(":")[2]))
