"""The training as a whole: against TRL's distillation, against rewards that must not matter, across checkpoints."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk", "topk_teacher"])
def test_the_student_as_its_own_teacher_has_no_gradient(make_mopd, estimator):
    trainer = make_mopd({"a": "self", "b": "self", "c": "self"}, kl_estimator=estimator, kl_top_k=4, max_steps=1)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert abs(entry["loss"]) < 1e-7
    assert entry["grad_norm"] < 1e-6
    if estimator == "sampled":
        assert entry["loss"] == 0
        assert entry["grad_norm"] == 0
        assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())


def test_without_alpha_rewards_change_nothing(make_mopd, weights, assert_same_weights):
    results = []
    for reward in (None, lambda completions, **columns: [float(len(text)) for text in completions]):
        trainer = make_mopd(reward=reward, num_generations=4)
        trainer.train()
        results.append(weights(trainer))
    assert_same_weights(*results)


def first_gradient(trainer):
    trainer.model.train()
    torch.manual_seed(3)
    inputs = trainer._prepare_inputs([trainer.train_dataset[index // 4] for index in range(8)])
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    return torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None])


def count_digits(completions, **columns):
    return [float(sum(word.isdigit() for word in text.split())) for text in completions]


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk_teacher"])
def test_the_gradient_is_linear_in_alpha(make_mopd, estimator):
    gradients = [
        first_gradient(make_mopd(reward=count_digits, num_generations=4, orm_alpha=alpha, kl_estimator=estimator))
        for alpha in (0.0, 0.5, 1.0)
    ]
    assert (gradients[2] - gradients[0]).abs().max() > 1e-3
    torch.testing.assert_close(gradients[2] - gradients[0], 2 * (gradients[1] - gradients[0]), rtol=1e-4, atol=1e-7)


def distillation_gradient(tmp_path, model, teacher, tokenizer, batch):
    """Loss and gradient of TRL's own trainer on this batch."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    args = DistillationConfig(
        str(tmp_path / "trl"),
        beta=1.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        max_completion_length=5,
    )
    rows = Dataset.from_dict({"prompt": ["solve 1"] * 8})
    theirs = DistillationTrainer(
        model=model, teacher_model=teacher, args=args, train_dataset=rows, processing_class=tokenizer
    )
    theirs.model.train()
    theirs.model.zero_grad()
    loss = theirs.compute_loss(theirs.model, dict(batch))
    loss.backward()
    return loss.item(), {name: value.grad for name, value in theirs.model.named_parameters() if value.grad is not None}


