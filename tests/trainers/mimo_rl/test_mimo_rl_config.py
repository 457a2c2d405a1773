"""MiMoRLConfig: documented, parsed, checked."""

import dataclasses
import re

import pytest
import torch
from trl import GRPOConfig, TrlParser

from mimo_hf.rewards import CodeReward
from mimo_hf.trainers import JudgeRLVRConfig, MiMoRLConfig

CPU = {"use_cpu": True, "bf16": False, "report_to": []}


def own_fields(config, base):
    inherited = {field.name: field for field in dataclasses.fields(base)}
    return [
        field
        for field in dataclasses.fields(config)
        if field.name not in inherited or field.default != inherited[field.name].default
    ]


@pytest.mark.parametrize(("config", "base"), [(MiMoRLConfig, GRPOConfig), (JudgeRLVRConfig, MiMoRLConfig)])
def test_every_own_field_is_documented_twice_and_alike(config, base):
    for field in own_fields(config, base):
        entry = re.search(rf"^        {field.name} \(.*?\):\n((?:            .*\n)+)", config.__doc__, re.MULTILINE)
        assert entry, f"{field.name} is not in the docstring"
        words = [re.sub(r"[`'\"]", "", text).split() for text in (entry.group(1), field.metadata["help"])]
        assert words[0] == words[1], field.name


def test_options_come_from_the_command_line(tmp_path):
    (config,) = TrlParser((MiMoRLConfig,)).parse_args_and_config(
        (
            f"--output_dir {tmp_path} --use_cpu --bf16 false --dynamic_sampling true --easy_pool_alpha 0.1 "
            "--max_sampling_rounds 3 --on_exhausted raise"
        ).split()
    )
    assert config.dynamic_sampling is True
    assert (config.easy_pool_alpha, config.max_sampling_rounds, config.on_exhausted) == (0.1, 3, "raise")


def test_the_code_reward_is_as_the_options_say(tmp_path):
    options = "--code_reward_scheme soft --sandbox subprocess --sandbox_timeout_s 2 --sandbox_memory_mb 64 --sandbox_workers 1"
    (config,) = TrlParser((MiMoRLConfig,)).parse_args_and_config(
        f"--output_dir {tmp_path} --use_cpu --bf16 false --code_level_thresholds 0.2 0.6 {options}".split()
    )
    assert config.code_level_thresholds == [0.2, 0.6]
    reward = CodeReward.from_args(config)
    assert (reward.scheme, reward.sandbox.backend, reward.sandbox.workers) == ("soft", "subprocess", 1)
    assert (reward.sandbox.limits.timeout_s, reward.sandbox.limits.memory_bytes) == (2, 64 << 20)


@pytest.mark.parametrize("config", [MiMoRLConfig, JudgeRLVRConfig])
def test_a_machine_without_an_accelerator_needs_no_option(tmp_path, monkeypatch, config):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    args = config(str(tmp_path), dynamic_sampling=True)
    assert (args.bf16, args.fp16) == (False, False)
    with pytest.raises(ValueError, match="bf16/gpu"):
        config(str(tmp_path), bf16=True)
    with pytest.raises(ValueError, match="bf16/gpu"):
        GRPOConfig(str(tmp_path))  # or our default has become needless


@pytest.mark.parametrize("accelerator", [True, False])
@pytest.mark.parametrize(
    "options",
    [{"use_cpu": True}, {"use_cpu": True, "bf16": False}, {"use_cpu": True, "bf16": True}, {"fp16": True}, {}],
)
def test_elsewhere_the_precision_is_trls(tmp_path, monkeypatch, accelerator, options):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: accelerator)
    if not accelerator and not options.get("use_cpu"):
        return
    theirs, ours = GRPOConfig(str(tmp_path), **options), MiMoRLConfig(str(tmp_path), **options)
    assert (ours.bf16, ours.fp16) == (theirs.bf16, theirs.fp16)


@pytest.mark.parametrize("config", [MiMoRLConfig, JudgeRLVRConfig])
def test_the_help_text_can_be_printed(capsys, config):
    with pytest.raises(SystemExit):
        TrlParser((config,)).parse_args_and_config(["--help"])
    assert "easy_pool_alpha" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_sampling_rounds": 0}, "`max_sampling_rounds` must be at least 1; got 0"),
        ({"on_exhausted": "shrink"}, "`on_exhausted` must be one of"),
        ({"easy_pool_alpha": 1.1}, "`easy_pool_alpha` is a probability"),
        ({"carry_surplus": True}, "set `dynamic_sampling=True`"),
        ({"dynamic_sampling": True, "easy_pool_keep_zero_std": True}, "`easy_pool_alpha` above 0; got True and 0.0"),
        ({"code_reward_scheme": "firm"}, "`code_reward_scheme` must be one of"),
        ({"code_level_thresholds": (0.7, 0.3)}, "two rising pass rates between 0 and 1; got (0.7, 0.3)"),
        ({"sandbox": "docker"}, "`sandbox` must be one of"),
        ({"sandbox_timeout_s": 0}, "`sandbox_timeout_s` must be above 0; got 0"),
        ({"dynamic_sampling": True, "scale_rewards": "batch"}, "set `scale_rewards` to 'group' or 'none'"),
        (
            {"dynamic_sampling": True, "multi_objective_aggregation": "normalize_then_sum"},
            "set `multi_objective_aggregation` to 'sum_then_normalize'",
        ),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MiMoRLConfig(str(tmp_path), **CPU, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "both"}, "`stage` must be one of"),
        ({"on_low_skill": "hope"}, "`on_low_skill` must be one of"),
        ({"judge_min_gap": 2}, "`judge_min_gap` is a difference of probabilities"),
        ({"mixed_judge_fraction": 1}, "`mixed_judge_fraction` must be strictly between 0 and 1; got 1"),
        ({"unparseable_reward": 1.0}, "`unparseable_reward` must be below 1"),
        ({"judge_patience": 1}, "`judge_patience` must be at least 2 steps"),
        ({"judge_gate_rows": -1}, "`judge_gate_rows` must be 0"),
        ({"judge_prompt_template": "{problem}"}, "must contain {problem} and {solution}; it lacks {solution}"),
    ],
)
def test_impossible_judge_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        JudgeRLVRConfig(str(tmp_path), **CPU, **options)


def test_verdicts_have_a_length_of_their_own(tmp_path):
    lengths = {"max_completion_length": 500, "judge_max_completion_length": 30}
    for stage, expected in (("judge", 30), ("generate", 500), ("mixed", 500)):
        assert JudgeRLVRConfig(str(tmp_path), **CPU, **lengths, stage=stage).max_completion_length == expected


def test_a_group_that_straddles_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(MiMoRLConfig, "world_size", property(lambda self: 2))
    rows = {"per_device_train_batch_size": 2, "steps_per_generation": 1, "num_generations": 4}
    MiMoRLConfig(str(tmp_path), **CPU, **rows)
    for option in ({"dynamic_sampling": True}, {"easy_pool_alpha": 0.1}):
        with pytest.raises(ValueError, match="`num_generations=4` must divide the rows"):
            MiMoRLConfig(str(tmp_path), **CPU, **rows, **option)
