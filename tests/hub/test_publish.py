"""A published folder loads, with its MTP heads, where mimo_hf does not exist; and it is written whole or not at all."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mimo_hf.hub import publish as publishing
from mimo_hf.hub.checkpoints import CheckpointError, check_checkpoint
from mimo_hf.hub.publish import AUTO_MAPS, publish
from mimo_hf.modeling.mimo_v2_flash.configuration_mimo_v2_flash import LOST_HEADS

from .conftest import change_json, contents

MODELING = Path(__file__).parents[2] / "modeling"
pytestmark = pytest.mark.usefixtures("_quick_loads")

PROMPT = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 3, 5, 8]])
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

# Runs where mimo_hf can't be imported. What it finds goes to a file, which the tests below read.
STRANGER = """
import sys

class NoMimo:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mimo_hf":
            raise ImportError("mimo_hf is not installed here")

sys.meta_path.insert(0, NoMimo())
folder, prompt, result = sys.argv[1:]

import json, re
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

try:
    import mimo_hf
except ImportError as error:
    found = {"mimo_hf": str(error)}

prompt = torch.load(prompt)
options = {"trust_remote_code": True}
model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
found["wrong keys"] = [str(key) for keys in info.values() for key in keys]
found["classes"] = [
    f"{cls.__module__.split('.')[0]} {cls.__name__}"
    for cls in (type(model), type(AutoModel.from_pretrained(folder, **options)), type(AutoConfig.from_pretrained(folder, **options)))
]
with torch.no_grad():
    found["logits"] = model(prompt).logits
    found["mtp_logits"] = model.mtp_logits(prompt)
found["greedy"] = model.generate(prompt, max_new_tokens=24, do_sample=False)
found["greedy with MTP"] = model.generate(prompt, max_new_tokens=24, do_sample=False, use_mtp=True)
found["statistics"] = model.mtp_statistics.to_dict()
found["text"] = AutoTokenizer.from_pretrained(folder).decode(
    AutoTokenizer.from_pretrained(folder, **options)("def main():").input_ids
)

(snippet,) = re.findall(r"## Use without mimo_hf.*?```python\\n(.*?)```", open(f"{folder}/README.md").read(), re.DOTALL)
names = {}
exec(snippet.replace("path/to/this/folder", folder), names)
found["card"] = names["model"].mtp_statistics.acceptance_length

model.save_pretrained(f"{result}-saved-again")
for trust in (None, False):
    built_in = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
    found[f"trust {trust}"] = (type(built_in).__module__.split(".")[0], hasattr(built_in.model, "mtp"))
for name, fields in {"built-in with MTP": {}, "built-in without our note": {"mtp_layer_types": None}}.items():
    vars(built_in.config).update(fields)
    try:
        built_in.generate(prompt, use_mtp=True)
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
found["origins"] = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
torch.save(found, result)
"""


@pytest.fixture(scope="module")
def stranger(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    torch.save(PROMPT, folder / "prompt.pt")
    command = [sys.executable, "-c", STRANGER, str(published), "prompt.pt", str(folder / "result.pt")]
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return torch.load(folder / "result.pt") | {"saved again": folder / "result.pt-saved-again"}


@pytest.fixture(scope="module")
def ours(checkpoint):
    from mimo_hf import MiMoV2FlashForCausalLM

    return MiMoV2FlashForCausalLM.from_pretrained(checkpoint)


def test_the_stranger_has_no_mimo_hf(stranger):
    assert stranger["mimo_hf"] == "mimo_hf is not installed here"
    assert not [origin for origin in stranger["origins"] if Path(origin).is_relative_to(MODELING)]


def test_every_auto_class_gives_the_published_code(stranger):
    names = ["MiMoV2FlashForCausalLM", "MiMoV2FlashModel", "MiMoV2FlashConfig"]
    assert stranger["classes"] == [f"transformers_modules {name}" for name in names]
    assert stranger["wrong keys"] == []


@torch.no_grad()
def test_logits_of_trunk_and_heads_are_ours(stranger, ours):
    torch.testing.assert_close(stranger["logits"], ours(PROMPT).logits, rtol=0, atol=1e-6)
    assert len(stranger["mtp_logits"]) == 2
    for theirs, expected in zip(stranger["mtp_logits"], ours.mtp_logits(PROMPT), strict=True):
        torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-6)


def test_mtp_decoding_works_and_changes_no_token(stranger, ours):
    assert stranger["greedy with MTP"].tolist() == stranger["greedy"].tolist()
    assert stranger["greedy"].tolist() == ours.generate(PROMPT, max_new_tokens=24, do_sample=False).tolist()
    assert stranger["greedy"].shape == (1, PROMPT.shape[1] + 24)
    statistics = stranger["statistics"]
    assert statistics["rounds"] > 0
    assert 1 <= statistics["acceptance_length"] <= 3


def test_the_tokenizer_and_the_snippet_of_the_card_work(stranger):
    assert "".join(stranger["text"].split()) == "defmain():"
    assert 1 <= stranger["card"] <= 3


def test_without_trust_transformers_takes_its_own_class_and_drops_the_heads(stranger):
    assert stranger["trust None"] == stranger["trust False"] == ("transformers", False)


@pytest.mark.parametrize("way", ["built-in with MTP", "built-in without our note"])
def test_what_it_then_says_is_on_the_page_of_troubles(stranger, way):
    """The first message has our own sentence; the second is upstream's, of checkpoints that we have not saved."""
    page = (MODELING.parent / "docs" / "troubleshooting.md").read_text()
    titles = re.findall(r"^### (.*)", page, re.MULTILINE)
    if way == "built-in with MTP":
        assert LOST_HEADS in stranger[way]
        assert any(all(part in stranger[way] for part in title.split(" ... ")) for title in titles)
    else:
        assert stranger[way].removeprefix("ValueError: ") in titles


