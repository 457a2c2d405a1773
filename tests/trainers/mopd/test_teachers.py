"""What the teachers say of each token, against a forward pass of each alone; and what scoring leaves behind."""

import json
import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from mimo_hf.trainers.mopd import LoraTeacher

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")


def generated(trainer, shuffled=False):
    """One batch, as the trainer generates and scores it."""
    trainer.model.train()
    rows = [trainer.train_dataset[index] for index in ((5, 1, 6, 3, 2, 4, 0, 7) if shuffled else range(8))]
    return trainer._generate_and_score_completions(rows)


@torch.no_grad()
def alone(model, batch, row, temperature=1.0):
    """Log-probabilities of a row's completion by a plain forward without padding: `[tokens, vocabulary]`, and the tokens."""
    prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
    completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
    model = model.eval()
    model.__dict__.pop("forward", None)
    logits = model(torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, -1), completion


def assert_scored_by(batch, models, temperature=1.0, atol=2e-5):
    """`models`: of each domain, one that scores as its teacher should."""
    for row, domain in enumerate(batch["domain_idx"].tolist()):
        log_probs, completion = alone(models[domain], batch, row, temperature)
        count = len(completion)
        got = batch["teacher_per_token_logps"][row]
        expected = log_probs.gather(1, completion.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(got[:count].double(), expected, rtol=0, atol=atol)
        assert not got[count:].any()
        agrees = (log_probs.argmax(1) == completion).float()
        assert torch.equal(batch["teacher_is_top1"][row][:count], agrees)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("rows_at_once", [None, 1, 3])
def test_each_row_is_scored_by_the_teacher_of_its_domain(make_mopd, far_model, temperature, rows_at_once):
    trainer = make_mopd(temperature=temperature, teacher_batch_size=rows_at_once)
    batch = generated(trainer, shuffled=True)
    assert batch["domain_idx"].tolist() == [2, 1, 0, 0, 2, 1, 0, 1]
    assert_scored_by(batch, [far_model(seed) for seed in (1, 2, 3)], temperature)


def test_shared_domains_have_one_model_in_memory(make_mopd, far_model, tmp_path):
    far_model(1).save_pretrained(tmp_path / "t")
    model = far_model(2)
    trainer = make_mopd({"a": str(tmp_path / "t"), "b": tmp_path / "t", "c": model, "d": model})
    assert trainer.pool.teachers[0] is trainer.pool.teachers[1]
    assert trainer.pool.teachers[2] is trainer.pool.teachers[3]
    assert len(trainer.pool._hosts) == 2
    assert_scored_by(generated(trainer), [far_model(1), far_model(1), far_model(2)])


def merged(folder, helpers_model):
    return PeftModel.from_pretrained(helpers_model, folder).merge_and_unload()


def test_adapters_score_as_models_that_they_are_merged_into(make_mopd, make_model, save_adapter):
    paths = [save_adapter(name, seed) for seed, name in enumerate(("ta", "tb"))]
    trainer = make_mopd(
        {"a": paths[0], "b": LoraTeacher(paths[1]), "c": "self"}, peft_config=LORA, gradient_checkpointing=True
    )
    assert len(trainer.pool._hosts) == 1
    batch = generated(trainer)
    assert_scored_by(batch, [merged(paths[0], make_model()), merged(paths[1], make_model()), make_model()])


def test_a_student_without_adapters_is_copied_once_for_all_adapters(make_mopd, make_model, save_adapter):
    paths = [save_adapter(name, seed) for seed, name in enumerate(("ta", "tb"))]
    trainer = make_mopd({"a": LoraTeacher(paths[0]), "b": LoraTeacher(paths[1]), "c": "self"}, learning_rate=0.1)
    assert len(trainer.pool._hosts) == 1
    trainer.train()
    batch = generated(trainer)  # by a student that has changed, which its teachers must not
    assert_scored_by(batch, [merged(paths[0], make_model()), merged(paths[1], make_model()), make_model()])


def test_an_adapter_may_have_a_base_of_its_own(make_mopd, far_model, save_adapter):
    path = save_adapter("ta", 0, far_model(4))
    trainer = make_mopd({"a": LoraTeacher(path, base=far_model(4)), "b": far_model(2), "c": far_model(3)})
    assert_scored_by(generated(trainer), [merged(path, far_model(4)), far_model(2), far_model(3)])


def test_self_is_the_adapter_that_the_student_came_with(make_mopd, make_model, save_adapter):
    path = save_adapter("student", 7)
    student = PeftModel.from_pretrained(make_model(), path, is_trainable=True)
    trainer = make_mopd({"a": "self", "b": "self", "c": "self"}, model=student, learning_rate=0.1)
    trainer.train()
    before = merged(path, make_model())
    assert_scored_by(generated(trainer), [before] * 3)


def state(model):
    return {
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "training": [module.training for module in model.modules()],
        "active": model.active_adapter,
    }


def test_scoring_leaves_the_student_as_it_was(make_mopd, save_adapter):
    teachers = {"a": save_adapter("ta", 0), "b": save_adapter("tb", 1), "c": "self"}
    trainer = make_mopd(teachers, peft_config=LORA)
    trainer.model.train()
    before = state(trainer.model)
    generated(trainer)
    assert state(trainer.model) == before
    trainable = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".default." in name for name in trainable)


