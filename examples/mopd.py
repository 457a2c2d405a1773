r"""
Distils several teachers, each for its own prompts, into one student on the student's own answers (MOPD, arXiv 2601.02780).

    python examples/mopd.py

shows it on tasks and models that it makes itself, in minutes on a CPU. With models and prompts of your own:

    python examples/mopd.py --model Qwen/Qwen3-0.6B \
        --teacher math=org/math-model --teacher code=path/of/adapter --teacher search=http://127.0.0.1:8000 --teacher chat=self \
        --dataset prompts.jsonl --output_dir outputs/mopd --use_peft --lora_r 16 --learning_rate 1e-5 \
        --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --max_completion_length 1024

A teacher is the folder or Hub id of a model, the folder of a LoRA adapter on the student's base, the address of a server (vLLM's, or
`mimo-hf teacher serve`), or `self`: the student as it is at the start, for what must not change. The data set is a `.jsonl` file or a
Hub id; each row has `prompt` (text or messages) and `domain` (a teacher's name). Outcome rewards join with
`--reward math_verify_reward --orm_alpha 0.5 --num_generations 8`. Options are TRL's, and may stand in a file: `--config mopd.yaml`.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from mimo_hf import rewards
from mimo_hf.data.symbol_tasks import exact_match_reward
from mimo_hf.trainers.mopd import MOPDConfig, MOPDTrainer

EXACT = "exact_match"
TOY = {
    "kl_estimator": "full", "max_steps": 120, "per_device_train_batch_size": 48, "learning_rate": 1e-3,
    "max_completion_length": 9, "logging_steps": 10, "bf16": False, "gradient_checkpointing": False, "use_cpu": True,
    "report_to": "none", "save_strategy": "no",
}  # fmt: skip


@dataclass
class ScriptArguments:
    model: str | None = field(
        default=None,
        metadata={
            "help": "Student: a folder or Hub id, as TRL's --model_name_or_path. None: models and tasks made here."
        },
    )
    teacher: list[str] = field(
        default_factory=list,
        metadata={
            "help": "DOMAIN=TEACHER, as often as there are domains; TEACHER is a model, an adapter, http://HOST:PORT or self.",
            "action": "extend",
        },
    )
    dataset: str | None = field(
        default=None, metadata={"help": "A .jsonl file or Hub id with the columns `prompt` and `domain`."}
    )
    split: str = field(default="train", metadata={"help": "Split of a data set on the Hub."})
    reward: str | None = field(
        default=None,
        metadata={
            "help": "Outcome reward, with --orm_alpha: a reward function of mimo_hf.rewards, such as math_verify_reward or "
            "domain_reward, or exact_match with the column `answer`."
        },
    )


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The text above as it is, and each option's default."""


def parse(argv: list[str] | None) -> tuple[ScriptArguments, MOPDConfig, ModelConfig]:
    parser = TrlParser((ScriptArguments, MOPDConfig, ModelConfig), description=__doc__, formatter_class=Help)
    found = parser.parse_args_and_config(argv)
    if found[0].model is None and found[2].model_name_or_path is None:
        parser.set_defaults(**TOY)
        found = parser.parse_args_and_config(argv)
    arguments, _, model = found
    arguments.model = arguments.model or model.model_name_or_path
    if arguments.model and not (arguments.teacher and arguments.dataset):
        parser.error("--model goes with --dataset and at least one --teacher DOMAIN=TEACHER")
    if not arguments.model and (arguments.teacher or arguments.dataset):
        parser.error("--teacher and --dataset go with --model, the student")
    return found


def as_teachers(given: list[str]) -> dict[str, str]:
    teachers: dict[str, str] = {}
    for text in given:
        domain, sign, teacher = text.partition("=")
        if not (domain and sign and teacher):
            raise SystemExit(f"--teacher must be DOMAIN=TEACHER, such as math=org/math-model; got {text!r}.")
        if domain in teachers:
            raise SystemExit(f"--teacher names the domain {domain!r} twice: {teachers[domain]!r} and {teacher!r}.")
        teachers[domain] = teacher
    return teachers


def as_dataset(name: str, split: str) -> Dataset:
    if name.endswith((".jsonl", ".json")):
        if not Path(name).is_file():
            raise SystemExit(f"--dataset must be a file that exists; got {name!r}.")
        return Dataset.from_json(name, keep_in_memory=True)
    return load_dataset(name, split=split)


def as_reward(name: str | None):
    if name is None or name == EXACT:
        return name and exact_match_reward
    known = [known for known in rewards.__all__ if known.endswith("_reward")]
    if name not in known:
        raise SystemExit(f"--reward must be one of {', '.join([EXACT, *known])}; got {name!r}.")
    return getattr(rewards, name)


def make_toy(arguments: ScriptArguments, folder: Path, config: MOPDConfig) -> None:
    """A student, a teacher for each of three tasks, and prompts, in a folder, as somebody's own would be."""
    import mopd_toy

    print(f"No --model is given: a small student, three teachers and their prompts are made in {folder}.", flush=True)
    setup, tokenizer = mopd_toy.SETUPS["near"], mopd_toy.word_tokenizer(mopd_toy.symbol_tasks.words())
    if config.max_steps < 10:  # to see that it runs
        setup = mopd_toy.shortened(setup)
    start = mopd_toy.make_start(setup, tokenizer, config.seed)
    models = {"student": start} | mopd_toy.make_teachers(setup, start, tokenizer, config.seed)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    prompts = mopd_toy.problems(setup.domains, config.max_steps * config.per_device_train_batch_size, seed=1000)
    prompts.to_json(folder / "prompts.jsonl")
    arguments.model, arguments.dataset = str(folder / "student"), str(folder / "prompts.jsonl")
    arguments.teacher = [f"{domain}={folder / domain}" for domain in setup.domains]
    for name in ("student", *setup.domains):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        print(name, json.dumps(mopd_toy.accuracies(model, tokenizer, setup, 200, config.seed)), flush=True)


def main(argv: list[str] | None = None) -> None:
    arguments, config, model_config = parse(argv)
    is_toy = arguments.model is None
    if is_toy:
        make_toy(arguments, Path(config.output_dir, "toy"), config)
    teachers = as_teachers(arguments.teacher)
    config.model_init_kwargs = {
        "revision": model_config.model_revision, "dtype": model_config.dtype,
        "attn_implementation": model_config.attn_implementation,
    } | (config.model_init_kwargs or {})  # fmt: skip
    trainer = MOPDTrainer(
        arguments.model,
        as_reward(arguments.reward),
        config,
        as_dataset(arguments.dataset, arguments.split),
        processing_class=AutoTokenizer.from_pretrained(arguments.model, padding_side="left"),
        quantization_config=get_quantization_config(model_config),
        peft_config=get_peft_config(model_config),
        teachers=teachers,
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)
    trainer.create_model_card(dataset_name=arguments.dataset)
    print(f"The student is in {config.output_dir}.")
    if is_toy:
        import mopd_toy

        found = mopd_toy.accuracies(trainer.model, trainer.processing_class, mopd_toy.SETUPS["near"], 200, config.seed)
        print("student after training", json.dumps(found), flush=True)
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=arguments.dataset)


if __name__ == "__main__":
    main()
