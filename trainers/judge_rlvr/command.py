"""
JudgeRLVR from problems to a trained model: collect, build, judge, generate, eval (arXiv 2601.08468).

    mimo-hf judge-rlvr --model_name_or_path MODEL --dataset_name problems.jsonl --output_dir runs/judge \
        --reward my_rewards.accuracy --judge_reward my_rewards.verdict --parse_answer my_rewards.answer

`python -m mimo_hf.trainers.judge_rlvr` is the same. With `--stage mixed`, a step of this name takes the place of judge and
generate: rows of both kinds, in as many steps as both together. Each step has a folder below `output_dir`. The same command after an
interruption skips what is done and resumes the training that was running, with the weights of an undisturbed run. With
`--step collect`, then `--step build` and so on, every step has a process of its own, which gives all of its memory back.

What can be seen to be wrong without torch is said before torch is imported.
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..mimo_rl.moved_options import where_moved
from .options import HAND_OVERS, JudgeRLVRPipelineConfig

SUMMARY = "Teach a model to judge solutions, then to write them (JudgeRLVR)."
EXAMPLES = (
    "  mimo-hf judge-rlvr --model_name_or_path MODEL --dataset_name problems.jsonl --output_dir runs/judge \\\n"
    "      --reward my_rewards.accuracy --judge_reward my_rewards.verdict --parse_answer my_rewards.answer\n"
    "  mimo-hf judge-rlvr --config run.yaml --step collect"
)
ALSO = (
    "All options of TRL's GRPO trainer are taken, too, such as --learning_rate and --max_completion_length, and those of "
    "JudgeRLVRConfig (--stage, --judge_min_gap, --dynamic_sampling) and ModelConfig (--use_peft, --dtype): --help-all prints them."
)
GROUPS = {
    "problems": [
        "dataset_name",
        "dataset",
        "dataset_config",
        "dataset_train_split",
        "dataset_test_split",
        "test_share",
    ],
    "rewards": ["reward", "judge_reward", "parse_answer"],
    "candidates": ["candidate_models", "candidates_per_problem", "model_thinks"],
    "trainings": ["judge_steps", "generate_steps", "stage_handoff"],
    "steps": ["step", "restart"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Runs the pipeline as a command line says and prints what it measured.

    Raises:
        ValueError, OSError, ImportError: for what the user can put right; options are named as they are typed.
        RuntimeError: if another run works in the folder, or the judge lacks skill.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="mimo-hf judge-rlvr", description=SUMMARY)
    add_options(parser)
    own, others = parser.parse_known_args(words)
    if own.help_all:
        words = ["--help"]
    names = _flags(JudgeRLVRPipelineConfig)
    try:
        problems = None if own.help_all else _check(own, others)

        from trl import ModelConfig, TrlParser

        from .judge_rlvr_config import JudgeRLVRConfig
        from .pipeline import run_judge_rlvr

        classes = (JudgeRLVRPipelineConfig, JudgeRLVRConfig, ModelConfig)
        names = _flags(*classes)
        pipeline, training, model = TrlParser(classes).parse_args_and_config(words)
        metrics = run_judge_rlvr(pipeline, training, model, problems)
    except (ValueError, OSError, RuntimeError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (as_typed(error.args[0], names),)
        raise
    if metrics:
        print(f"{'model':10} {'accuracy':>9} {'mean length':>12}")
    for name, values in metrics.items():
        print(f"{name:10} {values['accuracy']:9.3f} {values['mean_length']:12.1f}")


def add_commands(kit: Any) -> None:
    """Adds `judge-rlvr`. What stands behind it is parsed here: TRL's options, too."""
    parser = kit.command("judge-rlvr", _run, SUMMARY, EXAMPLES)
    parser.epilog = f"{ALSO}\n\n{parser.epilog}"
    add_options(parser)
    read_own = parser.parse_known_args

    def read(words: Sequence[str], namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        read_own(words)  # help, and values that are none
        typed = [word for word in words if word != "--debug"]
        return argparse.Namespace(run=parser.get_default("run"), prog=parser.prog, typed=typed), []

    parser.parse_known_args = read


def _run(kit: Any, args: argparse.Namespace) -> int:
    try:
        main(args.typed)
    except RuntimeError as error:
        if type(error).__name__ in ("FolderInUse", "LowSkill"):  # not imported where all went wrong before
            raise ValueError(str(error)) from error
        raise
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The pipeline's own options, by group, and the two that no run goes without."""
    parser.allow_abbrev = False  # --stage is TRL's parser's, and no short form of --stage_handoff
    parser.epilog = parser.epilog or ALSO
    group = parser.add_argument_group("model and folder")
    group.add_argument(
        "--model_name_or_path", "--model-name-or-path", metavar="MODEL", help="the model that is trained"
    )
    group.add_argument("--output_dir", "--output-dir", metavar="FOLDER", help="of the steps and the trained models")
    group.add_argument(
        "--config", metavar="FILE", help="a YAML file with options; those of the command line come first"
    )
    group.add_argument("--help-all", "--help_all", action="store_true", help="print TRL's options as well")
    fields = {field.name: field for field in dataclasses.fields(JudgeRLVRPipelineConfig)}
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = fields[name]
            flags = list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
            group.add_argument(*flags, default=argparse.SUPPRESS, **_argument(field), help=_help(field))


def _argument(field: Any) -> dict[str, Any]:
    """How argparse reads a field, as TRL's parser does."""
    kinds = [kind for kind in (get_args(field.type) or (field.type,)) if kind is not type(None)]
    if field.type is bool:
        return {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if kinds == [bool]:
        return {"type": _boolean, "metavar": "BOOL"}
    if field.name == "candidate_models":
        return {"nargs": "+", "metavar": "MODEL"}
    if field.name == "stage_handoff":
        return {"choices": HAND_OVERS}
    names = {str: "TEXT", int: "N", float: "X"}
    return {"type": kinds[0], "metavar": names[kinds[0]]}


def _help(field: Any) -> str:
    text = field.metadata["help"].replace("%", "%%")
    shown = field.default not in (None, False, dataclasses.MISSING)
    return f"{text} (default: {field.default})" if shown else text


def _boolean(text: str) -> bool:
    known = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    known |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"must be True or False; got {text!r}")
    return known[text.lower()]


def _check(own: argparse.Namespace, others: Sequence[str]) -> Any:
    """Everything that can be seen without torch; returns the problems."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # where reward functions of one's own are, as for TRL's scripts
    names = [field.name for field in dataclasses.fields(JudgeRLVRPipelineConfig)]
    values: dict[str, Any] = {}
    if own.config:
        import yaml

        try:
            values = yaml.safe_load(Path(own.config).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"--config {own.config} must be YAML; got {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"--config {own.config} must hold `option: value` lines.")
    given = [word.partition("=")[0].removeprefix("--").replace("-", "_") for word in others if word.startswith("--")]
    if moved := where_moved([*values, *given]):
        raise ValueError(moved)
    values |= {name: value for name, value in vars(own).items() if value is not None}
    pipeline = JudgeRLVRPipelineConfig(**{name: values[name] for name in names if name in values})
    if not values.get("model_name_or_path"):
        raise ValueError("`model_name_or_path` must be given: the model that is trained, a folder or one of the Hub.")
    for model in (values["model_name_or_path"], *pipeline.candidate_models):
        if str(model).startswith((".", "/", "~")) and not Path(model).expanduser().exists():
            raise FileNotFoundError(
                f"There is no model folder {model!r}: correct --model_name_or_path or --candidate_models."
            )
    for name in ("reward", "judge_reward", "parse_answer"):
        _check_path(name, getattr(pipeline, name))
    problems = pipeline.load_problems()
    for note in problems.notes:
        print(f"{pipeline.dataset_name}: {as_typed(note, _flags(JudgeRLVRPipelineConfig))}", file=sys.stderr)
    return problems


def _check_path(option: str, path: str) -> None:
    module, _, function = path.rpartition(".")
    try:
        found = bool(module and function.isidentifier()) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ValueError(
            f"`{option}` must be the dotted path of a function, such as my_module.my_function, with my_module.py in this folder "
            f"or on PYTHONPATH; got {path!r}, and there is no module {module!r}."
        )


def as_typed(message: str, options: dict[str, bool]) -> str:
    """
    A message that names options as in Python, as it reads on a command line: `test_share=0.2` becomes `--test_share 0.2`.

    Args:
        options: their names, and whether the bare one means True.
    """

    def typed(match: re.Match[str]) -> str:
        mark, name, value = match[1], match[2], match[3]
        if name not in options or (value is None and not mark):
            return match[0]
        bare = value is None or (value == "True" and options[name])
        return f"{mark}--{name}{'' if bare else ' ' + value.strip(chr(39))}{mark}"

    return re.sub(r"(`?)(?<![\w/])(\w+)(?:=('[^']*'|[\w.-]*\w))?\1(?![\w/])", typed, message)


def _flags(*classes: Any) -> dict[str, bool]:
    """Names of all options, and whether each is True where it is given without a value."""
    return {field.name: field.type in (bool, "bool") for cls in classes for field in dataclasses.fields(cls)}