def test_scoring_leaves_the_student_as_it_was_when_it_fails(make_mopd, save_adapter, monkeypatch):
    trainer = make_mopd({"a": save_adapter("ta", 0), "b": "self", "c": "self"}, peft_config=LORA)
    trainer.model.train()
    before = state(trainer.model)
    monkeypatch.setattr(trainer.pool.teachers[0].host, "score", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generated(trainer)
    assert state(trainer.model) == before


def test_scoring_leaves_adapters_on_a_copy_frozen(make_mopd, save_adapter):
    trainer = make_mopd({"a": save_adapter("ta", 0), "b": save_adapter("tb", 1), "c": "self"})
    generated(trainer)
    (host,) = trainer.pool._hosts.values()
    assert [name for name, parameter in host.model.named_parameters() if parameter.requires_grad] == []


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_training_moves_no_teacher_and_gives_it_no_gradient(make_mopd, save_adapter, estimator):
    teachers = {"a": save_adapter("ta", 0), "b": save_adapter("tb", 1), "c": "self"}
    trainer = make_mopd(teachers, peft_config=LORA, kl_estimator=estimator)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = [name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)]
    assert moved
    assert all(".default." in name for name in moved)
    named = {id(value): name for name, value in trainer.model.named_parameters()}
    held = [named[id(value)] for group in trainer.optimizer.param_groups for value in group["params"]]
    assert all(".default." in name for name in held)
    assert all(value.grad is None for name, value in trainer.model.named_parameters() if "teacher_" in name)


