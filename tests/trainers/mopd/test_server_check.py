"""The check of a teacher's server before training."""

import pytest

from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError

from ._fake_server import SEQUENCE, VOCABULARY, Reply, completion

pytestmark = pytest.mark.usefixtures("quick")


def test_a_good_server_passes(server):
    for temperature, top_k in [(1.0, 0), (0.7, 0), (1.3, 4), (1.0, VOCABULARY)]:
        ServerTeacher(server.url).check(temperature, top_k, VOCABULARY)


def test_no_more_tokens_are_asked_for_than_there_are(server):
    teacher = ServerTeacher(server.url)
    teacher.check(1.0, 64, VOCABULARY)
    (score,) = teacher.score([SEQUENCE], [4], 1.0, top_k=64)
    assert sorted(score.top_ids[0]) == list(range(VOCABULARY))
    assert max(body["prompt_logprobs"] for _, _, body in server.requests) == VOCABULARY


def test_a_server_that_leaves_the_temperature_out_is_refused_only_where_it_matters(server):
    server.otherwise = lambda handler, body: Reply(completion(body, heeds_temperature=False))
    ServerTeacher(server.url).check(1.0, 4, VOCABULARY)
    with pytest.raises(TeacherError, match=r"temperature.*processed_logprobs.*1\.0.*mimo-hf teacher serve"):
        ServerTeacher(server.url).check(0.7, 4, VOCABULARY)


def test_a_server_that_divides_log_probabilities_by_the_temperature_is_refused(server):
    def divides(handler, body):
        content = completion(body, heeds_temperature=False)
        for entry in content["choices"][0]["prompt_logprobs"][1:]:
            for value in entry.values():
                value["logprob"] *= body["temperature"]
        return Reply(content)

    server.otherwise = divides
    with pytest.raises(TeacherError, match="a way of its own"):
        ServerTeacher(server.url).check(0.7, 0, VOCABULARY)


def test_a_server_of_logits_is_refused(server):
    def logits(handler, body):
        content = completion(body)
        for entry in content["choices"][0]["prompt_logprobs"][1:]:
            for value in entry.values():
                value["logprob"] = min(value["logprob"] + 2.5, -0.1)
        return Reply(content)

    server.otherwise = logits
    with pytest.raises(TeacherError, match=r"more than one.*logits"):
        ServerTeacher(server.url).check(1.0, 8, VOCABULARY)


def test_a_server_of_a_smaller_vocabulary_is_refused(server):
    server.replies = [server.otherwise, Reply({"error": {"message": "token id 99 is out of vocabulary"}}, 400)]
    with pytest.raises(TeacherError, match=r"token 99.*vocabulary of 100.*tokenizer.*out of vocabulary"):
        ServerTeacher(server.url).check(1.0, 0, 100)


def test_models(server):
    server.served = [{"id": "base", "root": "base"}, {"id": "math", "root": "lora", "parent": "base"}]
    with pytest.raises(TeacherError, match=r"serves base, math; say which with ServerTeacher"):
        ServerTeacher(server.url).describe()
    assert ServerTeacher(server.url, model="math").describe()["root"] == "lora"
    with pytest.raises(TeacherError, match=r"does not serve `model`='code'; it serves base, math"):
        ServerTeacher(server.url, model="code").check(1.0, 0, None)
    server.served = [{"id": "a", "root": "r", "parent": None}, {"id": "b", "root": "r", "parent": None}]
    assert ServerTeacher(server.url).describe()["model"] == "a"
    server.served = []
    with pytest.raises(TeacherError, match="serves none"):
        ServerTeacher(server.url).describe()
    server.served = [{"name": "a"}]
    with pytest.raises(TeacherError, match="list of models"):
        ServerTeacher(server.url).describe()
    server.served = Reply({}, 404)
    assert ServerTeacher(server.url, model="a").describe()["model"] == "a"
    with pytest.raises(TeacherError, match="404"):
        ServerTeacher(server.url).describe()
