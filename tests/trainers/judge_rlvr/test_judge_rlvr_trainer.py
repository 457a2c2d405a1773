"""JudgeRLVR's stages on a tiny model: gate, tasks, metrics, hand-over."""

import asyncio
import math
import random

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from mimo_hf.rewards import judge_reward
from mimo_hf.trainers.judge_rlvr.judge_rlvr_trainer import for_task, hand_over, judge_skill, mix_tasks


def says_yes_or_no(completions, label, **columns):
    """A toy verdict: `yes` anywhere, `no` anywhere else."""
    return [float(("yes" in text.split()) == bool(right)) for text, right in zip(completions, label, strict=True)]


def knows(completions, label, **columns):
    return [float(row % 4 > 0) for row in range(len(completions))]


def judge_problems(count=24, **columns):
    return Dataset.from_dict(
        {
            "prompt": [f"maybe {index // 10} {index % 10}" for index in range(count)],
            "label": [index % 2 for index in range(count)],
            **columns,
        }
    )


def make_judge(make_trainer, reward=knows, stage="judge", **options):
    options.setdefault("eval_dataset", judge_problems(8))
    return make_trainer(options.pop("dataset", judge_problems()), reward, judge=True, stage=stage, **options)


def test_the_stage_generate_is_grpo(make_trainer, digit_reward, weights, assert_same_weights):
    plain = make_trainer(("mixed",), digit_reward, grpo=True, max_steps=5)
    plain.train()
    ours = make_trainer(("mixed",), digit_reward, judge=True, max_steps=5)
    ours.train()
    assert_same_weights(weights(plain), weights(ours))


def test_skill_is_that_of_counting():
    rng = random.Random(0)
    labels = [rng.randrange(2) for _ in range(300)]
    verdicts = [rng.choice([0, 1, None]) for _ in range(300)]
    skill = judge_skill([v == label for v, label in zip(verdicts, labels, strict=True)], labels)
    right, wrong = ([v for v, label in zip(verdicts, labels, strict=True) if label == kind] for kind in (1, 0))
    said_yes = right.count(1) / len(right)
    # An unreadable verdict is as good as a wrong one.
    said_yes_wrongly = (wrong.count(1) + wrong.count(None)) / len(wrong)
    assert skill["gap"] == pytest.approx(said_yes - said_yes_wrongly)
    assert skill["balanced_accuracy"] == pytest.approx((said_yes + 1 - said_yes_wrongly) / 2)
    hits = sum(verdict == label for verdict, label in zip(verdicts, labels, strict=True))
    assert skill["accuracy"] == pytest.approx(hits / 300)
    assert math.isnan(judge_skill([True], [1])["gap"])


def test_a_judge_without_skill_is_refused_before_any_step(make_trainer, weights, assert_same_weights):
    trainer = make_judge(make_trainer, says_yes_or_no, judge_min_gap=0.9)
    before = weights(trainer)
    with pytest.raises(RuntimeError, match=r"P\(yes \| right\) - P\(yes \| wrong\) = .* below judge_min_gap=0\.9"):
        trainer.train()
    assert_same_weights(before, weights(trainer))


def test_the_gate_can_warn_and_changes_no_weights(make_trainer, weights, assert_same_weights, caplog):
    warned = make_judge(make_trainer, judge_min_gap=0.9, on_low_skill="warn")
    warned.train()
    assert any("below judge_min_gap=0.9" in record.message for record in caplog.records)
    ungated = make_judge(make_trainer, judge_gate_rows=0, eval_dataset=None)
    ungated.train()
    assert_same_weights(weights(warned), weights(ungated))


@pytest.mark.parametrize("rows", [8, 7, 3])
def test_skill_counts_every_row_once(make_trainer, rows):
    """`knows` is right in three of the four verdicts on every row."""
    trainer = make_judge(make_trainer, per_device_eval_batch_size=16)
    seen = []
    score = trainer._calculate_rewards

    def recording(inputs, *rest):
        seen.extend(row["prompt"] for row in inputs)
        return score(inputs, *rest)

    trainer._calculate_rewards = recording
    skill = trainer.measure_skill(judge_problems(8), rows)
    assert len(set(seen)) == rows
    assert skill["accuracy"] == skill["tpr"] == skill["tnr"] == 0.75
    assert skill["gap"] == 0.5


def test_metrics_of_verdicts_are_logged(make_trainer, metric):
    trainer = make_judge(make_trainer)
    trainer.train()
    for name, expected in (("accuracy", 0.75), ("balanced_accuracy", 0.75), ("gap", 0.5)):
        values = [value for value in metric(trainer, f"judge/{name}") if value is not None]
        assert values
        assert set(values) == {expected}


