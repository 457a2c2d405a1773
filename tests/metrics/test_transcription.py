"""Error rates against an edit distance of our own, and the spelling that they share."""

import random

import pytest

from mimo_hf.metrics.transcription import CharacterErrorRate, WordErrorRate, normalize_transcript


def edit_distance(said, heard):
    """Levenshtein's table, row by row."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, start=1):
        above, row[0] = row[0], i
        for j, b in enumerate(heard, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def test_rates_are_edit_distances_over_what_was_said():
    rng = random.Random(0)
    texts = [[" ".join(rng.choices("abcd", k=rng.randint(1, 8))) for _ in range(40)] for _ in range(2)]
    said, heard = texts
    words = WordErrorRate().compute(predictions=heard, references=said, normalize=False)
    characters = CharacterErrorRate().compute(predictions=heard, references=said, normalize=False)
    wrong = sum(edit_distance(a.split(), b.split()) for a, b in zip(said, heard, strict=True))
    assert words["word_error_rate"] == pytest.approx(wrong / sum(len(a.split()) for a in said))
    assert words["substitutions"] + words["deletions"] + words["insertions"] == wrong
    wrong = sum(map(edit_distance, said, heard))
    assert characters["character_error_rate"] == pytest.approx(wrong / sum(map(len, said)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Press 1,\nthen the pound key.", "press one then the pound key"),
        ("twenty-one", "21"),
        ("It's  the third", "it is the 3rd"),
        ("um, hello", "hello"),
    ],
)
def test_the_same_words_spelt_otherwise_are_no_error(one, other):
    assert normalize_transcript(one) == normalize_transcript(other)
    assert WordErrorRate().compute(predictions=[one], references=[other])["word_error_rate"] == 0


def test_a_line_break_ends_a_word():
    found = WordErrorRate().compute(predictions=["go\nforward"], references=["go forward"], normalize=False)
    assert found["word_error_rate"] == 0
    assert found["hits"] == 2


def test_silence_heard_counts_all_words_and_silence_said_is_refused():
    assert WordErrorRate().compute(predictions=[""], references=["go forward"])["deletions"] == 2
    with pytest.raises(ValueError, match=r"`references` must have words; got '\.\.\.' at 1"):
        WordErrorRate().compute(predictions=["a", "b"], references=["a", "..."])
    with pytest.raises(ValueError, match="`references` must hold what was said; got none"):
        CharacterErrorRate().compute(predictions=[], references=[])
