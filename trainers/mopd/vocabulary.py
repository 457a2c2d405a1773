"""Whether a teacher's tokens are the student's."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
REMEDY = "A teacher with other tokens needs another method: see TRL's GOLD trainer (trl.experimental.gold)."


class Vocabulary(NamedTuple):
    """
    Attributes:
        size: rows of the head.
        tokens: ids by token; None where no tokenizer is known.
        owner: for error messages.
    """

    size: int
    tokens: dict[str, int] | None
    owner: str

    @classmethod
    def of_teacher(cls, model: Any, name: str, trust_remote_code: bool = False) -> "Vocabulary":
        """`model`: without its adapters' wrapper. Its tokenizer is looked for in the folder, or on the Hub, where it was loaded from."""
        place = getattr(model.config, "_name_or_path", "") or ""
        return cls(_rows(model), _tokens(place, model.config, trust_remote_code), f"the teacher {name!r}")


def _rows(model: Any) -> int:
    return model.get_output_embeddings().weight.shape[0]


def _tokens(place: str, config: Any, trust_remote_code: bool) -> dict[str, int] | None:
    folder, commit = Path(place or "?"), getattr(config, "_commit_hash", None)
    settings: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if any((folder / file).is_file() for file in TOKENIZER_FILES):
        return AutoTokenizer.from_pretrained(folder, **settings).get_vocab()  # nosec B615  # a folder on this machine
    if commit is None or folder.is_dir():
        return None
    try:  # a model of the Hub
        return AutoTokenizer.from_pretrained(place, revision=commit, **settings).get_vocab()  # nosec B615  # the model's own revision
    except (OSError, ValueError):
        return None  # it has none


def common_size(student: Vocabulary, teacher: Vocabulary, name: str, estimator: str) -> int:
    """
    The number of tokens that both have, the first ones of each.

    Raises:
        ValueError: a token has another id, or the sizes differ and nothing shows that only the padding does.
    """
    if student.tokens is not None and teacher.tokens is not None and student.tokens != teacher.tokens:
        differing = sorted(
            token
            for token in student.tokens.keys() | teacher.tokens.keys()
            if student.tokens.get(token) != teacher.tokens.get(token)
        )
        raise ValueError(
            f"`teachers[{name!r}]` must have the student's tokenizer; got one in which {len(differing)} tokens differ, such as "
            f"{differing[0]!r} (student {student.tokens.get(differing[0])}, teacher {teacher.tokens.get(differing[0])}). {REMEDY}"
        )
    if student.size == teacher.size:
        return student.size
    smaller = min(student.size, teacher.size)
    known = student.tokens is not None and teacher.tokens is not None
    if not known or max(student.tokens.values()) >= smaller:  # type: ignore[union-attr]
        raise ValueError(
            f"`teachers[{name!r}]` must have the student's vocabulary; got {teacher.size} and {student.size} tokens, and no "
            f"equal tokenizers that show that only their padding differs. {REMEDY}"
        )
    if estimator == "sampled":  # each log-probability is over its model's own table
        return teacher.size
    logger.warning(
        "The tables of the student and the teacher %s are padded to %d and %d tokens: both distributions are taken over the "
        "first %d.",
        name,
        student.size,
        teacher.size,
        smaller,
    )
    return smaller
