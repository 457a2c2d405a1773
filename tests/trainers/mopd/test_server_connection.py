"""The connection to a teacher's server: keys, proxies, addresses."""

import pytest

from mimo_hf.trainers.mopd.server_teacher import ServerTeacher, TeacherError

from ._fake_server import NO_NETWORK, SEQUENCE, Reply

pytestmark = pytest.mark.usefixtures("quick")


def test_keys_are_sent_and_shown_nowhere(server, monkeypatch):
    secrets = []

    def refuse(handler, body):
        secrets.append(handler.headers["Authorization"])
        return Reply({"error": "no"}, 403)

    server.otherwise = refuse
    address = server.url.replace("//", "//ann:pass%40word@")
    monkeypatch.setenv("VLLM_API_KEY", "from-environment\n")
    for teacher in (ServerTeacher(server.url), ServerTeacher(server.url, api_key="given"), ServerTeacher(address)):
        with pytest.raises(TeacherError) as caught:
            teacher.score([SEQUENCE], [1], 1.0)
        seen = f"{caught.value!r} {teacher!r} {teacher.describe()}"
        assert not {"from-environment", "given", "pass", "ann"} & set(seen.replace("@", " ").replace(":", " ").split())
        assert teacher.url == server.url
    assert secrets == ["Bearer from-environment", "Bearer given", "Basic YW5uOnBhc3NAd29yZA=="]
    with pytest.raises(ValueError, match="api_key") as caught:
        ServerTeacher(server.url, api_key="se cret")
    assert "se cret" not in str(caught.value)
    with pytest.raises(ValueError, match="must not be given together with a user"):
        ServerTeacher(address, api_key="given")


def test_no_proxy_and_no_netrc_is_used_for_this_machine(server, monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NO_NETWORK)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    ServerTeacher(server.url, retries=0).score([SEQUENCE], [1], 1.0)
    assert "Authorization" not in server.requests[0][1]


def test_other_machines_are_reached_through_the_proxy_and_without_netrc(server, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine teacher.invalid login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.otherwise = lambda handler, body: Reply({"error": {"message": "by the proxy"}}, 400)
    with pytest.raises(TeacherError, match="by the proxy"):
        ServerTeacher("http://teacher.invalid", model="m", retries=0).describe()
    (path, headers, _) = server.requests[0]
    assert path == "http://teacher.invalid/v1/models"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "url.*http://127.0.0.1:8000; got '127.0.0.1:8000'"),
        ({"url": "ftp://a"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://a:99999"}, "url"),
        ({"url": "http://me:secret@a?x=1"}, r"url.*got 'a\?x=1'"),
        ({"url": "http://[::1"}, "url"),
        ({"url": None}, "url"),
        ({"url": NO_NETWORK, "concurrency": 0}, "concurrency.*got 0"),
        ({"url": NO_NETWORK, "retries": -1}, "retries.*got -1"),
        ({"url": NO_NETWORK, "timeout_s": 0}, "timeout_s.*got 0"),
    ],
)
def test_arguments_are_checked_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        ServerTeacher(arguments.pop("url"), **arguments)