def test_full_is_trls_distillation_with_one_teacher(make_mopd, make_model, far_model, tokenizer, tmp_path):
    options = {"kl_estimator": "full", "loss_aggregation": "token", "gradient_checkpointing": False}
    trainer = make_mopd({"a": far_model(1), "b": far_model(1), "c": far_model(1)}, **options)
    trainer.model.train()
    batch = trainer._prepare_inputs([trainer.train_dataset[index] for index in range(8)])
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    theirs, gradients = distillation_gradient(tmp_path, make_model(), far_model(1), tokenizer, batch)
    assert loss.item() == pytest.approx(theirs, rel=1e-5)
    for name, value in trainer.model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(value.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # 512 batches, so that three standard errors are small
def test_sampled_is_full_on_average(make_mopd, far_model):
    options = {"loss_aggregation": "sequence", "max_completion_length": 1, "per_device_train_batch_size": 64}
    teachers = {"a": far_model(1), "b": far_model(2), "c": far_model(3)}
    trainer = make_mopd(teachers, kl_estimator="full", **options)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [trainer.train_dataset[0]] * 64

    def gradient(estimator):
        trainer.args.kl_estimator = estimator
        trainer._buffered_inputs = None
        inputs = trainer._prepare_inputs(rows)
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        return trainer.model.lm_head.weight.grad.flatten().clone()

    full = gradient("full")  # of one token after one prompt: the same whatever is sampled
    samples = torch.stack([gradient("sampled") for _ in range(64)])
    error = samples.std(0) / 64**0.5
    off = (samples.mean(0) - full).abs() / error.clamp(min=1e-9)
    assert (off[error > 1e-8] < 3).float().mean() > 0.97
    assert (samples.mean(0) - full).norm() < 0.25 * full.norm()


def test_a_second_pass_uses_the_policy_of_now(make_mopd):
    trainer = make_mopd(num_iterations=2, max_steps=2, learning_rate=0.05)
    seen = []
    log_loss = trainer._log_loss

    def recording(inputs, gap, outside, entropies, mask):
        log_probs = inputs["teacher_per_token_logps"] - gap
        seen.append(
            (
                log_probs.clone(),
                inputs["old_per_token_logps"].clone(),
                inputs["teacher_per_token_logps"].clone(),
                mask.bool(),
            )
        )
        log_loss(inputs, gap, outside, entropies, mask)

    trainer._log_loss = recording
    trainer.train()
    (first, old, teacher, mask), (second, old_again, teacher_again, _) = seen
    assert torch.equal(old, old_again)
    assert torch.equal(teacher, teacher_again)
    torch.testing.assert_close(first[mask], old[mask], rtol=0, atol=1e-6)
    assert (second - old)[mask].abs().max() > 1e-3


def test_tokens_outside_the_bounds_are_counted_and_get_no_gradient(make_mopd):
    trainer = make_mopd(num_iterations=2, max_steps=2, learning_rate=0.5, is_low=0.999, is_high=1.001)
    trainer.train()
    dropped = [entry["mopd/a/is_dropped"] for entry in trainer.state.log_history if "mopd/a/is_dropped" in entry]
    assert dropped[0] == 0
    assert dropped[1] > 0.5


def test_microbatches_add_up_to_a_batch(make_mopd, far_model):
    def gradient(rows, steps):
        trainer = make_mopd(per_device_train_batch_size=rows, gradient_accumulation_steps=steps)
        trainer.model.train()
        torch.manual_seed(3)
        trainer._prepare_inputs([trainer.train_dataset[index] for index in range(8)])
        trainer.current_gradient_accumulation_steps = steps
        trainer.model.zero_grad()
        for inputs in trainer._buffered_inputs:
            trainer.compute_loss(trainer.model, inputs).backward()
        return torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None])

    torch.testing.assert_close(gradient(8, 1), gradient(2, 4), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk", "topk_teacher"])
def test_padding_and_masked_tokens_do_not_count(make_mopd, estimator):
    trainer = make_mopd(kl_estimator=estimator, kl_top_k=4)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs([trainer.train_dataset[index] for index in range(8)])
    inputs["tool_mask"] = torch.ones_like(inputs["completion_mask"])
    inputs["tool_mask"][:, 1] = 0
    loss = trainer.compute_loss(trainer.model, inputs)
    spoilt = dict(inputs)
    dead = (inputs["completion_mask"] * inputs["tool_mask"]) == 0
    for name in ("teacher_per_token_logps", "teacher_hidden_states", "teacher_top_logps"):
        if name in spoilt:
            spoilt[name] = spoilt[name].clone()
            spoilt[name][dead] = -50.0
    assert trainer.compute_loss(trainer.model, spoilt).item() == loss.item()
    inputs["tool_mask"] = torch.zeros_like(inputs["tool_mask"])
    nothing = trainer.compute_loss(trainer.model, inputs)
    nothing.backward()
    assert nothing.item() == 0


def test_alpha_needs_rewards(make_mopd):
    with pytest.raises(ValueError, match=r"reward_funcs.*orm_alpha=0.5"):
        make_mopd(orm_alpha=0.5, num_generations=4)


def test_dynamic_sampling_works_with_rewards(make_mopd):
    trainer = make_mopd(reward=count_digits, orm_alpha=0.5, num_generations=4, dynamic_sampling=True)
    trainer.train()
    assert len(losses(trainer)) == 3
    assert any("mopd/a/reward" in entry for entry in trainer.state.log_history)


def test_weights_of_domains_scale_their_term(make_mopd):
    only_b = first_gradient(make_mopd(domain_weights={"a": 0, "c": 0}))
    none = first_gradient(make_mopd(domain_weights={"a": 0, "b": 0, "c": 0}))
    twice = first_gradient(make_mopd(domain_weights={"a": 0, "b": 2, "c": 0}))
    assert not none.any()
    assert only_b.any()
    torch.testing.assert_close(twice, 2 * only_b, rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match=r"domain_weights.*'a', 'b', 'c'; got 'z'"):
        make_mopd(domain_weights={"z": 1})


def test_quotas_are_kept_in_every_batch(make_mopd, generated_batches):
    trainer = make_mopd(domain_quota={"a": 0.5, "b": 0.25, "c": 0.25})
    for batch in generated_batches(trainer):
        assert torch.bincount(batch["domain_idx"]).tolist() == [4, 2, 2]


def test_quotas_are_checked_against_the_data(make_mopd, make_rows, caplog):
    with pytest.raises(ValueError, match=r"domain_quota.*'z'"):
        make_mopd(domain_quota={"z": 1.0})
    with pytest.raises(ValueError, match=r"got 0.5 for 'c'"):
        make_mopd(rows=make_rows(domains=("a", "b")), domain_quota={"a": 0.5, "c": 0.5})
    make_mopd(domain_quota={"a": 0.5, "b": 0.5})
    assert "gives c no share: its 8 rows" in caplog.text


@pytest.mark.parametrize("estimator", ["sampled", "full", "topk", "topk_teacher"])
def test_evaluation_has_the_same_metrics(make_mopd, make_rows, estimator):
    trainer = make_mopd(eval_dataset=make_rows(6), kl_estimator=estimator, kl_top_k=4)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_mopd/a/reverse_kl", "eval_mopd/reverse_kl"} <= set(metrics) | set(
        trainer.state.log_history[-1]
    )


