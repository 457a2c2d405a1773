"""`mimo-hf kernels` as a user meets it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mimo_hf import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of our repositories, not built."""
    path = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels", path, ignore=shutil.ignore_patterns("build", "__pycache__"))
    monkeypatch.setenv("MIMO_HF_KERNELS", str(path))
    return path


def run(*argv) -> int:
    try:
        return cli.main(["kernels", *(str(argument) for argument in argv)])
    except SystemExit as error:
        return error.code


def test_list_build_check(folder, capsys):
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(folder)
    assert len(lines) == 1 + len(list(folder.glob("*/build.toml")))
    assert all(line.endswith("built none") for line in lines[1:])

    assert run("check") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "torch-cpu is not built: run `mimo-hf kernels build sink-swa-attn`." in output.err

    assert run("build", "sink-swa-attn") == 0
    variants = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert variants == [folder / "sink-swa-attn" / "build" / f"torch-{backend}" for backend in ("cpu", "cuda")]
    assert all((variant / "metadata.json").is_file() for variant in variants)
    assert run("list") == 0
    assert "built cpu, cuda" in capsys.readouterr().out


def test_check_loads_the_kernel_and_names_its_functions(monkeypatch, capsys):
    monkeypatch.delenv("MIMO_HF_KERNELS", raising=False)
    assert run("build") == 0
    assert run("check") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "sink-swa-attn: flash_attn_forward, layers, sink_swa_attention, " in output.out


def test_bench_says_what_it_times(monkeypatch, capsys, tmp_path):
    """On a CPU that is the reference, not the kernel."""
    on_gpu = torch.cuda.is_available()
    measured, device = ("Triton kernel", torch.cuda.get_device_name()) if on_gpu else ("PyTorch reference", "CPU")
    monkeypatch.delenv("MIMO_HF_KERNELS", raising=False)
    assert run("bench", "sink-swa-attn", "--repeats", 1, "--warmup", 1, "--out", tmp_path / "bench.json") == 0
    output, error = capsys.readouterr()
    assert ("no CUDA device: this times the PyTorch reference" in error) != on_gpu
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert (saved["measured"], saved["device"], saved["repeats"]) == (measured, device, 1)
    assert saved["workloads"].keys() == {"prefill", "decode", "training"}
    for name, row in saved["workloads"].items():
        assert row["mean_ms"] >= row["min_ms"] > 0
        assert f"{name}: {measured} {row['mean_ms']:.3f} ms, eager PyTorch {row['eager_ms']:.3f} ms" in output


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["build", "sink"], "there is no kernel 'sink'; there are hysparse-attn, sale-attn, sink-swa-attn"),
        (["check", "sink"], "there is no kernel 'sink'"),
        (["bench", "sink"], "there is no kernel 'sink'"),
        (["bench"], "KERNEL must be given"),
        (["bench", "sink-swa-attn", "--repeats", "0"], "--repeats must be a whole number of at least 1; got '0'"),
        (["bench", "sink-swa-attn", "--warmup", "few"], "--warmup must be a whole number of at least 1; got 'few'"),
        (["bench", "sink-swa-attn", "--out", "no/such/folder.json"], "--out 'no/such/folder.json' lies in a folder"),
        (["list", "extra"], "'extra' is one argument too many (see `mimo-hf kernels list --help`)"),
        ([], "give a command: list, build, check, bench"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, argv, message):
    assert run(*argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err


def test_two_repositories_with_one_name(folder, capsys):
    shutil.copytree(folder / "sink-swa-attn", folder / "a-copy")
    assert run("list") == 2
    assert "have one name, 'sink-swa-attn': rename one in its build.toml" in capsys.readouterr().err