def test_adapters_and_merged_models_train_alike(make_mopd, make_model, save_adapter):
    paths = [save_adapter(name, seed) for seed, name in enumerate(("ta", "tb"))]

    def weights(teachers):
        torch.manual_seed(5)
        trainer = make_mopd(teachers, peft_config=LORA)
        trainer.train()
        return {name: value for name, value in trainer.model.named_parameters() if ".default." in name}

    by_adapters = weights({"a": paths[0], "b": paths[1], "c": "self"})
    by_models = weights({"a": merged(paths[0], make_model()), "b": merged(paths[1], make_model()), "c": make_model()})
    for name, value in by_adapters.items():
        torch.testing.assert_close(value, by_models[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk", "topk_teacher"])
def test_offloaded_teachers_give_the_same_training(make_mopd, estimator, weights, assert_same_weights):
    results = []
    for offload in ("none", "cpu"):
        trainer = make_mopd(teacher_offload=offload, kl_estimator=estimator, kl_top_k=4)
        trainer.train()
        results.append(weights(trainer))
    assert_same_weights(*results)


def test_other_sizes_of_vocabulary_are_refused_by_name(make_mopd, far_model):
    with pytest.raises(ValueError, match=r"'b'.*20 and 18 tokens.*GOLD"):
        make_mopd({"a": far_model(1), "b": far_model(2, vocab_size=20), "c": far_model(3)})


def save_with_tokenizer(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_another_order_of_tokens_is_refused_by_name(make_mopd, far_model, make_tokenizer, tmp_path):
    words = [*map(str, range(9, -1, -1)), "yes", "no", "maybe", "solve", "#"]
    path = save_with_tokenizer(far_model(2), make_tokenizer(words), tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"'b'.*student's tokenizer.*10 tokens differ.*'0' .student 3, teacher 12.*GOLD"
    ):
        make_mopd({"a": far_model(1), "b": path, "c": far_model(3)})


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk", "topk_teacher"])
def test_a_table_that_only_has_more_padding_is_taken(
    make_mopd, far_model, make_tokenizer, tmp_path, estimator, caplog
):
    path = save_with_tokenizer(far_model(2, vocab_size=23), make_tokenizer(), tmp_path / "padded")
    trainer = make_mopd({"a": far_model(1), "b": path, "c": far_model(3)}, kl_estimator=estimator, kl_top_k=40)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert all(entry["loss"] == entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    batch = generated(trainer)
    assert_scored_by(batch, [far_model(1), far_model(2, vocab_size=23), far_model(3)])
    if estimator == "topk_teacher":
        assert int(batch["teacher_top_ids"].max()) < 18


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, ["'b'", "modules_to_save", "lm_head", "merge_and_unload"]),
        ({"target_modules": ["q_proj", "lm_head"]}, ["'b'", "lm_head", "merge_and_unload"]),
        ({"target_modules": r".*(q_proj|lm_head)"}, ["'b'", "lm_head", "merge_and_unload"]),
        ({"bias": "lora_only"}, ["'b'", "bias", "'lora_only'", "merge_and_unload"]),
    ],
)
def test_adapters_that_change_what_teachers_share_are_refused(make_mopd, save_adapter, settings, words):
    with pytest.raises(ValueError, match=r".+") as caught:
        make_mopd({"a": "self", "b": save_adapter("tb", 0, **settings), "c": "self"}, peft_config=LORA)
    assert [word for word in words if word not in str(caught.value)] == []


def test_adapters_for_another_shape_are_refused(make_mopd, make_model, save_adapter):
    path = save_adapter("tb", 0, make_model(hidden_size=32, num_attention_heads=4, num_key_value_heads=2))
    with pytest.raises(ValueError, match=r"'b'.*must.*fits.*hidden_size 16.*base="):
        make_mopd({"a": "self", "b": path, "c": "self"}, peft_config=LORA)


def test_adapters_for_more_layers_are_refused(make_mopd, make_model, save_adapter):
    path = save_adapter("tb", 0, make_model(num_hidden_layers=2))
    with pytest.raises(ValueError, match=r"'b'.*must.*weights.*layers.1.*base="):
        make_mopd({"a": "self", "b": path, "c": "self"}, peft_config=LORA)


def test_an_adapter_for_a_base_of_another_name_is_told(make_mopd, save_adapter, caplog):
    path = save_adapter("tb", 0)
    config = Path(path, "adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "org/other-base"}))
    model = make_mopd().model
    model.config._name_or_path = "org/this-base"
    model.__dict__.pop("forward", None)
    make_mopd({"a": path, "b": path, "c": path}, model=model)
    assert "org/other-base" in caplog.text
    assert "org/this-base" in caplog.text


def test_a_student_whose_own_adapter_saves_modules_shares_its_base_with_nobody(make_mopd, save_adapter):
    own = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=r"`modules_to_save` of the student's adapter.*lm_head.*base="):
        make_mopd({"a": save_adapter("ta", 0), "b": "self", "c": "self"}, peft_config=own)


@pytest.mark.parametrize(
    ("teachers", "error", "words"),
    [
        ({"a": 3}, TypeError, ["'a'", "3", "'self'"]),
        ({"a": ""}, TypeError, ["'a'", "''"]),
        ({3: "self"}, ValueError, ["3"]),
        (["self"], ValueError, ["['self']"]),
    ],
)
def test_what_is_no_teacher_is_named(make_mopd, teachers, error, words):
    with pytest.raises(error) as caught:
        make_mopd(teachers)
    assert [word for word in words if word not in str(caught.value)] == []


def test_no_teachers_at_all_is_named(make_model, tokenizer, tmp_path, make_rows):
    from mimo_hf.trainers.mopd import MOPDConfig, MOPDTrainer

    args = MOPDConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[])
    for teachers in (None, {}):
        with pytest.raises(ValueError, match=r"`teachers` must map domains to teachers"):
            MOPDTrainer(make_model(), None, args, make_rows(), processing_class=tokenizer, teachers=teachers)


