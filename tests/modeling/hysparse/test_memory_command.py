"""`mimo-hf hysparse memory` as a user meets it."""

import json
import re

import pytest

from mimo_hf import cli
from mimo_hf.modeling.command import human_bytes
from mimo_hf.modeling.hysparse import HySparseConfig


def memory(*options):
    return cli.main(["hysparse", "memory", *map(str, options)])


def refused(capsys, *options):
    assert memory(*options) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_the_table_has_a_line_a_context_with_even_columns(capsys):
    assert memory("--model", "hysparse-80b-a3b", "--context", "128,4k,32k", "--kv-cache-dtype", "fp8") == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = [line for line in output.out.splitlines() if re.match(r" *(context|[\d,]+) ", line)]
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[1:]] == ["128", "4,096", "32,768"]
    assert re.search(r"32,768 +1\.64 GB +173\.54 MB +173\.54 MB +9\.47 +9\.47", output.out)


def test_json_holds_the_numbers_of_the_published_sizes(tmp_path, capsys):
    config = HySparseConfig.from_preset("hysparse-80b-a3b", head_dim=192, v_head_dim=128)
    config.save_pretrained(tmp_path)
    options = (
        "--context",
        "1M",
        "--kv-cache-dtype",
        "fp8",
        "--hybrid-full-layers",
        9,
        "--out",
        tmp_path / "memory.json",
    )
    for name in (tmp_path, tmp_path / "config.json"):
        assert memory("--model", name, *options) == 0
        assert "6.72 GB" in capsys.readouterr().out
        found = json.loads((tmp_path / "memory.json").read_text())
        assert found["command"].startswith("mimo-hf hysparse memory --model ")
        (row,) = found["rows"]
        assert row["context"] == 1 << 20
        assert round(row["hysparse_bytes"] / 1e9, 2) == 6.72
        assert round(row["hybrid_swa_bytes"] / 1e9, 2) == 12.09


@pytest.mark.parametrize("typed", [["--config", "hysparse-7b"], ["--config=hysparse-7b"]])
def test_the_old_name_of_the_model_still_works_and_says_the_new_one(capsys, typed):
    assert memory("--model", "hysparse-7b", "--context", "4k") == 0
    expected = capsys.readouterr().out
    assert memory(*typed, "--context", "4k") == 0
    assert capsys.readouterr() == (
        expected,
        "mimo-hf hysparse memory: warning: --config is now --model; the old name goes with the next release.\n",
    )


def test_a_batch_holds_as_much_as_its_sequences(tmp_path, capsys):
    sizes = []
    for batch in (1, 3):
        assert memory("--model", "hysparse-7b", "--context", "5", "--batch", batch, "--out", tmp_path / "m.json") == 0
        sizes.append(json.loads((tmp_path / "m.json").read_text())["rows"][0]["hysparse_bytes"])
    assert sizes[1] == 3 * sizes[0] == 3 * 36 * 5 * 8 * 256 * 2


def test_what_can_not_be_is_refused_in_one_line(tmp_path, capsys):
    assert "--model must be a preset (hysparse-7b, hysparse-80b-a3b)" in refused(capsys, "--model", "hysparse-1t")
    assert "checkpoint folder or its config.json" in refused(capsys, "--model", tmp_path)
    assert "a model that can be loaded from the Hub; got nobody/nothing" in refused(
        capsys, "--model", "nobody/nothing"
    )
    (tmp_path / "config.json").write_text("{")
    assert "config.json that is JSON" in refused(capsys, "--model", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "must name its `model_type`" in refused(capsys, "--model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "'llama'" in refused(capsys, "--model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hysparse", "sparse_topk_tokens": 100}')
    assert "`sparse_topk_tokens=100`" in refused(capsys, "--model", tmp_path)


@pytest.mark.parametrize("context", ["", "0", "4K", "4k,", "-4k", "1.5k", "k"])
def test_lengths_that_are_none_are_refused(capsys, context):
    assert f"got {context!r}" in refused(capsys, "--model", "hysparse-7b", f"--context={context}")
    assert f"got {context!r}" in refused(capsys, "--model", "hysparse-7b", "--context", context)


def test_json_is_printed_in_place_of_the_table(capsys):
    assert memory("--model", "hysparse-7b", "--context", "4k", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["full_bytes"] == 4096 * 36 * 8 * 256 * 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--kv-cache-dtype", "int4"), "--kv-cache-dtype must be one of fp8, bf16, fp16, fp32; got 'int4'"),
        (("--dtype", "fp8"), "--dtype is now --kv-cache-dtype"),
        (("--batch", 0), "--batch must be a whole number of at least 1"),
    ],
)
def test_options_that_can_not_be_are_refused(capsys, options, named):
    assert named in refused(capsys, "--model", "hysparse-7b", *options)


def test_more_full_layers_than_layers_are_refused(capsys):
    assert "`full_layers`" in refused(capsys, "--model", "hysparse-7b", "--hybrid-full-layers", 37)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (6_718_095_360, "6.72 GB"), (5.5e15, "5500.00 TB")],
)
def test_bytes_are_in_units_of_a_thousand(number, text):
    assert human_bytes(number) == text
