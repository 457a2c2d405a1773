"""
The models under transformers' own tests. `transformers_models.py` lays this file into a folder beside them and runs it there.

Each family is a tester, with the attributes that transformers' mixins ask for, and a test case of all the mixins that are there.
"""

import functools
import importlib.util
import os
import unittest
from typing import Any

import torch
from transformers import (
    MiMoV2FlashConfig,
    MiMoV2FlashForCausalLM,
    MiMoV2FlashModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

import mimo_hf
from mimo_hf import HySparseConfig, HySparseForCausalLM, MiMoConfig, MiMoForCausalLM
from mimo_hf.modeling import mimo, mimo_v2_flash
from mimo_hf.modeling.hysparse import HySparseModel

common = importlib.import_module("tests.test_modeling_common")
mimo_hf.register()

# Transformers' mixins give labels to, and tell base models by, the classes of these tables.
OURS = {
    "MODEL_MAPPING_NAMES": {"hysparse": "HySparseModel", "mimo": "MiMoModel"},
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": {"hysparse": "HySparseForCausalLM", "mimo": "MiMoForCausalLM"},
}
for table, entries in OURS.items():
    setattr(common, table, {**getattr(common, table), **entries})


def mixin(module: str, name: str) -> type:
    """One of transformers' classes of tests, or an empty one where this folder has no such file."""
    if importlib.util.find_spec(f"tests.{module}") is None:
        return type(f"No{name}", (), {})
    return getattr(importlib.import_module(f"tests.{module}"), name)


SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "mlp_layer_types": ["dense", "sparse"],
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
V2_FLASH = {
    **SIZES,
    **EXPERTS,
    "head_dim": 24,
    "v_head_dim": 16,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 64,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5_000_000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    },
}
HYSPARSE = {
    **SIZES,
    "v_head_dim": 16,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 64,
    "sparse_block_size": 4,
    "sparse_topk_tokens": 8,
}


class Tester:
    """What transformers' mixins want to know of a model."""

    batch_size = 2
    seq_length = 7
    is_training = True
    sequence_classification_class = None
    question_answering_class = None
    token_classification_class = None

    def __init__(self, config_class, base_model_class, causal_lm_class, fields, left_padded=False):
        self.config_class = config_class
        self.base_model_class = base_model_class
        self.causal_lm_class = causal_lm_class
        self.left_padded = left_padded
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)
        self.all_model_classes = (base_model_class, causal_lm_class)

    def get_config(self):
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        """Row i has i + 1 tokens; padding is on the right, as in transformers' own testers, or on the left."""
        ids = common.ids_tensor([self.batch_size, self.seq_length], self.fields["vocab_size"])
        mask = torch.ones_like(ids).tril()
        return self.get_config(), {"input_ids": ids, "attention_mask": mask.flip(-1) if self.left_padded else mask}


DISTRIBUTED = {
    ("test_tensor_parallel_mixin", "TensorParallelTesterMixin"): "TP_DISTRIBUTED_TEST_MODEL_TYPES",
    ("test_expert_parallel_mixin", "ExpertParallelTesterMixin"): "EP_DISTRIBUTED_TEST_MODEL_TYPES",
    ("test_fsdp_mixin", "FSDPTesterMixin"): "FSDP_DISTRIBUTED_TEST_MODEL_TYPES",
}
MIXINS = [
    common.ModelTesterMixin,
    mixin("generation.test_utils", "GenerationTesterMixin"),
    mixin("test_training_mixin", "TrainingTesterMixin"),
]
if os.environ.get("PEER_DISTRIBUTED") == "1":
    for (source, name), allowed in DISTRIBUTED.items():
        MIXINS.append(mixin(source, name))
        if not MIXINS[-1].__name__.startswith("No"):
            # Transformers runs these for a few of its families only; here for all that have a plan.
            setattr(importlib.import_module(f"tests.{source}"), allowed, None)


class Adapted:
    """Tests and facts that transformers keeps in the test case of each model, or in `causal_lm_tester.py`."""

    model_tester: Any = None
    test_cpu_offload = test_disk_offload_bin = test_disk_offload_safetensors = True
    tester: functools.partial

    def setUp(self):
        self.model_tester = self.tester()
        self.all_model_classes = self.model_tester.all_model_classes

    def test_config(self):
        config_tester = mixin("test_configuration_common", "ConfigTester")
        config_tester(self, config_class=self.model_tester.config_class).run_common_tests()

    def _check_past_key_values_for_generate(self, batch_size, past_key_values, seq_length, config):
        types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        for layer, layer_type in zip(past_key_values.layers, types, strict=True):
            heads = config.num_key_value_heads
            if layer_type == "sliding_attention":
                # MiMo-V2-Flash has twice as many key-value heads in its sliding layers.
                heads = getattr(config, "swa_num_key_value_heads", None) or 2 * config.num_key_value_heads
            width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            value_width = getattr(config, "v_head_dim", None) or width
            assert layer.keys.shape == (batch_size, heads, seq_length, width)
            assert layer.values.shape == (batch_size, heads, seq_length, value_width)


ACCEPTS = "test_causal_lm_can_accept_training_kwargs"
setattr(Adapted, ACCEPTS, getattr(mixin("causal_lm_tester", "CausalLMModelTest"), ACCEPTS, None))


def case(name: str, *tester, by_layer_type: bool, **options) -> type:
    """
    A test case of all mixins.

    Args:
        tester, options: arguments of `Tester`.
        by_layer_type: rotary embeddings differ from one type of layers to the next. Tests of rotary scaling, which know one
            description a model, are then left out, as in transformers' own tests of MiMoV2Flash.
    """
    built = type(
        name, (Adapted, *MIXINS, unittest.TestCase), {"tester": functools.partial(Tester, *tester, **options)}
    )
    built.__module__ = __name__
    for test in dir(built):
        if by_layer_type and test.startswith("test_model_rope_scaling"):
            setattr(built, test, unittest.skip("rotary embeddings differ by layer type")(getattr(built, test)))
    return built


UpstreamMiMoV2FlashTest = case(
    "UpstreamMiMoV2FlashTest",
    MiMoV2FlashConfig,
    MiMoV2FlashModel,
    MiMoV2FlashForCausalLM,
    V2_FLASH,
    by_layer_type=True,
)
UpstreamQwen2Test = case("UpstreamQwen2Test", Qwen2Config, Qwen2Model, Qwen2ForCausalLM, SIZES, by_layer_type=False)
MiMoV2FlashTest = case(
    "MiMoV2FlashTest",
    mimo_hf.MiMoV2FlashConfig,
    mimo_v2_flash.MiMoV2FlashModel,
    mimo_hf.MiMoV2FlashForCausalLM,
    {**V2_FLASH, "num_mtp_layers": 1},
    by_layer_type=True,
)
MiMoTest = case("MiMoTest", MiMoConfig, mimo.MiMoModel, MiMoForCausalLM, SIZES, by_layer_type=False)
HYSPARSE_CLASSES = (HySparseConfig, HySparseModel, HySparseForCausalLM)
HySparseTest = case("HySparseTest", *HYSPARSE_CLASSES, HYSPARSE, by_layer_type=True, left_padded=True)
HySparseExpertsTest = case(
    "HySparseExpertsTest", *HYSPARSE_CLASSES, {**HYSPARSE, **EXPERTS}, by_layer_type=True, left_padded=True
)
