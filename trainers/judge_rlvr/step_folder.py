"""Steps of a pipeline as folders that remember what they were made from, so that a run goes on where it was killed."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints import write_whole

STATE_FILE = "state.json"


class FolderInUse(RuntimeError):
    """Another process works in the folder."""


class StepFolder:
    """
    One step's folder with its `state.json`: `stage`, `status` (`"running"` or `"done"`), `inputs_sha256`, `seed`.

    Args:
        root: of the pipeline.
        stage: the step's name, and the folder's.
        inputs: all that determines the result, as JSON values; the hash of the step before goes in here.
        seed: noted in the state.
        restart: start over where a folder was made from other inputs, instead of refusing.
    """

    def __init__(self, root: Path, stage: str, inputs: Any, seed: int, restart: bool = False):
        self.path = root / stage
        self.stage, self.seed = stage, seed
        self.inputs_sha256 = sha256_of_json([stage, seed, inputs])
        state = self._read()
        if state and state["inputs_sha256"] != self.inputs_sha256:
            has_results = any(path.name != STATE_FILE for path in self.path.iterdir())
            if has_results and not restart:
                raise ValueError(
                    f"{self.path} must be made from this run's inputs and options; got others. Choose another "
                    "`output_dir`, or set `restart=True` to make this step and those after it anew."
                )
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def is_done(self) -> bool:
        state = self._read()
        return state is not None and state["status"] == "done"

    def mark(self, status: str) -> None:
        state = {
            "stage": self.stage,
            "status": status,
            "inputs_sha256": self.inputs_sha256,
            "seed": self.seed,
        }
        write_whole(self.path / STATE_FILE, json.dumps(state, indent=1))

    def _read(self) -> dict[str, Any] | None:
        path = self.path / STATE_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of_folder(folder: Path, pattern: str = "*") -> str:
    """Of the names and contents of the files directly in the folder that match."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                digest.update(
                    hashlib.file_digest(file, "sha256").digest() if hasattr(hashlib, "file_digest") else file.read()
                )
    return digest.hexdigest()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"Another run works in {folder}. Wait for it, or choose another `output_dir`.") from None
        yield
