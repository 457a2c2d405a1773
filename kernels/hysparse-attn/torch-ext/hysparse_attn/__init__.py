"""HySparse's attention: a full layer that names each query's best blocks, and layers that read those only. Forward and backward."""

from . import layers
from .attention import block_sparse_attention, full_attention_with_block_scores, hysparse_decode
from .reference import block_sparse_attention_reference, full_attention_with_block_scores_reference

__all__ = [
    "block_sparse_attention",
    "block_sparse_attention_reference",
    "full_attention_with_block_scores",
    "full_attention_with_block_scores_reference",
    "hysparse_decode",
    "layers",
]
