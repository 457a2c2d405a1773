"""The tokenizer of the toy domains: ids, padding, unknown words, and that it survives being saved."""

import pytest

from mimo_hf.data.word_tokenizer import word_tokenizer


def test_ids_are_in_the_words_order_and_texts_come_back():
    tokenizer = word_tokenizer(["a", "7", "n"])
    batch = tokenizer(["a 7 n", "7"], padding=True)
    assert batch["input_ids"] == [[2, 3, 4], [0, 0, 3]]
    assert batch["attention_mask"] == [[1, 1, 1], [0, 0, 1]]
    assert set(batch) == {"input_ids", "attention_mask"}
    assert tokenizer.batch_decode([[2, 3, 1]], skip_special_tokens=True) == ["a 7"]
    assert tokenizer("b").input_ids == [tokenizer.pad_token_id] == [0]
    assert tokenizer.eos_token_id == 1


def test_a_word_twice_is_refused():
    with pytest.raises(ValueError, match="`words` must be distinct; got 1 of them twice"):
        word_tokenizer(["a", "b", "a"])


def test_it_is_loaded_as_it_was_saved(tmp_path):
    from transformers import AutoTokenizer

    word_tokenizer(["a", "b"]).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("b a").input_ids == [3, 2]
    assert (loaded.padding_side, loaded.pad_token, loaded.eos_token) == ("left", "<pad>", "<eos>")
