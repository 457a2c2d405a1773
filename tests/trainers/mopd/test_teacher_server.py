"""The server of a local teacher: its answers have vLLM's shape, and it closes cleanly."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import torch

from mimo_hf.trainers.mopd import teacher_engine
from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError
from mimo_hf.trainers.mopd.teacher_server import TeacherServer, serve_teacher

from ..conftest import make_tokenizer
from ._served_model import SEQUENCES, ask, direct

pytestmark = pytest.mark.usefixtures("no_key")


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


# The server


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