def test_a_peft_model_as_a_teacher_is_sent_to_lora_teacher(make_mopd, make_model):
    with pytest.raises(TypeError, match=r"'a'.*LoraTeacher"):
        make_mopd({"a": get_peft_model(make_model(), LORA), "b": "self", "c": "self"})


@pytest.mark.parametrize("estimator", ["full", "topk"])
def test_a_server_is_not_asked_for_what_it_does_not_give(make_mopd, estimator):
    with pytest.raises(ValueError, match=r"kl_estimator.*'topk_teacher'.*'b'"):
        make_mopd({"a": "self", "b": "http://127.0.0.1:9", "c": "self"}, kl_estimator=estimator)


@pytest.mark.parametrize("kind", ["path", "adapter", "base"])
def test_paths_may_be_path_objects(make_mopd, make_model, far_model, save_adapter, tmp_path, kind):
    adapter = Path(save_adapter("ta", 0))
    far_model(4).save_pretrained(tmp_path / "base")
    teacher, right = {
        "path": (tmp_path / "base", far_model(4)),
        "adapter": (LoraTeacher(adapter), merged(adapter, make_model())),
        "base": (LoraTeacher(adapter, base=tmp_path / "base"), merged(adapter, far_model(4))),
    }[kind]
    trainer = make_mopd({"a": teacher, "b": "self", "c": "self"}, save_strategy="steps", save_steps=1, max_steps=1)
    assert_scored_by(generated(trainer), [right, make_model(), make_model()])
    trainer.train()
    manifest = json.loads(Path(trainer.args.output_dir, "checkpoint-1", "mopd_manifest.json").read_text())
    assert manifest["a"]["source"] == str(tmp_path / "base" if kind == "path" else adapter)


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_a_folder_called_student_is_a_folder(make_mopd, make_model, far_model, tmp_path, monkeypatch, peft_config):
    far_model(4).save_pretrained(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    trainer = make_mopd({"a": "student", "b": "self", "c": "self"}, peft_config=peft_config)
    assert_scored_by(generated(trainer), [far_model(4), make_model(), make_model()])


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_the_student_itself_is_no_teacher(make_mopd, make_model, save_adapter, peft_config):
    model = make_model()
    for teacher in (model, LoraTeacher(save_adapter("ta", 0), base=model)):
        with pytest.raises(ValueError, match=r"`teachers\['a'\]` must be another model than `model`.*'self'"):
            make_mopd({"a": teacher, "b": "self", "c": "self"}, model=model, peft_config=peft_config)


def test_the_path_of_the_student_may_be_a_teacher(make_mopd, make_model, far_model, tmp_path):
    path = str(tmp_path / "start")
    make_model().save_pretrained(path)
    trainer = make_mopd({"a": path, "b": far_model(2), "c": "self"}, model=path)
    assert_scored_by(generated(trainer), [make_model(), far_model(2), make_model()])


def test_a_checkpoint_without_all_tensors_is_refused(make_mopd, far_model, tmp_path):
    model, lost = far_model(1), "model.layers.0.self_attn.q_proj.weight"
    tensors = {name: value for name, value in model.state_dict().items() if name != lost}
    model.save_pretrained(tmp_path / "part", state_dict=tensors)
    with pytest.raises(ValueError, match=rf"`teachers\['b'\]`.*part.*must have all tensors.*lacks 1: {lost}"):
        make_mopd({"a": "self", "b": str(tmp_path / "part"), "c": "self"})


def test_a_path_that_leads_nowhere_is_named_with_its_domain(make_mopd, tmp_path):
    with pytest.raises(ValueError, match=r"`teachers\['b'\]` must be a model that can be loaded; got '.*nowhere'"):
        make_mopd({"a": "self", "b": str(tmp_path / "nowhere"), "c": "self"})


def test_a_model_without_a_head_is_refused(make_mopd, far_model):
    with pytest.raises(TypeError, match=r"`teachers\['b'\]` must be a causal language model.*got Qwen2Model"):
        make_mopd({"a": "self", "b": far_model(1).model, "c": "self"})


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_a_teacher_that_gives_no_number_ends_the_training_before_the_student_is_spoilt(
    make_mopd, far_model, estimator
):
    from mimo_hf.trainers.mopd import TeacherError

    broken = far_model(2)
    broken.lm_head.weight.data[3] = float("nan")
    trainer = make_mopd({"a": far_model(1), "b": broken, "c": "self"}, kl_estimator=estimator)
    with pytest.raises(
        TeacherError, match=r"'b' gives the log-probability nan for token \d+.*teacher_dtype='float32'"
    ):
        trainer.train()
    assert all(value.isfinite().all() for value in trainer.model.parameters())


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32])
def test_a_teacher_is_as_precise_as_its_own_weights(make_mopd, far_model, first):
    trainer = make_mopd({"a": far_model(1).to(first), "b": far_model(2), "c": "self"}, kl_estimator="full")
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[1]] * 4)  # of domain b
    mask = batch["completion_mask"].bool()
    head = far_model(2).lm_head.weight
    got = torch.log_softmax(batch["teacher_hidden_states"][mask].float() @ head.T, -1)
    right = torch.cat([alone(far_model(2), batch, row)[0] for row in range(4)])
    torch.testing.assert_close(got.double(), right, rtol=0, atol=2e-5)