def test_without_rewards_the_log_has_none(make_mopd):
    trainer = make_mopd()
    trainer.train()
    assert not [name for entry in trainer.state.log_history for name in entry if "reward" in name]


def test_domains_that_vary_more_weigh_less(make_mopd, far_model):
    trainer = make_mopd({"a": far_model(1), "b": "self", "c": "self"}, domain_normalize=True)
    trainer.train()
    factors = trainer._scale.factors()
    assert factors[0] < 1 < factors[1]


def test_the_card_names_every_teacher(make_mopd, save_adapter, tmp_path):
    path = save_adapter("ta", 0)
    trainer = make_mopd({"a": path, "b": "self", "c": "self"}, peft_config=LORA, save_strategy="steps", save_steps=3)
    trainer.train()
    card = Path(trainer.args.output_dir, "README.md").read_text()
    assert "2601.02780" in card
    assert card.count("## Teachers") == 1
    assert "| a | adapter | `ta` |" in card
    assert "| b | self | `self` |" in card
    assert str(tmp_path) not in card


def checkpoint(trainer, step):
    return Path(trainer.args.output_dir, f"checkpoint-{step}")


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("options", [{}, {"kl_estimator": "full"}, {"num_iterations": 2, "domain_normalize": True}])
def test_a_resumed_training_ends_with_the_same_weights(
    make_mopd, save_adapter, weights, assert_same_weights, adapters, options
):
    def make(output):
        torch.manual_seed(0)
        teachers = {"a": save_adapter("ta", 0), "b": "self", "c": "self"} if adapters else None
        settings = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8, "output": output} | options
        return make_mopd(teachers, peft_config=LORA if adapters else None, **settings)

    straight = make("straight")
    straight.train()
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint(straight, 3)))
    assert_same_weights(weights(straight), weights(resumed))


