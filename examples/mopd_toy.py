"""
One student, three teachers: MOPD (arXiv 2601.02780, section 4.4) on three small tasks, made from nothing and measured.

    python examples/mopd_toy.py

A model of 245,000 weights learns three tasks on rows of symbols (add, sort, reverse) from right answers, but not well. Three copies
of it go on with one task each: the teachers, which forget the others. The student, the first model once more, then answers prompts of
all tasks, and each answer is scored by its task's teacher, token by token. Printed is the share of right answers of all models on
all tasks, and the share of the gap between start and teacher that the student has closed. `--setup far` starts from a weaker model;
`--plot mopd.png` draws the way. A first look in seconds, with models that have hardly learned:

    python examples/mopd_toy.py --quick
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from mimo_hf.data import symbol_task, symbol_tasks, word_tokenizer
from mimo_hf.data.symbol_tasks import TASKS, exact_match_reward
from mimo_hf.trainers import sample_responses
from mimo_hf.trainers.mopd import MOPDConfig, MOPDTrainer

COMMON = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    "disable_tqdm": True,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """
    From where student and teachers start.

    Attributes:
        start_steps, start_rate: of the supervised training on all tasks, 64 answers a step.
        teacher_steps, teacher_rate: of each teacher's on its own task.
        steps, prompts, learning_rate: of the distillation.
    """

    domains: tuple[str, ...]
    start_steps: int
    start_rate: float
    teacher_steps: int
    teacher_rate: float
    steps: int = 400
    prompts: int = 64
    learning_rate: float = 1e-3

    @property
    def max_completion_length(self) -> int:
        return max(TASKS[domain].length for domain in self.domains) + 2


SETUPS = {
    "near": Setup(("add", "sort", "reverse"), 210, 2e-3, 150, 5e-4),
    "far": Setup(("add", "sort", "reverse"), 150, 1e-3, 200, 1e-3),
}


def shortened(setup: Setup) -> Setup:
    """A few steps of everything, to see that it runs."""
    return replace(setup, start_steps=8, teacher_steps=4, steps=4, prompts=12)


@dataclass
class ScriptArguments:
    setup: str = field(
        default="near",
        metadata={"help": "Whether student and teachers start near each other or far apart.", "choices": list(SETUPS)},
    )
    kl_estimator: str = field(
        default="full",
        metadata={
            "help": "'full' compares all tokens at each place, 'topk' and 'topk_teacher' the likely ones, 'sampled' the sampled one."
        },
    )
    steps: int | None = field(default=None, metadata={"help": "Steps of the distillation; none: the setup's."})
    prompts: int | None = field(default=None, metadata={"help": "Prompts of a step; none: the setup's."})
    learning_rate: float | None = field(default=None, metadata={"help": "Peak learning rate; none: the setup's."})
    num_test: int = field(default=1000, metadata={"help": "Test problems of each task."})
    plot: str | None = field(default=None, metadata={"help": "Picture of the way (.png, .svg or .pdf)."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})
    quick: bool = field(default=False, metadata={"help": "A few steps of everything, to see that it runs."})


def make_model(tokenizer) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=288, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def copy_of(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A model of its own: a deep copy would go on using the first one's weights, since TRL's trainers bind `forward` to a model."""
    copied = LlamaForCausalLM(model.config)
    copied.load_state_dict(model.state_dict())
    return copied


