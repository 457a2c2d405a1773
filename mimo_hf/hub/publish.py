"""`mimo-hf publish`: a checkpoint as a folder that loads by `trust_remote_code=True` where mimo_hf is not installed."""

import filecmp
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from importlib.metadata import version
from math import prod
from pathlib import Path

from .card import RUN, make_card, without_folders
from .checkpoints import (
    FP8_SCALE,
    INDEX,
    WEIGHTS,
    CheckpointError,
    check_checkpoint,
    is_mtp_tensor,
    num_mtp_heads,
    read_config,
    read_object,
    tensor_shapes,
    weight_files,
)
from .flatten import flatten
from .private import CLEANED, check_links, warn_of_private, without_private

# By model type, which is also the folder below mimo_hf.modeling: what config.json's `auto_map` says.
AUTO_MAPS = {
    "hysparse": {
        "AutoConfig": "configuration_hysparse.HySparseConfig",
        "AutoModel": "modeling_hysparse.HySparseModel",
        "AutoModelForCausalLM": "modeling_hysparse.HySparseForCausalLM",
    },
    "mimo": {
        "AutoConfig": "configuration_mimo.MiMoConfig",
        "AutoModel": "modeling_mimo.MiMoModel",
        "AutoModelForCausalLM": "modeling_mimo.MiMoForCausalLM",
    },
    "mimo_v2_flash": {
        "AutoConfig": "configuration_mimo_v2_flash.MiMoV2FlashConfig",
        "AutoModel": "modeling_mimo_v2_flash.MiMoV2FlashModel",
        "AutoModelForCausalLM": "modeling_mimo_v2_flash.MiMoV2FlashForCausalLM",
    },
}

TAGS = {
    "hysparse": ["mimo", "sparse-attention", "custom_code"],
    "mimo": ["mimo", "mtp", "speculative-decoding", "custom_code"],
    "mimo_v2_flash": ["mimo", "mtp", "speculative-decoding", "custom_code"],
}

CONFIG = "config.json"
MADE_BY = "# Made by `mimo-hf publish` from mimo_hf"  # the first words of each file of code

_TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"]
_COPIED = [
    *_TOKENIZER,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "additional_chat_templates/*",
    "generation_config.json",
    "LICENSE*",
]
# What a configuration class may add when it saves, for classes that would drop a part of the model.
NOTE_FIELDS = ("mtp_layer_types", "mtp_mlp_layer_types")

_LOAD = """
import json, sys

sys.modules["mimo_hf"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, result, has_tokenizer = sys.argv[1:]
try:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
    )
    if has_tokenizer == "True":
        AutoTokenizer.from_pretrained(folder)
    wrong = [f"{len(found)} {kind} such as {min(map(str, found))}" for kind, found in info.items() if found]
    error = f"config.json is not that of the weights ({'; '.join(wrong)}); correct it or copy the weights again." if wrong else None
    if not type(model).__module__.startswith("transformers_modules."):
        error = f"the published code is not used: the class is {type(model)}"
    report = {"error": error} if error else {"config": json.loads(model.config.to_json_string(use_diff=False))}
except Exception as error:
    report = {"error": f"{type(error).__name__}: {error}"}
with open(result, "w", encoding="utf-8") as file:
    json.dump(report, file)
"""


run_python = functools.partial(subprocess.run, check=False, capture_output=True, text=True)


