"""Corpora as `datasets.Dataset` builders, made from what every installation has: offline and the same each time."""

from .stdlib_code import held_out_files, is_held_out, stdlib_code

__all__ = ["held_out_files", "is_held_out", "stdlib_code"]
