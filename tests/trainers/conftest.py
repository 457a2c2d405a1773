"""A causal LM that trains in milliseconds, with a tokenizer of one token a word."""

import functools

import pytest

WORDS = [*map(str, range(10)), "yes", "no", "maybe", "solve", "#"]


def make_tokenizer(words=WORDS):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def make_model(vocab_size=18, seed=0, **changes):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    size = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }
    return Qwen2ForCausalLM(Qwen2Config(**(size | changes)))


SMALL = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "learning_rate": 1e-2,
    "max_completion_length": 5,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 3,
}
SCRIPT = {"mixed": [1.0, 0.0, 0.0, 1.0], "right": [1.0] * 4, "wrong": [0.0] * 4, "half": [0.5] * 4}


def scripted(completions, kind, **columns):
    """Every group of four gets the rewards of its problem's kind."""
    return [SCRIPT[name][row % 4] for row, name in enumerate(kind)]


def starts_with_a_digit(completions, **columns):
    return [float(completion[:1].isdigit()) for completion in completions]


def make_problems(kinds, count=24):
    """Problems of these kinds in turn, with prompts of three lengths."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": ["solve " * (1 + index % 3) + f"{index // 10} {index % 10}" for index in range(count)],
            "kind": [kinds[index % len(kinds)] for index in range(count)],
        }
    )


def build_trainer(output_dir, kinds=("mixed",), reward=scripted, grpo=False, judge=False, **options):
    """A `DynamicSamplingGRPOTrainer`, or another trainer with the same options; `kinds` may be a data set."""
    from trl import GRPOConfig, GRPOTrainer

    from mimo_hf.trainers import DynamicSamplingGRPOTrainer, JudgeRLVRConfig, JudgeRLVRTrainer, MiMoRLConfig

    trainer, config = (GRPOTrainer, GRPOConfig) if grpo else (DynamicSamplingGRPOTrainer, MiMoRLConfig)
    trainer, config = (JudgeRLVRTrainer, JudgeRLVRConfig) if judge else (trainer, config)
    arguments = {
        name: options.pop(name)
        for name in ("peft_config", "eval_dataset", "generate_fn", "rollout_func")
        if name in options
    }
    return trainer(
        options.pop("model", None) or make_model(),
        reward,
        config(str(output_dir / options.pop("output", "")), **(SMALL | {"epsilon_high": 0.28} | options)),
        make_problems(kinds) if isinstance(kinds, tuple) else kinds,
        processing_class=make_tokenizer(),
        **arguments,
    )


def copy_weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


@pytest.fixture(scope="session", name="make_model")
def model_maker():
    return make_model


@pytest.fixture(scope="session", name="make_tokenizer")
def tokenizer_maker():
    return make_tokenizer


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def make_trainer(tmp_path):
    return functools.partial(build_trainer, tmp_path / "run")


@pytest.fixture
def problems():
    return make_problems


@pytest.fixture
def digit_reward():
    return starts_with_a_digit


@pytest.fixture
def weights():
    return copy_weights


@pytest.fixture
def assert_same_weights():
    import torch

    def check(left, right):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []

    return check


@pytest.fixture
def metric():
    """One metric over the steps of a training."""
    return lambda trainer, name: [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.fixture
def generated_batches():
    """All batches that a training makes, before they are shuffled."""

    def run(trainer):
        batches = []
        generate = trainer._generate_and_score_completions

        def recording(inputs):
            batches.append(generate(inputs))
            return batches[-1]

        trainer._generate_and_score_completions = recording
        trainer.train()
        return batches

    return run
