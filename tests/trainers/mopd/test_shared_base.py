"""Adapters of teachers beside the student's own, on one base: what they are called, and what must not change the base."""

from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from mimo_hf.trainers.mopd import LoraTeacher

from .test_teachers import LORA, assert_scored_by, generated, merged

TARGETS = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("called", ["teacher_a", "teacher_b"])
def test_the_students_adapter_may_be_called_as_a_teacher_is(make_mopd, make_model, save_adapter, called):
    path = save_adapter("ta", 0)
    student = get_peft_model(make_model(), LORA, adapter_name=called)
    trainer = make_mopd({"a": path, "b": "self", "c": "self"}, model=student, save_strategy="steps", save_steps=3)
    trainer.train()
    assert_scored_by(generated(trainer), [merged(path, make_model()), make_model(), make_model()])
    (saved,) = Path(trainer.args.output_dir, "checkpoint-3").rglob("adapter_model.safetensors")
    assert saved.parent.name == called
    assert any(value.any() for name, value in load_file(saved).items() if "lora_B" in name)


def test_a_domain_may_have_dots_and_be_the_beginning_of_another(make_mopd, make_model, make_rows, save_adapter):
    names = ("qwen2.5", "qwen2_5", "qwen2", "default")
    paths = [save_adapter(f"t{seed}", seed) for seed in range(4)]
    trainer = make_mopd(dict(zip(names, paths, strict=True)), rows=make_rows(domains=names), peft_config=LORA)
    assert_scored_by(generated(trainer), [merged(path, make_model()) for path in paths])


@pytest.mark.parametrize("teacher", ["self", "adapter"])
def test_a_student_that_trains_its_base_as_well_shares_it_with_nobody(make_mopd, save_adapter, teacher):
    own = LoraConfig(bias="all", **TARGETS)
    teachers = {"a": "self" if teacher == "self" else save_adapter("ta", 0), "b": "self", "c": "self"}
    with pytest.raises(ValueError, match=r"`model` must be trained in its adapter alone.*\.bias'.*bias='none'"):
        make_mopd(teachers, peft_config=own)


def test_a_student_that_trains_its_base_may_have_teachers_of_their_own(make_mopd, far_model):
    trainer = make_mopd(peft_config=LoraConfig(bias="all", **TARGETS), learning_rate=0.1)
    trainer.train()
    assert_scored_by(generated(trainer), [far_model(seed) for seed in (1, 2, 3)])


def test_a_student_whose_adapter_starts_inside_the_base_shares_it_with_no_adapter(make_mopd, save_adapter):
    own = LoraConfig(init_lora_weights="pissa", **TARGETS)
    with pytest.raises(ValueError, match=r"`init_lora_weights` of the student's adapter must.*'pissa'.*base="):
        make_mopd({"a": save_adapter("ta", 0), "b": "self", "c": "self"}, peft_config=own)


def test_such_a_student_is_its_own_teacher(make_mopd, make_model):
    own = LoraConfig(init_lora_weights="pissa", **TARGETS)
    trainer = make_mopd({"a": "self", "b": "self", "c": "self"}, peft_config=own, learning_rate=0.1)
    trainer.train()
    assert_scored_by(generated(trainer), [make_model()] * 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_lora_weights": "pissa"}, ["'b'", "init_lora_weights", "'pissa'", "merge_and_unload"]),
        ({"trainable_token_indices": [3, 4]}, ["'b'", "trainable_token_indices", "[3, 4]", "merge_and_unload"]),
    ],
)
def test_adapters_that_would_change_the_base_are_refused(make_mopd, make_model, tmp_path, settings, words):
    adapter = get_peft_model(make_model(), LoraConfig(**TARGETS, **settings))
    adapter.save_pretrained(tmp_path / "tb")
    with pytest.raises(ValueError, match=r".+") as caught:
        make_mopd({"a": "self", "b": str(tmp_path / "tb"), "c": "self"}, peft_config=LORA)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"use_rslora": True, "r": 4}, {"target_modules": "all-linear"}]
)
def test_other_kinds_of_adapters_score_as_the_model_they_are_loaded_into(
    make_mopd, make_model, save_adapter, settings
):
    paths = save_adapter("ta", 0, **settings), save_adapter("tb", 1)
    trainer = make_mopd({"a": paths[0], "b": LoraTeacher(paths[1]), "c": "self"}, peft_config=LORA)
    trainer.train()
    alone = PeftModel.from_pretrained(make_model(), paths[0])
    assert_scored_by(generated(trainer), [alone, merged(paths[1], make_model()), make_model()])
