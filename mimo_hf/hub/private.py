"""What a checkpoint folder holds that is nobody else's business: paths of a machine, access tokens, code and files of others."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .checkpoints import CheckpointError

# The JSON files of a checkpoint whose fields are looked at; the others are a tokenizer's vocabulary.
CLEANED = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")

# Where transformers has been seen to note paths of the machine that saved a file.
_PATHS = {
    "_name_or_path",
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "special_tokens_map_file",
}
_SECRETS = {"token", "hf_token", "auth_token", "use_auth_token", "access_token", "api_key", "password", "secret"}
_ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_ABSOLUTE_PATH = re.compile(r"(?:file://|~)?(?:/[\w.+@ -]+){2,}/?|[A-Za-z]:\\[^\n]+")
_TEXTS = {"content", "chat_template"}  # of tokens and templates, which may look like anything


def private_fields(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """
    (place, why) of each field of a JSON value that is left out when it is published: `a.b[2].c`, "a path", "an access token" or
    "code that is not published".
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from private_fields(item, f"{place}[{index}]")
        return
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        where = f"{place}.{name}" if place else str(name)
        why = _why(name, item, is_top=not place)
        if why is None:
            yield from private_fields(item, where)
        else:
            yield where, why


def without_private(value: Any, is_top: bool = True) -> Any:
    """The JSON value without its `private_fields`."""
    if isinstance(value, list):
        return [without_private(item, False) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: without_private(item, False) for name, item in value.items() if _why(name, item, is_top) is None}


def _why(name: str, value: Any, is_top: bool) -> str | None:
    if name == "auto_map" and is_top:
        return "code that is not published"
    if name in _SECRETS:
        return "an access token"
    if name in _PATHS:
        return "a path"
    texts = value if isinstance(value, list) else [value]
    texts = [text for text in texts if isinstance(text, str)]
    if any(_ACCESS_TOKEN.search(text) for text in texts):
        return "an access token"
    if name not in _TEXTS and any(_ABSOLUTE_PATH.fullmatch(text) for text in texts):
        return "a path"
    return None


def warn_of_private(value: dict, file: Path):
    """Names what is left out of `file`, but for the paths that transformers notes there."""
    told = [f"{place} ({why})" for place, why in worth_telling(value, file) if place not in _PATHS]
    if told:
        warnings.warn(f"{file}: not published: {', '.join(told)}.", stacklevel=4)


def worth_telling(value: dict, file: Path) -> list[tuple[str, str]]:
    """`private_fields` without the `auto_map` of config.json, which is written anew."""
    is_ours = file.name == "config.json"
    return [(place, why) for place, why in private_fields(value) if not (is_ours and place == "auto_map")]


def check_links(folder: Path, patterns: list[str]):
    """
    Raises:
        CheckpointError: a file of these names is a link that ends outside the folder and, for a snapshot in the Hub's cache, outside the
            cache's own files of that repository.
    """
    place = folder.resolve()
    roots = [place]
    if place.parent.name == "snapshots":
        roots.append(place.parents[1] / "blobs")
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            target = file.resolve()
            if not any(target.is_relative_to(root) for root in roots):
                raise CheckpointError(
                    f"{folder}: {file.relative_to(folder)} is a link to {target}, outside the folder, and would be published; put a "
                    "copy of the file in its place if that is wanted."
                )
