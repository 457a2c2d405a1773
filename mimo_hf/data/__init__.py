"""
Corpora, toy domains and training sets as `datasets.Dataset`s: offline, seeded, the same each time.

`pair_sum` (PairSum and DoubtSearch), `linear_equations`, `countdown` and `staged_programs` hold problems whose answers a few lines
check; `symbol_tasks` are small domains, a teacher each; `tagged_chain` and `needle` ask for what lies far back. `problem_filter`
and `judge_set` make training sets from problems and from what models answered. `speech` reads recordings that Debian packages ship,
`spoken_numbers` has numbers read by a synthesiser's voices.
"""

from .countdown import countdown
from .judge_set import build_judge_set, length_auc
from .linear_equations import linear_equation_problems
from .needle import needle_vocabulary, needles_in_code
from .pair_sum import pair_sum_problems
from .problem_filter import decontaminate, drop_duplicates, drop_unverifiable, keep_by_pass_rate
from .speech import asterisk_prompts, espeak_speech, pocketsphinx_clips, with_decoded_audio
from .spoken_numbers import number_sentences, spoken_numbers
from .staged_programs import staged_programs
from .stdlib_code import held_out_files, is_held_out, stdlib_code
from .symbol_tasks import symbol_task
from .tagged_chain import relayed_chain, tagged_chain
from .word_tokenizer import word_tokenizer

__all__ = [
    "asterisk_prompts",
    "build_judge_set",
    "countdown",
    "decontaminate",
    "drop_duplicates",
    "drop_unverifiable",
    "espeak_speech",
    "held_out_files",
    "is_held_out",
    "keep_by_pass_rate",
    "length_auc",
    "linear_equation_problems",
    "needle_vocabulary",
    "needles_in_code",
    "number_sentences",
    "pair_sum_problems",
    "pocketsphinx_clips",
    "relayed_chain",
    "spoken_numbers",
    "staged_programs",
    "stdlib_code",
    "symbol_task",
    "tagged_chain",
    "with_decoded_audio",
    "word_tokenizer",
]


def __dir__() -> list[str]:
    return __all__
