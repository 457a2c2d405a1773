"""Setups of the MOPD study: where student and teachers start, and one seed of it with its models."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PrinterCallback

from mimo_hf.data import symbol_tasks, word_tokenizer
from mimo_hf.data.symbol_tasks import exact_match_reward
from mimo_hf.trainers import DynamicSamplingGRPOTrainer, MiMoRLConfig

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from mopd_toy import COMMON, SETUPS, Setup, accuracies, copy_of, make_model, make_start, make_teachers, problems


@dataclass(frozen=True)
class Reinforcement:
    """Of teachers made by reinforcement: each from the start, on its own domain."""

    steps: int
    prompts: int
    group: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """A setup with the methods that are compared in it."""

    summary: str
    setup: Setup
    methods: Sequence[str]
    rl: Reinforcement | None = None


COMPARED = (
    "mopd full", "mopd sampled", "sft", "sequential", "one teacher", "average third", "average half", "average most",
    "average whole", "mopd topk", "mopd topk_teacher", "mopd sampled, equal prompts", "mopd full, four answers",
    "mopd full + orm", "orm only",
)  # fmt: skip
PLANS = {
    "near": Plan("near teachers (B): a few more steps on their own task", SETUPS["near"], COMPARED),
    "far": Plan("far teachers (A): many more steps on their own task, from a weaker start", SETUPS["far"], COMPARED),
    "long": Plan(
        "answers of 24 digits that build on one another, and teachers that wrote 300 answers each",
        Setup(("running_sum", "sort", "reverse"), 250, 2e-3, 500, 1e-3, steps=1200, learning_rate=1.5e-3),
        ("mopd full, pool", "sft, pool", "mopd full", "sft"),
    ),
    "rl": Plan(
        "teachers made by reinforcement, as in the paper",
        Setup(("add", "sort", "reverse"), 225, 2e-3, teacher_steps=0, teacher_rate=0.0),
        ("mopd full", "sft", "average third", "average half", "mix rl", "mopd sampled"),
        Reinforcement(steps=80, prompts=32, group=8, learning_rate=2e-4),
    ),
}


def reinforce(
    start: LlamaForCausalLM, tokenizer, rows: Dataset, setup: Setup, seed: int, *, steps: int, prompts: int, group: int,
    learning_rate: float, dynamic: bool,
) -> tuple[LlamaForCausalLM, int]:  # fmt: skip
    """GRPO on exact match, and the tokens that it trained on."""
    model = copy_of(start)
    with tempfile.TemporaryDirectory() as folder:
        config = MiMoRLConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=prompts * group, num_generations=group,
            learning_rate=learning_rate, lr_scheduler_type="constant", max_completion_length=setup.max_completion_length,
            dynamic_sampling=dynamic, seed=seed, logging_steps=10, **COMMON,
        )  # fmt: skip
        trainer = DynamicSamplingGRPOTrainer(model, exact_match_reward, config, rows, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model, trainer.state.num_input_tokens_seen


class Study:
    """
    One seed of a setup.

    Args:
        folder: where start and teachers are kept, so that methods that run another day have the same ones; None: nowhere.
    """

    def __init__(self, plan: Plan, seed: int, folder: Path | None, num_test: int):
        self.plan, self.seed, self.folder = plan, seed, folder
        self.setup, self.rl = plan.setup, plan.rl
        self.num_test = num_test
        self.tokenizer = word_tokenizer(symbol_tasks.words())
        self.data_seed = 1000 + 100 * seed

    @cached_property
    def start(self) -> LlamaForCausalLM:
        return self._kept("start", lambda: make_start(self.setup, self.tokenizer, self.seed))

    @cached_property
    def teachers(self) -> dict[str, LlamaForCausalLM]:
        if self.folder and all((self.folder / f"{domain}.pt").exists() for domain in self.setup.domains):
            return {domain: self._kept(domain) for domain in self.setup.domains}
        made = self._reinforced() if self.rl else make_teachers(self.setup, self.start, self.tokenizer, self.seed)
        return {domain: self._kept(domain, lambda model=model: model) for domain, model in made.items()}

    def fresh_teachers(self) -> dict[str, LlamaForCausalLM]:
        """Copies, since a trainer changes how a teacher's `forward` works."""
        return {domain: copy_of(teacher) for domain, teacher in self.teachers.items()}

    def prompts(self, count: int) -> Dataset:
        return problems(self.setup.domains, count, seed=self.data_seed)

    def pool(self, each: int) -> Dataset:
        return problems(self.setup.domains, each * len(self.setup.domains), seed=self.data_seed)

    def measure(self, model: LlamaForCausalLM) -> dict[str, float]:
        return accuracies(model, self.tokenizer, self.setup, self.num_test, self.seed)

    def _reinforced(self) -> dict[str, LlamaForCausalLM]:
        rl, made = self.rl, {}
        for index, domain in enumerate(self.setup.domains, start=1):
            rows = problems([domain], rl.steps * rl.prompts, seed=10 * self.seed + index)
            made[domain], _ = reinforce(
                self.start, self.tokenizer, rows, self.setup, self.seed, steps=rl.steps, prompts=rl.prompts,
                group=rl.group, learning_rate=rl.learning_rate, dynamic=True,
            )  # fmt: skip
        return made

    def _kept(self, name: str, make=None) -> LlamaForCausalLM:
        path = self.folder / f"{name}.pt" if self.folder else None
        if path and path.exists():
            model = make_model(self.tokenizer)
            model.load_state_dict(torch.load(path, weights_only=True))
            return model
        model = make()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path)
        return model
