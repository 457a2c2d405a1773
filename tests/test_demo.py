"""The parts of `mimo-hf demo`: decoding token by token, printing, prompts, loading, and the numbers."""

import io
import logging
import math
import random
import re
import sysconfig
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from mimo_hf.data import is_held_out
from mimo_hf.demo.checkpoint import load, require_heads
from mimo_hf.demo.comparison import Comparison, Decoding, Run, about_loops, compare
from mimo_hf.demo.prompt import Prompt, first_tokens, held_out_prompt, read_beginning
from mimo_hf.demo.terminal import IncrementalDecoder, TokenPrinter, visible
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.metrics.repetition import repetition_period
from mimo_hf.modeling.mtp.mtp_statistics import MTPStatistics

PROMPT = Prompt("def f(x):\n", "a test")


@pytest.fixture(scope="module")
def random_model(random_checkpoint):
    return load(random_checkpoint)


@pytest.fixture(scope="module")
def constant_model(constant_checkpoint):
    return load(constant_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(random_model):
    return random_model.tokenizer


def terminal(**options):
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80, **options)


def pipe():
    return Console(file=io.StringIO(), width=80)


# Text from tokens


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語 🙂 text", "a\tb\n\n  c", "🙂🙂🙂", ""])
def test_incremental_text_adds_up_to_the_text(tokenizer, text):
    decoder = IncrementalDecoder(tokenizer, tokenizer("before ").input_ids)
    pieces = [decoder.add(token) for token in tokenizer(text).input_ids]
    assert "".join(pieces) + decoder.rest() == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_a_character_comes_with_the_last_of_its_bytes(tokenizer):
    decoder = IncrementalDecoder(tokenizer, [])
    assert [decoder.add(token) for token in tokenizer("é!🙂").input_ids] == ["", "é", "!", "", "", "", "🙂"]


@pytest.mark.parametrize("seed", range(20))
def test_incremental_text_of_random_bytes_is_what_python_decodes(tokenizer, seed):
    chance = random.Random(seed)
    data = bytes(chance.choice([chance.randrange(256), 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 65]) for _ in range(60))
    decoder = IncrementalDecoder(tokenizer, tokenizer("before").input_ids)
    symbols = byte_symbols()
    ids = [tokenizer.convert_tokens_to_ids(symbols[byte]) for byte in data]
    pieces = [decoder.add(token) for token in ids]
    assert "".join(pieces) + decoder.rest() == data.decode("utf-8", errors="replace")


def byte_symbols():
    """The character that byte-level BPE writes for each byte: printable Latin-1 as itself, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def test_bytes_that_are_no_text_are_not_held_back_for_ever(tokenizer):
    decoder = IncrementalDecoder(tokenizer, [])
    (bad,) = tokenizer.convert_tokens_to_ids([byte_symbols()[0xFF]])
    pieces = [decoder.add(bad) for _ in range(10)]
    assert "".join(pieces) == 7 * "\N{REPLACEMENT CHARACTER}"


def test_a_decoder_that_gives_a_replacement_for_each_byte():
    """As Llama's tokenizer does with its tokens <0x00> to <0xFF>."""

    class ByteFallback:
        def decode(self, ids, **options):
            try:
                return bytes(ids).decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    bytes(ids[: error.start]).decode("utf-8") + len(ids[error.start :]) * "\N{REPLACEMENT CHARACTER}"
                )

    decoder = IncrementalDecoder(ByteFallback(), list(b"ab"))
    assert [decoder.add(byte) for byte in "é🙂!".encode()] == ["", "é", "", "", "", "🙂", "!"]


def test_a_leading_space_is_kept_after_a_prompt():
    class SpaceEater:
        """Like SentencePiece tokenizers: the space of the first word is not decoded."""

        words = [" the", " cat", " sat"]

        def decode(self, ids, **options):
            return "".join(self.words[id] for id in ids).removeprefix(" ")

    decoder = IncrementalDecoder(SpaceEater(), [0])
    assert [decoder.add(1), decoder.add(2)] == [" cat", " sat"]


def test_control_characters_are_written_out():
    assert visible("a\x1b[31mb\r\x00\x7f\x9b2J\tc\n") == "a\\x1b[31mb\\x0d\\x00\\x7f\\x9b2J\tc\n"


# Printing


def stream(console, tokenizer, *chunks):
    printer = TokenPrinter(console, tokenizer, own="", accepted="bold green")
    printer.put(torch.tensor([tokenizer("prompt").input_ids]))
    for chunk in chunks:
        printer.put(torch.tensor([tokenizer(chunk).input_ids]))
    printer.end()
    return console.file.getvalue()


def test_all_but_the_last_token_of_a_chunk_are_marked(tokenizer):
    assert stream(terminal(), tokenizer, "abC", "D", "eF") == (
        "\x1b[1;32ma\x1b[0m\x1b[1;32mb\x1b[0mCD\x1b[1;32me\x1b[0mF\n"
    )


