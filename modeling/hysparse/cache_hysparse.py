"""What HySparse keeps of the past: the keys and values of a few full layers, and a window a sparse layer."""

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicSlidingWindowLayer

from .configuration_hysparse import HySparseConfig


class HySparseCache(DynamicCache):
    """
    transformers' dynamic cache, with its bytes and the last selection to look at.

    `generate` works with transformers' own caches; pass this one as `past_key_values` to see inside.

    Args:
        config: of the model.
        record_selection: keep the blocks that the last forward pass selected, in `last_selection`.
    """

    def __init__(self, config: HySparseConfig, record_selection: bool = False):
        super().__init__(config=config)
        self.kv_source_layers = config.kv_source_layers
        self.record_selection = record_selection
        self.last_selection: dict[int, torch.Tensor] = {}

    def kv_source(self, layer: int) -> int:
        """The full layer whose keys and values layer `layer` reads over the whole context."""
        return self.kv_source_layers[layer]

    def nbytes_by_layer(self) -> list[int]:
        """Bytes that each layer holds between two steps, padding tokens included."""
        return [_bytes_held(layer.keys) + _bytes_held(layer.values) for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes that all layers hold."""
        return sum(self.nbytes_by_layer())


def _bytes_held(states: torch.Tensor | None) -> int:
    return 0 if states is None else states.untyped_storage().nbytes()


def release_past(cache: Cache, layer: int):
    """
    Frees what a sliding layer no longer needs. transformers keeps the last tokens as a view, and with it the keys of the
    whole prompt until the next step.
    """
    kept = cache.layers[layer]
    if _is_a_part(kept):
        kept.keys, kept.values = kept.keys.clone(), kept.values.clone()


def _is_a_part(kept: CacheLayerMixin) -> bool:
    if torch.compiler.is_exporting():  # a program's results are its own
        return False
    if torch.compiler.is_compiling():  # a traced tensor has no bytes; static layers keep their place in memory
        return isinstance(kept, DynamicSlidingWindowLayer)
    return isinstance(kept.keys, torch.Tensor) and kept.keys.untyped_storage().nbytes() > kept.keys.nbytes


__all__ = ["HySparseCache", "release_past"]
