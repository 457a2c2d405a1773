"""SALE (arXiv 2505.24179): sparse prefill for any causal language model, `attn_implementation="sale"`."""

from .attention_sale import sale_attention_forward, watch_tiles
from .configuration_sale import SaleConfig, read_thresholds
from .masks import sale_mask
from .report_sale import LayerReport, SaleReport, sale_report, use_sale

__all__ = [
    "LayerReport",
    "SaleConfig",
    "SaleReport",
    "read_thresholds",
    "sale_attention_forward",
    "sale_mask",
    "sale_report",
    "use_sale",
    "watch_tiles",
]


def __dir__() -> list[str]:
    return __all__
