"""Word and character error rate of transcriptions, spelt alike before they are compared."""

import functools
import re
from collections.abc import Callable, Sequence

import datasets
import evaluate

_INPUTS = """
Args:
    predictions: transcriptions.
    references: what was said; with at least one word each once they are normalised.
    normalize: whether both are spelt alike first, by `normalize_transcript`.
Returns:
    {name}: {units} substituted, deleted and inserted, over those of the references: 0 is perfect, more than 1 is possible.
    substitutions, deletions, insertions, hits: counts of {units}.
"""


class _ErrorRate(evaluate.Metric):
    """A metric over jiwer's alignment."""

    _rate: str
    _units: str

    def _info(self):
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=f"{self._rate.replace('_', ' ')} of transcriptions".capitalize(),
            citation="",
            inputs_description=_INPUTS.format(name=self._rate, units=self._units),
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], normalize: bool = True
    ) -> dict[str, float | int]:
        if not len(references):
            raise ValueError("`references` must hold what was said; got none.")
        spell: Callable[[str], str] = normalize_transcript if normalize else _one_line
        said, heard = [spell(text) for text in references], [spell(text) for text in predictions]
        for index, text in enumerate(said):
            if not text:
                raise ValueError(
                    f"`references` must have words; got {references[index]!r} at {index}. Leave recordings of silence out."
                )
        found = self._align(said, heard)
        counts = {name: getattr(found, name) for name in ("substitutions", "deletions", "insertions", "hits")}
        wrong = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        right = counts["substitutions"] + counts["deletions"] + counts["hits"]
        return {self._rate: wrong / right, **counts}

    def _align(self, said: list[str], heard: list[str]):
        raise NotImplementedError


class WordErrorRate(_ErrorRate):
    """`WordErrorRate().compute(predictions=heard, references=said)`."""

    _rate, _units = "word_error_rate", "words"

    def _align(self, said: list[str], heard: list[str]):
        return _jiwer().process_words(said, heard)


class CharacterErrorRate(_ErrorRate):
    """`CharacterErrorRate().compute(predictions=heard, references=said)`."""

    _rate, _units = "character_error_rate", "characters"

    def _align(self, said: list[str], heard: list[str]):
        return _jiwer().process_characters(said, heard)


def normalize_transcript(text: str) -> str:
    """
    English as Whisper's evaluation spells it (arXiv 2212.04356, appendix C): lower case, numbers as digits, no punctuation, no fillers,
    contractions written out; line breaks are spaces.
    """
    words = _normalizer()(_one_line(text)).split()
    return " ".join(word for word in words if any(map(str.isalnum, word)))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()  # to jiwer a line break is part of a word


@functools.cache
def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer(english_spelling_mapping={})


def _jiwer():
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("error rates of transcriptions need jiwer: pip install 'mimo-hf[audio]'") from error
    return jiwer
