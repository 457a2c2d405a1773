"""examples/mopd.py: what it refuses, and a run on models and prompts that it makes."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "mopd.py"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "a"], "--model goes with --dataset and at least one --teacher"),
        (["--teacher", "math=a"], "--teacher and --dataset go with --model"),
        (["--model", "a", "--dataset", "none.jsonl", "--teacher", "math"], "must be DOMAIN=TEACHER"),
        (
            ["--model", "a", "--dataset", "none.jsonl", "--teacher", "math=a"],
            "must be a file that exists; got 'none.jsonl'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(warm_python, tmp_path, options, message):
    result = warm_python.run(SCRIPT, *options, "--output_dir", tmp_path, "--bf16", "False")
    assert result.returncode
    assert message in " ".join(result.stderr.split())


@pytest.mark.slow
def test_models_from_folders_are_distilled_with_adapters_and_rewards(warm_python, tmp_path):
    options = "--max_steps 2 --per_device_train_batch_size 8"
    result = warm_python.run(SCRIPT, *options.split(), "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line for line in result.stdout.splitlines() if line.startswith(("student", "add", "sort", "reverse"))]
    assert len(lines) == 5  # student, three teachers, student after training
    assert set(json.loads(lines[-1].removeprefix("student after training"))) == {"add", "sort", "reverse"}
    assert {"add", "sort", "reverse"} <= set((tmp_path / "README.md").read_text().replace("`", " ").split())

    toy = tmp_path / "toy"
    teachers = [f"{domain}={toy / domain}" for domain in ("add", "sort")] + ["reverse=self"]
    own = [
        "--model",
        toy / "student",
        "--dataset",
        toy / "prompts.jsonl",
        "--teacher",
        teachers[0],
        "--teacher",
        *teachers[1:],
    ]
    more = (
        "--use_peft --lora_r 4 --max_steps 1 --per_device_train_batch_size 6 --num_generations 2 --orm_alpha 0.5 "
        "--reward exact_match --max_completion_length 9 --bf16 False --use_cpu --report_to none --kl_estimator sampled"
    )
    result = warm_python.run(SCRIPT, *own, *more.split(), "--output_dir", tmp_path / "own")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "own" / "adapter_model.safetensors").exists()
    assert not list((tmp_path / "own").glob("teacher_*"))
