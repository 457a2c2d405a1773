"""The `mimo-hf` command as a user meets it: what it prints, its exit codes, and what it says about bad input."""

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mimo_hf import cli, command_kit

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "NO_COLOR"}}
ESCAPE = "\x1b"
ACCEPTED = "\x1b[1;32m!\x1b[0m"
SHORT = ["--max-new-tokens", "13"]


@pytest.fixture(autouse=True)
def _no_colour_settings(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


def generate(model, *options):
    return cli.main(["generate", "--model", str(model), *options])


def values(output):
    """{'tokens': '13', ...} from the lines after the table."""
    return dict(line.split(": ", 1) for line in output[output.index("outputs equal:") :].splitlines())


def refused(capsys, *argv):
    """The one line on stderr of a command that exits with 2 before it prints anything."""
    assert cli.main([str(argument) for argument in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert re.match(r"mimo-hf( [a-z]+)*: error: ", output.err)
    assert "Traceback" not in output.err
    return output.err


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
        ({"hidden_size": 32}, r"lm_head\.weight is \[257, 16\] in the weights, \[257, 32\]"),
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
    assert "500 tokens and --max-new-tokens 13 make 513, more than the model's context of 512" in line


def test_the_longest_prompt_that_fits(constant_checkpoint, capsys):
    assert generate(constant_checkpoint, "--prompt", 499 * "x", *SHORT) == 0


def test_files_without_text(random_checkpoint, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    for name, problem in [
        ("empty", "no text"),
        ("blank", "no text"),
        ("binary", "not UTF-8"),
        ("none", "does not exist"),
        (".", "is a folder"),
    ]:
        line = refused(capsys, "generate", "--model", random_checkpoint, "--file", tmp_path / name)
        assert problem in line
        assert "--file" in line


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--prompt", "x", "--device", "cuda:77"], "--device cuda:77 can't be used here; cpu"),
        (["--prompt", "x", "--no-mtp", "--repeats", "2"], "leave out --no-mtp"),
        (["--prompt", "x", "--no-mtp", "--json"], "leave out --no-mtp"),
    ],
)
def test_options_that_can_not_be(random_checkpoint, capsys, options, problem):
    assert problem in refused(capsys, "generate", "--model", random_checkpoint, *options)


# Nothing below reaches a model: all of it is answered by the parser, or before anything heavy is imported.
WRONG = [
    ("", "give a command: demo, generate"),
    ("bogus", "there is no command 'bogus'; There are demo"),
    ("generat", "there is no command 'generat'; did you mean generate?"),
    ("--verison", "there is no option --verison; did you mean --version?"),
    ("demo extra", "'extra' is one argument too many (see `mimo-hf demo --help`)"),
    ("demo --prompt", "--prompt needs a value"),
    ("demo --prompt=", "--prompt is empty"),
    ("demo --prompt x --file y", "--file 'y' does not exist; give a file that is there"),
    ("demo --prompt x --file setup.cfg", "--file can't be given together with --prompt"),
    ("demo --file .", "--file '.' is a folder"),
    ("demo --max-new-tokens 0", "--max-new-tokens must be a whole number of at least 1; got '0'"),
    ("demo --max-new-tokens -5", "--max-new-tokens must be a whole number of at least 1; got '-5'"),
    ("demo --max-new-tokens 1e3", "--max-new-tokens must be a whole number"),
    ("demo --max-new-tokens 99999999999999999999", "--max-new-tokens must be a whole number"),
    ("demo --max-new-token 5", "there is no option --max-new-token; did you mean --max-new-tokens?"),
    ("demo --num-drafts 3", "there is no option --num-drafts (see `mimo-hf demo --help`)"),
    ("demo --repeats many", "--repeats must be a whole number of at least 1; got 'many'"),
    ("demo --prompt-tokens 2.5", "--prompt-tokens must be a whole number"),
    ("demo --sample", "--sample is now --do-sample"),
    ("demo --do-sample --temperature 0", "--temperature must be a number above 0; got '0'"),
    ("demo --do-sample --temperature inf", "--temperature must be a number above 0; got 'inf'"),
    ("demo --do-sample --temperature hot", "--temperature must be a number above 0; got 'hot'"),
    ("demo --do-sample --top-p 1.5", "--top-p must be a number above 0 and at most 1; got '1.5'"),
    ("demo --do-sample --top-p -0.5", "--top-p must be a number above 0 and at most 1; got '-0.5'"),
    ("demo --temperature 0.5", "--temperature and --top-p need --do-sample"),
    ("demo --seed -1", "--seed must be a whole number of at least 0; got '-1'"),
    ("demo --seed 0x10", "--seed must be a whole number"),
    ("demo --device tpu", "--device must be cpu, cuda, cuda:1 and so on, xpu or mps; got 'tpu'"),
    ("demo --device cuda:x", "--device must be"),
    ("demo --dtype int8", "--dtype must be one of float32, bfloat16, float16; got 'int8'"),
    ("demo --json run.json", "--json takes no value: it prints the result. To write a file use --out run.json."),
    ("demo --json=run.json", "--json takes no value; got 'run.json'"),
    ("demo --out run.txt", "--out must end in .json; got 'run.txt'"),
    ("demo --out no/such/folder/run.json", "--out 'no/such/folder/run.json' lies in a folder that does not exist"),
    ("demo --out .", "--out '.' is a folder"),
    ("demo --no-color=yes", "--no-color takes no value; got 'yes'"),
    ("generate", "--model must be given (see `mimo-hf generate --help`)"),
    (
        "generate --model missing-folder",
        "--model missing-folder does not exist; give a checkpoint folder, or a model of",
    ),
    ("generate --model ./missing", "--model ./missing does not exist"),
    ("generate --model /tmp/no/such/place", "--model /tmp/no/such/place does not exist"),
    ("generate --model setup.cfg", "setup.cfg: is a file; give the folder of a checkpoint"),
    ("generate --model tests", "tests: has no config.json"),
    ("generate --model --prompt x", "--model needs a value"),
    ("hysparse", "give a command: memory"),
    ("hysparse memroy", "there is no command 'memroy'; did you mean memory?"),
    ("hysparse memory", "--model must be given"),
    ("hysparse memory --model hysparse-7b --context -4k", "--context must be numbers of tokens such as 4k,32768,1M"),
    ("hysparse memory --model hysparse-7b --context 4K", "--context must be numbers of tokens"),
    ("hysparse memory --model hysparse-7b --batch 0", "--batch must be a whole number of at least 1"),
    ("hysparse memory --model hysparse-7b --dtype fp8", "--dtype is now --kv-cache-dtype"),
    ("hysparse memory --model hysparse-7b --kv-cache-dtype int4", "--kv-cache-dtype must be one of fp8, bf16"),
    ("publish", "MODEL and OUT must be given"),
    ("publish here", "OUT must be given"),
    ("publish here there --upgrade there", "--upgrade FOLDER stands alone; leave out MODEL, OUT and --overwrite"),
    ("publish --check there --overwrite", "--check FOLDER stands alone"),
    ("publish --check x --upgrade x", "--upgrade"),
    ("publish --upgrade missing-folder", "missing-folder"),
    ("publish --check tests", "tests: has no config.json"),
    ("space", "SPACE must be given"),
    ("space nope", "there is no Space 'nope'; there are oam."),
    ("space oam --port 99999", "--port must be a whole number from 1 to 65535; got '99999'"),
    ("space oam --port http", "--port must be a whole number"),
    ("space oam --host 999.1.1.1", "--host 999.1.1.1 is no address of this machine; give 127.0.0.1"),
    ("space oam --host 192.0.2.7", "--host 192.0.2.7 is no address of this machine"),
    ("space oam --host=", "is no address of this machine"),
    ("kernels", "give a command: list, build, check, bench"),
    ("kernels list extra", "'extra' is one argument too many (see `mimo-hf kernels list --help`)"),
    ("kernels bench", "KERNEL must be given"),
    ("kernels bench sink-swa-attn --repeats 0", "--repeats must be a whole number"),
    ("kernels bench sink-swa-attn --json b.json", "To write a file use --out b.json"),
    ("oam", "give an experiment: simulate, sweep, dof, oem, ber, field"),
    ("oam radiate", "there is no experiment 'radiate'; There are simulate"),
    ("oam simulate --num-tx 1", "--num-tx must be a whole number at least 2; got '1'"),
    ("oam simulate --output x.csv", "--output is now --out"),
    ("oam simulate --plot x.jpg", "--plot must end in .png or .svg or .pdf; got 'x.jpg'"),
    ("oam sweep --preset nope", "--preset nope: there is no such preset; there are claim-bepre-tilt"),
    ("schedule", "give a job: simulate, replay, report, check"),
    ("schedule simulate nowhere", "TRACE 'nowhere' is neither a file nor a workload (coding, deepsearch)"),
    ("schedule replay missing.jsonl", "TRACE 'missing.jsonl' does not exist"),
    ("schedule report tests", "TRACE 'tests' is a folder"),
    ("schedule simulate --policy best", "--policy can't be 'best'"),
    ("schedule simulate --cores 0", "--cores must be whole numbers from 1"),
    ("schedule report setup.cfg", "setup.cfg:1: this is not JSON"),
    ("completion", "SHELL must be given"),
    ("completion tcl", "SHELL must be one of bash, zsh, fish; got 'tcl'"),
]


@pytest.mark.parametrize(("typed", "answer"), WRONG)
def test_wrong_input_is_answered_in_one_line(typed, answer, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    for module in ("torch", "transformers", "gradio", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    line = refused(capsys, *typed.split())
    assert answer in line
    command = " ".join(re.match(r"(?:[a-z]+ ?)*", typed)[0].split())
    assert line.split(":")[0].removeprefix("mimo-hf").strip() in command


def test_a_port_that_is_taken_is_named(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port} of 127.0.0.1 is taken" in refused(capsys, "space", "oam", "--port", port)


def test_system_errors_are_sentences(tmp_path):
    for make, words in [
        (lambda: open(tmp_path / "none"), "none does not exist."),  # noqa: SIM115  it raises
        (lambda: open(tmp_path), "is a folder, not a file."),  # noqa: SIM115  it raises
        (lambda: (tmp_path / "new").mkdir() or (tmp_path / "new").mkdir(), "new is there already."),
        ((tmp_path / ("x" * 300)).touch, "can not be used: File name too long."),
    ]:
        try:
            make()
        except OSError as error:
            said = command_kit.sentence(error)
        assert said.endswith(words)
        assert said.startswith(str(tmp_path))


# The parser tree


# The options of judge-rlvr are the fields of TRL's parser, in TRL's names and style.
LEAVES = {leaf.prog: leaf for leaf in command_kit.leaves(cli.command_parser())}
JUDGE_RLVR = LEAVES.pop("mimo-hf judge-rlvr")


def options_of(leaf):
    for action in leaf._actions:
        if action.help != argparse.SUPPRESS:
            yield from ((name, action) for name in action.option_strings)


def test_an_option_means_the_same_in_every_command():
    known = {}
    for prog, leaf in LEAVES.items():
        for name, action in options_of(leaf):
            meaning = re.split(r"\. | \(default|\.$", action.help)[0]
            found = (type(action), action.type, action.metavar, action.nargs, action.choices, meaning)
            first = known.setdefault(name, (prog, found))
            assert found == first[1], f"{name} of `{prog}` and of `{first[0]}`"
    assert len(known) > 50
    assert {name for name, _ in options_of(JUDGE_RLVR)} & known.keys() == {"-h", "--help"}


def test_help_has_one_voice():
    for prog, leaf in LEAVES.items():
        texts = [leaf.description, *(action.help for action in leaf._actions if action.help != argparse.SUPPRESS)]
        for text in texts:
            assert re.match(r"[A-Z`.]", text), f"`{prog}`: {text}"
            assert text.endswith("."), f"`{prog}`: {text}"
        names = [name for name, _ in options_of(leaf)]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"--[a-z][a-z-]+|-h", name) for name in names)


def test_every_example_of_the_help_is_a_call_that_parses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "setup.py", "my_trace.jsonl", "run.jsonl", "recorded.jsonl"):
        (tmp_path / name).touch()
    count = 0
    for prog, leaf in LEAVES.items():
        lines = re.findall(r"^  (?:\w+=\S+ )?(mimo-hf .*)$", leaf.epilog, re.MULTILINE)
        assert any(line.startswith(prog) for line in lines), prog
        for line in lines:
            words = shlex.split(line.partition(" > ")[0])
            count += command_kit.parse(cli.command_parser(), words[1:]).prog == prog
    assert count >= len(LEAVES)


def test_help_and_usage_errors_import_nothing_heavy():
    """In one process: the help of every command, and an option that none has. What they import would stay in sys.modules."""
    script = """
import contextlib, io, sys
from mimo_hf import cli, command_kit
commands = [leaf.prog.split()[1:] for leaf in command_kit.leaves(cli.command_parser())]
groups = sorted({tuple(command[:1]) for command in commands})
shown = io.StringIO()
for command in [[], *map(list, groups), *commands]:
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
for command in commands:
    with contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*command, "--no-such-option"]) == 2
heavy = {"torch", "transformers", "gradio", "ray", "numpy", "datasets", "tokenizers", "safetensors", "rich", "kernels", "trl"}
print(len(commands), shown.getvalue().count("usage: mimo-hf"), sorted(heavy & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    commands, shown, heavy = run.stdout.split(" ", 2)
    assert int(commands) == len(LEAVES) + 1
    assert int(shown) >= len(LEAVES) + 2
    assert heavy.strip() == "[]"


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -"), ("zsh", "#compdef mimo-hf"), ("fish", "complete -c")]
)
def test_completion_knows_commands_and_options(shell, words, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert words in script
    for name in ("hysparse", "max-new-tokens", "kv-cache-dtype", "distance-m", "simulate"):
        assert name in script
    assert "debug" not in script


def test_completion_without_shtab_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install 'mimo-hf[completion]'" in refused(capsys, "completion", "bash")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        cli.main(["generate", "--model", str(tmp_path / "nothing"), "--prompt", "x", "--debug"])


def test_a_failing_import_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mimo_hf.demo.run", None)
    assert "mimo_hf.demo.run" in refused(capsys, "generate", "--model", "some/model", "--prompt", "x")


def test_control_characters_of_a_message_are_written_out(capsys):
    assert "\\x1b" in refused(capsys, "generate", "--model", f"/{ESCAPE}[31m", "--prompt", "x")


def test_an_interrupt_ends_quietly(monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mimo_hf.demo.run.run", interrupt)
    assert generate("some/model", "--prompt", "x") == 130
    assert capsys.readouterr() == ("", "")


# The other commands, and the installed program


def test_publish_hands_over_to_the_hub(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        "mimo_hf.hub.publish.publish", lambda model, out, overwrite: calls.append((model, out, overwrite))
    )
    assert cli.main(["publish", "here", "there"]) == 0
    assert cli.main(["publish", "here", "there", "--overwrite"]) == 0
    assert calls == [("here", "there", False), ("here", "there", True)]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "there: ready to upload with: hf upload OWNER/NAME there"
    assert "trust_remote_code=True" in shown[1]
    assert "mimo_hf.register()" in shown[1]


def test_publish_refuses_in_one_line(tmp_path, capsys):
    assert str(tmp_path / "none") in refused(capsys, "publish", tmp_path / "none", tmp_path / "out")


def test_help_shows_defaults_and_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "mimo-hf generate " in shown.partition("examples:")[2]
    assert "(default: 160)." in shown
    assert "(default: 0)." in shown
    assert "SUPPRESS" not in shown


def test_the_installed_program(constant_checkpoint, tmp_path):
    program = Path(sysconfig.get_path("scripts"), "mimo-hf")
    argv = [program, "generate", "--model", constant_checkpoint, "--prompt", "x", *SHORT]
    run = subprocess.run(argv, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert values(run.stdout)["outputs equal"] == "yes"
    assert ESCAPE not in run.stdout


def test_a_reader_that_goes_away(constant_checkpoint):
    argv = [sys.executable, "-m", "mimo_hf.cli", "generate", "--model", constant_checkpoint, "--prompt", "x"]
    with subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 141