def test_quotas_are_resumed_in_any_epoch(make_mopd, weights, assert_same_weights):
    def make(output):
        settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "output": output}
        return make_mopd(domain_quota={"a": 0.5, "b": 0.25, "c": 0.25}, **settings)  # three batches an epoch

    straight = make("straight")
    straight.train()
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint(straight, 4)))
    assert_same_weights(weights(straight), weights(resumed))


def test_checkpoints_hold_no_teacher(make_mopd, save_adapter):
    teachers = {"a": save_adapter("ta", 0), "b": save_adapter("tb", 1), "c": "self"}
    trainer = make_mopd(teachers, peft_config=LORA, save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model()
    for folder in (checkpoint(trainer, 3), Path(trainer.args.output_dir)):
        assert (folder / "adapter_model.safetensors").is_file()
        assert list(folder.glob("teacher_*")) == []
    manifest = json.loads((checkpoint(trainer, 3) / "mopd_manifest.json").read_text())
    assert {name: entry["kind"] for name, entry in manifest.items()} == {"a": "adapter", "b": "adapter", "c": "self"}
    for name in "ab":
        file = Path(teachers[name], "adapter_model.safetensors")
        assert manifest[name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (manifest[name]["source"], manifest[name]["vocab_size"]) == (teachers[name], 18)


def test_other_teachers_are_not_resumed_with_unless_asked(make_mopd, far_model, caplog):
    trainer = make_mopd(save_strategy="steps", save_steps=3)
    trainer.train()
    others = {"a": far_model(9), "b": far_model(2), "c": far_model(3)}
    with pytest.raises(ValueError, match=r"'a' has fingerprint.*allow_teacher_change"):
        make_mopd(others, max_steps=4).train(resume_from_checkpoint=str(checkpoint(trainer, 3)))
    with pytest.raises(ValueError, match=r"'b' is missing"):
        make_mopd({"a": far_model(1), "c": far_model(3)}, default_teacher="a", max_steps=4).train(
            resume_from_checkpoint=str(checkpoint(trainer, 3))
        )
    make_mopd(others, max_steps=4, allow_teacher_change=True).train(resume_from_checkpoint=str(checkpoint(trainer, 3)))
    assert "Resumed with other teachers: 'a' has fingerprint" in caplog.text


def test_teachers_that_only_lie_elsewhere_are_the_same(make_mopd, far_model, tmp_path):
    for folder in ("here", "there"):
        far_model(1).save_pretrained(tmp_path / folder)

    def make(folder, **options):
        return make_mopd({"a": str(tmp_path / folder), "b": far_model(2), "c": far_model(3)}, **options)

    trainer = make("here", save_strategy="steps", save_steps=3)
    trainer.train()
    make("there", max_steps=4).train(resume_from_checkpoint=str(checkpoint(trainer, 3)))


def test_a_mapping_by_position_is_sent_to_teachers(make_mopd):
    with pytest.raises(TypeError, match=r"teachers="):
        make_mopd(reward={"a": "self"})


def test_images_are_refused(make_mopd, make_rows):
    rows = make_rows().add_column("image", [None] * 24)
    with pytest.raises(NotImplementedError, match=r"train_dataset.*'image'"):
        make_mopd(rows=rows)


def test_a_stream_trains(make_mopd, make_rows):
    trainer = make_mopd(rows=make_rows().to_iterable_dataset(), accelerator_config={"dispatch_batches": False})
    trainer.train()
    assert len(losses(trainer)) == 3


def test_columns_may_be_removed(make_mopd):
    trainer = make_mopd(remove_unused_columns=True)
    trainer.train()
    assert len(losses(trainer)) == 3


class Unreliable:
    """A teacher behind a server that breaks down at its n-th request; it scores every token alike."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def describe(self):
        return {"kind": "server", "source": "http://127.0.0.1:1", "model": "m"}

    def check(self, temperature, top_k, vocab_size):
        pass

    def score(self, sequences, prompt_lengths, temperature, top_k=0):
        from mimo_hf.trainers.mopd.server_teacher import Scores, TeacherError

        self.calls += 1
        if self.calls == self.fails_at:
            raise TeacherError("http://127.0.0.1:1 does not answer.")
        counts = [len(ids) - length for ids, length in zip(sequences, prompt_lengths, strict=True)]
        return [Scores([-0.1 * (1 + place) for place in range(count)], [[]] * count, [[]] * count) for count in counts]


@pytest.fixture
def unreliable(monkeypatch):
    def use(client):
        monkeypatch.setattr("mimo_hf.trainers.mopd.pool.ServerTeacher", lambda url, **options: client)
        return client

    return use


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 4},
        {
            "reward": count_digits,
            "orm_alpha": 0.5,
            "num_generations": 4,
            "dynamic_sampling": True,
            "easy_pool_alpha": 0.3,
        },
    ],
    ids=["plain", "several steps a generation", "drawn prompts"],
)
def test_when_a_server_breaks_down_nothing_is_lost(make_mopd, unreliable, weights, assert_same_weights, options):
    from mimo_hf.trainers.mopd.server_teacher import TeacherError

    teachers = {"a": "http://127.0.0.1:1", "b": "self", "c": "self"}
    steps = 6 if "steps_per_generation" in options else 4
    settings = {"max_steps": steps} | options
    unreliable(Unreliable())
    straight = make_mopd(teachers, output="straight", **settings)
    straight.train()
    unreliable(Unreliable(fails_at=3))
    broken = make_mopd(teachers, output="broken", **settings)
    with pytest.raises(TeacherError, match=r"does not answer.*saved.*resume_from_checkpoint=True"):
        broken.train()
    unreliable(Unreliable())
    resumed = make_mopd(teachers, output="broken", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(weights(straight), weights(resumed))


def test_a_server_that_breaks_down_before_the_first_step_leaves_nothing(make_mopd, unreliable):
    from mimo_hf.trainers.mopd.server_teacher import TeacherError

    unreliable(Unreliable(fails_at=1))
    trainer = make_mopd({"a": "http://127.0.0.1:1", "b": "self", "c": "self"})
    with pytest.raises(TeacherError, match=r"does not answer.$"):
        trainer.train()
    assert list(Path(trainer.args.output_dir).glob("checkpoint-*")) == []


class TooFew(Unreliable):
    """`leave(answers)`: what is left of them."""

    def __init__(self, leave):
        super().__init__()
        self.leave = leave

    def score(self, *arguments):
        return self.leave(super().score(*arguments))


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (
            lambda found: [one._replace(logps=one.logps[:1]) for one in found],
            r"1 log-probabilities and \d+ lists .* for \d tokens",
        ),
        (
            lambda found: [one._replace(top_ids=one.top_ids[:1]) for one in found],
            r"\d log-probabilities and 1 lists .* for \d tokens",
        ),
        (lambda found: found[:-1], r"\d answers for \d completions: `score` must give one for each"),
    ],
)
def test_a_teacher_that_does_not_score_every_token_is_named(make_mopd, unreliable, leave, message):
    from mimo_hf.trainers.mopd.server_teacher import TeacherError

    unreliable(TooFew(leave))
    estimator = {"kl_estimator": "topk_teacher", "kl_top_k": 2}
    with pytest.raises(TeacherError, match=f"'http://127.0.0.1:1' gives {message}"):
        make_mopd({"a": "http://127.0.0.1:1", "b": "self", "c": "self"}, **estimator).train()


def test_what_a_server_says_is_what_tokens_are_distilled_towards(make_mopd, unreliable):
    unreliable(Unreliable())
    trainer = make_mopd({"a": "http://127.0.0.1:1", "b": "self", "c": "self"})
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[index] for index in range(6)])
    count = int(batch["completion_mask"][0].sum())
    expected = [-0.1 * (1 + place) for place in range(count)] + [0.0] * (batch["completion_mask"].shape[1] - count)
    assert batch["teacher_per_token_logps"][0].tolist() == pytest.approx(expected)
    assert batch["teacher_is_top1"][0].isnan().all()
    assert not batch["teacher_is_top1"][1].isnan().any()
