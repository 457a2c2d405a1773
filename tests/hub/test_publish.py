"""What a published folder holds; and it is written whole or not at all."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mimo_hf.hub import publish as publishing
from mimo_hf.hub.checkpoints import CheckpointError, check_checkpoint
from mimo_hf.hub.publish import AUTO_MAPS, publish
from mimo_hf.modeling.mimo_v2_flash.configuration_mimo_v2_flash import LOST_HEADS

from .conftest import MODELING, change_json, contents

pytestmark = pytest.mark.usefixtures("_quick_loads")


CODE = {
    "configuration_mimo_v2_flash.py",
    "modeling_mimo_v2_flash.py",
    "mtp.py",
    "mtp_batch.py",
    "mtp_config.py",
    "mtp_generation.py",
    "mtp_rows.py",
    "mtp_statistics.py",
    "mtp_stopping.py",
    "mtp_trunk.py",
    "routing.py",
    "sink_attention.py",
}  # and what they import


def test_the_folder_holds_what_it_should(published, checkpoint):
    files = contents(published)
    assert {name for name in files if name.endswith(".py")} >= CODE
    assert {name for name in files if not name.endswith(".py")} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_run.json",
    }
    for name in ("model.safetensors", "tokenizer.json"):
        assert files[name] == (checkpoint / name).read_bytes()
    config = json.loads(files["config.json"])
    assert config.pop("auto_map") == AUTO_MAPS["mimo_v2_flash"]
    assert config["mtp_mlp_layer_types"] == LOST_HEADS
    assert config == json.loads((checkpoint / "config.json").read_text())


def test_nothing_of_this_machine_is_in_the_folder(published, checkpoint):
    texts = [content for name, content in contents(published).items() if not name.endswith(".safetensors")]
    for place in ("/home", "/tmp", str(checkpoint.parent), str(MODELING.parent), str(Path.home())):  # noqa: S108  looked for, not used
        assert not [text for text in texts if place.encode() in text]
    assert [path.name for path in published.parent.iterdir()] == [published.name]


def test_published_code_is_the_source_with_other_imports(published):
    for path in published.glob("*.py"):
        (original,) = MODELING.rglob(path.name)
        header, *lines = path.read_text().splitlines()
        assert header.startswith("# Made by `mimo-hf publish` from mimo_hf ")
        assert original.relative_to(MODELING).as_posix() in header
        changed = set(lines) ^ set(original.read_text().splitlines())
        assert all(re.match(r"\s*from \.+[\w.]* import ", line) for line in changed)
        assert not re.search(r"^\s*from \.\.|mimo_hf\.modeling", "\n".join(lines), re.MULTILINE)


def test_the_auto_map_names_our_classes():
    for model_type, auto_map in AUTO_MAPS.items():
        for place in auto_map.values():
            module, name = place.split(".")
            found = getattr(importlib.import_module(f"mimo_hf.modeling.{model_type}.{module}"), name)
            assert getattr(found, "config_class", found).model_type == model_type


def test_front_matter_of_the_card(published):
    _, front, body = (published / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["license"] == "apache-2.0"
    assert fields["library_name"] == "transformers"
    assert fields["pipeline_tag"] == "text-generation"
    assert {"mimo", "mtp", "custom_code"} <= set(fields["tags"])
    assert "base_model" not in fields
    assert body.startswith("\n# MiMo-V2-Flash")


def test_the_card_has_the_numbers_of_the_run_and_of_the_weights(published, ours):
    card = (published / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card, re.MULTILINE))
    heads = sum(p.numel() for p in ours.model.mtp.parameters())
    trunk = sum(p.numel() for p in [*ours.parameters(), *ours.buffers()]) - heads
    buffers = sum(b.numel() for name, b in ours.named_buffers() if "inv_freq" in name)
    assert rows["parameters of the trunk"] == f"{trunk - buffers:,}"
    assert rows["parameters of the MTP heads"] == f"{heads:,} (2 heads)"
    assert rows["acceptance length (greedy)"] == "2.414"
    assert rows["acceptance length (sampled)"] == "1.5"
    assert rows["share of drafts accepted, by position"] == "0.75, 0.5"
    assert rows["rounds of draft and verification (greedy)"] == "1,200"
    assert rows["held-out loss, nats a token (trunk)"] == "1.235"
    assert rows["held-out loss, nats a token (head 0)"] == "2.5"
    assert not [name for name in rows if "loop" in name]
    assert "`python examples/pretrain_mimo.py --output_dir tiny`" in card
    assert "seed: 7" in card
    assert "torch 2.13.0" in card
    assert "something_else" not in card
    assert "not measured" not in card


def test_publishing_a_published_folder_gives_the_same_folder(published, tmp_path):
    assert contents(publish(published, tmp_path / "again")) == contents(published)


def make_official(checkpoint, folder):
    """The same model as FP8 shards with one tensor for each expert, the way the official weights are."""
    shutil.copytree(checkpoint, folder)
    tensors = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        if re.search(r"(q|k|v|gate|up|down)_proj\.weight$", name):
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
        else:
            tensors[name] = tensor if "bias" in name else tensor.bfloat16()
    shards = {"model_mtp.safetensors": {}, "model_0.safetensors": {}}
    for name, tensor in tensors.items():
        shards["model_mtp.safetensors" if ".mtp." in name else "model_0.safetensors"][name] = tensor
    for file, shard in shards.items():
        save_file(shard, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    kept = [
        name.removesuffix(".weight") for name in tensors if f"{name}_scale_inv" not in tensors and "weight" in name
    ]
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": kept}
    change_json(folder / "config.json", quantization_config=quantization)
    return folder


def test_fp8_shards_stay_as_they_are(checkpoint, tmp_path):
    official = make_official(checkpoint, tmp_path / "official")
    names = set(load_file(official / "model_0.safetensors"))
    assert any(re.search(r"experts\.3\.up_proj\.weight_scale_inv$", name) for name in names)
    out = publish(official, tmp_path / "out")
    before, after = contents(official), contents(out)
    for name in ("model_0.safetensors", "model_mtp.safetensors", "model.safetensors.index.json"):
        assert before[name] == after[name]


@pytest.mark.usefixtures("_without_loading")
def test_the_card_keeps_what_the_checkpoints_card_says(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    front = {
        "license": "mit",
        "base_model": "someone/trunk",
        "language": ["en"],
        "tags": ["trl", "mtp"],
        "author": "x",
    }
    (source / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\nold text")
    (source / "training_run.json").unlink()
    card = (publish(source, tmp_path / "out") / "README.md").read_text()
    fields = yaml.safe_load(card.split("---\n")[1])
    assert (fields["license"], fields["base_model"], fields["language"]) == ("mit", "someone/trunk", ["en"])
    assert fields["tags"] == ["mimo", "mtp", "speculative-decoding", "custom_code", "trl"]
    assert "author" not in fields
    assert "old text" not in card
    assert "not measured" in card


@pytest.mark.usefixtures("_without_loading")
def test_a_base_model_that_is_a_folder_is_left_out(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "README.md").write_text("---\nbase_model: /home/someone/runs/trunk\n---\n")
    assert "base_model" not in (publish(source, tmp_path / "out") / "README.md").read_text()


@pytest.mark.usefixtures("_without_loading")
def test_a_missing_tokenizer_is_a_warning(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.warns(UserWarning, match="has no tokenizer"):
        out = publish(source, tmp_path / "out")
    assert "none in this folder" in (out / "README.md").read_text()


@pytest.mark.usefixtures("_without_loading")
def test_overwrite_replaces_a_checkpoint_and_nothing_else(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    publish(checkpoint, out)  # an empty folder is no obstacle
    (out / "stale.safetensors").touch()
    with pytest.raises(FileExistsError, match=r"is not empty; name another folder or pass `overwrite=True`"):
        publish(checkpoint, out)
    assert (out / "stale.safetensors").exists()
    publish(checkpoint, out, overwrite=True)
    assert not (out / "stale.safetensors").exists()
    check_checkpoint(out)

    (out / ".git").mkdir()
    with pytest.raises(FileExistsError, match=r"has a \.git"):
        publish(checkpoint, out, overwrite=True)
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="no checkpoint folder"):
        publish(checkpoint, documents, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        publish(checkpoint, documents / "thesis.txt", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", "out"]


@pytest.mark.parametrize("place", [".", "inside", "inside/deeper", ".."])
def test_out_and_model_may_not_overlap(checkpoint, tmp_path, place):
    source = shutil.copytree(checkpoint, tmp_path / "parent" / "source")
    (tmp_path / "parent" / "config.json").touch()
    with pytest.raises(ValueError, match=r"must not overlap.*Name a folder beside it"):
        publish(source, source / place, overwrite=True)
    assert contents(source) == contents(checkpoint)


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "has no config.json"),
        (remove("model.safetensors"), "has neither model.safetensors nor"),
        (truncate, "model.safetensors .* is truncated or corrupt"),
        (lambda folder: change_json(folder / "config.json", num_mtp_layers=3), r"weights lack model\.mtp\.layers\.2\.\*"),
        (lambda folder: change_json(folder / "config.json", num_mtp_layers=0), "weights hold model.mtp.layers.0"),
        (lambda folder: change_json(folder / "config.json", model_type="mimo_v2"), "hysparse, mimo, mimo_v2_flash to have code to publish; got `mimo_v2`"),
        (lambda folder: (folder / "training_run.json").write_text("{"), "training_run.json is not JSON"),
        (lambda folder: (folder / "training_run.json").write_text("[]"), "training_run.json must hold a JSON object"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), r"README\.md must have front matter"),
        (lambda folder: change_json(folder / "config.json", num_hidden_layers=2, layer_types=None, mlp_layer_types=None),
         r"(?s)would not load: .*model\.layers\.2"),
        (lambda folder: change_json(folder / "config.json", vision_config={}), "would not load: .*later MiMo-V2 family"),
    ],
)  # fmt: skip
def test_a_bad_checkpoint_leaves_nothing_behind(checkpoint, tmp_path, spoil, message):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    spoil(source)
    with pytest.raises(ValueError, match=message) as caught:
        publish(source, tmp_path / "out")
    assert str(source) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_failure_leaves_the_old_folder_as_it_was(checkpoint, tmp_path, monkeypatch):
    out = shutil.copytree(checkpoint, tmp_path / "out")

    def fail(folder, source):
        raise CheckpointError("no")

    monkeypatch.setattr(publishing, "check_that_it_loads", fail)
    with pytest.raises(CheckpointError):
        publish(checkpoint, out, overwrite=True)

    monkeypatch.setattr(publishing, "check_that_it_loads", lambda folder, source: {})
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: fail(path, to) if path.name == "new" else rename(path, to))
    with pytest.raises(CheckpointError):
        publish(checkpoint, out, overwrite=True)
    assert contents(out) == contents(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("_without_loading")
def test_a_model_of_the_hub_is_looked_at_before_it_is_downloaded(checkpoint, tmp_path, monkeypatch):
    asked = []

    def download(model, revision, allow_patterns):
        asked.append((model, revision, "*.safetensors" in allow_patterns))
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    out = publish("someone/mimo", tmp_path / "out")
    assert asked == [("someone/mimo", None, False), ("someone/mimo", checkpoint.name, True)]
    assert "base_model: someone/mimo\n" in (out / "README.md").read_text()

    monkeypatch.delitem(AUTO_MAPS, "mimo_v2_flash")
    with pytest.raises(ValueError, match="to have code to publish"):
        publish("someone/mimo", tmp_path / "other")
    assert asked[2:] == [("someone/mimo", None, False)]


@pytest.mark.parametrize("model", ["no/such/folder/here", "nobody-at-all/nothing", Path("absent")])
def test_a_model_that_is_nowhere(tmp_path, model):
    with pytest.raises(FileNotFoundError, match=r"`model`: .*; give a checkpoint folder"):
        publish(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
