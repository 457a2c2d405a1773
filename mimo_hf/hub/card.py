"""The model card of a published folder: front matter, the model's own README, and what was measured."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from .checkpoints import RUN, read_object

MARK = "<!-- the checkpoint's numbers -->"  # the line of a model's README that they replace

# Fields of the front matter that the card next to the weights may have set.
_KEPT = ("license", "license_name", "license_link", "language", "datasets", "base_model")

# Numbers of a training run that a card shows, by their key in training_run.json or the key of the object around them.
_MEASURED = {
    "acceptance_length": "acceptance length",
    "acceptance_length_without_loops": "acceptance length, texts that end in a loop left out",
    "acceptance_by_position": "share of drafts accepted, by position",
    "rounds": "rounds of draft and verification",
    "prompts": "prompts",
    "loops": "texts that end in a loop",
    "held_out_losses": "held-out loss, nats a token",
    "held_out_loss": "held-out loss, nats a token",
    "eval_loss": "held-out loss, nats a token",
    "train_loss": "training loss, nats a token",
    "mtp_loss": "loss of the MTP heads, nats a token",
    "expert_load_max_over_mean": "load of the busiest expert over the mean, by layer",
    "files": "files",
    "tokens": "tokens",
    "steps": "optimizer steps",
    "wall_s": "time, s",
}
# From a slash, at the start of a word, to the next thing that ends a path; the last part is kept.
_ABSOLUTE_PATH = re.compile(r"""(?<![^\s=:,'"])~?/(?:[^\s/'",]+/)*([^\s/'",]+)/?""")
_CONDITIONS = ("command", "data", "dataset", "seed", "device", "date", "versions")


def make_card(
    folder: Path, readme: str, facts: dict[str, str], tags: list[str], base_model: str | None = None
) -> ModelCard:
    """
    Args:
        folder: the checkpoint; its README.md may set license, languages, data sets, base model and more tags, and its
            training_run.json holds what was measured.
        readme: the text of the card, with `MARK` where the numbers belong.
        facts: rows about the weights.
        tags: of the model, for the front matter.

    Raises:
        ValueError: README.md or training_run.json in `folder` can't be read, or `readme` has no `MARK`.
    """
    if readme.count(MARK) != 1:
        raise ValueError(f"`readme` must have the line {MARK!r} once; got {readme.count(MARK)}.")
    old = _front_matter(folder)
    fields = {"license": "apache-2.0"} | {name: old[name] for name in _KEPT if name in old}
    if base_model is not None:
        fields["base_model"] = base_model
    elif not _are_repositories(fields.get("base_model")):
        fields.pop("base_model", None)
    tags = list(dict.fromkeys([*tags, *(old.get("tags") or [])]))
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=tags, **fields)

    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    section = ["## This checkpoint", "", "| | |", "|---|---|", *rows, "", *_measured(folder / RUN)]
    text = readme.replace(MARK, "\n".join(section)).strip()
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def without_folders(value):
    """The JSON value with every absolute path in its strings cut to the last part."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return _ABSOLUTE_PATH.sub(r"\1", value) if isinstance(value, str) else value


def _front_matter(folder: Path) -> dict:
    path = folder / "README.md"
    if not path.exists():
        return {}
    try:
        return ModelCard.load(path).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} must have front matter that is YAML; got {error}. Correct or remove it.") from None


def _are_repositories(names) -> bool:
    names = names if isinstance(names, list) else [names]
    return all(isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) for name in names)


def _measured(path: Path) -> list[str]:
    if not path.exists():
        return [f"Training: not measured (the weights came without `{RUN}`)."]
    run = without_folders(read_object(path))
    rows = [
        f"| {label}{f' ({of})' if of else ''} | {_number(value)} |"
        for key, label in _MEASURED.items()
        for of, value in _found(run, key)
    ]
    if not rows:
        return [f"Training: not measured (`{RUN}` holds none of the numbers that this card shows)."]
    conditions = [
        f"- {name}: {_condition(run[name])}" for name in _CONDITIONS if run.get(name) not in (None, "", {}, [])
    ]
    return [f"Measured, from `{RUN}` in this folder:", "", "| | |", "|---|---|", *rows, "", *conditions]


def _found(run: dict, key: str, around: str = "") -> Iterator[tuple[str, object]]:
    """(of what, value) of each number or list of numbers with this key, however deep."""
    for name, value in run.items():
        if isinstance(value, dict):
            if name == key:
                yield from ((of.replace("_", " "), number) for of, number in value.items() if _is_number(number))
            yield from _found(value, key, around=name.replace("_", " "))
        elif name == key and (
            _is_number(value) or (isinstance(value, list) and value and all(map(_is_number, value)))
        ):
            yield around, value


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _condition(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_condition(item)}" for name, item in value.items())
    text = " ".join(str(value).split())
    return f"`{text}`" if " " in text else text