def test_in_a_mixture_each_reward_scores_its_own_rows(make_trainer, problems, metric):
    scored = {"judge": [], "generate": []}

    def verdicts(completions, label, prompts, **columns):
        scored["judge"] += prompts
        return [float(row % 2) for row in range(len(completions))]

    def solutions(completions, kind, prompts, **columns):
        scored["generate"] += prompts
        return [float(row % 2) for row in range(len(completions))]

    mixture = mix_tasks(judge_problems(), problems(["mixed"]))
    trainer = make_judge(
        make_trainer,
        {"judge": verdicts, "generate": solutions},
        "mixed",
        dataset=mixture,
        judge_gate_rows=0,
        max_steps=8,
    )
    trainer.train()
    assert {prompt.split()[0] for prompt in scored["judge"]} == {"maybe"}
    assert {prompt.split()[0] for prompt in scored["generate"]} == {"solve"}
    assert [value for value in metric(trainer, "rewards/verdicts/mean") if value is not None]


@pytest.mark.parametrize("is_async", [False, True])
def test_rows_of_other_tasks_get_none_and_keep_their_place(is_async):
    def lengths(completions, log_extra, state, **columns):
        log_extra("seen", list(completions))
        return [float(len(text)) for text in completions]

    async def later(**columns):
        return lengths(**columns)

    extra = []
    scored = for_task("judge", later if is_async else lengths)
    columns = {"completions": ["a", "bb", "ccc"], "task": ["judge", "generate", "judge"], "state": "s"}
    rewards = scored(log_extra=lambda *values: extra.append(values), **columns)
    assert (asyncio.run(rewards) if is_async else rewards) == [1.0, None, 3.0]
    assert extra == [("seen", ["a", None, "ccc"])]