def test_a_student_that_samples_what_a_teacher_has_no_row_for_is_told(
    make_mopd, make_model, far_model, make_tokenizer, tmp_path
):
    from mimo_hf.trainers.mopd import TeacherError

    path = save_with_tokenizer(far_model(2), make_tokenizer(), tmp_path / "smaller")
    student = make_model(vocab_size=200)  # untrained: it samples padding most of the time
    with pytest.raises(TeacherError, match=r"sampled token \d+.*'b' has 18 tokens.*Resize"):
        make_mopd({"a": "self", "b": path, "c": "self"}, model=student).train()


def test_tokens_added_to_the_student_are_known_to_teachers_made_of_it(make_mopd, make_model, make_tokenizer, tmp_path):
    from mimo_hf.trainers.mopd.pool import Student

    save_with_tokenizer(make_model(vocab_size=20), make_tokenizer(), tmp_path / "student")
    model = type(make_model()).from_pretrained(tmp_path / "student")
    trainer = make_mopd({"a": "self", "b": "self", "c": "self"}, model=model)
    longer = make_tokenizer()
    longer.add_special_tokens({"pad_token": "[PAD]"})
    student = Student(trainer.model, longer, trainer.pool.student.initial)
    pool = type(trainer.pool)({"a": "self"}, student, trainer.args, trainer.accelerator)
    assert pool.teachers[0].vocab_size == 20


def test_the_tokenizer_of_a_teacher_from_the_hub_is_compared(make_mopd, far_model, make_tokenizer, monkeypatch):
    from mimo_hf.trainers.mopd import vocabulary

    asked = []

    def from_pretrained(place, revision=None, **settings):
        asked.append((place, revision))
        return make_tokenizer() if place == "org/padded" else make_tokenizer(["other", "words"])

    monkeypatch.setattr(vocabulary.AutoTokenizer, "from_pretrained", from_pretrained)
    model = far_model(2, vocab_size=23)
    model.config._name_or_path, model.config._commit_hash = "org/padded", "f00"
    make_mopd({"a": "self", "b": model, "c": "self"})
    assert asked == [("org/padded", "f00")]
    model.config._name_or_path = "org/other"
    with pytest.raises(ValueError, match=r"`teachers\['b'\]` must have the student's tokenizer"):
        make_mopd({"a": "self", "b": model, "c": "self"})
