"""Options: which are refused, what one generation changes, and that a command line sets them."""

import dataclasses

import pytest
from transformers import HfArgumentParser

from mimo_hf.trainers.mopd import MOPDConfig
from mimo_hf.trainers.mopd.mopd_config import NOT_READ

CPU = {"use_cpu": True, "bf16": False, "report_to": []}


def config(**options):
    return MOPDConfig("out", **(CPU | options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kl_estimator": "forward"}, ["kl_estimator", "'sampled'", "'forward'"]),
        ({"is_mode": "clip"}, ["is_mode", "'mask'", "'clip'"]),
        ({"loss_aggregation": "batch"}, ["loss_aggregation", "'token'", "'batch'"]),
        ({"teacher_offload": "disk"}, ["teacher_offload", "'cpu'", "'disk'"]),
        ({"is_low": 2.0, "is_high": 1.0}, ["is_low", "is_high", "2.0", "1.0"]),
        ({"is_low": -0.1}, ["is_low", "-0.1"]),
        ({"orm_alpha": 0.5}, ["orm_alpha", "num_generations", "2", "got 1"]),
        ({"orm_alpha": float("nan"), "num_generations": 2}, ["orm_alpha", "nan"]),
        ({"distill_coef": -1.0}, ["distill_coef", "-1.0"]),
        ({"kl_top_k": 0}, ["kl_top_k", "0"]),
        ({"teacher_batch_size": 0}, ["teacher_batch_size", "0"]),
        ({"adv_clip": 0.0}, ["adv_clip", "0.0"]),
        ({"adv_clip": 5.0, "kl_estimator": "full"}, ["adv_clip", "'full'", "Leave"]),
        ({"domain_quota": {"a": 0.5, "b": 0.4}}, ["domain_quota", "sum to 1", "0.9"]),
        ({"domain_weights": {"a": -1}}, ["domain_weights", "-1"]),
        ({"dynamic_sampling": True}, ["dynamic_sampling", "orm_alpha", "True"]),
        ({"easy_pool_alpha": 0.1}, ["easy_pool_alpha", "orm_alpha", "0.1"]),
        (
            {"dynamic_sampling": True, "orm_alpha": 1.0, "num_generations": 2, "domain_quota": {"a": 1.0}},
            ["domain_quota", "dynamic_sampling"],
        ),
        ({"beta": 0.1}, ["beta", "0.1", "reference model"]),
        ({"loss_type": "grpo"}, ["loss_type", "'grpo'", "loss_aggregation"]),
        ({"importance_sampling_level": "sequence"}, ["importance_sampling_level", "is_mode"]),
        ({"epsilon": 0.1}, ["epsilon", "is_low"]),
        ({"epsilon_high": 0.28}, ["epsilon_high", "0.28", "is_high"]),
        (
            {"vllm_importance_sampling_mode": "token_mask"},
            ["vllm_importance_sampling_mode", "'token_mask'", "is_mode"],
        ),
        ({"vllm_importance_sampling_clip_max": 5.0}, ["vllm_importance_sampling_clip_max", "5.0", "is_high"]),
        ({"kl_top_k": "8"}, ["kl_top_k", "whole", "'8'"]),
    ],
)
def test_bad_options_are_named_with_their_value_and_a_remedy(options, words):
    with pytest.raises(ValueError, match=r".+") as caught:
        config(**options)
    assert [word for word in words if word not in str(caught.value)] == []


def test_every_option_that_is_refused_is_one_of_trls():
    assert set(NOT_READ) <= {field.name for field in dataclasses.fields(MOPDConfig)}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_one_generation_takes_any_batch(rows):
    args = config(per_device_train_batch_size=rows, gradient_accumulation_steps=3)
    assert args.num_generations == 1
    assert args.per_device_train_batch_size == rows
    assert (args.steps_per_generation, args.generation_batch_size) == (3, 3 * rows)
    assert args.num_generations_eval is None


def test_one_generation_with_a_batch_of_its_own_for_generating():
    args = config(per_device_train_batch_size=3, generation_batch_size=9)
    assert (args.steps_per_generation, args.generation_batch_size) == (3, 9)
    with pytest.raises(ValueError, match=r"generation_batch_size.*must be a multiple of.*got 8 and a batch size of 3"):
        config(per_device_train_batch_size=3, generation_batch_size=8)


def test_several_generations_still_have_to_fit():
    with pytest.raises(ValueError, match=r"num_generations"):
        config(per_device_train_batch_size=3, num_generations=2)


def test_a_command_line_sets_every_option(tmp_path):
    line = (
        f"--output_dir {tmp_path} --use_cpu --kl_estimator topk --kl_top_k 7 --is_mode truncate --is_low 0.2 --is_high 3 "
        "--orm_alpha 0.3 --num_generations 4 --domain_column skill --default_teacher chat --distill_coef 2 "
        "--loss_aggregation token --teacher_offload cpu --teacher_dtype float32 --teacher_batch_size 5 "
        "--domain_normalize --allow_teacher_change --teacher_server_timeout 3 --teacher_server_concurrency 2"
    ).split()
    line += ["--domain_quota", '{"a": 0.25, "b": 0.75}', "--domain_weights", '{"a": 2}']
    (args,) = HfArgumentParser(MOPDConfig).parse_args_into_dataclasses(line)
    own = {field.name for field in dataclasses.fields(MOPDConfig)} & {
        word[2:] for word in line if word.startswith("--")
    }
    assert args.domain_quota == {"a": 0.25, "b": 0.75}
    assert args.domain_weights == {"a": 2}
    assert (args.kl_estimator, args.kl_top_k, args.is_mode, args.is_low, args.is_high) == (
        "topk",
        7,
        "truncate",
        0.2,
        3,
    )
    assert (args.orm_alpha, args.num_generations, args.domain_column) == (0.3, 4, "skill")
    assert len(own) >= 20


def test_every_option_is_documented_twice():
    from trl import GRPOConfig

    theirs = {field.name for field in dataclasses.fields(GRPOConfig)}
    for field in dataclasses.fields(MOPDConfig):
        if field.name not in theirs and field.name in MOPDConfig.__annotations__:
            assert field.metadata["help"]
            assert f"        {field.name} (`" in MOPDConfig.__doc__
