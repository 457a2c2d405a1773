"""The five steps of JudgeRLVR on a toy, undisturbed, interrupted and killed."""

import contextlib
import io
import json
import os
import shutil
import signal
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file

from mimo_hf.trainers.checkpoints import write_whole
from mimo_hf.trainers.judge_rlvr import command as judge_rlvr, pipeline as judge_rlvr_pipeline
from mimo_hf.trainers.judge_rlvr.step_folder import StepFolder, folder_lock

REWARDS = """
def answer(text):
    word = (text.split() or [""])[0]
    return ["even", "odd"][int(word) % 2] if word.isdecimal() else None

def accuracy(completions, solution, **columns):
    return [float(answer(text) == right) for text, right in zip(completions, solution)]

def verdict(completions, label, **columns):
    return [float(("yes" in text.split()) == bool(right)) for text, right in zip(completions, label)]
"""
STEPS = ["collect", "build", "judge", "generate", "eval"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory, make_model, make_tokenizer):
    """Command-line arguments of a run of seconds, less `output_dir`."""
    folder = tmp_path_factory.mktemp("toy")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    rows = [
        {
            "problem_id": str(index),
            "problem": f"solve {index // 10} {index % 10}",
            "solution": ["even", "odd"][index % 2],
        }
        for index in range(20)
    ]
    DatasetDict({"train": Dataset.from_list(rows[:16]), "test": Dataset.from_list(rows[16:])}).save_to_disk(
        str(folder / "problems")
    )
    (folder / "toy_rewards.py").write_text(REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield (
            f"--model_name_or_path {folder}/model --dataset {folder}/problems --reward toy_rewards.accuracy "
            "--judge_reward toy_rewards.verdict --parse_answer toy_rewards.answer --model_thinks false --judge_min_gap -1 "
            "--judge_steps 4 --generate_steps 4 --save_strategy steps --save_steps 1 --learning_rate 0.001 --report_to none "
            "--use_cpu --bf16 false --gradient_checkpointing false --max_completion_length 5 --num_generations 4 "
            "--per_device_train_batch_size 8 --disable_tqdm true --dynamic_sampling true --dtype float32"
        ).split()


def run(toy, folder, *options):
    judge_rlvr.main([*toy, "--output_dir", str(folder), *options])
    return weights_in(folder)


def weights_in(folder):
    return {name: load_file(folder / name / "model" / "model.safetensors") for name in ("judge", "generate")}


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    """The folder of a run, and what it printed; tests read it only."""
    folder, printed = tmp_path_factory.mktemp("undisturbed") / "a", io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(toy, folder)
    return folder, printed.getvalue()


def assert_same(left, right):
    for stage in left:
        assert all(torch.equal(left[stage][name], right[stage][name]) for name in left[stage]), stage


def test_the_steps_end_done_and_the_result_is_printed(undisturbed):
    folder, printed = undisturbed
    weights = weights_in(folder)
    states = [json.loads((folder / step / "state.json").read_text()) for step in STEPS]
    assert [(state["stage"], state["status"]) for state in states] == [(step, "done") for step in STEPS]
    assert any(not torch.equal(weights["judge"][name], weights["generate"][name]) for name in weights["judge"])
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    assert set(metrics) == {"start", "judge", "generate"}
    assert f"{metrics['generate']['accuracy']:.3f}" in printed


def test_both_tasks_in_one_training(toy, tmp_path, capsys):
    options = [
        "--stage",
        "mixed",
        "--mixed_judge_fraction",
        "0.25",
        "--judge_steps",
        "1",
        "--generate_steps",
        "2",
        "--logging_steps",
        "1",
    ]
    judge_rlvr.main([*toy, "--output_dir", str(tmp_path / "a"), *options])
    folders = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir())
    assert folders == ["build", "collect", "eval", "mixed"]
    metrics = json.loads((tmp_path / "a" / "eval" / "metrics.json").read_text())
    assert list(metrics) == ["start", "mixed"]
    state = json.loads((tmp_path / "a" / "mixed" / "training" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    assert any("judge/gap" in entry for entry in state["log_history"])


def test_steps_can_be_processes_of_their_own(toy, undisturbed, tmp_path, capsys):
    folder = ["--output_dir", str(tmp_path / "b")]
    with pytest.raises(ValueError, match="got 'judge', and 'collect' is not done"):
        judge_rlvr.main([*toy, *folder, "--step", "judge"])
    capsys.readouterr()
    for step in STEPS:
        printed = capsys.readouterr().out
        assert "mean length" not in printed
        judge_rlvr.main([*toy, *folder, "--step", step])
    assert "mean length" in capsys.readouterr().out
    assert_same(weights_in(undisturbed[0]), weights_in(tmp_path / "b"))
    with pytest.raises(ValueError, match="`--step` must be one of collect, build, judge, generate, eval; got 'mixed'"):
        judge_rlvr.main([*toy, *folder, "--step", "mixed"])


def test_a_stage_of_ones_own_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="`--stage` must be left out"):
        judge_rlvr.main([*toy, "--output_dir", str(tmp_path / "a"), "--stage", "judge"])


def test_a_stage_frees_its_model(toy, tmp_path, monkeypatch):
    models, load = [], judge_rlvr_pipeline._Pipeline._load

    def recording(*arguments, **options):
        assert [model for model in models if model() is not None] == []
        loaded = load(*arguments, **options)
        models.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(judge_rlvr_pipeline._Pipeline, "_load", recording)
    monkeypatch.setattr(
        judge_rlvr_pipeline._Pipeline, "evaluate", lambda self, folder: write_whole(folder.path / "metrics.json", "{}")
    )
    run(toy, tmp_path / "a", "--judge_steps", "1", "--generate_steps", "1")
    assert len(models) == 3


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(toy, undisturbed, tmp_path, monkeypatch):
    """Interrupted once within every step, after it has written what it made."""
    mark = StepFolder.mark
    interrupted = set()

    def interrupting(folder, status):
        if status == "done" and folder.stage not in interrupted:
            interrupted.add(folder.stage)
            raise KeyboardInterrupt
        mark(folder, status)

    monkeypatch.setattr(StepFolder, "mark", interrupting)
    for _ in STEPS:
        with pytest.raises(KeyboardInterrupt):
            run(toy, tmp_path / "b")
    assert_same(weights_in(undisturbed[0]), run(toy, tmp_path / "b"))
    assert interrupted == set(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["judge", "generate"])
def test_a_killed_training_is_resumed_to_the_same_weights(toy, undisturbed, warm_python, tmp_path, stage):
    folder = tmp_path / "b"
    command = ["-m", "mimo_hf.trainers.judge_rlvr", *toy, "--output_dir", str(folder)]
    rewards = os.path.dirname(toy[1])
    with open(os.devnull, "w") as nothing:
        process = warm_python.start(*command, env={**os.environ, "PYTHONPATH": rewards}, stdout=nothing)
    deadline = time.monotonic() + 200
    while not list(folder.glob(f"{stage}/training/checkpoint-2/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "eval").exists()
    assert_same(weights_in(undisturbed[0]), run(toy, folder))


def test_changed_inputs_are_refused_unless_restarted(toy, undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "a")
    with pytest.raises(ValueError, match=r"collect must be made from this run's inputs .* `--restart`"):
        run(toy, tmp_path / "a", "--candidates_per_problem", "6")
    run(toy, tmp_path / "a", "--candidates_per_problem", "6", "--restart", "true")


def test_the_model_at_the_start_is_of_the_revision_that_is_named(toy, tmp_path, monkeypatch):
    asked = []

    def recorded(kind):
        def from_pretrained(place, revision="main", **options):
            asked.append((str(place), revision))
            return kind.from_pretrained(place, revision=revision, **options)

        return SimpleNamespace(from_pretrained=from_pretrained)

    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(judge_rlvr_pipeline, name, recorded(getattr(judge_rlvr_pipeline, name)))
    steps, model = ["--judge_steps", "1", "--generate_steps", "1"], toy[toy.index("--model_name_or_path") + 1]
    run(toy, tmp_path / "a", *steps, "--model_revision", "v1")
    assert [revision for place, revision in asked if place == model] == ["v1"] * 4  # tokenizer, collect, judge, eval
    assert {revision for place, revision in asked if place != model} == {"main"}  # what the stages have trained
    with pytest.raises(ValueError, match="collect must be made from this run's inputs"):
        run(toy, tmp_path / "a", *steps, "--model_revision", "v2")


def test_models_are_loaded_as_the_options_say(toy, tmp_path, monkeypatch):
    """In each step, those that the stages have trained too."""
    asked = []

    def from_pretrained(place, **options):
        asked.append({name: options.get(name) for name in ("dtype", "attn_implementation")})
        return kind.from_pretrained(place, **options)

    kind = judge_rlvr_pipeline.AutoModelForCausalLM
    monkeypatch.setattr(judge_rlvr_pipeline, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=from_pretrained))
    steps = ["--judge_steps", "1", "--generate_steps", "1"]
    run(toy, tmp_path / "a", *steps, "--dtype", "bfloat16", "--attn_implementation", "eager")
    assert asked == [{"dtype": "bfloat16", "attn_implementation": "eager"}] * 6
    with pytest.raises(ValueError, match="collect must be made from this run's inputs"):
        run(toy, tmp_path / "a", *steps)
    with pytest.raises(ValueError, match=r"`--load_in_4bit` must be False.*--use_peft"):
        run(toy, tmp_path / "b", *steps, "--load_in_4bit", "true")


def test_two_runs_in_a_folder_are_refused(toy, tmp_path):
    with folder_lock(tmp_path / "a"), pytest.raises(RuntimeError, match="Another run works in"):
        run(toy, tmp_path / "a")


@pytest.mark.parametrize("stage_handoff", ["continue", "merge"])
def test_an_adapter_goes_through_all_steps(toy, tmp_path, stage_handoff):
    options = ["--use_peft", "true", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj", "--stage_handoff"]
    judge_rlvr.main([*toy, "--output_dir", str(tmp_path / "a"), *options, stage_handoff])
    has_adapter = (tmp_path / "a" / "judge" / "model" / "adapter_config.json").exists()
    assert has_adapter == (stage_handoff == "continue")
    assert (tmp_path / "a" / "generate" / "model" / "model.safetensors").exists()


def test_missing_options_and_functions_are_named(toy, tmp_path):
    with pytest.raises(ValueError, match=r"`--dataset_name`, `--reward`.* must be given"):
        judge_rlvr.main(["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"])
    with pytest.raises(ValueError, match=r"'toy_rewards\.nothing' must be the dotted path of a function"):
        run(toy, tmp_path / "a", "--parse_answer", "toy_rewards.nothing")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_whole(path, "old")
    with pytest.raises(TypeError):
        write_whole(path, None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
