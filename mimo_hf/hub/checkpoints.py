"""Checkpoint folders: the bundled tiny ones, and what is wrong with a folder before anything loads it."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

RUN = "training_run.json"  # what the training of a checkpoint found
TINY = Path(__file__).parent / "tiny"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # OWNER/NAME

# By model type: how the names of an MTP head's tensors begin, and each tensor that it has (with its other names).
_MTP: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "mimo": (
        "model.mtp_layers.",
        [
            ("token_layernorm.weight",),
            ("hidden_layernorm.weight",),
            ("input_proj.weight",),
            ("input_layernorm.weight",),
            ("post_attention_layernorm.weight",),
            ("self_attn.q_proj.weight",),
            ("self_attn.q_proj.bias",),
            ("self_attn.k_proj.weight",),
            ("self_attn.k_proj.bias",),
            ("self_attn.v_proj.weight",),
            ("self_attn.v_proj.bias",),
            ("self_attn.o_proj.weight",),
            ("mlp.gate_proj.weight",),
            ("mlp.up_proj.weight",),
            ("mlp.down_proj.weight",),
            ("final_layernorm.weight",),
        ],
    ),
    "mimo_v2_flash": (
        "model.mtp.layers.",
        [
            ("enorm.weight",),
            ("hnorm.weight",),
            ("eh_proj.weight",),
            ("input_layernorm.weight",),
            ("self_attn.q_proj.weight",),
            ("self_attn.k_proj.weight",),
            ("self_attn.v_proj.weight",),
            ("self_attn.o_proj.weight",),
            ("self_attn.attention_sink_bias", "self_attn.sinks"),
            ("pre_mlp_layernorm.weight",),
            ("mlp.gate_proj.weight",),
            ("mlp.up_proj.weight",),
            ("mlp.down_proj.weight",),
            ("final_layernorm.weight",),
        ],
    ),
}
FP8_SCALE = "_scale_inv"  # FP8 weights carry one more tensor, named after them


class CheckpointError(ValueError):
    """A folder is no usable checkpoint; the message has one line for each problem."""


def bundled(name: str = "mimo-v2-flash") -> Path:
    """
    The folder of a tiny trained checkpoint that comes with the package.

    Raises:
        CheckpointError: no checkpoint of that name is bundled; the message lists those that are.
    """
    names = sorted(path.parent.name for path in TINY.glob("*/config.json"))
    if name not in names:
        raise CheckpointError(f"no checkpoint `{name}` is bundled; there is: {', '.join(names) or 'none'}.")
    return TINY / name


def check_checkpoint(path: str | Path) -> None:
    """
    Reads `config.json` and the headers of the weights, and refuses a folder that would not load as it should.

    Raises:
        CheckpointError: `path` is no checkpoint folder, `config.json` is not readable, weights are missing, truncated or
            not in safetensors format, or the MTP tensors are not those of `num_mtp_layers` heads.
    """
    folder = Path(path)
    found = _problems(folder)
    if found:
        raise CheckpointError("\n".join(f"{folder}: {problem}" for problem in found))


def read_config(folder: Path) -> dict:
    """`config.json` of a folder that `check_checkpoint` accepts."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_object(file: Path) -> dict:
    """
    The JSON object in a file that may come with a checkpoint.

    Raises:
        CheckpointError: the file holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}); write it again or remove it.") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file} must hold a JSON object, not a {type(value).__name__}; write it again or remove it."
        )
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` reads; they need not exist."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(weight_map.values()))]


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor in a safetensors file, from its header."""
    with safe_open(file, framework="np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118  no dict: it can't be iterated


def num_mtp_heads(config: dict) -> int:
    """K as the model reads it from `config.json`."""
    given = [
        config[field] for field in ("num_mtp_layers", "num_nextn_predict_layers") if config.get(field) is not None
    ]
    if not given:
        return 1 if config.get("model_type") == "mimo" else 0
    return next((number for number in given if number), 0)


def is_mtp_tensor(name: str, model_type: str) -> bool:
    return model_type in _MTP and name.startswith(_MTP[model_type][0])


def _problems(folder: Path) -> list[str]:
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        return [f"{reason}; give the folder of a checkpoint, with config.json and *.safetensors in it."]
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return ["holds a PEFT adapter only; merge it with `merge_and_unload()` and save the whole model."]
        return ["has no config.json; give the folder that `save_pretrained` wrote."]
    try:
        config = read_config(folder)
    except ValueError as error:
        return [f"config.json is not JSON ({error}); copy it again."]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return ["config.json names no `model_type`; give the folder that `save_pretrained` wrote."]

    try:
        files = weight_files(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{INDEX} is not an index of weights ({error!r}); copy it again."]
    elsewhere = [str(file) for file in files if file.parent != folder]
    if elsewhere:
        return [
            f"{INDEX} places weights outside the folder: {_list(elsewhere)}; put the files in it and name them only."
        ]
    if files == [folder / WEIGHTS] and not files[0].exists():
        return [_no_weights(folder)]
    names: dict[Path, set[str]] = {}
    found = []
    for file in files:
        try:
            names[file] = set(tensor_shapes(file))
        except FileNotFoundError:
            found.append(f"{file.name} is missing, but {INDEX} names it; copy or download it again.")
        except SafetensorError as error:
            found.append(_unreadable(file, error))
    if found:
        return found
    return [*_index_problems(folder, names), *_mtp_problems(config, set().union(*names.values()))]


def _no_weights(folder: Path) -> str:
    others = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if others:
        return f"has no {WEIGHTS}, only {', '.join(others)}; load it and write safetensors with `save_pretrained`."
    return f"has neither {WEIGHTS} nor {INDEX}; save the model's weights there or copy them again."


def _unreadable(file: Path, error: Exception) -> str:
    with file.open("rb") as opened:
        if opened.read(40).startswith(b"version https://git-lfs"):
            return f"{file.name} is a Git LFS pointer, not the weights; run `git lfs pull`."
    size = file.stat().st_size
    return f"{file.name} ({size} bytes) is truncated or corrupt ({error}); copy or download it again."


def _index_problems(folder: Path, names: dict[Path, set[str]]) -> list[str]:
    if names.keys() == {folder / WEIGHTS}:
        return []
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    found = []
    for file in names:
        listed = {name for name, place in weight_map.items() if folder / place == file}
        absent = sorted(listed - names[file])
        if absent:
            found.append(f"{file.name} lacks tensors that {INDEX} places there: {_list(absent)}; copy both again.")
    return found


def _mtp_problems(config: dict, names: set[str]) -> list[str]:
    if config["model_type"] not in _MTP:
        return []
    num_heads = num_mtp_heads(config)
    if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 0:
        return [f"config.json has `num_mtp_layers={num_heads!r}`; it must be 0 or a positive integer."]

    prefix, expected = _MTP[config["model_type"]]
    heads: dict[int, set[str]] = {}
    for name in names:
        match = re.fullmatch(re.escape(prefix) + r"(\d+)\.(.+)", name)
        if match:
            heads.setdefault(int(match[1]), set()).add(match[2].removesuffix(FP8_SCALE))

    found = []
    wanted = range(num_heads)
    asked = f"config.json asks for `num_mtp_layers={num_heads}`"
    unused = [f"{prefix}{k}.*" for k in sorted(heads.keys() - set(wanted))]
    if unused:
        found.append(
            f"the weights hold {_list(unused)}, but {asked}; set it to {max(heads) + 1} to use these MTP heads."
        )
    absent = [k for k in wanted if k not in heads]
    if absent:
        found.append(
            f"the weights lack {_list([f'{prefix}{k}.*' for k in absent])}, but {asked}; set it to {absent[0]}, or train "
            "and save these MTP heads."
        )
    for k in heads.keys() & set(wanted):
        missing = [f"{prefix}{k}.{aliases[0]}" for aliases in expected if heads[k].isdisjoint(aliases)]
        if missing:
            found.append(f"MTP head {k} lacks {_list(missing)}; copy the weights again.")
        extra = [f"{prefix}{k}.{name}" for name in sorted(heads[k].difference(*expected))]
        if extra:
            found.append(
                f"MTP head {k} has {_list(extra)}, which {config['model_type']} has no place for; is it another model's?"
            )
    return found


def _list(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
