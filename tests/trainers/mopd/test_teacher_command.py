"""`mimo-hf teacher serve` as a user meets it: what it prints, what it serves, how it ends, and what it says about bad input."""

import os
import re
import signal
import socket
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimo_hf import cli
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.trainers.mopd import teacher_server
from mimo_hf.trainers.mopd.server_teacher import ServerTeacher
from mimo_hf.trainers.mopd.teacher_loading import load_teacher
from mimo_hf.trainers.mopd.teacher_server import serve_teacher

from ..conftest import make_model, make_tokenizer

IDS = [3, 5, 7, 2, 11, 4]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "teacher")
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def serve(folder, use, *options):
    """Runs the command in this thread, where Ctrl-C arrives, and `use(url)` in another one; (exit code, what `use` gave)."""
    port, result, ended = free_port(), [], threading.Event()

    def client():
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            result.append(use(url))
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            while not ended.wait(5):  # one that came before the command waits for it is lost
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    try:
        code = cli.main(["teacher", "serve", str(folder), "--port", str(port), *options])
    finally:
        ended.set()
    thread.join()
    return code, result[0]


def refused(capsys, *options):
    with pytest.MonkeyPatch.context() as patch:  # what is not refused would serve for ever
        patch.setattr(teacher_server, "TeacherServer", lambda *arguments, **options: pytest.fail("served"))
        assert cli.main(["teacher", "serve", *map(str, options)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("mimo-hf teacher serve: error: ")
    assert output.err.count("\n") == 1
    return output.err


def own_logps(model, ids):
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
    return [logps[place - 1, ids[place]].item() for place in range(1, len(ids))]


def test_it_serves_until_ctrl_c(folder, capsys):
    def use(url):
        teacher = ServerTeacher(url)
        teacher.check(0.7, 18, 18)
        return teacher.describe(), teacher.score([IDS], [1], 1.0)[0].logps

    code, (about, logps) = serve(folder, use, "--served-model-name", "math")
    assert code == 0
    assert (about["model"], about["root"], about["max_model_len"]) == ("math", str(folder), 128)
    assert logps == pytest.approx(own_logps(make_model().eval(), IDS), abs=1e-4)
    output = capsys.readouterr()
    assert re.fullmatch(r'(http://127\.0\.0\.1:\d+) serves math, .*teachers=\{"math": "\1"\}\n', output.out)
    assert output.err.endswith("stopped\n")
    assert not any(thread.name.startswith("teacher") for thread in threading.enumerate())


def test_a_bundled_model_of_this_package(capsys):
    from mimo_hf import MiMoV2FlashForCausalLM

    path = bundled("mimo-v2-flash")
    ids = list(range(30, 60))
    _, logps = serve(path, lambda url: ServerTeacher(url).score([ids], [1], 1.0)[0].logps, "--dtype", "float32")
    model = MiMoV2FlashForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    assert logps == pytest.approx(own_logps(model, ids), abs=1e-4)


KINDS = {
    "lora": {},
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"trainable_token_indices": [3, 5]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_folder(folder, tmp_path, kind):
    peft = pytest.importorskip("peft")
    settings = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | KINDS[kind]
    adapted = peft.get_peft_model(make_model(), peft.LoraConfig(**settings))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(tmp_path / "adapter")
    model, tokenizer = load_teacher(str(tmp_path / "adapter"))
    with serve_teacher(model) as url:
        (score,) = ServerTeacher(url).score([IDS], [1], 1.0)
    assert score.logps == pytest.approx(own_logps(adapted.eval(), IDS), abs=1e-5)
    assert score.logps != pytest.approx(own_logps(make_model(), IDS), abs=1e-2)
    assert tokenizer is None


def test_an_adapter_that_does_not_say_what_it_is_for(folder, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    peft.get_peft_model(make_model(), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    assert "base_model_name_or_path" in refused(capsys, tmp_path / "adapter", "--port", free_port())


def test_missing_weights_are_no_teacher(folder, capsys):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"], weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = refused(capsys, folder, "--port", free_port())
    assert (
        "must have all tensors of Qwen2ForCausalLM, or they would be random; it lacks 2: lm_head.weight, "
        "model.layers.0.mlp.up_proj.weight." in message
    )


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "does not exist" in refused(capsys, tmp_path / "nothing")
    assert "neither config.json nor adapter_config.json" in refused(capsys, tmp_path / "empty")
    assert "is a file" in refused(capsys, tmp_path / "file")
    assert "--port must be a whole number from 1 to 65535; got '65536'" in refused(capsys, folder, "--port", 65536)
    assert "--max-logprobs must be a whole number of at least -1" in refused(capsys, folder, "--max-logprobs", -2)
    assert "--device must be one that can be used here; got cuda:7: " in refused(
        capsys, folder, "--port", free_port(), "--device", "cuda:7"
    )
    assert "must be a model that can be loaded; got " in refused(
        capsys, folder, "--port", free_port(), "--attn-implementation", "none-such"
    )
    assert "--host and --port must be an address to listen on; got 192.0.2.1" in refused(
        capsys, folder, "--host", "192.0.2.1"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"got 127.0.0.1 and {port}: Address already in use." in refused(capsys, folder, "--port", port)


def test_a_server_open_to_the_network_warns_unless_it_has_a_key(folder, capsys, monkeypatch):
    serve(folder, lambda url: None, "--host", "0.0.0.0")  # noqa: S104  what the test is about
    assert "warning: whoever reaches 0.0.0.0" in capsys.readouterr().err
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    serve(folder, lambda url: ServerTeacher(url).check(), "--host", "0.0.0.0")  # noqa: S104  what the test is about
    assert "warning" not in capsys.readouterr().err
