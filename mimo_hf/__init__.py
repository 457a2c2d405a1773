"""MiMo's published research as Hugging Face plug-ins. Names load on first use; `register()` tells transformers of them."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "HySparseCache": "mimo_hf.modeling.hysparse",
    "HySparseConfig": "mimo_hf.modeling.hysparse",
    "HySparseForCausalLM": "mimo_hf.modeling.hysparse",
    "HySparseModel": "mimo_hf.modeling.hysparse",
    "MTPStatistics": "mimo_hf.modeling.mtp",
    "MiMoConfig": "mimo_hf.modeling.mimo",
    "MiMoForCausalLM": "mimo_hf.modeling.mimo",
    "MiMoModel": "mimo_hf.modeling.mimo",
    "MiMoV2FlashConfig": "mimo_hf.modeling.mimo_v2_flash",
    "MiMoV2FlashForCausalLM": "mimo_hf.modeling.mimo_v2_flash",
    "MiMoV2FlashModel": "mimo_hf.modeling.mimo_v2_flash",
    "RouterBiasUpdateCallback": "mimo_hf.modeling.mimo_v2_flash",
    "record_routing": "mimo_hf.modeling.mimo_v2_flash",
    "replay_routing": "mimo_hf.modeling.mimo_v2_flash",
    "sequence_balance_loss": "mimo_hf.modeling.mimo_v2_flash",
}

if TYPE_CHECKING:
    from mimo_hf.modeling.hysparse import HySparseCache, HySparseConfig, HySparseForCausalLM, HySparseModel
    from mimo_hf.modeling.mimo import MiMoConfig, MiMoForCausalLM, MiMoModel
    from mimo_hf.modeling.mimo_v2_flash import (
        MiMoV2FlashConfig,
        MiMoV2FlashForCausalLM,
        MiMoV2FlashModel,
        RouterBiasUpdateCallback,
        record_routing,
        replay_routing,
        sequence_balance_loss,
    )
    from mimo_hf.modeling.mtp import MTPStatistics


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mimo_hf' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def register():
    """
    Puts the MiMo models into transformers' Auto classes: MiMo-7B and HySparse, which transformers does not know, and
    MiMo-V2-Flash in place of the built-in one that drops MTP heads.

    Call it once before `AutoModelForCausalLM.from_pretrained`; calling it again changes nothing.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from mimo_hf.modeling.hysparse import HySparseConfig, HySparseForCausalLM, HySparseModel
    from mimo_hf.modeling.mimo import MiMoConfig, MiMoForCausalLM, MiMoModel
    from mimo_hf.modeling.mimo_v2_flash import (
        MiMoV2Config,
        MiMoV2FlashConfig,
        MiMoV2FlashForCausalLM,
        MiMoV2FlashModel,
    )

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


__all__ = [
    "HySparseCache",
    "HySparseConfig",
    "HySparseForCausalLM",
    "HySparseModel",
    "MTPStatistics",
    "MiMoConfig",
    "MiMoForCausalLM",
    "MiMoModel",
    "MiMoV2FlashConfig",
    "MiMoV2FlashForCausalLM",
    "MiMoV2FlashModel",
    "RouterBiasUpdateCallback",
    "__version__",
    "record_routing",
    "register",
    "replay_routing",
    "sequence_balance_loss",
]
