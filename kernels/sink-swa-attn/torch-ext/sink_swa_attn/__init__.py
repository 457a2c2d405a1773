"""Sliding-window attention with a learned sink per head, for training and decoding: Triton on CUDA, PyTorch elsewhere."""

from . import layers
from .attention import sink_swa_attention
from .reference import sink_swa_attention_reference
from .transformers_attention import flash_attn_forward, supports_flash_attn

__all__ = [
    "flash_attn_forward",
    "layers",
    "sink_swa_attention",
    "sink_swa_attention_reference",
    "supports_flash_attn",
]