def test_without_a_terminal_nothing_is_marked(tokenizer):
    assert stream(pipe(), tokenizer, "abC", "D", "eF") == "abCDeF\n"


def test_the_prompt_is_not_repeated(tokenizer):
    assert "prompt" not in stream(pipe(), tokenizer, "x")


def test_text_is_printed_as_it_is(tokenizer):
    text = "\tx = [bold]d[0][/bold] :smile:" + 100 * "y" + "\n  z"
    assert stream(pipe(), tokenizer, text) == text + "\n"


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(tokenizer):
    assert stream(pipe(), tokenizer, "a\x1b]0;title\x07b") == "a\\x1b]0;title\\x07b\n"


# Prompts


def test_a_held_out_prompt_is_text_of_its_file_that_ends_with_a_def_line(tokenizer):
    for seed in range(20):
        prompt = held_out_prompt(tokenizer, 128, seed)
        name, first, last = re.fullmatch(r"(\S+) of Python 3\.\d+, lines (\d+) to (\d+)", prompt.source).groups()
        assert is_held_out(name)
        file_lines = Path(sysconfig.get_path("stdlib"), name).read_text(encoding="utf-8").splitlines(keepends=True)
        assert prompt.text == "".join(file_lines[int(first) - 1 : int(last)]).removesuffix("\n")
        assert prompt.text.splitlines()[-1].lstrip().startswith("def ")
        assert len(tokenizer(prompt.text).input_ids) <= 128


def test_the_seed_chooses_the_held_out_prompt(tokenizer):
    assert held_out_prompt(tokenizer, 64, 1) == held_out_prompt(tokenizer, 64, 1)
    assert held_out_prompt(tokenizer, 64, 1) != held_out_prompt(tokenizer, 64, 2)


def test_a_held_out_prompt_may_be_shorter_than_a_line(tokenizer):
    assert len(tokenizer(held_out_prompt(tokenizer, 3, 0).text).input_ids) == 3


def test_a_file_is_cut_after_a_line(tokenizer):
    assert first_tokens("one\ntwo\nthree", tokenizer, 12) == "one\ntwo"
    assert first_tokens("one\ntwo\nthree", tokenizer, 13) == "one\ntwo\nthree"
    assert first_tokens("one line", tokenizer, 3) == "one"
    assert first_tokens("éé", tokenizer, 3) == "é"


def test_prompts_end_before_a_line_break(tokenizer):
    """A lone break is not how text goes on: tokenizers join it with the indentation behind it."""
    assert first_tokens("one\n\n\n", tokenizer, 10) == "one"
    assert first_tokens("one\n\n\nthree", tokenizer, 8) == "one"
    assert not held_out_prompt(tokenizer, 64, 0).text.endswith("\n")


def test_only_the_beginning_of_a_file_is_read(tmp_path):
    (tmp_path / "long.txt").write_bytes(100_000 * b"a" + b"\xff")
    assert read_beginning(tmp_path / "long.txt", 2) == 128 * "a"


# Loading


def test_a_model_is_described_in_a_line(random_model):
    assert random_model.name == "tiny-random"
    assert (
        random_model.describe()
        == f"{random_model.model.num_parameters() / 1e6:.3g} million parameters, 3 MTP heads, float32 on cpu"
    )


def test_missing_and_extra_heads_of_a_hub_model_are_named(random_checkpoint, monkeypatch):
    """A folder is checked before it is loaded; a model of the Hub only shows it afterwards."""
    monkeypatch.setattr("mimo_hf.demo.checkpoint.check_checkpoint", lambda folder: None)
    config = random_checkpoint / "config.json"
    text = config.read_text()
    try:
        config.write_text(text.replace('"num_mtp_layers": 3', '"num_mtp_layers": 4'))
        missing = load(random_checkpoint)
        config.write_text(text.replace('"num_mtp_layers": 3', '"num_mtp_layers": 2'))
        extra = load(random_checkpoint)
        config.write_text(text.replace('"num_mtp_layers": 3', '"num_mtp_layers": 0'))
        headless = load(random_checkpoint)
    finally:
        config.write_text(text)
    assert len(missing.missing_heads) == 14
    with pytest.raises(
        ValueError, match=r"untrained: model\.mtp\.layers\.3\.eh_proj\.weight, .*model\.mtp\.layers\.3\."
    ):
        require_heads(missing)
    assert len(extra.extra_heads) == 14
    assert all(key.startswith("model.mtp.layers.2.") for key in extra.extra_heads)
    require_heads(extra)
    with pytest.raises(ValueError, match="set `num_mtp_layers` in its"):
        require_heads(headless)


