"""`mimo-hf publish --upgrade` and `--check`: the code of a published folder beside the code that is published today."""

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from .checkpoints import CheckpointError, check_checkpoint, num_mtp_heads, read_config, read_object
from .private import CLEANED, worth_telling
from .publish import (
    AUTO_MAPS,
    MADE_BY,
    NOTE_FIELDS,
    add_note,
    check_that_it_loads,
    flat_code,
    published_config,
    write_json,
)

CONFIG = "config.json"


def outdated(folder: str | Path) -> dict[str, str]:
    """
    What a published folder has otherwise than `publish` writes it today; nothing is changed.

    Args:
        folder: written by `publish`, of this version or an older one.

    Returns:
        File name -> "differs", "is missing" or "is no longer written". Empty: the folder is up to date.

    Raises:
        CheckpointError: `folder` is no complete checkpoint, or no published one.
    """
    folder = Path(folder)
    config = _published(folder)
    code = flat_code(config["model_type"])
    found = {}
    for name, source in code.items():
        path = folder / name
        if not path.exists():
            found[name] = "is missing"
        elif path.read_bytes() != source:
            found[name] = "differs"
    found |= {path.name: "is no longer written" for path in _made_files(folder) if path.name not in code}
    if config != published_config(config) or _lacks_note(config):
        found[CONFIG] = "differs"
    return dict(sorted(found.items()))


def private(folder: str | Path) -> dict[str, str]:
    """Fields of a folder's JSON files that `publish` would leave out: `file: place` -> why."""
    files = [Path(folder) / name for name in CLEANED if (Path(folder) / name).is_file()]
    return {f"{file.name}: {place}": why for file in files for place, why in worth_telling(read_object(file), file)}


def trouble(folder: str | Path) -> str | None:
    """Why a published folder does not load in a process without mimo_hf; None: it does."""
    folder = Path(folder).resolve()
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        try:
            check_that_it_loads(_linked(folder, Path(scratch)), folder)
        except CheckpointError as error:
            return str(error)
    return None


def upgrade(folder: str | Path) -> dict[str, str]:
    """
    Rewrites the code and the fields of config.json that `publish` adds; weights, tokenizer and card stay as they are.

    The new files have been loaded with the folder's weights in a process without mimo_hf before any old one is replaced.

    Args:
        folder: written by `publish`, of this version or an older one.

    Returns:
        What was changed, as `outdated` names it.

    Raises:
        CheckpointError: `folder` is no complete checkpoint, no published one, or would not load.
        ValueError: a file that would be replaced was not written by `publish`.
    """
    folder = Path(folder)
    changes = outdated(folder)
    if not changes:
        return changes
    for name in changes:
        if name.endswith(".py") and (folder / name).exists() and not _is_made(folder / name):
            raise ValueError(
                f"{folder / name} must be what `mimo-hf publish` has written, to be replaced; got another first line. "
                "Rename it, or publish the checkpoint into a new folder."
            )
    config = read_config(folder)
    place = folder.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        new = _linked(place, Path(scratch), without=changes)
        for name, source in flat_code(config["model_type"]).items():
            if name in changes:
                (new / name).write_bytes(source)
        if CONFIG in changes:
            write_json(new / CONFIG, published_config(config))
        saved = check_that_it_loads(new, folder)
        if CONFIG in changes:
            add_note(new, saved)
        # config.json, which names the files of code, comes last.
        for name in sorted(changes, key=lambda name: name == CONFIG):
            if (new / name).exists():
                os.replace(new / name, place / name)
        for name in changes:
            if changes[name] == "is no longer written":
                (place / name).unlink()
    return changes


def _linked(folder: Path, scratch: Path, without: Collection[str] = ()) -> Path:
    """A folder of links to what `folder` holds: a load leaves its cache beside it."""
    links = scratch / "folder"
    links.mkdir()
    for path in folder.iterdir():
        if path.name not in without:
            (links / path.name).symlink_to(path)
    return links


def _published(folder: Path) -> dict:
    check_checkpoint(folder)
    config = read_config(folder)
    if config.get("model_type") not in AUTO_MAPS or "auto_map" not in config or not _made_files(folder):
        raise CheckpointError(
            f"{folder} was not written by `mimo-hf publish`: it has no code of ours; give a published folder, or publish this "
            "one into a new folder with `mimo-hf publish MODEL OUT`."
        )
    return config


def _lacks_note(config: dict) -> bool:
    has_heads = config["model_type"] == "mimo_v2_flash" and num_mtp_heads(config) > 0
    return has_heads and not config.keys() >= set(NOTE_FIELDS)


def _made_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.py")) if _is_made(path)]


def _is_made(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().startswith(MADE_BY.encode())
