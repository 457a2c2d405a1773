"""MiMoRLConfig: documented, parsed, checked."""

import copy
import dataclasses
import json
import pickle
import re

import pytest
import torch
from trl import GRPOConfig, TrlParser

from mimo_hf.trainers import JudgeRLVRConfig, MiMoRLConfig
from mimo_hf.trainers.mimo_rl.moved_options import DEFAULTS

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


OLD_OPTIONS = {
    "code_reward_scheme": "soft", "sandbox": "subprocess", "sandbox_timeout_s": 2.0, "sandbox_memory_mb": 64, "sandbox_workers": 1,
}  # fmt: skip


@pytest.mark.parametrize("config", [MiMoRLConfig, JudgeRLVRConfig])
@pytest.mark.parametrize("name", OLD_OPTIONS)
def test_a_saved_option_of_the_code_reward_is_refused_with_its_new_place(tmp_path, config, name):
    saved = json.loads(json.dumps({"output_dir": str(tmp_path), **CPU, name: OLD_OPTIONS[name]}))
    place = re.escape(f"`{name}` is no option of the trainer any more: it is the field `{name}` of ")
    with pytest.raises(TypeError, match=rf"^{config.__name__}: {place}mimo_hf\.rewards\.CodeRewardOptions"):
        config(**saved)
    with pytest.raises(AttributeError, match=place):
        getattr(config(str(tmp_path), **CPU), name)


def test_an_option_that_nothing_read_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"`code_level_thresholds` .* leave it out; .*grade_tests` takes `thresholds`"):
        MiMoRLConfig(str(tmp_path), code_level_thresholds=[0.2, 0.6])
    with pytest.raises(AttributeError, match="'MiMoRLConfig' object has no attribute 'nothing'"):
        MiMoRLConfig(str(tmp_path), **CPU).nothing  # noqa: B018 - reading it is what raises


def test_training_arguments_with_the_old_options_load(tmp_path, caplog):
    args = MiMoRLConfig(str(tmp_path), **CPU, easy_pool_alpha=0.1)
    defaults, chosen = copy.copy(args), copy.copy(args)
    defaults.__dict__.update(DEFAULTS)
    chosen.__dict__.update(DEFAULTS | {"sandbox": "subprocess"})
    for saved, warnings in ((defaults, []), (chosen, ["sandbox"])):
        loaded = pickle.loads(pickle.dumps(saved))
        assert loaded.to_dict() == args.to_dict()
        assert not DEFAULTS.keys() & vars(loaded).keys()
        assert re.findall(r"`(\w+)` is no option", caplog.text) == warnings
    assert copy.deepcopy(args).to_dict() == args.to_dict()


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
        ({"easy_pool_alpha": 1.1}, "`easy_pool_alpha` must be a probability"),
        ({"carry_surplus": True}, "set `dynamic_sampling=True`"),
        ({"dynamic_sampling": True, "easy_pool_keep_zero_std": True}, "`easy_pool_alpha` above 0; got True and 0.0"),
        ({"dynamic_sampling": True, "scale_rewards": "batch"}, "`scale_rewards` must be 'group' or 'none'"),
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
        ({"judge_min_gap": 2}, "`judge_min_gap` must be a difference of probabilities"),
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
