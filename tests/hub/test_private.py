"""Paths, tokens, code of others and files outside the folder are not published."""

import json
import shutil

import pytest

from mimo_hf.cli import main
from mimo_hf.hub.checkpoints import CheckpointError
from mimo_hf.hub.publish import publish
from mimo_hf.hub.upgrade import private

from .conftest import change_json, contents

pytestmark = pytest.mark.usefixtures("_quick_loads")


@pytest.mark.usefixtures("_without_loading")
def test_paths_of_the_machine_are_dropped_from_saved_fields(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    change_json(source / "config.json", _name_or_path="/home/someone/model")
    change_json(source / "tokenizer_config.json", name_or_path="/home/someone/tokenizer", tokenizer_file="/x/y.json")
    out = publish(source, tmp_path / "out")
    assert not [name for name, content in contents(out).items() if b"/home/" in content or b"/x/" in content]


# The machine's paths, an access token and code of others, at the top and below; none of it is real.
PRIVATE = {
    "config.json": {
        "resume_from": "/home/someone/runs/7",
        "quantization_config": {"calibration": {"token": "x", "kept": 1}, "files": ["~/data/a.json", "b"]},
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["someone/other--tokenization.Own", None]},
        "note": "made with hf_" + "a" * 34,
        "added_tokens_decoder": {"3": {"content": "/usr/bin/token", "special": True}},
    },
    "generation_config.json": {"assistant": {"api_key": "x"}},
}
LEFT_OUT = {
    "config.json: resume_from": "a path",
    "config.json: quantization_config.calibration.token": "an access token",
    "config.json: quantization_config.files": "a path",
    "generation_config.json: assistant.api_key": "an access token",
    "tokenizer_config.json: auto_map": "code that is not published",
    "tokenizer_config.json: note": "an access token",
}


@pytest.mark.usefixtures("_without_loading")
def test_private_fields_are_left_out_at_every_level_and_named(checkpoint, tmp_path, monkeypatch, capsys):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    for name, fields in PRIVATE.items():
        change_json(source / name, **fields)
    with pytest.warns(UserWarning, match="not published") as caught:
        out = publish(source, tmp_path / "out")
    told = " ".join(str(warning.message) for warning in caught)
    for place, why in LEFT_OUT.items():
        assert f"{place.partition(': ')[2]} ({why})" in told
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == {"calibration": {"kept": 1}}
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert tokenizer["added_tokens_decoder"] == PRIVATE["tokenizer_config.json"]["added_tokens_decoder"]
    assert "auto_map" not in tokenizer
    assert private(out) == {}

    for name, fields in PRIVATE.items():  # of a folder that an earlier version published
        change_json(out / name, **fields)
    assert private(out) == LEFT_OUT
    monkeypatch.setattr("mimo_hf.hub.upgrade.trouble", lambda folder: None)
    assert main(["publish", "--check", str(out)]) == 1
    shown = capsys.readouterr().out
    assert all(f"{place} is {why}" in shown for place, why in LEFT_OUT.items())


def test_no_code_of_others_runs(checkpoint, tmp_path):
    """A tokenizer that names code of its own; the folder beside it is where that code would be looked for."""
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "own_tokenizer.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    change_json(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own_tokenizer.Own", None]})
    with pytest.warns(UserWarning, match=r"auto_map \(code that is not published\)"):
        out = publish(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (out / "own_tokenizer.py").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "LICENSE", "chat_template.jinja"]
)
@pytest.mark.usefixtures("_without_loading")
def test_links_that_lead_out_of_the_folder_are_refused(checkpoint, tmp_path, name):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (source / name).exists():
        (source / name).rename(elsewhere / name)
    else:
        (elsewhere / name).write_text("a letter")
    (source / name).symlink_to(elsewhere / name)
    with pytest.raises(CheckpointError, match=f"{name} is a link to .*outside the folder"):
        publish(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_without_loading")
def test_links_of_the_hubs_cache_and_inside_the_folder_are_followed(checkpoint, tmp_path):
    cache = tmp_path / "models--someone--tiny"
    snapshot = cache / "snapshots" / "abc"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(sorted(checkpoint.iterdir())):
        shutil.copyfile(path, cache / "blobs" / str(index))
        (snapshot / path.name).symlink_to(f"../../blobs/{index}")
    (snapshot / "LICENSE").write_text("a license")
    (snapshot / "LICENSE.txt").symlink_to("LICENSE")
    out = publish(snapshot, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert not (out / "LICENSE.txt").is_symlink()
    assert (out / "LICENSE.txt").read_text() == "a license"