def test_a_mixture_has_the_asked_share_of_judge_rows(problems):
    mixture = mix_tasks(judge_problems(20), problems(["mixed"], 24), judge_fraction=0.25, seed=1)
    assert (len(mixture), mixture["task"].count("judge")) == (32, 8)
    assert all((row["label"] is None) == (row["task"] == "generate") for row in mixture)
    assert mixture["prompt"] == mix_tasks(judge_problems(20), problems(["mixed"], 24), 0.25, 1)["prompt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": judge_problems(task=["generate"] * 24)},
            "`task` of row 0 of `train_dataset` must be .*got 'generate'",
        ),
        ({"dataset": judge_problems().remove_columns("label")}, "judge row with label None"),
        ({"eval_dataset": None}, "`eval_dataset` must be a datasets.Dataset with judge rows"),
        ({"eval_dataset": judge_problems(1)}, r"it has labels \[0\]"),
        ({"reward": {"generate": knows}}, "`reward_funcs` must have an entry 'judge'"),
    ],
)
def test_data_that_can_not_be_judged_is_named(make_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        make_judge(make_trainer, **options)


@pytest.mark.parametrize("stage_handoff", ["continue", "merge"])
def test_the_next_stage_starts_with_the_judge_s_outputs(make_trainer, stage_handoff):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.0)
    judge = make_judge(make_trainer, peft_config=adapter, judge_gate_rows=0)
    judge.train()
    tokens = torch.arange(2, 10)[None]
    with torch.no_grad():
        expected = judge.model.eval()(tokens).logits.clone()
    model = hand_over(judge.accelerator.unwrap_model(judge.model), stage_handoff)
    again = {"peft_config": adapter} if stage_handoff == "merge" else {}
    generator = make_trainer(("mixed",), judge=True, model=model, **again)
    with torch.no_grad():
        torch.testing.assert_close(generator.model.eval()(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert generator.optimizer is None
    generator.train()
    assert generator.state.global_step == 3
    assert any(parameter.requires_grad for parameter in generator.model.parameters())


def test_an_unknown_hand_over_is_refused():
    with pytest.raises(ValueError, match="`stage_handoff` must be 'continue' or 'merge'; got 'copy'"):
        hand_over(torch.nn.Linear(1, 1), "copy")


def test_the_model_card_cites_the_paper(make_trainer, tmp_path):
    make_judge(make_trainer).create_model_card(model_name="toy")
    assert "2601.08468" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def skilled_from(step):
    """Verdicts at chance before this step of the training, and right from it on."""

    def verdict(completions, label, trainer_state, **columns):
        is_skilled = trainer_state.global_step >= step
        return [float(is_skilled or row % 2 == 0) for row in range(len(completions))]

    return verdict


def test_a_gap_that_does_not_rise_ends_the_patience(make_trainer, caplog, tmp_path):
    options = {"judge_gate_rows": 0, "judge_patience": 4, "max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    rising = make_judge(make_trainer, skilled_from(3), **options, output="rising")
    rising.train()
    assert rising.state.global_step == 8
    assert [step for step, *_ in rising._verdicts] == [0, 1, 2, 3]

    with pytest.raises(RuntimeError, match=r"has not risen within judge_patience=4 steps: 0\.000 over .* 0\.000 over"):
        make_judge(make_trainer, skilled_from(99), **options, output="flat").train()
    resumed = make_judge(make_trainer, skilled_from(99), **options, output="flat")
    with pytest.raises(RuntimeError, match="judge_patience"):
        resumed.train(resume_from_checkpoint=True)
    assert [step for step, *_ in resumed._verdicts] == [0, 1, 2, 3]
    warned = make_judge(make_trainer, skilled_from(99), **options, output="warned", on_low_skill="warn")
    warned.train()
    assert warned.state.global_step == 8
    assert sum("judge_patience" in record.message for record in caplog.records) == 1


def test_patience_is_of_the_stage_judge_alone(make_trainer, digit_reward):
    generate = make_trainer(("mixed",), digit_reward, judge=True, judge_patience=2, max_steps=3)
    generate.train()
    assert generate.state.global_step == 3
    assert generate._verdicts == []


ONE_PROMPT = {"judge_gate_rows": 0, "per_device_train_batch_size": 4, "judge_patience": 8, "max_steps": 9}


def test_the_patience_ends_with_one_prompt_a_batch_too(make_trainer, metric):
    """No batch has right and wrong solutions there: only their counts together give a gap."""
    seen = []

    def flat(completions, label, trainer_state, **columns):
        rights = skilled_from(99)(completions, label, trainer_state)
        seen.extend((trainer_state.global_step, kind, right) for kind, right in zip(label, rights, strict=True))
        return rights

    trainer = make_judge(make_trainer, flat, **ONE_PROMPT)
    with pytest.raises(RuntimeError, match=r"has not risen within judge_patience=8 steps: 0\.000 over .* 0\.000 over"):
        trainer.train()
    assert set(metric(trainer, "judge/gap")) == {None}
    for half in (range(4), range(4, 8)):
        for kind in (0, 1):
            assert any(step in half and about == kind for step, about, _ in seen)

    rising = make_judge(make_trainer, skilled_from(5), **ONE_PROMPT)
    rising.train()
    assert rising.state.global_step == 9


def test_counts_are_pooled_over_the_halves_of_the_patience(make_trainer):
    """Against shares of the counts, where the mean of the generations' own gaps says the opposite."""
    counts = [[0, 1, 1, 0, 1], [1, 0, 9, 9, 9], [2, 0, 1, 1, 1], [3, 5, 9, 5, 9]]
    early, late = 1 / 10 + 9 / 10 - 1, 5 / 10 + 6 / 10 - 1
    trainer = make_judge(make_trainer, judge_gate_rows=0, judge_patience=4)
    assert late > early
    trainer._verdicts = counts
    trainer.check_patience()
    trainer._verdicts = [
        *([step - 2, *rest] for step, *rest in counts[2:]),
        *([step + 2, *rest] for step, *rest in counts[:2]),
    ]
    with pytest.raises(RuntimeError, match=r": 0\.100 over their first half, 0\.000 over the second"):
        trainer.check_patience()


@pytest.mark.parametrize(("kind", "missing"), [(1, "wrong"), (0, "right")])
def test_a_gap_that_can_not_be_measured_is_not_taken_for_one_that_rises(make_trainer, caplog, kind, missing):
    rows = judge_problems().filter(lambda row: row["label"] == kind)
    with pytest.raises(
        RuntimeError, match=f"no verdicts on {missing} solutions in the first half of judge_patience=8"
    ):
        make_judge(make_trainer, dataset=rows, **ONE_PROMPT).train()
    once = {
        "judge_gate_rows": 0,
        "steps_per_generation": 4,
        "judge_patience": 2,
        "max_steps": 3,
        "on_low_skill": "warn",
    }
    make_judge(make_trainer, **once).train()
    assert "no verdicts on right solutions in the second half of judge_patience=2" in caplog.text


def test_the_patience_counts_on_after_a_resume(make_trainer, caplog):
    options = {**ONE_PROMPT, "save_strategy": "steps", "save_steps": 3, "on_low_skill": "warn", "logging_steps": 3}
    whole = make_judge(make_trainer, **options, output="whole")
    whole.train()
    make_judge(make_trainer, **options | {"max_steps": 3}, output="parts").train()
    resumed = make_judge(make_trainer, **options, output="parts")
    resumed.train(resume_from_checkpoint=True)
    assert resumed._verdicts == whole._verdicts
    assert len(whole._verdicts) == 8
    resumed._load_sampling_state({**resumed._sampling_state(), "verdicts": None})
    assert resumed._verdicts == []
    assert "was saved by an earlier version" in caplog.text


def test_a_missing_verdict_is_worth_what_the_option_says(make_trainer, metric):
    def three_valued(completions, label, unparseable_reward=0.0, **columns):
        return [unparseable_reward] * len(completions)

    trainer = make_judge(make_trainer, three_valued, judge_gate_rows=0, unparseable_reward=-0.5, max_steps=1)
    trainer.train()
    assert metric(trainer, "rewards/three_valued/mean") == [-0.5]
    assert judge_reward(completions=["Verdict: 1", "no idea"], label=[1, 1], unparseable_reward=-0.5) == [1.0, -0.5]
    with pytest.raises(ValueError, match=r"`unparseable_reward` must be left at 0 .*got -0\.5"):
        make_judge(make_trainer, knows, unparseable_reward=-0.5)
