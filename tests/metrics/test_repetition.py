import pytest

from mimo_hf.metrics.repetition import repetition_period


@pytest.mark.parametrize("period", [1, 2, 3, 7, 20])
def test_a_loop_is_found_with_its_shortest_period(period):
    block = list(range(period))
    copies = 12 if period == 1 else 6
    assert repetition_period([99, 98, 97, *block * copies]) == period


def test_a_loop_cut_in_the_middle_of_a_copy_is_a_loop():
    assert repetition_period([1, 2, 3, 4, 5] * 4 + [1, 2]) == 5


def test_text_that_only_looks_alike_is_no_loop():
    assert repetition_period([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 6, 7]) is None
    assert repetition_period(list(range(100))) is None


def test_a_few_equal_tokens_are_no_loop():
    """Indentation and underlines repeat a token now and then."""
    assert repetition_period([5, 6, *[7] * 11]) is None
    assert repetition_period([5, 6, *[7] * 12]) == 1


def test_a_loop_that_has_ended_is_no_loop():
    assert repetition_period([1, 2, 3] * 10 + [8, 9, 10, 11]) is None


def test_short_and_empty_texts_are_no_loops():
    assert repetition_period([]) is None
    assert repetition_period([1, 1]) is None


def test_one_copy_is_refused():
    with pytest.raises(ValueError, match="repeats"):
        repetition_period([1, 2], repeats=1)
