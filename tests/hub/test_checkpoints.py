"""A folder that would not load as it should is refused before anything loads it, one line for each problem."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from mimo_hf.hub import checkpoints
from mimo_hf.hub.checkpoints import CheckpointError, bundled, check_checkpoint

HEAD = [
    "enorm.weight",
    "hnorm.weight",
    "eh_proj.weight",
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.attention_sink_bias",
    "pre_mlp_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "final_layernorm.weight",
]


def head(k):
    return [f"model.mtp.layers.{k}.{name}" for name in HEAD]


def save(file, names):
    save_file({name: np.zeros(2, np.float32) for name in names}, file)


def make_folder(folder, config=None, names=None):
    folder.mkdir(exist_ok=True)
    config = {"model_type": "mimo_v2_flash", "num_mtp_layers": 2} if config is None else config
    (folder / "config.json").write_text(json.dumps(config))
    save(folder / "model.safetensors", ["lm_head.weight", *head(0), *head(1)] if names is None else names)
    return folder


def make_sharded(folder):
    make_folder(folder)
    (folder / "model.safetensors").unlink()
    shards = {"a.safetensors": ["lm_head.weight", *head(0)], "b.safetensors": head(1)}
    for file, names in shards.items():
        save(folder / file, names)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def problems(folder):
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(folder)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{folder}: ") for line in lines)
    return [line.removeprefix(f"{folder}: ") for line in lines]


def test_a_saved_model_passes(checkpoint):
    check_checkpoint(checkpoint)
    check_checkpoint(str(checkpoint))


@pytest.mark.parametrize("make", [make_folder, make_sharded])
def test_one_file_and_shards_pass(tmp_path, make):
    check_checkpoint(make(tmp_path / "x"))


def test_both_names_of_the_sinks_and_scales_of_fp8_weights_pass(tmp_path):
    names = [name.replace("attention_sink_bias", "sinks") for name in head(0)]
    scales = [f"{name}_scale_inv" for name in names if "_proj" in name]
    config = {"model_type": "mimo_v2_flash", "num_nextn_predict_layers": 1}
    check_checkpoint(make_folder(tmp_path / "x", config, [*names, *scales]))


def test_a_trunk_without_heads_and_another_model_pass(tmp_path):
    check_checkpoint(make_folder(tmp_path / "trunk", {"model_type": "mimo_v2_flash"}, ["lm_head.weight"]))
    check_checkpoint(make_folder(tmp_path / "other", {"model_type": "llama"}, ["lm_head.weight"]))


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def only_an_adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "has no config.json; give the folder that `save_pretrained` wrote"),
        (only_an_adapter, "a PEFT adapter only; merge it"),
        (write("config.json", b"{"), "config.json is not JSON"),
        (write("config.json", b"\xff\xfe"), "config.json is not JSON"),
        (write("config.json", b"[]"), "names no `model_type`"),
        (write("config.json", b'{"model_type": 3}'), "names no `model_type`"),
        (remove("model.safetensors"), "has neither model.safetensors nor model.safetensors.index.json"),
        (only_a_pickle, "has no model.safetensors, only pytorch_model.bin; load it and write safetensors"),
        (cut("model.safetensors", -1), "is truncated or corrupt"),
        (cut("model.safetensors", 100), "model.safetensors (100 bytes) is truncated or corrupt"),
        (cut("model.safetensors", 0), "model.safetensors (0 bytes) is truncated or corrupt"),
        (write("model.safetensors", b"<html>not found</html>"), "is truncated or corrupt"),
        (write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    ],
)
def test_a_spoilt_folder_is_named_with_a_remedy(tmp_path, spoil, message):
    folder = make_folder(tmp_path / "x")
    spoil(folder)
    (problem,) = problems(folder)
    assert message in problem


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("b.safetensors"), "b.safetensors is missing, but model.safetensors.index.json names it"),
        (cut("b.safetensors", -1), "b.safetensors"),
        (write("model.safetensors.index.json", b"{"), "is not an index of weights"),
        (write("model.safetensors.index.json", b'{"weight_map": [1]}'), "is not an index of weights"),
        (lambda folder: save(folder / "a.safetensors", head(0)), "a.safetensors lacks tensors"),
    ],
)
def test_a_spoilt_shard_or_index_is_named(tmp_path, spoil, message):
    folder = make_sharded(tmp_path / "x")
    spoil(folder)
    (problem,) = problems(folder)
    assert message in problem


def test_a_path_that_is_no_folder(tmp_path):
    assert "does not exist" in problems(tmp_path / "absent")[0]
    (tmp_path / "file").touch()
    assert "is a file" in problems(tmp_path / "file")[0]


@pytest.mark.parametrize(
    ("num_heads", "names", "expected"),
    [
        (0, [*head(0), *head(2)], "hold model.mtp.layers.0.*, model.mtp.layers.2.*, but config.json asks for `num_mtp_layers=0`; set it to 3"),
        (1, [*head(0), *head(1)], "hold model.mtp.layers.1.*, but config.json asks for `num_mtp_layers=1`; set it to 2"),
        (3, head(0), "lack model.mtp.layers.1.*, model.mtp.layers.2.*, but config.json asks for `num_mtp_layers=3`; set it to 1"),
        (1, head(0)[:-2], "head 0 lacks model.mtp.layers.0.mlp.down_proj.weight, model.mtp.layers.0.final_layernorm.weight"),
        (1, [*head(0), "model.mtp.layers.0.self_attn.qkv_proj.weight"], "head 0 has model.mtp.layers.0.self_attn.qkv_proj.weight, which"),
        (-1, head(0), "`num_mtp_layers=-1`; it must be 0 or a positive integer"),
        (True, head(0), "`num_mtp_layers=True`; it must be"),
        ("2", head(0), "`num_mtp_layers='2'`; it must be"),
    ],
)  # fmt: skip
def test_mtp_tensors_must_be_those_of_the_configured_heads(tmp_path, num_heads, names, expected):
    config = {"model_type": "mimo_v2_flash", "num_mtp_layers": num_heads}
    (problem,) = problems(make_folder(tmp_path / "x", config, ["lm_head.weight", *names]))
    assert expected in problem


def test_each_problem_has_a_line(tmp_path):
    folder = make_sharded(tmp_path / "x")
    remove("a.safetensors")(folder)
    cut("b.safetensors", 50)(folder)
    missing, truncated = problems(folder)
    assert "a.safetensors is missing" in missing
    assert "b.safetensors (50 bytes) is truncated" in truncated


def test_bundled_finds_a_folder_and_otherwise_lists_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "TINY", tmp_path)
    make_folder(tmp_path / "mimo-v2-flash")
    (tmp_path / "unfinished").mkdir()
    assert bundled() == bundled("mimo-v2-flash") == tmp_path / "mimo-v2-flash"
    for name in ("mimo", "unfinished", "", "../secrets", "."):
        with pytest.raises(CheckpointError, match=r"no checkpoint `.*` is bundled; there is: mimo-v2-flash\."):
            bundled(name)


def test_checking_needs_neither_torch_nor_transformers(checkpoint):
    code = (
        "import sys; from mimo_hf.hub.checkpoints import check_checkpoint; check_checkpoint(sys.argv[1]);"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, checkpoint], check=True)


@pytest.mark.parametrize("place", ["/home/someone/a.safetensors", "../a.safetensors", "below/a.safetensors"])
def test_an_index_that_names_weights_outside_the_folder(tmp_path, place):
    folder = make_sharded(tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("a.safetensors", place))
    (problem,) = problems(folder)
    assert "places weights outside the folder" in problem
    assert place.rpartition("/")[2] in problem
