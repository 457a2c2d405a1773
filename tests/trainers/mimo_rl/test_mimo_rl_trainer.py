"""Dynamic sampling in a GRPOTrainer: which rows are trained on, against scripted rewards and loops."""

import logging
import math

import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig
from trl import GRPOConfig

from mimo_hf.trainers import DynamicSamplingGRPOTrainer
from mimo_hf.trainers.mimo_rl.sampling_rounds import Round, select


def trained(make_trainer, *arguments, **options):
    trainer = make_trainer(*arguments, max_steps=5, **options)
    trainer.train()
    return trainer


def test_with_the_features_off_the_weights_are_those_of_grpo(make_trainer, digit_reward, weights, assert_same_weights):
    plain, ours = (weights(trained(make_trainer, ("mixed",), digit_reward, grpo=grpo)) for grpo in (True, False))
    before = weights(make_trainer())
    assert_same_weights(plain, ours)
    assert any(not torch.equal(before[name], value) for name, value in ours.items())


def test_where_no_group_is_dropped_dynamic_sampling_changes_nothing(
    make_trainer, weights, assert_same_weights, metric
):
    plain = trained(make_trainer, grpo=True)
    ours = trained(make_trainer, dynamic_sampling=True)
    assert_same_weights(weights(plain), weights(ours))
    assert metric(ours, "sampling/rounds") == [1] * 5


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_batch_is_full_of_informative_groups(make_trainer, metric, accumulation, generated_batches):
    trainer = make_trainer(
        ("mixed", "right", "wrong", "half"),
        dynamic_sampling=True,
        gradient_accumulation_steps=accumulation,
    )
    for batch in generated_batches(trainer):
        groups = batch["advantages"].view(-1, 4)
        assert len(groups) == 2 * accumulation
        assert (groups.abs().amax(1) > 0.1).all()
        prompts = batch["prompt_ids"].view(len(groups), 4, -1)
        assert (prompts == prompts[:, :1]).all()
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    assert metric(trainer, "sampling/effective_batch") == [1.0] * 3
    assert max(metric(trainer, "sampling/rounds")) > 1


def test_padding_is_left_of_prompts_and_right_of_completions(make_trainer, generated_batches):
    trainer = make_trainer(("mixed", "wrong", "right"), dynamic_sampling=True)
    for batch in generated_batches(trainer):
        prompts, completions = batch["prompt_mask"].tolist(), batch["completion_mask"].tolist()
        assert prompts == [sorted(row) for row in prompts]
        assert completions == [sorted(row, reverse=True) for row in completions]
        assert (batch["prompt_ids"][batch["prompt_mask"] == 0] == 0).all()
        assert (batch["completion_ids"][batch["completion_mask"] == 0] == 0).all()


