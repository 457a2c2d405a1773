"""The steps of JudgeRLVR's pipeline (see `command`): collect, build, judge, generate or mixed, eval."""

import asyncio
import copy
import gc
import importlib
import inspect
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig, get_peft_config

from mimo_hf.data import build_judge_set
from mimo_hf.data.judge_prompts import judge_prompt
from mimo_hf.data.judge_set import END_OF_THOUGHT, solution_response

from ..checkpoints import STATE_FILE, last_whole_checkpoint, write_whole
from ..mimo_rl.moved_options import DEFAULTS
from ..sampling import sample_responses
from .judge_rlvr_config import JudgeRLVRConfig
from .judge_rlvr_trainer import JudgeRLVRTrainer, hand_over, mix_tasks
from .options import JudgeRLVRPipelineConfig
from .problems import Problems
from .step_folder import StepFolder, folder_lock, sha256_of_folder, sha256_of_json

logger = logging.getLogger(__name__)

MAIN = "main"  # a Hub repository's branch, if no revision is named
HELD_OUT = 5  # one problem in this many judges the judge
# Options that change no result; where the problems come from is one, as their hash is an input of every step.
DATA = ("dataset_name", "dataset", "dataset_config", "dataset_train_split", "dataset_test_split", "test_share")
NO_INPUTS = ("restart", "step", *DATA)


def run_judge_rlvr(
    pipeline: JudgeRLVRPipelineConfig,
    training: JudgeRLVRConfig,
    model: ModelConfig,
    problems: Problems | None = None,
) -> dict[str, dict[str, float]]:
    """
    Runs what is not done yet of the five steps, on one process.

    Args:
        problems: those of `pipeline`, if they are loaded already.

    Returns:
        `accuracy` and `mean_length` (tokens) on the test problems, of the model at the start and after each training, by its
        step's name; nothing if `pipeline.step` is one before `"eval"`.

    Raises:
        RuntimeError: if another run works in `output_dir`, or the judge lacks skill (see `JudgeRLVRConfig`).
        ValueError: if a step's folder was made from other inputs, or a step before `pipeline.step` is not done.
    """
    if training.stage == "judge":
        raise ValueError(
            "`stage` must be left out, as the pipeline sets it, or be 'mixed' for both tasks in one training; "
            f"got {training.stage!r}. To judge only, set `step='judge'`."
        )
    if training.use_vllm and training.vllm_mode == "colocate" and pipeline.step is None:
        raise ValueError(
            "`vllm_mode` must be 'server' where one process runs several steps; got 'colocate', an engine that "
            "keeps its memory when a stage ends. Or run the steps as processes of their own, with `step` (see "
            "its help)."
        )
    if training.world_size > 1:
        raise ValueError(
            f"`world_size` must be 1 for the pipeline; got {training.world_size}. With several, train the stages "
            "one by one with JudgeRLVRTrainer, from the data that its steps `collect` and `build` have made."
        )
    for name in ("load_in_8bit", "load_in_4bit"):
        if getattr(model, name):
            raise ValueError(
                f"`{name}` must be False; got True. Each stage hands its weights to the next one, and rounded ones "
                "can't be trained on. With `use_peft` and `dtype='bfloat16'` a stage needs little more memory than "
                "the model itself."
            )
    with folder_lock(Path(training.output_dir)):
        return _Pipeline(pipeline, training, model, problems).run()


