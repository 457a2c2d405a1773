"""MiMo's published research as Hugging Face plug-ins. Names load on first use; `register()` tells transformers of them."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .lost_heads import watch

__version__ = "0.1.0"

_HOME = {
    "HySparseCache": "mimo_hf.modeling.hysparse",
    "HySparseConfig": "mimo_hf.modeling.hysparse",
    "HySparseForCausalLM": "mimo_hf.modeling.hysparse",
    "HySparseModel": "mimo_hf.modeling.hysparse",
    "MTPStatistics": "mimo_hf.modeling.mtp.mtp_statistics",
    "MiMoAudioConfig": "mimo_hf.modeling.mimo_audio",
    "MiMoAudioForConditionalGeneration": "mimo_hf.modeling.mimo_audio",
    "MiMoAudioFeatureExtractor": "mimo_hf.modeling.mimo_audio",
    "MiMoAudioProcessor": "mimo_hf.modeling.mimo_audio",
    "MiMoAudioTokenizerConfig": "mimo_hf.modeling.mimo_audio",
    "MiMoAudioTokenizerModel": "mimo_hf.modeling.mimo_audio",
    "MiMoConfig": "mimo_hf.modeling.mimo",
    "MiMoForCausalLM": "mimo_hf.modeling.mimo",
    "MiMoModel": "mimo_hf.modeling.mimo",
    "MiMoV2FlashConfig": "mimo_hf.modeling.mimo_v2_flash",
    "MiMoV2FlashForCausalLM": "mimo_hf.modeling.mimo_v2_flash",
    "MiMoV2FlashModel": "mimo_hf.modeling.mimo_v2_flash",
    "RouterBiasUpdateCallback": "mimo_hf.modeling.mimo_v2_flash",
    "SaleConfig": "mimo_hf.modeling.sale",
    "record_routing": "mimo_hf.modeling.mimo_v2_flash",
    "replay_routing": "mimo_hf.modeling.mimo_v2_flash",
    "sale_report": "mimo_hf.modeling.sale",
    "sequence_balance_loss": "mimo_hf.modeling.mimo_v2_flash",
    "use_sale": "mimo_hf.modeling.sale",
}

if TYPE_CHECKING:
    from mimo_hf.modeling.hysparse import HySparseCache, HySparseConfig, HySparseForCausalLM, HySparseModel
    from mimo_hf.modeling.mimo import MiMoConfig, MiMoForCausalLM, MiMoModel
    from mimo_hf.modeling.mimo_audio import (
        MiMoAudioConfig,
        MiMoAudioFeatureExtractor,
        MiMoAudioForConditionalGeneration,
        MiMoAudioProcessor,
        MiMoAudioTokenizerConfig,
        MiMoAudioTokenizerModel,
    )
    from mimo_hf.modeling.mimo_v2_flash import (
        MiMoV2FlashConfig,
        MiMoV2FlashForCausalLM,
        MiMoV2FlashModel,
        RouterBiasUpdateCallback,
        record_routing,
        replay_routing,
        sequence_balance_loss,
    )
    from mimo_hf.modeling.mtp.mtp_statistics import MTPStatistics
    from mimo_hf.modeling.sale import SaleConfig, sale_report, use_sale


_ROOMS = ("data", "oam", "rewards", "scheduler", "trainers")


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    # `from mimo_hf import scheduler` asks for the attribute before the module.
    is_own = name.startswith("_") or find_spec(f"mimo_hf.{name}") is not None
    room = None if is_own else _room_of(name)
    if room is not None:
        # An AttributeError would reach nobody who wrote `from mimo_hf import ...`: Python replaces its message.
        raise ImportError(f"mimo_hf has models and `register` only; write `from mimo_hf.{room} import {name}`.")
    raise AttributeError(f"module 'mimo_hf' has no attribute {name!r}")


def _room_of(name: str) -> str | None:
    """The room that has the name. Their faces are lazy, so that looking at them imports next to nothing."""
    for room in _ROOMS:
        if name in import_module(f"mimo_hf.{room}").__all__:
            return room
    return None


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def register():
    """
    Puts the MiMo models into transformers' Auto classes: MiMo-7B, HySparse and MiMo-Audio, which transformers does not
    know, and MiMo-V2-Flash in place of the built-in one that drops MTP heads. Any causal language model then takes `attn_implementation="sale"`.

    Call it once before `AutoModelForCausalLM.from_pretrained`; calling it again changes nothing.
    """
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioTokenization,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
        AutoModelForTextToWaveform,
        AutoProcessor,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    from mimo_hf.modeling.hysparse import HySparseConfig, HySparseForCausalLM, HySparseModel
    from mimo_hf.modeling.mimo import MiMoConfig, MiMoForCausalLM, MiMoModel
    from mimo_hf.modeling.mimo_audio import (
        MiMoAudioConfig,
        MiMoAudioFeatureExtractor,
        MiMoAudioForConditionalGeneration,
        MiMoAudioProcessor,
        MiMoAudioTokenizerConfig,
        MiMoAudioTokenizerModel,
    )
    from mimo_hf.modeling.mimo_v2_flash import (
        MiMoV2Config,
        MiMoV2FlashConfig,
        MiMoV2FlashForCausalLM,
        MiMoV2FlashModel,
    )

    import_module("mimo_hf.modeling.mimo_audio.pipelines").register_pipelines()
    import_module("mimo_hf.modeling.sale")  # puts its attention into transformers' tables
    AutoConfig.register("hysparse", HySparseConfig, exist_ok=True)
    AutoModel.register(HySparseConfig, HySparseModel, exist_ok=True)
    AutoModelForCausalLM.register(HySparseConfig, HySparseForCausalLM, exist_ok=True)
    AutoConfig.register("mimo", MiMoConfig, exist_ok=True)
    AutoModel.register(MiMoConfig, MiMoModel, exist_ok=True)
    AutoModelForCausalLM.register(MiMoConfig, MiMoForCausalLM, exist_ok=True)
    AutoConfig.register("mimo_v2_flash", MiMoV2FlashConfig, exist_ok=True)
    AutoConfig.register("mimo_v2", MiMoV2Config, exist_ok=True)
    AutoModel.register(MiMoV2FlashConfig, MiMoV2FlashModel, exist_ok=True)
    AutoModelForCausalLM.register(MiMoV2FlashConfig, MiMoV2FlashForCausalLM, exist_ok=True)
    AutoConfig.register("mimo_audio", MiMoAudioConfig, exist_ok=True)
    AutoModelForMultimodalLM.register(MiMoAudioConfig, MiMoAudioForConditionalGeneration, exist_ok=True)
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["mimo_audio"] = "MiMoAudioForConditionalGeneration"  # what pipelines ask
    AutoProcessor.register(MiMoAudioConfig, MiMoAudioProcessor, exist_ok=True)
    AutoModelForTextToWaveform.register(MiMoAudioConfig, MiMoAudioForConditionalGeneration, exist_ok=True)
    AutoConfig.register("mimo_audio_tokenizer", MiMoAudioTokenizerConfig, exist_ok=True)
    AutoModel.register(MiMoAudioTokenizerConfig, MiMoAudioTokenizerModel, exist_ok=True)
    AutoModelForAudioTokenization.register(MiMoAudioTokenizerConfig, MiMoAudioTokenizerModel, exist_ok=True)
    AutoFeatureExtractor.register(MiMoAudioTokenizerConfig, MiMoAudioFeatureExtractor, exist_ok=True)


watch()

__all__ = [
    "HySparseCache",
    "HySparseConfig",
    "HySparseForCausalLM",
    "HySparseModel",
    "MTPStatistics",
    "MiMoAudioConfig",
    "MiMoAudioFeatureExtractor",
    "MiMoAudioForConditionalGeneration",
    "MiMoAudioProcessor",
    "MiMoAudioTokenizerConfig",
    "MiMoAudioTokenizerModel",
    "MiMoConfig",
    "MiMoForCausalLM",
    "MiMoModel",
    "MiMoV2FlashConfig",
    "MiMoV2FlashForCausalLM",
    "MiMoV2FlashModel",
    "RouterBiasUpdateCallback",
    "SaleConfig",
    "__version__",
    "record_routing",
    "register",
    "replay_routing",
    "sale_report",
    "sequence_balance_loss",
    "use_sale",
]
