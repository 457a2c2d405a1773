"""An MOPD trainer that trains in milliseconds; helpers are those of the folder above."""

import functools
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("trainer_helpers", Path(__file__).parents[1] / "conftest.py")
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

DOMAINS = ("a", "b", "c")


def make_rows(count=24, domains=DOMAINS, column="domain"):
    from datasets import Dataset

    prompts = ["solve " * (1 + index % 4) + f"{index // 10} {index % 10}" for index in range(count)]
    return Dataset.from_dict({"prompt": prompts, column: [domains[index % len(domains)] for index in range(count)]})


def far_model(seed, **changes):
    """A teacher whose distributions are far from those of an untrained student."""
    import torch

    model = helpers.make_model(seed=seed, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def build(
    output_dir, teachers=None, rows=None, reward=None, model=None, eval_dataset=None, peft_config=None, **options
):
    from mimo_hf.trainers.mopd import MOPDConfig, MOPDTrainer

    settings = helpers.SMALL | {"num_generations": 1} | options
    return MOPDTrainer(
        helpers.make_model() if model is None else model,
        reward,
        MOPDConfig(
            str(output_dir / options.pop("output", "")), **{k: v for k, v in settings.items() if k != "output"}
        ),
        make_rows() if rows is None else rows,
        eval_dataset,
        processing_class=helpers.make_tokenizer(),
        peft_config=peft_config,
        teachers={name: far_model(seed) for seed, name in enumerate(DOMAINS, 1)} if teachers is None else teachers,
    )


@pytest.fixture
def make_mopd(tmp_path):
    return functools.partial(build, tmp_path / "run")


@pytest.fixture(name="far_model")
def far_model_maker():
    return far_model


@pytest.fixture(name="make_rows")
def rows_maker():
    return make_rows


@pytest.fixture
def save_adapter(tmp_path):
    """A trained-looking LoRA adapter on a model of `make_model`, saved; returns its folder."""

    def save(name, seed, base=None, **settings):
        import torch
        from peft import LoraConfig, get_peft_model

        settings = {
            "r": 2,
            "target_modules": ["q_proj", "v_proj"],
            "lora_dropout": 0.3,
            "task_type": "CAUSAL_LM",
        } | settings
        wrapped = get_peft_model(helpers.make_model() if base is None else base, LoraConfig(**settings))
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_" in key:
                    parameter.normal_(0, 0.5)
        wrapped.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def quick(monkeypatch, no_key):
    """A client that repeats a request at once."""
    from mimo_hf.trainers.mopd import server_connection

    monkeypatch.setattr(server_connection, "FIRST_DELAY_S", 0.01)


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def server():
    from ._fake_server import fake_server

    with fake_server() as (fake, url):
        fake.url = url
        yield fake


@pytest.fixture(scope="module")
def model():
    """Far from uniform."""
    model = helpers.make_model()
    for parameter in model.parameters():
        parameter.data *= 8
    return model


@pytest.fixture(scope="module")
def url(model):
    """The address of a server of this model."""
    from mimo_hf.trainers.mopd.teacher_server import serve_teacher

    with serve_teacher(model, helpers.make_tokenizer(), max_logprobs=18) as url:
        yield url