def publish(model: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """
    Writes weights, configuration with `auto_map`, model code, tokenizer and card of a checkpoint into a new folder.

    Tensors, their names and their files stay as they are. The result has been loaded once in a process where mimo_hf can't
    be imported. `out` appears complete or not at all.

    Args:
        model: a checkpoint folder with safetensors, or the id of a model on the Hub.
        out: the folder to write.
        overwrite: replace `out` if it is a checkpoint folder already.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `model` is neither a folder nor a model that the Hub gives.
        FileExistsError: `out` exists and may not be replaced.
        CheckpointError: `model` is no complete checkpoint, does not load, or has links that lead out of its folder.
        ValueError: there is no code for its model type, or `out` and `model` overlap.
    """
    out = Path(out)
    _check_place(Path(model), out, overwrite)
    source = _source_folder(model)
    check_links(source, [CONFIG, "README.md", RUN, INDEX, "*.safetensors", *_COPIED])
    check_checkpoint(source)
    _check_model_type(source)
    config = read_config(source)
    model_type = config["model_type"]
    warn_of_private(config, source / CONFIG)

    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        _copy_weights(source, folder)
        _copy_rest(source, folder)
        write_json(folder / CONFIG, published_config(config))
        for name, code in flat_code(model_type).items():
            (folder / name).write_bytes(code)
        base_model = None if Path(model).exists() else str(model)
        card = make_card(source, _readme(model_type), _facts(folder, config), TAGS[model_type], base_model)
        (folder / "README.md").write_text(card.content, encoding="utf-8")
        add_note(folder, check_that_it_loads(folder, source))
        _move(folder, place, Path(scratch) / "old")
    return out


def _check_place(model: Path, out: Path, overwrite: bool):
    ours, theirs = out.resolve(), model.resolve()
    if model.exists() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours)):
        raise ValueError(f"`out` must not overlap with the checkpoint {model}; got {out}. Name a folder beside it.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise FileExistsError(f"`out`: {out} is a file; name a folder that does not exist yet.")
    if not overwrite:
        raise FileExistsError(
            f"`out`: {out} is not empty; name another folder or pass `overwrite=True` (--overwrite)."
        )
    if not (out / CONFIG).is_file() or (out / ".git").exists():
        raise FileExistsError(
            f"`out`: {out} is not replaced, since it is no checkpoint folder or has a .git; name another folder."
        )


def _source_folder(model: str | Path) -> Path:
    if Path(model).exists():
        return Path(model)
    if isinstance(model, Path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise FileNotFoundError(f"`model`: {model} does not exist; give a checkpoint folder or a Hub id.")
    looked_at = _download(model, [CONFIG])  # before hundreds of gigabytes
    _check_model_type(looked_at)
    patterns = ["*.safetensors", "*.safetensors.index.json", CONFIG, "README.md", RUN, *_COPIED]
    return _download(model, patterns, revision=looked_at.name)  # the Hub's cache names a snapshot by its commit


def _download(model: str, patterns: list[str], revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except OSError as error:  # of which the Hub's own errors are kinds
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"`model`: there is no folder {model} here, and the Hub gives no model of that name ({reason}); give a "
            "checkpoint folder, or an id while online."
        ) from None


def _check_model_type(source: Path):
    model_type = read_config(source).get("model_type")
    if model_type not in AUTO_MAPS:
        raise ValueError(
            f"{source}: `model_type` must be one of {', '.join(AUTO_MAPS)} to have code to publish; got "
            f"`{model_type}`."
        )


def _copy_weights(source: Path, folder: Path):
    files = weight_files(source)
    for file in files:
        copy = folder / file.name
        shutil.copyfile(file, copy)
        if not filecmp.cmp(file, copy, shallow=False):
            raise OSError(f"{copy} differs from {file} after copying; is the disk full or failing?")
    if files != [source / WEIGHTS]:
        shutil.copyfile(source / INDEX, folder / INDEX)


def _copy_rest(source: Path, folder: Path):
    for pattern in _COPIED:
        for file in sorted(source.glob(pattern)):
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            if file.name in CLEANED:
                fields = read_object(file)
                warn_of_private(fields, file)
                write_json(copy, without_private(fields))
            else:
                shutil.copyfile(file, copy)
    if not _has_tokenizer(folder):
        warnings.warn(
            f"{source} has no tokenizer, and so the published folder has none; save one there with "
            "`tokenizer.save_pretrained` and publish again.",
            stacklevel=3,
        )
    if (source / RUN).exists():
        write_json(folder / RUN, without_folders(read_object(source / RUN)))


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in _TOKENIZER)


def write_json(path: Path, value: dict):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def published_config(config: dict) -> dict:
    """config.json of a published folder, but for `NOTE_FIELDS`, of a model type in AUTO_MAPS."""
    return without_private(config) | {"auto_map": AUTO_MAPS[config["model_type"]]}


def _modeling() -> Path:
    """The folder of mimo_hf.modeling, found without importing it."""
    spec = importlib.util.find_spec("mimo_hf.modeling")
    if spec is None or spec.origin is None:
        raise ImportError("mimo_hf.modeling is not there; install the project with `pip install -e .`.")
    return Path(spec.origin).parent


def flat_code(model_type: str) -> dict[str, bytes]:
    """The files of code of a published folder, by name."""
    modules = dict.fromkeys(place.partition(".")[0] for place in AUTO_MAPS[model_type].values())
    files = [_modeling() / model_type / f"{module}.py" for module in modules]
    header = f"{MADE_BY} {version('mimo_hf')}, modeling/{{path}}."
    return flatten(files, _modeling(), header)


def _readme(model_type: str) -> str:
    return (_modeling() / model_type / "README.md").read_text(encoding="utf-8")


def _facts(folder: Path, config: dict) -> dict[str, str]:
    """What the headers of the weights and config.json say, for the card."""
    sizes: Counter[str] = Counter()
    for file in weight_files(folder):
        for name, shape in tensor_shapes(file).items():
            if not name.endswith(FP8_SCALE):
                sizes["MTP heads" if is_mtp_tensor(name, config["model_type"]) else "trunk"] += prod(shape)
    num_heads = num_mtp_heads(config)
    heads = f"{sizes['MTP heads']:,} ({num_heads} head{'s' * (num_heads != 1)})"
    return {
        "parameters of the trunk": f"{sizes['trunk']:,}",
        **({"parameters of the MTP heads": heads} if "mtp" in TAGS[config["model_type"]] else {}),
        "tokenizer": "in this folder" if _has_tokenizer(folder) else "none in this folder",
        "made by": f"`mimo-hf publish` of mimo_hf {version('mimo_hf')}",
    }


def add_note(folder: Path, saved: dict):
    """Puts into config.json what the configuration class would add to it."""
    note = {name: saved[name] for name in NOTE_FIELDS if name in saved}
    write_json(folder / CONFIG, read_config(folder) | note)


def check_that_it_loads(folder: Path, source: Path) -> dict:
    """
    Loads the folder where mimo_hf can't be imported, without memory for the weights.

    Returns:
        The fields of its configuration, as the published class saves them.

    Raises:
        CheckpointError: it does not load; the message names `source`.
    """
    environment = os.environ | {
        "HF_MODULES_CACHE": str(folder.parent / "modules"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = folder.parent / "loaded.json"
    command = [sys.executable, "-c", _LOAD, str(folder), str(result), str(_has_tokenizer(folder))]
    run = run_python(command, cwd=folder.parent, env=environment)
    if result.exists():
        report = read_object(result)
    else:
        report = {"error": (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]}
    if "error" in report:
        reason = textwrap.shorten(report["error"], 1000)
        raise CheckpointError(f"{source}: the published folder would not load: {reason}")
    return report["config"]


def _move(folder: Path, place: Path, old: Path):
    if place.exists():
        place.rename(old)
    try:
        folder.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise
