"""A tokenizer of one token a word, for the toy domains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"


def word_tokenizer(words: Sequence[str]) -> "PreTrainedTokenizerFast":
    """
    Splits at spaces. `<pad>`, which also stands for unknown words, is token 0, `<eos>` is token 1, then come the words.

    Padding is on the left, as generation needs it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [PAD, EOS, *(word for word in words if word not in (PAD, EOS))]
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError(f"`words` must be distinct; got {len(vocabulary) - len(set(vocabulary))} of them twice.")
    tokenizer = Tokenizer(models.WordLevel({word: token for token, word in enumerate(vocabulary)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=PAD, padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
