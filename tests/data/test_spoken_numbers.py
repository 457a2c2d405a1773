"""Numbers in words, and a synthesiser that reads them."""

import pytest

from mimo_hf.data import number_sentences, spoken_numbers
from mimo_hf.data.spoken_numbers import TENS, UNITS, in_words

WORDS = {word: number for number, word in enumerate(UNITS)} | {word: 10 * n for n, word in enumerate(TENS, start=2)}


def value(words):
    """By adding up, another way than the sentences were made."""
    return sum(WORDS[word] for word in words.split())


def test_each_number_has_its_words():
    assert [value(in_words(number)) for number in range(100)] == list(range(100))
    assert in_words(40) == "forty"
    assert in_words(21) == "twenty one"
    assert in_words(13) == "thirteen"
    assert len({in_words(number) for number in range(100)}) == 100


def test_sentences_are_distinct_seeded_and_of_one_split():
    train, test = number_sentences("train", 900), number_sentences("test", 200)
    assert len(set(train)) == 900
    assert len(set(test)) == 200
    assert not set(train) & set(test)
    assert train == number_sentences("train", 900)
    assert train != number_sentences("train", 900, seed=1)
    assert {word for sentence in train for word in sentence.split()} == set(WORDS)
    ones = number_sentences("train", 60, most=1)
    assert {value(sentence) for sentence in ones} <= set(range(100))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`split` must be one of"):
        number_sentences("dev", 3)
    with pytest.raises(ValueError, match="`most` must be at least 1; got 0"):
        number_sentences("train", 3, most=0)
    with pytest.raises(
        ValueError, match="`num_sentences` must not be more than there are of at most 1 numbers; got 101"
    ):
        number_sentences("train", 101, most=1)
    with pytest.raises(ValueError, match="`voices` must be a list with at least one; got 'en-us'"):
        spoken_numbers("train", 3, voices="en-us")


@pytest.mark.needs("espeak-ng")
def test_they_are_read_by_voices_that_are_drawn():
    rows = spoken_numbers("test", 12, voices=("en-us", "en-gb+f3"))
    assert rows["text"] == number_sentences("test", 12)
    assert {speaker.partition(" at ")[0] for speaker in rows["speaker"]} == {"en-us", "en-gb+f3"}
    seconds = [len(audio["array"]) / audio["sampling_rate"] for audio in rows["audio"]]
    words = [len(text.split()) for text in rows["text"]]
    # 130 to 170 words a minute, and a pause at the end
    assert all(0.2 * count < length < 0.7 * count + 1 for count, length in zip(words, seconds, strict=True))
    again = spoken_numbers("test", 12, voices=("en-us", "en-gb+f3"))
    assert [audio["array"].tolist() for audio in again["audio"]] == [
        audio["array"].tolist() for audio in rows["audio"]
    ]
