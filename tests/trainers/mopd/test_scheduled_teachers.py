"""Teachers that share a device with other work, as actions of the scheduler."""

import pytest
import torch

from mimo_hf.scheduler import ActionScheduler, SchedulerConfig
from mimo_hf.scheduler.services.teachers import TeacherPool
from mimo_hf.scheduler.sharing.owner import ADDRESS_VARIABLE, LOCK_VARIABLE


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    with ActionScheduler(SchedulerConfig(cpu_cores=1, cpu_enforce="count", gpu_bytes=100)) as scheduler:
        yield scheduler


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scheduled_teachers_train_as_models_do(make_mopd, far_model, scheduler, weights, temperature):
    first, second = (
        far_model(1),
        far_model(2),
    )  # made here: seeding in the scheduler's thread would disturb the training
    pool = TeacherPool(
        scheduler,
        {"first": lambda: first, "second": lambda: second},
        100,  # of which the budget holds one
        "cpu",
        temperature=temperature,
    )
    scheduled = {"a": pool.teacher("first"), "b": pool.teacher("second"), "c": "self"}
    results = []
    for teachers in (scheduled, {"a": far_model(1), "b": far_model(2), "c": "self"}):
        trainer = make_mopd(teachers, temperature=temperature)
        trainer.train()
        results.append(weights(trainer))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=0, atol=1e-4)
    assert scheduler.stats()["service_switches"] >= 3


def test_what_a_scheduled_teacher_does_not_give_is_refused(make_mopd, far_model, scheduler):
    pool = TeacherPool(scheduler, {"first": lambda: far_model(1)}, 100, "cpu")
    teachers = {"a": pool.teacher("first"), "b": "self", "c": "self"}
    with pytest.raises(ValueError, match=r"temperature.*1.0; got 0.5.*TeacherPool"):
        make_mopd(teachers, temperature=0.5)
    with pytest.raises(ValueError, match=r"kl_estimator.*'sampled'"):
        make_mopd(teachers, kl_estimator="topk_teacher")
    with pytest.raises(ValueError, match=r"kl_estimator.*'a'"):
        make_mopd(teachers, kl_estimator="full")
    with pytest.raises(ValueError, match="must be one of first"):
        pool.teacher("second")


def test_a_scheduler_that_is_closed_ends_the_training_with_a_checkpoint(make_mopd, far_model, scheduler):
    from pathlib import Path

    from mimo_hf.trainers.mopd.server_teacher import TeacherError

    pool = TeacherPool(scheduler, {"first": lambda: far_model(1)}, 100, "cpu")
    trainer = make_mopd({"a": pool.teacher("first"), "b": "self", "c": "self"})
    score, calls = pool.teacher("first").score, []

    class Failing:
        describe, check = trainer.pool.teachers[0].client.describe, trainer.pool.teachers[0].client.check

        def score(self, *args):
            calls.append(1)
            if len(calls) == 2:
                raise OSError("the scheduler is closed")
            return score(*args)

    trainer.pool.teachers[0] = trainer.pool.teachers[0]._replace(client=Failing())
    with pytest.raises(TeacherError, match=r"'first' does not score.*closed.*1 steps that are done were saved"):
        trainer.train()
    assert Path(trainer.args.output_dir, "checkpoint-1", "mopd_manifest.json").is_file()