def problems(domains: Sequence[str], count: int, seed: int) -> Dataset:
    """Training problems, as many of each domain, in random order."""
    each = -(-count // len(domains))
    rows = [symbol_task(domain, "train", each, seed=seed) for domain in domains]
    return concatenate_datasets(rows).shuffle(seed=seed, keep_in_memory=True)


def supervise(
    model: LlamaForCausalLM, tokenizer, rows: Dataset, *, steps: int, learning_rate: float, seed: int, batch_size: int = 64,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:  # fmt: skip
    """Trains on the answers of rows with `prompt` and `answer`."""
    prompts, answers = (tokenizer(list(rows[column])).input_ids for column in ("prompt", "answer"))
    columns = {
        "input_ids": [
            [*prompt, *answer, tokenizer.eos_token_id] for prompt, answer in zip(prompts, answers, strict=True)
        ],
        "completion_mask": [
            [0] * len(prompt) + [1] * (len(answer) + 1) for prompt, answer in zip(prompts, answers, strict=True)
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=learning_rate,
            warmup_steps=min(20, steps // 10), max_length=None, completion_only_loss=True, logging_strategy="no", seed=seed,
            **COMMON,
        )  # fmt: skip
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def make_start(setup: Setup, tokenizer, seed: int, callbacks: Sequence[TrainerCallback] = ()) -> LlamaForCausalLM:
    set_seed(seed)
    model = make_model(tokenizer)
    rows = problems(setup.domains, 64 * setup.start_steps, seed=10 * seed)
    supervise(
        model, tokenizer, rows, steps=setup.start_steps, learning_rate=setup.start_rate, seed=seed, callbacks=callbacks
    )
    return model


def make_teachers(
    setup: Setup, start: LlamaForCausalLM, tokenizer, seed: int, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, LlamaForCausalLM]:
    """Copies of the start that go on with one domain each."""
    teachers = {}
    for index, domain in enumerate(setup.domains, start=1):
        teachers[domain] = copy_of(start)
        rows = problems([domain], 64 * setup.teacher_steps, seed=10 * seed + index)
        supervise(
            teachers[domain], tokenizer, rows, steps=setup.teacher_steps, learning_rate=setup.teacher_rate, seed=seed,
            callbacks=callbacks,
        )  # fmt: skip
    return teachers


def distil(
    student: LlamaForCausalLM, teachers: Mapping[str, Any], tokenizer, rows: Dataset, setup: Setup, seed: int, *,
    reward_funcs=None, callbacks: Sequence[TrainerCallback] = (), **options,
) -> MOPDTrainer:  # fmt: skip
    """Trains the student in place. `options`: of `MOPDConfig`, in the place of the setup's."""
    options = {
        "max_steps": setup.steps, "per_device_train_batch_size": setup.prompts, "learning_rate": setup.learning_rate,
        "warmup_steps": 10, "kl_estimator": "full", "max_completion_length": setup.max_completion_length, "seed": seed,
        "logging_steps": 10,
    } | options  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = MOPDTrainer(
            student, reward_funcs, MOPDConfig(output_dir=folder, **options, **COMMON), rows, processing_class=tokenizer,
            teachers=teachers, callbacks=list(callbacks),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer


def accuracies(model, tokenizer, setup: Setup, num_test: int, seed: int) -> dict[str, float]:
    """Share of right answers to test problems of each domain, sampled at temperature 1 with the same random numbers each time."""
    found = {}
    for domain in setup.domains:
        rows = symbol_task(domain, "test", num_test, seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            samples = sample_responses(
                model, tokenizer, rows["prompt"], max_new_tokens=setup.max_completion_length, batch_size=250
            )
        texts = tokenizer.batch_decode([sample for (sample,) in samples], skip_special_tokens=True)
        found[domain] = statistics.fmean(exact_match_reward(texts, rows["answer"]))
    return found


def gap_closed(start: float, teacher: float, student: float) -> float:
    """Share of the way from start to teacher; NaN where there is none."""
    return (student - start) / (teacher - start) if teacher != start else float("nan")


class Steps(TrainerCallback):
    """Moves a progress bar, and measures now and then."""

    def __init__(self, progress: Progress, title: str, total: int, measure=None, every: int = 50):
        self.progress, self.measure, self.every = progress, measure, every
        self.task = progress.add_task(title, total=total)
        self.way: dict[int, dict[str, float]] = {}

    def on_step_end(self, args, state, control, model, **kwargs):
        self.progress.advance(self.task)
        if self.measure and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self.way[state.global_step] = self.measure(model)


def main(arguments: ScriptArguments) -> None:
    if arguments.plot:
        from mimo_hf.drawing import check_target

        check_target(arguments.plot, "--plot")
    chosen = {name: getattr(arguments, name) for name in ("steps", "prompts", "learning_rate")}
    setup = replace(SETUPS[arguments.setup], **{name: value for name, value in chosen.items() if value is not None})
    if arguments.quick:
        setup = shortened(setup)
        arguments.num_test = 20
    tokenizer = word_tokenizer(symbol_tasks.words())
    measure = partial(accuracies, tokenizer=tokenizer, setup=setup, num_test=arguments.num_test, seed=arguments.seed)
    with Progress() as progress:
        bar = partial(Steps, progress)
        start = make_start(setup, tokenizer, arguments.seed, [bar("start", setup.start_steps)])
        total = setup.teacher_steps * len(setup.domains)
        teachers = make_teachers(setup, start, tokenizer, arguments.seed, [bar("teachers", total)])
        models = {"start": measure(start)} | {f"teacher of {name}": measure(model) for name, model in teachers.items()}
        rows = problems(setup.domains, setup.steps * setup.prompts, seed=1000 + arguments.seed)
        steps = bar("student", setup.steps, measure=partial(measure, num_test=min(200, arguments.num_test)))
        student = copy_of(start)
        distil(
            student,
            teachers,
            tokenizer,
            rows,
            setup,
            arguments.seed,
            kl_estimator=arguments.kl_estimator,
            callbacks=[steps],
        )
        models["student"] = measure(student)
    own = {domain: models[f"teacher of {domain}"][domain] for domain in setup.domains}
    closed = {domain: gap_closed(models["start"][domain], own[domain], models["student"][domain]) for domain in own}
    show(models, closed)
    if arguments.plot:
        draw({0: models["start"]} | steps.way, own, arguments.plot)


def show(models: Mapping[str, Mapping[str, float]], closed: Mapping[str, float]) -> None:
    table = Table("share of right answers", *closed)
    for name, row in models.items():
        table.add_row(name, *(f"{row[domain]:.3f}" for domain in closed))
    table.add_section()
    table.add_row("gap closed", *(f"{value:.0%}" for value in closed.values()))
    Console().print(table)


def draw(way: Mapping[int, Mapping[str, float]], own: Mapping[str, float], path: str) -> None:
    from mimo_hf.drawing import line_chart, save

    series = {domain: [row[domain] for row in way.values()] for domain in own}
    series |= {f"teacher of {domain}": [value] * len(way) for domain, value in own.items()}
    title = "The student nears the teacher of each task"
    save(line_chart(list(way), series, title=title, x_label="step", y_label="share of right answers"), path)


if __name__ == "__main__":
    main(HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()[0])
