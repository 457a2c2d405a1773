"""A published folder loads, with its MTP heads, where mimo_hf does not exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mimo_hf.hub.publish import AUTO_MAPS, publish
from mimo_hf.modeling.mimo_v2_flash.configuration_mimo_v2_flash import LOST_HEADS

from .conftest import MODELING, contents

pytestmark = pytest.mark.usefixtures("_quick_loads")


PROMPT = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 3, 5, 8]])


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
