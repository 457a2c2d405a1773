"""
Judge first, generate second (arXiv 2601.08468), on DoubtSearch: a tiny model that often doubts a solution it has found.

    python examples/judge_rlvr.py

The model (100,000 weights) first imitates demonstrations that doubt right pairs, then learns by reinforcement: once to
generate only, and once to judge pairs before it generates. Printed are accuracy and length on test problems. A first look in
seconds, with a model that has learned nothing yet:

    python examples/judge_rlvr.py --warm_start_steps 5 --doubt_steps 2 --judge_steps 2 --generate_steps 2 --num_prompts 4 --num_test 16
"""

import random
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import HfArgumentParser, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

from mimo_hf.data import pair_sum, pair_sum_problems, word_tokenizer
from mimo_hf.trainers import JudgeRLVRConfig, JudgeRLVRTrainer, sample_responses

COMMON = {
    "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
}  # fmt: skip


@dataclass
class ScriptArguments:
    output_dir: str = field(default="outputs/judge-rlvr", metadata={"help": "Folder of the trainings."})
    warm_start_steps: int = field(default=1400, metadata={"help": "Steps on demonstrations that hardly err."})
    doubt_steps: int = field(
        default=250, metadata={"help": "Steps on demonstrations that doubt right pairs, after that."}
    )
    judge_steps: int = field(default=30, metadata={"help": "Steps of the stage 'judge'."})
    generate_steps: int = field(default=10, metadata={"help": "Steps of the stage 'generate', of both models."})
    num_prompts: int = field(default=32, metadata={"help": "Prompts of a reinforcement step, eight responses each."})
    num_test: int = field(default=256, metadata={"help": "Solutions sampled to measure a model."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def imitate(
    model, tokenizer, arguments: ScriptArguments, problems: Dataset, steps: int, learning_rate: float, **noise: float
) -> None:
    """Supervised steps on fresh demonstrations, a quarter of them judgements."""
    rng = random.Random(f"{arguments.seed}:{noise}")
    demonstrations = []
    for row in rng.choices(problems.to_list(), k=64 * steps):
        numbers, target = row["numbers"], row["target"]
        if rng.random() < 0.25:
            pair = rng.sample(row["pair"] if rng.random() < 0.5 else numbers, 2)
            prompt = pair_sum.judge_prompt(numbers, target, pair)
            response = pair_sum.judge_demonstration(pair, target, rng, **noise)
        else:
            prompt = pair_sum.solve_prompt(numbers, target)
            response = pair_sum.solve_demonstration(numbers, target, rng, **noise)
        demonstrations.append({"prompt": prompt, "completion": f" {response}"})
    config = SFTConfig(
        output_dir=f"{arguments.output_dir}/warm-start",
        max_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=min(50, steps),
        per_device_train_batch_size=64,
        max_length=128,
        seed=arguments.seed,
        logging_steps=200,
        **COMMON,
    )
    SFTTrainer(model, config, train_dataset=Dataset.from_list(demonstrations), processing_class=tokenizer).train()


def train_stage(
    model, tokenizer, arguments: ScriptArguments, stage: str, steps: int, problems: Dataset, test: Dataset
):
    """One stage from the model's weights on; optimizer and schedule start anew."""
    config = JudgeRLVRConfig(
        output_dir=f"{arguments.output_dir}/{stage}",
        stage=stage,
        max_steps=steps,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=8 * arguments.num_prompts,
        num_generations=8,
        max_completion_length=96,
        judge_max_completion_length=30,
        seed=arguments.seed,
        judge_gate_rows=64,
        on_low_skill="warn",
        per_device_eval_batch_size=256,
        dynamic_sampling=True,
        logging_steps=5,
        **COMMON,
    )
    is_judge = stage == "judge"
    trainer = JudgeRLVRTrainer(
        model,
        pair_sum.judgement_reward if is_judge else pair_sum.pair_reward,
        config,
        pair_sum.judge_rows(problems, arguments.seed) if is_judge else pair_sum.solve_rows(problems),
        pair_sum.judge_rows(test, arguments.seed) if is_judge else None,
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.model


def measure(name: str, model, tokenizer, test: Dataset, count: int, seed: int) -> None:
    set_seed(seed)
    rows = [test[index % len(test)] for index in range(count)]
    prompts = [pair_sum.solve_prompt(row["numbers"], row["target"]) for row in rows]
    responses = [ids for (ids,) in sample_responses(model, tokenizer, prompts, max_new_tokens=96)]
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    accuracy = sum(pair_sum.pair_reward(texts, [row["pair"] for row in rows])) / count
    length = sum(map(len, responses)) / count
    print(f"{name:22} accuracy {accuracy:.3f}   mean length {length:5.1f} tokens", flush=True)


def main(arguments: ScriptArguments) -> None:
    set_seed(arguments.seed)
    problems, test = pair_sum_problems("train"), pair_sum_problems("test")
    tokenizer = word_tokenizer(pair_sum.words())
    model = make_model(tokenizer)
    imitate(model, tokenizer, arguments, problems, arguments.warm_start_steps, 3e-3, false_no=0.1, false_yes=0.0)
    imitate(model, tokenizer, arguments, problems, arguments.doubt_steps, 1e-3, false_no=0.7, false_yes=0.02)
    measure("warm start", model, tokenizer, test, arguments.num_test, arguments.seed)

    vanilla = make_model(tokenizer)  # not a deep copy, whose `forward` TRL would have bound to `model`
    vanilla.load_state_dict(model.state_dict())
    vanilla = train_stage(vanilla, tokenizer, arguments, "generate", arguments.generate_steps, problems, test)
    measure("generate", vanilla, tokenizer, test, arguments.num_test, arguments.seed)
    judge = train_stage(model, tokenizer, arguments, "judge", arguments.judge_steps, problems, test)
    measure("judge", judge, tokenizer, test, arguments.num_test, arguments.seed)
    both = train_stage(judge, tokenizer, arguments, "generate", arguments.generate_steps, problems, test)
    measure("judge, then generate", both, tokenizer, test, arguments.num_test, arguments.seed)


if __name__ == "__main__":
    main(HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()[0])
