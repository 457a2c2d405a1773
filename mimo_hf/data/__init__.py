"""Corpora and toy tasks as `datasets.Dataset` builders, made from what every installation has: offline and the same each time."""

from .needle import needle_vocabulary, needles_in_code
from .stdlib_code import held_out_files, is_held_out, stdlib_code
from .tagged_chain import relayed_chain, tagged_chain

__all__ = [
    "held_out_files",
    "is_held_out",
    "needle_vocabulary",
    "needles_in_code",
    "relayed_chain",
    "stdlib_code",
    "tagged_chain",
]
