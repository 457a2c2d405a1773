"""The `mimo-hf` command as a user meets it: its exit codes, and what it says about bad input."""

import re
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mimo_hf import cli, command_kit

from ._cli import ENVIRONMENT, ESCAPE, SHORT, generate, refused, values

pytestmark = pytest.mark.usefixtures("_no_colour_settings")


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
    ("demo --temperature 0.5", "--temperature and --top-p must go with --do-sample"),
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
        "--model must be a checkpoint folder, or a model of the Hub as OWNER/NAME; got missing-folder",
    ),
    ("generate --model ./missing", "got ./missing, which does not exist"),
    ("generate --model /tmp/no/such/place", "got /tmp/no/such/place, which does not exist"),
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
    ("space nope", "SPACE must be one of oam; got 'nope'."),
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
    ("oam sweep --preset nope", "--preset must be one of claim-bepre-tilt"),
    ("schedule", "give a job: simulate, replay, report, check"),
    ("schedule simulate nowhere", "TRACE 'nowhere' is neither a file nor a workload (coding, deepsearch)"),
    ("schedule replay missing.jsonl", "TRACE 'missing.jsonl' does not exist"),
    ("schedule report tests", "TRACE 'tests' is a folder"),
    ("schedule simulate --policy best", "--policy can't be 'best'"),
    ("schedule simulate --cores 0", "--cores must be whole numbers from 1"),
    ("schedule report setup.cfg", "setup.cfg:1: 'line' must be JSON"),
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
        assert f"--port must be free on 127.0.0.1; got {port}, which is taken" in refused(
            capsys, "space", "oam", "--port", port
        )


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
