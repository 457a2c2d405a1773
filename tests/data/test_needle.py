"""Needles in code: the answers, found again by reading the row; where they lie; and the text around them."""

import re

import pytest

from mimo_hf.data import needle_vocabulary, needles_in_code, stdlib_code

SIZES = {"length": 60, "keys": 5, "values": 3, "needles": 4}
WORDS = needle_vocabulary(5, 3)


def word(token):
    return chr(token) if token < 256 else WORDS[token - 256]


def test_every_question_is_answered_by_the_one_record_of_its_key():
    for row in needles_in_code(50, **SIZES):
        words = [word(token) for token in row["input_ids"]]
        asked = []
        for question, needle in zip(row["questions"], row["needles"], strict=True):
            key = re.fullmatch(r"<(k\d+)\?>", words[question])[1]
            records = [i for i, shown in enumerate(words) if shown.startswith(f"<{key}=")]
            assert records == [needle]
            assert words[question + 1] == "<" + words[needle].partition("=")[2]
            asked.append(key)
        assert len(set(asked)) == 4


def test_the_rest_of_a_row_is_consecutive_text_of_the_split():
    text = "\n".join(stdlib_code("held_out")["text"]).encode()
    for row in needles_in_code(10, **SIZES, split="held_out"):
        assert row["questions"] == [52, 54, 56, 58]
        pattern = b"".join(b"[\\s\\S]" if t >= 256 else re.escape(bytes([t])) for t in row["input_ids"][:52])
        assert sum(token >= 256 for token in row["input_ids"][:52]) == 4
        assert re.search(pattern, text)


@pytest.mark.parametrize(("depth", "place"), [(0, 0), (0.5, 26), (1, 51)])
def test_the_first_record_lies_at_the_depth_that_is_asked_for(depth, place):
    rows = needles_in_code(100, **SIZES, depth=depth)
    assert {row["needles"][0] for row in rows} == {place}
    assert all(len(set(row["needles"])) == 4 for row in rows)


def test_records_lie_anywhere_and_all_values_occur_alike():
    rows = needles_in_code(400, **SIZES)
    places = [place for row in rows for place in row["needles"]]
    assert set(places) == set(range(52))
    answers = [word(row["input_ids"][question + 1]) for row in rows for question in row["questions"]]
    for value in range(3):
        assert answers.count(f"<{value}>") / len(answers) == pytest.approx(1 / 3, abs=0.04)


def test_a_seed_gives_the_same_rows_again():
    assert needles_in_code(5, **SIZES, seed=3)[:] == needles_in_code(5, **SIZES, seed=3)[:]
    assert needles_in_code(5, **SIZES, seed=3)[:] != needles_in_code(5, **SIZES, seed=4)[:]


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"needles": 6}, "`needles=6` must be at most `keys=5`"),
        ({"length": 11}, "12 at least"),
        ({"length": 10**9}, "must not be more than"),
        ({"depth": 1.1}, "`depth` must lie between 0 and 1"),
        ({"num_rows": 0}, "`num_rows` must be at least 1"),
        ({"split": "test"}, "`split` must be one of"),
    ],
)
def test_rows_that_can_not_be_are_refused(sizes, named):
    with pytest.raises(ValueError, match=named):
        needles_in_code(**{"num_rows": 2, **SIZES, **sizes})
