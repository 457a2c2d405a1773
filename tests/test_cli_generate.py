"""`mimo-hf demo` and `mimo-hf generate` as a user meets them: what they print, and what they say about bad input."""

import json
import re
import shutil
import sysconfig

import pytest

from mimo_hf import cli

from ._cli import ESCAPE, SHORT, generate, refused, values

ACCEPTED = "\x1b[1;32m!\x1b[0m"


pytestmark = pytest.mark.usefixtures("_no_colour_settings")


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


# What it prints


def test_generate_compares_plain_and_mtp_decoding(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", "def f(x):", *SHORT) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.count("\ndef f(x):" + 13 * "!" + "\n") == 2
    found = values(output.out)
    ratio = float(found.pop("speed ratio"))
    speeds = [float(found.pop(f"tokens per second, {way}")) for way in ("plain", "MTP")]
    assert ratio == pytest.approx(speeds[1] / speeds[0], rel=0.02)
    assert found == {
        "outputs equal": "yes",
        "tokens": "13",
        "acceptance length": "4.00",
        "acceptance by position": "1.00 1.00 1.00",
        "forward passes": "4 instead of 13 (saved 69.2 %)",
        "loops": "this text ends in one of 1 tokens, easy to draft",
    }


def test_the_table_and_the_lines_agree(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", "x", *SHORT) == 0
    output = capsys.readouterr().out
    rows = dict(re.findall(r"^  (\w[\w ]*?)  +(.*?) *$", output, flags=re.MULTILINE))
    found = values(output)
    assert rows["tokens"].split() == ["13", "13"]
    assert rows["forward passes"].split() == ["13", "4"]
    assert rows["acceptance length"] == found["acceptance length"]
    assert rows["acceptance by position"] == found["acceptance by position"]
    assert rows["tokens per second"].split() == [found[f"tokens per second, {way}"] for way in ("plain", "MTP")]


def test_demo_continues_a_held_out_file_with_the_bundled_checkpoint(capsys):
    assert cli.main(["demo", "--max-new-tokens", "60"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("mimo-v2-flash: ")
    assert values(output)["outputs equal"] == "yes"
    assert float(values(output)["acceptance length"]) > 1.5
    assert re.search(
        r"^\d+ tokens: [\w/]+\.py of Python 3\.\d+, lines \d+ to \d+, never seen by the model$", output, re.MULTILINE
    )
    assert sysconfig.get_path("stdlib") not in output


def test_generate_claims_nothing_about_what_a_model_has_seen(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, *SHORT) == 0
    assert "seen" not in capsys.readouterr().out


def test_a_file_is_continued_from_its_beginning(constant_checkpoint, tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("first line\nsecond [red]line\nthird line\n")
    assert generate(constant_checkpoint, "--file", str(file), "--prompt-tokens", "30", *SHORT) == 0
    output = capsys.readouterr().out
    assert "first line\nsecond [red]line\n\n" in output
    assert output.count("\nsecond [red]line!!!") == 2
    assert "27 tokens: the beginning of" in output


def test_no_mtp_prints_the_continuation_alone(constant_checkpoint, headless_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", "x", "--no-mtp", *SHORT) == 0
    assert capsys.readouterr() == (13 * "!" + "\n", "")
    assert generate(headless_checkpoint, "--prompt", "x", "--no-mtp", *SHORT) == 0


def test_json_holds_the_numbers_and_where_they_come_from(constant_checkpoint, tmp_path, capsys):
    file = tmp_path / "run.json"
    options = ["--prompt", "x y", "--seed", "7", "--repeats", "3", "--out", str(file), *SHORT]
    assert generate(constant_checkpoint, *options) == 0
    found = values(capsys.readouterr().out)
    report = json.loads(file.read_text())
    assert report["command"].startswith("mimo-hf generate --model ")
    assert "--prompt 'x y'" in report["command"]
    assert report["seed"] == 7
    assert set(report["versions"]) == {"mimo_hf", "python", "torch", "transformers"}
    assert report["device"].startswith("cpu (")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report["date"])
    assert report["outputs_equal"] is True
    assert len(report["plain"]["times_s"]) == len(report["mtp"]["times_s"]) == 3
    assert report["mtp"]["forward_passes"] == 4
    assert f"{report['mtp']['tokens_per_second']:.1f}" == found["tokens per second, MTP"]


def test_json_is_printed_in_place_of_the_report(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", "x", "--json", *SHORT) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outputs_equal"] is True
    assert report["mtp"]["forward_passes"] == 4


def test_json_has_null_where_nothing_was_drafted(constant_checkpoint, tmp_path, capsys):
    file = tmp_path / "run.json"
    assert generate(constant_checkpoint, "--prompt", "x", "--max-new-tokens", "1", "--out", str(file)) == 0
    assert values(capsys.readouterr().out)["acceptance length"] == "nan"
    assert json.loads(file.read_text())["mtp"]["acceptance_length"] is None


def test_samples_are_not_compared(constant_checkpoint, capsys):
    options = ["--prompt", "x", "--do-sample", "--temperature", "0.8", "--top-p", "0.9", *SHORT]
    assert generate(constant_checkpoint, *options) == 0
    assert values(capsys.readouterr().out)["outputs equal"].startswith("not compared")


def test_outputs_that_differ_are_an_error(constant_checkpoint, capsys, monkeypatch):
    from mimo_hf.demo import comparison

    generate_tokens = comparison.generate

    def one_token_wrong(checkpoint, inputs, decoding, use_mtp, printer):
        run = generate_tokens(checkpoint, inputs, decoding, use_mtp, printer)
        if use_mtp:
            run.tokens[4] += 1
        return run

    monkeypatch.setattr(comparison, "generate", one_token_wrong)
    assert generate(constant_checkpoint, "--prompt", "x", *SHORT) == 1
    found = values(capsys.readouterr().out)
    assert found["outputs equal"] == "no"
    assert found["first difference"] == "token 5"


# Colours


def test_accepted_drafts_are_coloured_on_a_terminal(constant_checkpoint, capsys, terminal):
    assert generate(constant_checkpoint, "--prompt", "x", *SHORT) == 0
    plain, mtp = capsys.readouterr().out.split("MTP decoding")
    assert ACCEPTED not in plain
    mtp = mtp.partition("result")[0]
    assert f"x{ESCAPE}[0m!{3 * (3 * ACCEPTED + '!')}\n" in mtp
    assert "accepted drafts" in mtp


@pytest.mark.parametrize("options", [[], ["--no-color"]])
def test_no_escape_sequence_without_colours(random_checkpoint, capsys, request, options):
    if options:
        request.getfixturevalue("terminal")
    assert generate(random_checkpoint, "--prompt", "x", *options, "--max-new-tokens", "40") == 0
    output = capsys.readouterr().out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", output)
    assert "accepted drafts" not in output


def test_svg_shows_the_colours_without_a_terminal(constant_checkpoint, tmp_path, capsys):
    picture = tmp_path / "demo.svg"
    assert generate(constant_checkpoint, "--prompt", "x", "--svg", str(picture), *SHORT) == 0
    assert ESCAPE not in capsys.readouterr().out
    assert "<svg" in picture.read_text()
    assert "outputs&#160;equal:&#160;yes" in picture.read_text()


# Bad input


def test_a_checkpoint_without_heads_says_how_to_get_them(headless_checkpoint, capsys):
    line = refused(capsys, "generate", "--model", headless_checkpoint, "--prompt", "x")
    assert "no MTP heads" in line
    assert "replicate_mtp_heads" in line
    assert "--no-mtp" in line


def changed(checkpoint, folder, **changes):
    """A copy of a checkpoint with another config.json."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_mtp_layers": 4}, r"lack model\.mtp\.layers\.3\."),
        ({"num_mtp_layers": 2}, r"hold model\.mtp\.layers\.2\."),
        ({"hidden_size": 32}, r"lm_head\.weight must be \[257, 32\] by config.json; got \[257, 16\]"),
        ({"num_hidden_layers": 3, "layer_types": 3 * ["full_attention"]}, "`mlp_layer_types` names 2 layers"),
        ({"model_type": "zzz"}, "model type `zzz`"),
        ({"model_type": "mimo_v2"}, "later MiMo-V2 family"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights(random_checkpoint, tmp_path, capsys, changes, named):
    folder = changed(random_checkpoint, tmp_path / "changed", **changes)
    assert re.search(named, refused(capsys, "generate", "--model", folder, "--prompt", "x"))


def test_a_trunk_that_lacks_tensors(random_checkpoint, tmp_path, capsys):
    changes = {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "dense"],
    }
    folder = changed(random_checkpoint, tmp_path / "changed", **changes)
    assert "model.layers.2.mlp.up_proj.weight" in refused(capsys, "generate", "--model", folder, "--prompt", "x")


def test_truncated_weights(random_checkpoint, tmp_path, capsys):
    folder = changed(random_checkpoint, tmp_path / "truncated")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = refused(capsys, "generate", "--model", folder, "--prompt", "x")
    assert "model.safetensors" in line
    assert "truncated" in line


def test_a_checkpoint_without_a_tokenizer(random_checkpoint, tmp_path, capsys):
    folder = changed(random_checkpoint, tmp_path / "mute")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refused(capsys, "generate", "--model", folder, "--prompt", "x")


def test_a_folder_that_is_no_checkpoint(tmp_path, capsys):
    assert "config.json" in refused(capsys, "generate", "--model", tmp_path, "--prompt", "x")


def test_a_folder_that_does_not_exist(tmp_path, capsys):
    assert "does not exist" in refused(capsys, "generate", "--model", tmp_path / "nothing", "--prompt", "x")


def test_a_hub_model_that_can_not_be_reached(capsys):
    line = refused(capsys, "generate", "--model", "nobody/nothing", "--prompt", "x")
    assert "no folder here, and can't be loaded from the Hub" in line


def test_a_prompt_longer_than_the_context(random_checkpoint, capsys):
    line = refused(capsys, "generate", "--model", random_checkpoint, "--prompt", 500 * "x", *SHORT)
    assert "500 tokens room in the model's context of 512; got 13, which makes 513" in line


def test_the_longest_prompt_that_fits(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", 499 * "x", *SHORT) == 0


def test_files_without_text(random_checkpoint, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    for name, problem in [
        ("empty", "no text"),
        ("blank", "no text"),
        ("binary", "UTF-8 text"),
        ("none", "does not exist"),
        (".", "is a folder"),
    ]:
        line = refused(capsys, "generate", "--model", random_checkpoint, "--file", tmp_path / name)
        assert problem in line
        assert "--file" in line


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--prompt", "x", "--device", "cuda:77"], "--device must be one of cpu"),
        (["--prompt", "x", "--no-mtp", "--repeats", "2"], "must not go with --no-mtp"),
        (["--prompt", "x", "--no-mtp", "--json"], "must not go with --no-mtp"),
    ],
)
def test_options_that_can_not_be(random_checkpoint, capsys, options, problem):
    assert problem in refused(capsys, "generate", "--model", random_checkpoint, *options)
