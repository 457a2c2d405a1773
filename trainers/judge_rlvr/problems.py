"""The problems of JudgeRLVR's pipeline: from files, folders or the Hub to rows that are looked at one by one, without torch."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
SHOWN = 5  # places that an error names

Row = dict[str, Any]
Placed = list[tuple[str, Row]]  # rows with where each stands, as in train.jsonl:3


@dataclass
class Problems:
    """Rows of `train` and `test` with `problem_id`, `problem`, `solution` and their other columns; `notes`: what was chosen."""

    train: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)


def load_problems(
    name: str,
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    test_share: float = 0.1,
) -> Problems:
    """
    Args:
        name: a JSON, JSONL, CSV (all values are text then) or Parquet file, which is the split `train_split`; a folder saved by
            `save_to_disk`, or with one such file a split; or a data set of the Hub.
        config: of the Hub's data set.
        test_share: how much of the training problems is held out where there is no `test_split`.

    Raises:
        ValueError: if a row has no problem or no solution, with where it stands.
        OSError: if there is no such data set.
    """
    splits = _read(name, config, (train_split, test_split))
    if train_split not in splits:
        raise ValueError(
            f"`dataset_train_split` must be a split of {name}: {', '.join(map(repr, splits)) or 'none'}; got "
            f"{train_split!r}."
        )
    notes: list[str] = []
    train = _check(name, splits[train_split], notes)
    if test_split in splits:
        return Problems(train, _check(name, splits[test_split], []), notes)
    step = round(1 / test_share)
    if len(train) < step:
        raise ValueError(
            f"`dataset_test_split` must be a split of {name}, or `test_share` of its {len(train)} problems at "
            f"least one; got {test_split!r} and test_share={test_share}. Give a data set with both splits, or "
            "raise `test_share`."
        )
    notes.append(
        f"there is no split {test_split!r} (there are {', '.join(map(repr, splits))}): every {step}th problem is held out to "
        "measure models; `dataset_test_split` names another"
    )
    held_out = train[step - 1 :: step]
    return Problems([row for index, row in enumerate(train) if index % step != step - 1], held_out, notes)


def _read(name: str, config: str | None, wanted: tuple[str, str]) -> dict[str, Placed]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path, wanted)
    if path.is_file():
        splits = _read_file(path)
        return splits if isinstance(splits, dict) else {wanted[0]: splits}
    if path.suffix in SUFFIXES or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"There is no file or folder {name!r}: correct `dataset_name`.")
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, config)  # nosec B615  # what the Hub has now; `datasets` runs no code of a data set
    except OSError as error:
        raise OSError(
            f"{name!r} is no file or folder here and could not be had from the Hub: {error}. Correct `dataset_name`."
        ) from error
    return {split: _placed(f"{name}, split {split!r}", rows) for split, rows in loaded.items()}


def _read_folder(path: Path, wanted: tuple[str, str]) -> dict[str, Placed]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        from datasets import DatasetDict, load_from_disk

        saved = load_from_disk(str(path))
        splits = saved if isinstance(saved, DatasetDict) else {wanted[0]: saved}
        return {str(split): _placed(f"{path}, split {split!r}", rows) for split, rows in splits.items()}
    read = {}
    for split in wanted:
        files = [path / f"{split}{suffix}" for suffix in SUFFIXES if (path / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise ValueError(
                f"{path} must have one file of a split; got {', '.join(file.name for file in files)}. Leave one of "
                "them there."
            )
        if files:
            rows = _read_file(files[0])
            if isinstance(rows, dict):
                raise ValueError(f"{files[0]} must be a list of rows: its name says that it is one split.")
            read[split] = rows
    if not read:
        raise ValueError(
            f"{path} must hold a data set saved by `save_to_disk`, or {wanted[0]}.jsonl, .json, .csv or .parquet; "
            "got neither."
        )
    return read


def _placed(where: str, rows: Any) -> Placed:
    return [(f"{where}, row {index}", row) for index, row in enumerate(rows)]


def _read_file(path: Path) -> Placed | dict[str, Placed]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or a folder.")
    if path.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            return _placed(str(path), parquet.read_table(path).to_pylist())
        except ArrowException as error:
            raise ValueError(f"{path} must be Parquet; got {error}.") from error
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8: {error}") from error
    if path.suffix == ".csv":
        return _read_csv(path, text)
    if path.suffix == ".json":
        start = text.lstrip()[:1]
        if start == "[":
            return list(_array(path, text))
        splits = _splits(path, text)
        if splits is not None:
            return splits
    return list(_lines(path, text))  # a .json file of data sets is often JSON lines


def _read_csv(path: Path, text: str) -> Placed:
    rows: Placed = []
    reader = csv.DictReader(text.splitlines(keepends=True))
    try:
        line = reader.line_num + 2
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}:{line}: the line must have {len(reader.fieldnames or [])} values, as the first one."
                )
            rows.append((f"{path}:{line}", dict(row)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: the line must be CSV; got {error}.") from error
    return rows


def _lines(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(f"{path}:{number}", line)


def _object(place: str, text: str) -> tuple[str, Row]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: the line must be JSON; got {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row must be a JSON object; got {text.strip()[:60]}")
    return place, row


def _array(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON list, each with the line in which it starts."""
    decoder, blank = json.JSONDecoder(), " \t\r\n"
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        while position < len(text) and text[position] in blank + ",":
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        try:
            row, end = decoder.raw_decode(text, position)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: the file must be JSON; got {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: a row must be a JSON object; got {text[position:end][:60]}")
        yield f"{path}:{line}", row
        position = end


def _splits(path: Path, text: str) -> dict[str, Placed] | None:
    """Of a file that is one object with a list of rows for each split."""
    try:
        whole = json.loads(text)
    except ValueError:
        return None
    if not isinstance(whole, dict) or not all(isinstance(rows, list) for rows in whole.values()):
        return None
    for split, rows in whole.items():
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"{path}, split {split!r}, row {index}: a row must be a JSON object; got {row!r:.60}")
    return {split: _placed(f"{path}, split {split!r}", rows) for split, rows in whole.items()}


