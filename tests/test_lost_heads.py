"""transformers' own MiMo-V2-Flash drops MTP heads; whoever has imported mimo_hf is told so, before anything is lost."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashForCausalLM as TheirForCausalLM

import mimo_hf
from mimo_hf import MiMoV2FlashConfig, MiMoV2FlashForCausalLM
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.mimo_v2_flash.configuration_mimo_v2_flash import LOST_HEADS

CHECKPOINT = bundled("mimo-v2-flash")
MESSAGE = "drops the 3 MTP heads of this checkpoint; call `mimo_hf.register"

# (what is run, the class that loads, whether it loses the heads); each list in a process of its own, since the order counts.
ORDERS = {
    "mimo_hf first": [
        ("import mimo_hf, transformers", "transformers.AutoModelForCausalLM", True),
        ("", "transformers.AutoModel", True),
        ("mimo_hf.register()", "transformers.AutoModelForCausalLM", False),
        ("", "mimo_hf.MiMoV2FlashForCausalLM", False),
        ("", "transformers.MiMoV2FlashForCausalLM", True),
    ],
    "mimo_hf after the class": [
        (
            "import transformers; transformers.MiMoV2FlashModel; import mimo_hf",
            "transformers.AutoModelForCausalLM",
            True,
        ),
        ("from mimo_hf import MiMoV2FlashConfig", "mimo_hf.MiMoV2FlashForCausalLM", False),
    ],
}
LOAD = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = %s.from_pretrained({str(CHECKPOINT)!r})
warned = len([warning for warning in caught if {MESSAGE!r} in str(warning.message)])
print(warned, not any("mtp" in name for name, _ in model.named_parameters()))
"""


@pytest.mark.parametrize("order", ORDERS)
def test_one_warning_where_the_heads_are_lost_and_none_where_they_are_not(order):
    code = "".join(f"{first}\n{LOAD % cls}" for first, cls, _ in ORDERS[order])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"{int(lost)} {lost}" for *_, lost in ORDERS[order]]


def test_a_checkpoint_without_heads_is_no_reason_to_warn(tmp_path):
    config = MiMoV2FlashConfig.from_pretrained(CHECKPOINT)
    config.num_mtp_layers = 0
    MiMoV2FlashForCausalLM(config).save_pretrained(tmp_path)
    assert "mtp_mlp_layer_types" not in json.loads((tmp_path / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TheirForCausalLM.from_pretrained(tmp_path)


def test_the_error_of_the_class_without_heads_says_how_to_load_them():
    with pytest.warns(UserWarning, match=MESSAGE):
        model = TheirForCausalLM.from_pretrained(CHECKPOINT)
    prompt = torch.tensor([[5, 6, 7, 8]])
    model.generate(prompt, max_new_tokens=2, do_sample=False)
    with pytest.raises(Exception, match="mlp_layer_types") as caught:
        model.generate(prompt, max_new_tokens=2, do_sample=False, use_mtp=True)
    assert LOST_HEADS in str(caught.value)


def test_our_classes_do_not_see_the_note(tmp_path):
    config = MiMoV2FlashConfig.from_pretrained(CHECKPOINT)
    assert not hasattr(config, "mtp_layer_types")
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["mtp_mlp_layer_types"] == LOST_HEADS
    again = MiMoV2FlashConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert not hasattr(again, "mtp_mlp_layer_types")


def test_trl_names_the_lost_heads_of_a_model_given_as_a_path():
    """TRL takes the class that config.json names; mimo_hf is imported, as its trainers are."""
    trl = pytest.importorskip("trl.trainer.utils")
    mimo_hf.register()
    with pytest.warns(UserWarning, match=MESSAGE):
        model = trl.create_model_from_path(str(CHECKPOINT))
    assert type(model) is not AutoModelForCausalLM.from_pretrained(CHECKPOINT).__class__