def test_the_gradient_of_a_merged_batch_is_that_of_its_rows_one_by_one(make_trainer, generated_batches):
    trainer = make_trainer(("mixed", "wrong", "right"), dynamic_sampling=True, max_steps=1)
    trainer.args.learning_rate = 0.0
    (batch,) = generated_batches(trainer)
    model = trainer.model
    model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(model, batch).backward()
    merged = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    tokens = batch["completion_mask"].sum()
    for row, advantage in enumerate(batch["advantages"]):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, completion[:, None])
        (-advantage * chosen.sum() / tokens).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(merged[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_first_groups_to_be_started_are_selected(make_trainer, generated_batches):
    """Two groups are missing after a round of wrong ones, four are generated for them at most."""
    trainer = make_trainer(("mixed", "wrong"), dynamic_sampling=True, per_device_train_batch_size=16, max_steps=2)
    seen = []
    rewards = trainer._calculate_rewards

    def recording(inputs, prompts, *rest):
        seen.append([(row["prompt"], row["kind"]) for row in inputs[::4]])
        return rewards(inputs, prompts, *rest)

    trainer._calculate_rewards = recording
    batches = generated_batches(trainer)
    started = [prompt for round_ in seen for prompt, kind in round_ if kind == "mixed"]
    trained = [trainer.processing_class.decode(ids, skip_special_tokens=True) for ids in batches[0]["prompt_ids"][::4]]
    assert [" ".join(prompt.split()) for prompt in started[:4]] == trained


def test_equal_rewards_for_ever_end_the_training_with_advice(
    make_trainer, weights, assert_same_weights, metric, caplog
):
    trainer = make_trainer(("right",), dynamic_sampling=True, max_sampling_rounds=3, max_steps=50)
    before = weights(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 1
    assert metric(trainer, "sampling/rounds") == [3]
    assert metric(trainer, "sampling/effective_batch") == [0]
    assert metric(trainer, "sampling/frac_all_right") == [1]
    assert_same_weights(before, weights(trainer))
    assert [record.message for record in caplog.records if "use harder problems" in record.message]


def test_equal_rewards_for_ever_can_raise(make_trainer):
    trainer = make_trainer(("wrong",), dynamic_sampling=True, on_exhausted="raise")
    with pytest.raises(RuntimeError, match="0 are all right, 16 all wrong"):
        trainer.train()


def test_a_short_batch_is_padded_with_zero_advantages_and_warned_of_once(
    make_trainer, metric, caplog, generated_batches
):
    options = {"dynamic_sampling": True, "max_sampling_rounds": 1, "shuffle_dataset": False}
    trainer = make_trainer(("mixed", "half"), **options)
    with caplog.at_level(logging.WARNING):
        batches = generated_batches(trainer)
    for batch in batches:
        assert len(batch["advantages"]) == 8
        assert (batch["advantages"].view(2, 4) != 0).all(1).tolist() == [True, False]
        assert (batch["advantages"].view(2, 4)[1] == 0).all()
    assert metric(trainer, "sampling/effective_batch") == [0.5] * 3
    assert sum("zero advantage" in record.message for record in caplog.records) == 1

    trainer = make_trainer(("mixed", "half"), **options, on_exhausted="raise")
    with pytest.raises(RuntimeError, match="1 of 2 groups whose rewards differ"):
        trainer.train()


def test_rounding_errors_of_equal_rewards_are_no_advantage(make_trainer):
    trainer = make_trainer(dynamic_sampling=True)
    batch = {key: torch.ones(8, 2, dtype=torch.long) for key in ("prompt_ids", "prompt_mask", "completion_ids")}
    batch |= {
        "completion_mask": torch.ones(8, 2, dtype=torch.long),
        "advantages": torch.tensor([1.0, -1.0, 1.0, -1.0] + [1e-4] * 4),
    }
    rewards = torch.tensor([[1.0], [0.0], [1.0], [0.0]] + [[0.7]] * 4)
    rounds = [Round(batch, rewards, torch.ones(1), 4, 1)]
    merged = trainer._assemble(rounds, select(rounds, needed=2, rank=0, carried=0), {})
    assert merged["advantages"].tolist() == [1.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0]


def test_solved_problems_wait_in_the_easy_pool(make_trainer, problems, metric):
    trainer = make_trainer(problems(["mixed", "right"], 8), dynamic_sampling=True, easy_pool_alpha=0.1, max_steps=12)
    trainer.train()
    assert sorted(trainer.sampler.state_dict()["pool"]) == [1, 3, 5, 7]
    assert metric(trainer, "sampling/pool_size")[-1] == 4
    early, late = (metric(trainer, "sampling/keep_rate")[part] for part in (slice(0, 3), slice(-3, None)))
    assert sum(late) > sum(early)


def test_groups_of_the_easy_pool_can_be_exempt_from_the_filter(make_trainer, problems, metric, generated_batches):
    dataset = problems(["mixed", "right"], 8)
    options = {"dynamic_sampling": True, "easy_pool_alpha": 0.5, "max_steps": 8, "per_device_train_batch_size": 16}
    filtered, kept = (make_trainer(dataset, **options, easy_pool_keep_zero_std=keep) for keep in (False, True))
    filtered.train()
    batches = generated_batches(kept)
    assert metric(filtered, "sampling/effective_batch") == [1] * 8
    shares = metric(kept, "sampling/effective_batch")
    assert 0 < min(shares) < 1
    assert sum(metric(kept, "sampling/rounds")) < sum(metric(filtered, "sampling/rounds"))
    for batch, share in zip(batches, shares, strict=True):
        assert (batch["advantages"].view(4, 4) != 0).any(1).float().mean() == share


def test_exempt_groups_alone_are_no_batch(make_trainer, problems, metric):
    """Both problems are drawn; whichever comes first, one that has a gradient is looked for until the rounds end."""
    options = {"dynamic_sampling": True, "easy_pool_alpha": 0.9, "easy_pool_keep_zero_std": True, "max_steps": 6}
    trainer = make_trainer(problems(["right", "mixed"], 2), **options, max_sampling_rounds=50)
    trainer.train()
    assert trainer.state.global_step == 6
    assert min(metric(trainer, "sampling/effective_batch")) > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_selection_is_what_a_walk_over_the_groups_gives(seed):
    """Against a walk: carried groups, kept ones, filling ones, and what is left over of the informative ones."""
    generator = torch.Generator().manual_seed(seed)
    needed, carried = 4, int(torch.randint(0, 5, (), generator=generator))
    rounds = []
    for _ in range(3):
        rewards = torch.randint(0, 2, (2 * 3 * 2, 1), generator=generator).float()
        exempt = torch.rand(2 * 3, generator=generator) < 0.2
        rounds.append(Round({}, rewards, torch.ones(1), 2, 2, exempt))
    for rank in range(2):
        found = select(rounds, needed, rank, carried)
        groups = [(index, group) for index in range(3) for group in range(3)]
        kept = [place for place in groups if rounds[place[0]].kept[rank, place[1]]]
        is_informative = [bool(rounds[index].informative[rank, group]) for index, group in groups]
        useful = [place for place, informative in zip(groups, is_informative, strict=True) if informative]
        taken = kept[: needed - carried]
        if taken and not carried and useful and not set(useful) & set(taken):
            taken[-1] = useful[0]
        rest = [place for place in groups if place not in kept][: needed - carried - len(taken)]
        surplus = [place for place in useful if place not in taken][:needed]
        for lists, wanted in ((found.kept, taken), (found.filling, rest), (found.surplus, surplus)):
            assert [(index, group) for index, own in enumerate(lists) for group in own] == wanted
        assert found.num_informative == sum(bool(rounds[i].informative[rank, g]) for i, g in taken)


def test_what_a_batch_does_not_need_is_trained_on_in_the_next(make_trainer, metric, generated_batches):
    options = {"dynamic_sampling": True, "per_device_train_batch_size": 16, "max_steps": 12}
    kinds = ("mixed", "wrong", "mixed")
    dropping = make_trainer(kinds, **options)
    dropping.train()
    carrying = make_trainer(kinds, **options, carry_surplus=True)
    batches = generated_batches(carrying)
    assert max(metric(dropping, "sampling/waste")) > 0
    tokens = [metric(trainer, "num_tokens")[-1] for trainer in (carrying, dropping)]
    assert tokens[0] < tokens[1]
    assert metric(carrying, "sampling/waste") == [0] * 12
    carried = metric(carrying, "sampling/frac_carried")
    assert carried[0] == 0
    assert max(carried) > 0
    for batch in batches:
        assert batch["advantages"].shape == (16,)
        assert (batch["advantages"].view(4, 4).abs().amax(1) > 0.1).all()
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()


def test_old_log_probabilities_are_those_of_the_policy_that_generated(make_trainer, generated_batches):
    trainer = make_trainer(
        ("mixed", "wrong", "mixed"),
        dynamic_sampling=True,
        carry_surplus=True,
        per_device_train_batch_size=16,
        max_steps=12,
    )
    policies, carried = [], []
    select = trainer._join

    def recording(rounds, groups):
        rows = select(rounds, groups)
        if len(policies) <= trainer.state.global_step:
            policies.append({name: value.detach().clone() for name, value in trainer.model.state_dict().items()})
            carried.append(rows)
        return rows

    trainer._join = recording
    batches = generated_batches(trainer)
    model = trainer.model.eval()
    checked = 0
    for policy, rows, batch in zip(policies, carried, batches[1:], strict=False):
        if not rows:
            continue
        count = len(rows["advantages"])
        model.load_state_dict(policy)
        for row in range(count):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
            with torch.no_grad():
                logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
            wanted = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
            torch.testing.assert_close(batch["old_per_token_logps"][row, : len(wanted)], wanted, atol=1e-5, rtol=1e-5)
            checked += 1
    assert checked


def test_a_reward_that_raises_leaves_its_rows_out(make_trainer, metric, generated_batches):
    def fails_on_the_first_row(completions, kind, **columns):
        if len(completions) > 1 or columns["row"][0] == 0:
            raise OSError("the verifier died")
        return [[1.0, 0.0, 0.0, 1.0][columns["row"][0]]]

    trainer = make_trainer(("mixed",), fails_on_the_first_row, dynamic_sampling=True, max_steps=1)

    def numbered(inputs, *rest):
        return type(trainer)._calculate_rewards(
            trainer, [row | {"row": index % 4} for index, row in enumerate(inputs)], *rest
        )

    trainer._calculate_rewards = numbered
    (batch,) = generated_batches(trainer)
    groups = batch["advantages"].view(2, 4)
    # Rewards of the three scored rows are 0, 0, 1.
    low, high = -(1 / 3) / (math.sqrt(1 / 3) + 1e-4), (2 / 3) / (math.sqrt(1 / 3) + 1e-4)
    torch.testing.assert_close(groups, torch.tensor([[0.0, low, low, high]] * 2))
    assert metric(trainer, "reward/errors") == [2]


@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_a_reward_that_always_raises_ends_the_training(make_trainer, dynamic_sampling):
    def broken(completions, **columns):
        raise OSError("no verifier")

    trainer = make_trainer(("mixed",), broken, dynamic_sampling=dynamic_sampling)
    with pytest.raises(RuntimeError, match=r"raised for every row of a batch, first broken: OSError\('no verifier'\)"):
        trainer.train()


def test_a_data_set_without_answers_is_named(make_trainer, problems):
    dataset = problems(["mixed"])
    with pytest.raises(ValueError, match="must have the column 'kind', which the reward function 'scripted' needs"):
        make_trainer(dataset.rename_column("kind", "sort"))
    with pytest.raises(ValueError, match=r"answers in the column 'kind'.* got 24 empty rows"):
        make_trainer(dataset.remove_columns("kind").add_column("kind", [None] * 24))


def test_what_can_not_be_drawn_by_index_is_refused(make_trainer, problems):
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "solve 1", "kind": "mixed"}]))
    with pytest.raises(TypeError, match=r"must be a datasets\.Dataset; got IterableDataset"):
        make_trainer(stream, dynamic_sampling=True)
    with pytest.raises(NotImplementedError, match="has the column 'image'"):
        make_trainer(problems(["mixed"]).add_column("image", [""] * 24), dynamic_sampling=True)


def test_plain_grpo_options_are_refused(problems):
    with pytest.raises(TypeError, match="`args` must be a MiMoRLConfig; got GRPOConfig"):
        DynamicSamplingGRPOTrainer("any", print, GRPOConfig("any", use_cpu=True, bf16=False), problems(["mixed"]))


def test_an_adapter_is_trained(make_trainer, weights):
    trainer = make_trainer(
        ("mixed", "wrong"),
        dynamic_sampling=True,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    before = weights(trainer)
    trainer.train()
    changed = [name for name, value in weights(trainer).items() if not torch.equal(before[name], value)]
    assert changed
    assert all("lora_" in name for name in changed)


def test_the_model_card_cites_the_paper(make_trainer, tmp_path):
    trainer = make_trainer(("mixed",))
    trainer.create_model_card(model_name="toy")
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "2505.07608" in card
    assert "mimo-rl" in card
