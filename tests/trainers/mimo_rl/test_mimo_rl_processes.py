"""Interrupted trainings, and trainings on two processes."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mimo_hf.trainers.checkpoints import last_whole_checkpoint

WORKER = Path(__file__).parents[1] / "_distributed.py"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dynamic_sampling": True},
        {"dynamic_sampling": True, "easy_pool_alpha": 0.3, "max_steps": 8},
        {"dynamic_sampling": True, "carry_surplus": True, "per_device_train_batch_size": 16},
        {"dynamic_sampling": True, "steps_per_generation": 4},
        {"num_train_epochs": 2, "max_steps": 18, "save_steps": 14},
        {"dynamic_sampling": True, "steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["off", "dynamic", "pool", "carried", "amid a generation", "second epoch", "reused generations"],
)
def test_a_resumed_training_ends_with_the_same_weights(make_trainer, weights, assert_same_weights, tmp_path, options):
    kinds = ("mixed", "right", "wrong")
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, **options}
    undisturbed = make_trainer(kinds, **options)
    undisturbed.train()
    resumed = make_trainer(kinds, **options)
    with torch.no_grad():  # so that nothing but the checkpoint tells it where to go on
        for parameter in resumed.model.parameters():
            parameter.zero_()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{options['save_steps']}"))
    assert_same_weights(weights(undisturbed), weights(resumed))
    if resumed.sampler:
        assert resumed.sampler.draw(100) == undisturbed.sampler.draw(100)


def test_a_checkpoint_of_another_trainer_is_resumed_with_a_warning(make_trainer, tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_trainer(grpo=True, **options).train()
    make_trainer(dynamic_sampling=True, **options).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert any("has no mimo_sampler_state.json" in record.message for record in caplog.records)


def test_a_checkpoint_that_was_not_finished_is_passed_over(make_trainer, weights, assert_same_weights, tmp_path):
    options = {"dynamic_sampling": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    undisturbed = make_trainer(("mixed", "wrong"), **options)
    undisturbed.train()
    run = tmp_path / "run"
    (run / "checkpoint-4" / "trainer_state.json").unlink()
    (run / "checkpoint-3" / "trainer_state.json").write_text('{"half')
    for name in ("generated", "carried"):  # of a save that was cut off
        (run / "checkpoint-2" / f"mimo_{name}_0.pt").write_bytes(b"half")
    assert last_whole_checkpoint(str(run)) == str(run / "checkpoint-2")
    resumed = make_trainer(("mixed", "wrong"), **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(weights(undisturbed), weights(resumed))
    assert last_whole_checkpoint(str(run)) == str(run / "checkpoint-4")

    assert last_whole_checkpoint(str(tmp_path / "absent")) is None
    with pytest.raises(ValueError, match="`output_dir` must hold a whole checkpoint"):
        make_trainer(("mixed",), **options, output="empty").train(resume_from_checkpoint=True)


def test_a_save_into_an_old_folder_is_not_whole_until_it_ends(make_trainer, tmp_path, monkeypatch):
    options = {"dynamic_sampling": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_trainer(**options).train()
    resumed = make_trainer(**options)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(resumed, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert last_whole_checkpoint(str(tmp_path / "run")) == str(tmp_path / "run" / "checkpoint-1")


def test_a_checkpoint_with_all_steps_is_only_loaded(make_trainer, weights, assert_same_weights):
    options = {"dynamic_sampling": True, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
    undisturbed, resumed = (make_trainer(**options, max_steps=2) for _ in range(2))
    undisturbed.train()
    assert resumed.train(resume_from_checkpoint=True).global_step == 2
    assert_same_weights(weights(undisturbed), weights(resumed))
    longer = make_trainer(**options, max_steps=3)
    assert longer.train(resume_from_checkpoint=True).global_step == 3


def test_a_checkpoint_of_more_processes_is_resumed_with_a_warning(make_trainer, tmp_path, caplog):
    options = {"dynamic_sampling": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_trainer(**options).train()
    path = tmp_path / "run" / "checkpoint-1" / "mimo_sampler_state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"carried_groups": [1, 1]}))
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(path.parent))
    assert resumed.state.global_step == 2
    assert any("was saved by 2 processes, and there are 1" in record.message for record in caplog.records)


ROOMS = (0, 9_000, 40_000)


@pytest.fixture(scope="module")
def full_disks(needs, tmp_path_factory):
    """What trainings did whose disk, a file system of its own, was full at three points of a checkpoint."""
    needs("bwrap")
    folder = tmp_path_factory.mktemp("disk")
    disk = ["bwrap", "--dev-bind", "/", "/", "--size", str(4 << 20), "--tmpfs", folder]
    command = [*disk, sys.executable, WORKER.with_name("_full_disk.py"), folder, *map(str, ROOMS)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("RESULTS "))
    return json.loads(line.removeprefix("RESULTS "))


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_a_training_goes_on_after_its_disk_was_full(full_disks, room):
    result = full_disks[str(room)]
    assert result["errno"] == errno.ENOSPC
    assert "resume with `resume_from_checkpoint=True`" in result["error"]
    assert "checkpoint-2" in result["error"]
    assert result["after"] == ["checkpoint-1"]
    assert result["same"]
    assert result["draws"]


def test_an_error_that_is_no_full_disk_is_passed_on(make_trainer, monkeypatch):
    trainer = make_trainer(dynamic_sampling=True, save_strategy="steps", save_steps=1, max_steps=1)

    def fails(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(trainer, "_save_sampling_state", fails)
    with pytest.raises(PermissionError, match="Permission denied"):
        trainer.train()


def test_a_checkpoint_says_whether_the_training_had_ended(make_trainer, tmp_path):
    options = {"dynamic_sampling": True, "max_sampling_rounds": 1, "save_strategy": "steps", "save_steps": 1}
    make_trainer(("right",), **options, max_steps=9).train()
    make_trainer(("mixed",), **options, max_steps=2, output="other").train()
    ended = {
        path.relative_to(tmp_path).as_posix(): json.loads(path.read_text())["ended"]
        for path in tmp_path.rglob("mimo_sampler_state.json")
    }
    name = "mimo_sampler_state.json"
    assert ended == {
        f"run/checkpoint-1/{name}": True,
        f"run/other/checkpoint-1/{name}": False,
        f"run/other/checkpoint-2/{name}": True,
    }


TWO_PROCESSES = {"plain": {}, "carried": {"carry_surplus": True, "per_device_train_batch_size": 16}}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes saw, by the name of the options."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, WORKER, folder, json.dumps(TWO_PROCESSES)], check=True, timeout=300)
    return lambda name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_two_processes_decide_alike(two_processes, name):
    first, second = two_processes(name)
    options = TWO_PROCESSES[name]
    assert (first["world"], second["world"]) == (2, 2)
    assert first["rounds"] == second["rounds"]
    assert first["rounds"][0] > 1
    assert first["next_draws"] == second["next_draws"]
    assert first["weights"] == second["weights"]
    assert first["carried"] == second["carried"]
    assert bool(options) == any(map(any, first["carried"]))
    groups = options.get("per_device_train_batch_size", 8) // 4
    for one, other in zip(first["batches"], second["batches"], strict=True):
        assert one["groups"] == one["informative"] == other["groups"] == other["informative"] == groups
        assert one["num_items_in_batch"] == other["num_items_in_batch"] == one["tokens"] + other["tokens"]
