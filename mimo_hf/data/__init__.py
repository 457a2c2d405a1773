"""
Corpora, toy domains and training sets as `datasets.Dataset`s: offline, seeded, the same each time.

`pair_sum` (PairSum and DoubtSearch), `countdown` and `staged_programs` hold problems whose answers a few lines check.
`problem_filter` and `judge_set` make training sets from problems and from what models answered.
"""

from .countdown import countdown
from .judge_set import build_judge_set, length_auc
from .pair_sum import pair_sum_problems
from .problem_filter import decontaminate, drop_duplicates, keep_by_pass_rate
from .staged_programs import staged_programs
from .stdlib_code import held_out_files, is_held_out, stdlib_code

__all__ = [
    "build_judge_set",
    "countdown",
    "decontaminate",
    "drop_duplicates",
    "held_out_files",
    "is_held_out",
    "keep_by_pass_rate",
    "length_auc",
    "pair_sum_problems",
    "staged_programs",
    "stdlib_code",
]