def test_a_model_that_was_loaded_and_saved_keeps_its_code(stranger, published):
    again = contents(stranger["saved again"])
    assert {name for name in again if name.endswith(".py")} == {path.name for path in published.glob("*.py")}
    assert json.loads(again["config.json"])["auto_map"] == AUTO_MAPS["mimo_v2_flash"]
    before, after = (load_file(folder / "model.safetensors") for folder in (published, stranger["saved again"]))
    assert before.keys() == after.keys()


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
    with pytest.raises(ValueError, match="overlap; name a folder beside it"):
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
        (lambda folder: change_json(folder / "config.json", model_type="mimo_v2"), "`mimo_v2`; known are: hysparse, mimo, mimo_v2_flash"),
        (lambda folder: (folder / "training_run.json").write_text("{"), "training_run.json is not JSON"),
        (lambda folder: (folder / "training_run.json").write_text("[]"), "training_run.json must hold a JSON object"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), r"README\.md can't be read"),
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
    with pytest.raises(ValueError, match="no code to publish"):
        publish("someone/mimo", tmp_path / "other")
    assert asked[2:] == [("someone/mimo", None, False)]


@pytest.mark.parametrize("model", ["no/such/folder/here", "nobody-at-all/nothing", Path("absent")])
def test_a_model_that_is_nowhere(tmp_path, model):
    with pytest.raises(FileNotFoundError, match=r"`model`: .*; give a checkpoint folder"):
        publish(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


MIMO = """
import sys

sys.modules["mimo_hf"] = None
import torch
from transformers import AutoModelForCausalLM

folder, result = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
prompts = torch.tensor([[3, 14, 15, 9], [0, 2, 6, 5]])
mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
found = {"wrong keys": [str(key) for keys in info.values() for key in keys], "mtp_logits": model.mtp_logits(prompts)}
for use_mtp in (None, True):
    found[use_mtp] = model.generate(prompts, attention_mask=mask, max_new_tokens=20, do_sample=False, use_mtp=use_mtp)
torch.save(found, result)
"""


def found_by_a_stranger(model, script, tmp_path):
    """The folder that is published of a model, and what a script saves that loads it where mimo_hf is not there."""
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.warns(UserWarning, match="no tokenizer"):
        folder = publish(tmp_path / "checkpoint", tmp_path / "published")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, str(folder), "found.pt"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = torch.load(tmp_path / "found.pt")
    assert found["wrong keys"] == []
    return folder, found


def test_mimo_7b_is_published_with_its_mtp_layers(tmp_path):
    from mimo_hf import MiMoConfig, MiMoForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
    model = MiMoForCausalLM(MiMoConfig(**shape)).eval()
    _, found = found_by_a_stranger(model, MIMO, tmp_path)
    assert torch.equal(found[True], found[None])
    with torch.no_grad():
        expected = model.mtp_logits(torch.tensor([[3, 14, 15, 9], [0, 2, 6, 5]]))
    torch.testing.assert_close(found["mtp_logits"], expected, rtol=0, atol=1e-6)


HYSPARSE = """
import sys

sys.modules["mimo_hf"] = None
import torch
from transformers import AutoModelForCausalLM

folder, result = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
ids = torch.arange(60).view(2, 30)
found = {"wrong keys": [str(key) for keys in info.values() for key in keys], "logits": model(ids).logits.detach()}
torch.save(found, result)
"""


def test_hysparse_is_published_with_its_code(tmp_path):
    from mimo_hf import HySparseConfig, HySparseForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sparse_block_size": 4, "sparse_topk_tokens": 8}
    model = HySparseForCausalLM(HySparseConfig(**shape)).eval()
    folder, found = found_by_a_stranger(model, HYSPARSE, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(torch.arange(60).view(2, 30)).logits, rtol=0, atol=1e-6)
    card = (folder / "README.md").read_text()
    assert "parameters of the MTP heads" not in card
    assert "- sparse-attention" in card