def _check(name: str, placed: Placed, notes: list[str]) -> list[Row]:
    columns = list(dict.fromkeys(column for _, row in placed for column in row))
    if not placed:
        raise ValueError(f"{name} must have rows in each split; got a split without rows.")
    source = next((column for column in ("problem", "prompt") if column in columns), None)
    if source is None or "solution" not in columns:
        wanted = "`problem` (or `prompt`)" if source is None else "`solution`"
        raise ValueError(
            f"{name} must have a column {wanted}; got {', '.join(map(repr, columns))}. Rename the one that holds "
            f"{'the problems' if source is None else 'the right answers'}."
        )
    also = " (there is `prompt`, too)" if source == "problem" and "prompt" in columns else ""
    notes.append(f"problems are taken from the column `{source}`{also}")
    rows, bad = [], []
    first: dict[Any, tuple[str, str]] = {}
    for index, (place, row) in enumerate(placed):
        text, problem = _text(row.get(source)), ""
        identity = row["problem_id"] if row.get("problem_id") is not None else str(index)
        if text is None:
            problem = f"`{source}` must be text, or one message of the user; got {row.get(source)!r:.80}"
        elif row.get("solution") is None or (isinstance(row["solution"], str) and not row["solution"].strip()):
            problem = "`solution` is empty"
        elif not isinstance(identity, str | int):
            problem = f"`problem_id` must be a text or a whole number; got {identity!r:.80}"
        elif first.setdefault(identity, (place, text))[1] != text:
            problem = f"`problem_id` {identity!r} is that of another problem, {first[identity][0]}"
        if problem:
            bad.append((place, problem))
        rows.append({column: row.get(column) for column in columns} | {"problem_id": identity, "problem": text})
    if bad:
        more = f"; and {len(bad) - 1} more, such as {', '.join(place for place, _ in bad[1:SHOWN])}" if bad[1:] else ""
        raise ValueError(f"{bad[0][0]}: {bad[0][1]}{more}.")
    return rows


def _text(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
        value = value[0].get("content")
    return value if isinstance(value, str) and value.strip() else None