def test_loading_leaves_the_libraries_verbosity_alone(random_checkpoint):
    own = logging.getLogger("mimo_hf")
    before = own.level, transformers_logging.get_verbosity()
    try:
        own.setLevel(logging.INFO)
        transformers_logging.set_verbosity_info()
        load(random_checkpoint)
        assert (own.level, transformers_logging.get_verbosity()) == (logging.INFO, logging.INFO)
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        own.setLevel(before[0])
        transformers_logging.set_verbosity(before[1])


# Numbers


def test_a_comparison_adds_up():
    statistics = MTPStatistics(num_heads=2, drafted=[2, 2, 2, 1], accepted=[2, 0, 1, 1], forward_passes=6)
    comparison = Comparison(Run([5] * 10, [4.0, 1.0, 2.0]), Run([5] * 10, [1.0]), statistics, sampled=False)
    assert comparison.lines() == [
        "outputs equal: yes",
        "tokens: 10",
        "acceptance length: 2.00",
        "acceptance by position: 0.75 0.33",
        "tokens per second, plain: 5.0",
        "tokens per second, MTP: 10.0",
        "speed ratio: 2.00",
        "forward passes: 6 instead of 10 (saved 40.0 %)",
    ]


@pytest.mark.parametrize(("plain", "mtp", "index"), [([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3], 2), ([1], [2], 0)])
def test_the_first_difference_is_named(plain, mtp, index):
    statistics = MTPStatistics(num_heads=1, forward_passes=len(mtp))
    comparison = Comparison(Run(plain, [1.0]), Run(mtp, [1.0]), statistics, sampled=False)
    assert comparison.first_difference == index
    lines = comparison.lines()
    assert "outputs equal: no" in lines
    assert f"first difference: token {index + 1}" in lines


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 6, 40])
def test_drafts_that_are_always_right_save_three_passes_in_four(constant_model, num_tokens):
    comparison = compare(pipe(), constant_model, PROMPT, Decoding(max_new_tokens=num_tokens))
    assert comparison.outputs_equal is True
    assert comparison.statistics.forward_passes == 1 + math.ceil((num_tokens - 1) / 4)
    assert len(comparison.plain.tokens) == len(comparison.mtp.tokens) == num_tokens


def test_drafts_that_are_never_right_save_nothing(random_model):
    comparison = compare(pipe(), random_model, PROMPT, Decoding(max_new_tokens=30))
    assert comparison.outputs_equal is True
    assert comparison.statistics.forward_passes >= 28


def test_printing_is_not_part_of_the_time(constant_model, monkeypatch):
    put = TokenPrinter._print

    def slow(self, pieces):
        time.sleep(0.02)
        put(self, pieces)

    monkeypatch.setattr(TokenPrinter, "_print", slow)
    started = time.perf_counter()
    comparison = compare(pipe(), constant_model, PROMPT, Decoding(max_new_tokens=40))
    whole_s = time.perf_counter() - started
    assert comparison.plain.times_s[0] + comparison.mtp.times_s[0] < whole_s - 50 * 0.02


def test_each_repeat_is_timed(constant_model):
    comparison = compare(pipe(), constant_model, PROMPT, Decoding(max_new_tokens=4), repeats=3)
    assert len(comparison.plain.times_s) == len(comparison.mtp.times_s) == 3


def test_the_seed_makes_samples_repeatable(constant_model):
    decoding = Decoding(max_new_tokens=12, sample=True, seed=5)
    once, again = (compare(pipe(), constant_model, PROMPT, decoding) for _ in range(2))
    assert (once.plain.tokens, once.mtp.tokens) == (again.plain.tokens, again.mtp.tokens)
    other = compare(pipe(), constant_model, PROMPT, Decoding(max_new_tokens=12, sample=True, seed=6))
    assert other.plain.tokens != once.plain.tokens
    assert once.outputs_equal is None


# What the demo shows a stranger


def test_the_text_of_the_demo_is_held_out_and_its_continuation_ends_in_no_loop():
    checkpoint = load(bundled("mimo-v2-flash"))
    prompt = held_out_prompt(checkpoint.tokenizer, 128, seed=0)
    assert is_held_out(prompt.source.partition(" of Python")[0])
    comparison = compare(pipe(), checkpoint, prompt, Decoding(max_new_tokens=160))
    assert comparison.outputs_equal
    assert repetition_period(comparison.mtp.tokens) is None
    assert about_loops(comparison, bundled("mimo-v2-flash")).startswith(
        "loops: this text ends in none; of 48 held-out texts"
    )


def test_a_loop_is_named_with_its_length(tmp_path):
    run = Run([5, 6, 7] * 30, [1.0])
    comparison = Comparison(run, run, MTPStatistics(num_heads=3, forward_passes=30), sampled=False)
    assert about_loops(comparison, tmp_path) == "loops: this text ends in one of 3 tokens, easy to draft"
