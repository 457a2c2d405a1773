"""Checkpoints that are whole or not there: which one to resume from, what a full disk leaves, and what we add to TRL's files."""

import contextlib
import errno
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.utils import RepeatSampler

logger = logging.getLogger(__name__)

STATE_FILE = "mimo_sampler_state.json"
FULL_DISK = 1 << 20  # bytes: less is left of a disk whose lack of space an error does not name


def last_whole_checkpoint(folder: str) -> str | None:
    """The last checkpoint in the folder that was written to its end; None if there is none."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    steps = sorted(int(match[1]) for path in Path(folder).glob("*") if (match := pattern.fullmatch(path.name)))
    for step in reversed(steps):
        checkpoint = Path(folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def checkpoint_to_resume(resume_from_checkpoint: str | bool | None, output_dir: str) -> str | None:
    """The path that `Trainer.train` was given, or the last whole checkpoint if that was True; None: start anew."""
    if resume_from_checkpoint is not True:
        return resume_from_checkpoint or None
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is None:
        raise ValueError(
            f"`output_dir` must hold a whole checkpoint to resume from; got {output_dir!r} without one. Start "
            "without `resume_from_checkpoint`, or give the path of one."
        )
    return checkpoint


def state_at_end(checkpoint: str | None, max_steps: int) -> TrainerState | None:
    """The state of a checkpoint that has all its steps, where `Trainer` would take a step more; None if it has not."""
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    return state if 0 < max_steps <= state.global_step else None


@contextlib.contextmanager
def whole_or_removed(checkpoint: Path, removes: bool) -> Iterator[None]:
    """
    Around the writing of a checkpoint: where the disk is full, its folder goes, and the error says so.

    Args:
        removes: whether this process is the one that removes the folder.

    Raises:
        OSError: with ENOSPC; other errors pass.
    """
    try:
        yield
    except Exception as error:
        if not _disk_is_full(error, checkpoint.parent):
            raise
        if removes:
            shutil.rmtree(checkpoint, ignore_errors=True)
        raise OSError(
            errno.ENOSPC,
            "No space left on device for a checkpoint, whose folder was removed; those before it are whole. Free some "
            f"space, or set `save_total_limit`, and resume with `resume_from_checkpoint=True` ({error})",
            str(checkpoint),
        ) from error


def save_state(checkpoint: Path, state: dict[str, Any] | None, rows: Mapping[str, Any], rank: int) -> None:
    """
    Writes what a resumed run needs beside TRL's own files, before these.

    Args:
        state: for JSON; None on all processes but the one that saves for all.
        rows: tensors of this process, by what they are.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    if state is not None:
        (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)  # of an earlier save into this folder
    for what, tensors in rows.items():
        torch.save(tensors, checkpoint / _file_of_process(what, rank))
    if state is not None:
        write_whole(checkpoint / STATE_FILE, json.dumps(state))


def load_state(checkpoint: str) -> dict[str, Any] | None:
    """What `save_state` wrote; a checkpoint of another trainer has none, with a warning."""
    path = Path(checkpoint, STATE_FILE)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    logger.warning("%s has no %s: prompts are drawn as at the start.", checkpoint, STATE_FILE)
    return None


def is_of_as_many_processes(checkpoint: str, saved_by: int, num_processes: int) -> bool:
    """Whether the rows of the processes that saved it fit those that there are; a warning if not."""
    if saved_by == num_processes:
        return True
    logger.warning(
        "%s was saved by %d processes, and there are %d: what they had generated and not trained on yet is generated anew.",
        checkpoint,
        saved_by,
        num_processes,
    )
    return False


def replay_permutations(sampler: Any, epochs: int) -> None:
    """The dataloader's sampler makes a new permutation an epoch, from a generator that starts anew with the process."""
    if isinstance(sampler, RepeatSampler) and sampler.shuffle:
        for _ in range(epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)


def load_rows(checkpoint: str, what: str, rank: int, device: torch.device) -> Any:
    return torch.load(Path(checkpoint, _file_of_process(what, rank)), map_location=device, weights_only=True)


def _file_of_process(what: str, rank: int) -> str:
    return f"mimo_{what}_{rank}.pt"


def random_states() -> dict[str, Any]:
    """Where all generators that a training draws from stand."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  the one that libraries draw from
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002  as above
    torch.set_rng_state(states["cpu"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def write_whole(path: Path, text: str) -> None:
    """Writes the file or, if that fails or the process dies, leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _disk_is_full(error: Exception, folder: Path) -> bool:
    """Some writers raise errors of their own that do not say why."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    return shutil.disk_usage(folder).free < FULL_DISK