class _Pipeline:
    def __init__(
        self,
        pipeline: JudgeRLVRPipelineConfig,
        training: JudgeRLVRConfig,
        model: ModelConfig,
        problems: Problems | None,
    ):
        self.reward, self.judge_reward = _import(pipeline.reward), _import(pipeline.judge_reward)
        self.parse_answer = _import(pipeline.parse_answer)
        if problems is None:
            problems = pipeline.load_problems()
            for note in problems.notes:
                logger.info("%s", note)
        self.options, self.training, self.model = pipeline, training, model
        self.root = Path(training.output_dir)
        self.tokenizer = AutoTokenizer.from_pretrained(
            model.model_name_or_path, revision=model.model_revision, padding_side="left"
        )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.problems = {"train": problems.train, "test": problems.test}
        self.peft_config = get_peft_config(model)
        self._hash = sha256_of_json([self.problems[split] for split in ("train", "test")])
        for name in [model.model_name_or_path, *pipeline.candidate_models]:
            self._hash = sha256_of_json([self._hash, name, sha256_of_folder(Path(name), "*.safetensors")])
        self._loading = {"dtype": model.dtype or "auto"}
        if model.attn_implementation is not None:
            self._loading["attn_implementation"] = model.attn_implementation
        for named, usual in ((model.model_revision, MAIN), (self._loading, {"dtype": "float32"})):
            if named != usual:
                self._hash = sha256_of_json([self._hash, named])

    def run(self) -> dict[str, dict[str, float]]:
        common = {name: getattr(self.training, name) for name in ("seed", "temperature", "max_completion_length")}
        choice = {name: value for name, value in asdict(self.options).items() if name not in NO_INPUTS}
        trainer = {k: v for k, v in self.training.to_dict().items() if k not in ("output_dir", "logging_dir")}
        trainer |= DEFAULTS  # so that a folder of the last release goes on
        steps: list[tuple[str, Any, Callable[[StepFolder], None]]] = [
            ("collect", [common, choice["candidates_per_problem"]], self.collect),
            ("build", [choice["parse_answer"], choice["model_thinks"], trainer["judge_prompt_template"]], self.build),
            *self._trainings([choice, trainer, str(self.peft_config)]),
            ("eval", [], self.evaluate),
        ]
        names, only = [name for name, *_ in steps], self.options.step
        if only not in (None, *names):
            raise ValueError(f"`step` must be one of {', '.join(names)}; got {only!r}.")
        for name, inputs, make in steps:
            folder = StepFolder(self.root, name, [self._hash, inputs], self.training.seed, self.options.restart)
            if not folder.is_done:
                if only not in (None, name):
                    raise ValueError(
                        f"`step` must come after those that it needs; got {only!r}, and {name!r} is not done. Run it first."
                    )
                folder.mark("running")
                set_seed(self.training.seed)
                make(folder)
                folder.mark("done")
                _free_memory()
            if name == only != "eval":
                return {}
            self._hash = folder.inputs_sha256
        return json.loads((self.root / "eval" / "metrics.json").read_text(encoding="utf-8"))

    def _trainings(self, inputs: Any) -> list[tuple[str, Any, Callable[[StepFolder], None]]]:
        if self.training.stage == "mixed":
            return [("mixed", inputs, self.mixed)]
        return [("judge", inputs, self.judge), ("generate", inputs, self.generate)]

    def collect(self, folder: StepFolder) -> None:
        """Candidates of every model for every training problem."""
        rows = self.problems["train"]
        candidates = []
        for name in [str(self.model.model_name_or_path), *self.options.candidate_models]:
            problems = [row["problem"] for row in rows]
            count = self.options.candidates_per_problem
            revision = self.model.model_revision if name == self.model.model_name_or_path else MAIN
            completions = self._sample(self._load(name, revision=revision), problems, count, f"candidates of {name}")
            for row, texts in zip(rows, completions, strict=True):
                kept = {key: row[key] for key in ("problem_id", "problem", "solution")}
                candidates += [{**kept, "completion": text, "source_model": name} for text in texts]
        write_whole(folder.path / "candidates.jsonl", "".join(f"{json.dumps(row)}\n" for row in candidates))

    def build(self, folder: StepFolder) -> None:
        """The judge's training set and, of every fifth problem, the rows that its skill is measured on."""
        lines = (self.root / "collect" / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
        candidates = list(map(json.loads, lines))
        rows = build_judge_set(
            candidates,
            lambda problem, candidate: self._prompt(
                judge_prompt(problem, candidate, self.training.judge_prompt_template)
            ),
            self.parse_answer,
            extract=solution_response if self._model_thinks(candidates) else str.strip,
            count_tokens=lambda text: len(self.tokenizer(text).input_ids),
            seed=self.training.seed,
        )
        held_out = set(sorted(set(rows["problem_id"]))[::HELD_OUT])
        shares: dict[str, list[int]] = {"train": [], "held_out": []}
        for index, problem_id in enumerate(rows["problem_id"]):
            shares["held_out" if problem_id in held_out else "train"].append(index)
        for name, share in shares.items():
            shutil.rmtree(folder.path / name, ignore_errors=True)
            rows.select(share).save_to_disk(str(folder.path / name))

    def _model_thinks(self, candidates: Sequence[dict[str, Any]]) -> bool:
        """As the option says or, without it, as the completions show."""
        if self.options.model_thinks is False:
            return False
        if any(END_OF_THOUGHT in row["completion"] for row in candidates):
            return True
        knows_thoughts = END_OF_THOUGHT in self.tokenizer.get_vocab()
        if self.options.model_thinks or knows_thoughts:
            why = (
                "`model_thinks=True` says that they end there"
                if self.options.model_thinks
                else "the tokenizer has this token"
            )
            raise ValueError(
                f"`model_thinks` must be what the completions show, though {why}; got {len(candidates)} without "
                f"{END_OF_THOUGHT}. If the model answers without thoughts, set `model_thinks=False`. If its thoughts "
                "are cut off, raise `max_completion_length` and set `restart=True`."
            )
        logger.warning(
            "No sampled completion holds %s: the model answers without thoughts, and whole completions are judged.",
            END_OF_THOUGHT,
        )
        return False

    def judge(self, folder: StepFolder) -> None:
        build = self.root / "build"
        self._train(
            folder,
            self._model_at_start(),
            self.judge_reward,
            load_from_disk(str(build / "train")),
            load_from_disk(str(build / "held_out")),
            steps=self.options.judge_steps,
            peft_config=self.peft_config,
            hand_over_as=self.options.stage_handoff,
        )

    def generate(self, folder: StepFolder) -> None:
        continues = self.peft_config is not None and self.options.stage_handoff == "continue"
        self._train(
            folder,
            self._load(str(self.root / "judge" / "model"), is_adapter=continues),
            self.reward,
            self._solve_rows(),
            None,
            steps=self.options.generate_steps,
            peft_config=None if continues else self.peft_config,
            hand_over_as="merge",
        )

    def mixed(self, folder: StepFolder) -> None:
        judge_rows = load_from_disk(str(self.root / "build" / "train"))
        self._train(
            folder,
            self._model_at_start(),
            {"judge": self.judge_reward, "generate": self.reward},
            mix_tasks(judge_rows, self._solve_rows(), self.training.mixed_judge_fraction, self.training.seed),
            load_from_disk(str(self.root / "build" / "held_out")),
            steps=self.options.judge_steps + self.options.generate_steps,
            peft_config=self.peft_config,
            hand_over_as="merge",
        )

    def _model_at_start(self):
        return self._load(str(self.model.model_name_or_path), revision=self.model.model_revision)

    def _load(self, path: str, is_adapter: bool = False, revision: str = MAIN):
        if is_adapter:
            from peft import AutoPeftModelForCausalLM

            return AutoPeftModelForCausalLM.from_pretrained(
                path, is_trainable=True, revision=revision, **self._loading
            )
        return AutoModelForCausalLM.from_pretrained(path, revision=revision, **self._loading)

    def _solve_rows(self) -> Dataset:
        return Dataset.from_list([{**row, "prompt": self._prompt(row["problem"])} for row in self.problems["train"]])

    def evaluate(self, folder: StepFolder) -> None:
        """One sampled solution a test problem from the model at the start and after each training."""
        rows = self.problems["test"]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        prompts = list(map(self._prompt, columns["problem"]))
        metrics = {}
        for name in ("start", *(name for name, *_ in self._trainings(None))):
            path = self.model.model_name_or_path if name == "start" else self.root / name / "model"
            is_adapter = Path(str(path), "adapter_config.json").exists()
            revision = self.model.model_revision if name == "start" else MAIN
            set_seed(self.training.seed)
            sampled = self._sample(
                self._load(str(path), is_adapter, revision), columns["problem"], 1, f"test solutions of {name}"
            )
            texts = [texts[0] for texts in sampled]
            wrapped = [[{"role": "assistant", "content": text}] for text in texts] if self._is_chat else texts
            scores = self.reward(prompts=prompts, completions=wrapped, **columns)
            if inspect.isawaitable(scores):
                scores = asyncio.run(_result(scores))
            lengths = [len(self.tokenizer(text).input_ids) for text in texts]
            metrics[name] = {
                "accuracy": sum(float(score or 0) for score in scores) / len(scores),
                "mean_length": sum(lengths) / len(lengths),
            }
        write_whole(folder.path / "metrics.json", json.dumps(metrics, indent=1))

    def _train(self, folder, model, reward, train_dataset, eval_dataset, steps, peft_config, hand_over_as) -> None:
        args = copy.copy(self.training)
        args.stage, args.max_steps, args.output_dir = folder.stage, steps, str(folder.path / "training")
        if args.stage == "judge" and args.judge_max_completion_length is not None:
            args.max_completion_length = args.judge_max_completion_length
        trainer = JudgeRLVRTrainer(
            model,
            reward,
            args,
            train_dataset,
            eval_dataset,
            processing_class=self.tokenizer,
            peft_config=peft_config,
        )
        checkpoint = last_whole_checkpoint(args.output_dir)
        if checkpoint and json.loads(Path(checkpoint, STATE_FILE).read_text(encoding="utf-8"))["ended"]:
            # `Trainer.train` would take a step more, and does not know that a training had stopped for lack of a gradient.
            trainer._load_from_checkpoint(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
        trained = hand_over(trainer.accelerator.unwrap_model(trainer.model), hand_over_as)
        trained.save_pretrained(str(folder.path / "model"))
        self.tokenizer.save_pretrained(str(folder.path / "model"))

    @property
    def _is_chat(self) -> bool:
        return self.tokenizer.chat_template is not None

    def _prompt(self, text: str) -> Any:
        return [{"role": "user", "content": text}] if self._is_chat else text

    def _sample(self, model, problems: Sequence[str], count: int, progress: str) -> list[list[str]]:
        """`count` completions of each problem, as the trainer samples them."""
        samples = sample_responses(
            model.to(self.training.device),
            self.tokenizer,
            list(map(self._prompt, problems)),
            count,
            max_new_tokens=self.training.max_completion_length,
            temperature=self.training.temperature,
            batch_size=max(1, self.training.per_device_eval_batch_size),
            progress=None if self.training.disable_tqdm else progress,
        )
        return [self.tokenizer.batch_decode(responses, skip_special_tokens=True) for responses in samples]


async def _result(awaitable):
    return await awaitable


def _free_memory() -> None:
    """Of a trainer, whose parts refer to each other, so that the next stage's model does not stand beside this one's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _import(path: str | None) -> Callable:
    module, _, name = str(path).rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path!r} must be the dotted path of a function, such as 'my_module.my_function'; got {error}."
        ) from error
    if not callable(function):
        raise ValueError(f"{path!r} must be a function; got {type(function).__name__}.")
    return function
