"""Which teacher a row has, by a column of the data set, and batches with a fixed share of each."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset, IterableDataset
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

DEFAULT_COLUMN = "domain"
OTHER_NAMES = ("teacher_id", "teacher")  # TRL's, and its proposed one


class Domains:
    """
    The routing of rows to teachers.

    Args:
        names: of the domains that have a teacher.
        column: of the data sets; `"domain"` stands for `teacher_id` or `teacher` where there is no such column.
        default: the teacher of all other domains, or None.
        datasets: what is trained and evaluated on, by how messages call it.

    Raises:
        ValueError: the column is missing, or a row names a domain without a teacher; of a stream, rows are checked as they come.
        TypeError: the column is not of text.
    """

    def __init__(self, names: Sequence[str], column: str, default: str | None, datasets: Mapping[str, Any]):
        if default is not None and default not in names:
            raise ValueError(f"`default_teacher` must be one of {', '.join(map(repr, names))}; got {default!r}.")
        self.names = list(names)
        self.default = default
        self.column = self._find(column, datasets)
        self._labels: list[str] | None = None  # of a ClassLabel column
        for title, dataset in datasets.items():
            self._check(title, dataset)

    def _find(self, column: str, datasets: Mapping[str, Any]) -> str:
        for dataset in datasets.values():
            columns = dataset.column_names
            if columns is None or column in columns or column != DEFAULT_COLUMN:
                continue
            for other in OTHER_NAMES:
                if other in columns:
                    return other
        return column

    def _check(self, title: str, dataset: Any) -> None:
        columns = dataset.column_names
        if columns is not None and self.column not in columns:
            if self.default is not None:
                return
            raise ValueError(
                f"`{title}` must have the column {self.column!r}, which names the teacher of each row; it has "
                f"{', '.join(map(repr, columns))}. Add it, or set `domain_column` or `default_teacher`."
            )
        feature = (dataset.features or {}).get(self.column)
        if isinstance(feature, ClassLabel):
            if self._labels is not None and self._labels != feature.names:
                raise ValueError(
                    f"The labels of the column {self.column!r} must be the same in all data sets, as a number stands for a name; got "
                    f"{feature.names} in `{title}` and {self._labels} before. Cast the column to text, or to one ClassLabel."
                )
            self._labels = feature.names
        if isinstance(dataset, Dataset):
            if len(dataset):
                self.index({self.column: dataset[0][self.column]}, title)  # lists and the like have no unique values
            unique = dataset.unique(self.column)
            for value in unique:
                self.index({self.column: value}, title)
            if title == "train_dataset":
                present = {self.index({self.column: value}, title) for value in unique}
                for index, name in enumerate(self.names):
                    if index not in present:
                        logger.warning(
                            "The teacher %s is never used: no row of `train_dataset` is of its domain.", name
                        )

    def index(self, row: Mapping[str, Any], title: str = "a batch") -> int:
        """The place of this row's teacher in `names`."""
        value = row.get(self.column)
        if self._labels is not None and isinstance(value, int) and 0 <= value < len(self._labels):
            value = self._labels[value]
        if isinstance(value, str) and value in self.names:
            return self.names.index(value)
        if self.default is not None and (value is None or isinstance(value, str)):
            return self.names.index(self.default)
        known = ", ".join(map(repr, self.names))
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"The column {self.column!r} of `{title}` must hold text, the name of a teacher ({known}); got {value!r} of type "
                f"{type(value).__name__}."
            )
        raise ValueError(
            f"The column {self.column!r} of `{title}` must name one of the teachers {known}; got {value!r}, which has no teacher. "
            "Add one to `teachers`, or set `default_teacher`."
        )

    def indices(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        return torch.tensor([self.index(row) for row in rows])

    def rows_by_domain(self, dataset: Dataset) -> list[list[int]]:
        """Indices of the rows of each domain, in the order of `names`."""
        rows: list[list[int]] = [[] for _ in self.names]
        values = dataset[self.column] if self.column in dataset.column_names else [None] * len(dataset)
        for index, value in enumerate(values):
            rows[self.index({self.column: value})].append(index)
        return rows


class QuotaSampler(Sampler):
    """
    Prompts in batches that hold a fixed share of each domain, each prompt as often as `GRPOTrainer`'s own sampler repeats it.

    What does not come out even in one batch is made up for in the next. A domain starts anew, in another order, when all its rows
    were drawn. An epoch has as many batches as the data set fills, and its order follows from seed and epoch alone.

    Args:
        rows: indices of the rows of each domain.
        shares: of each domain; they sum to 1.
        batch_size: prompts of a batch, on all processes together.
        mini_repeat_count, repeat_count, shuffle, seed: as in TRL's `RepeatSampler`.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        shares: Sequence[float],
        batch_size: int,
        mini_repeat_count: int,
        repeat_count: int,
        shuffle: bool,
        seed: int,
    ):
        self.rows = rows
        self.shares = shares
        self.batch_size = batch_size
        self.mini_repeat_count = mini_repeat_count
        self.repeat_count = repeat_count
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.num_batches = max(1, sum(map(len, rows)) // batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size * self.mini_repeat_count * self.repeat_count

    def __iter__(self) -> Iterator[int]:
        draws = [self._draws(domain) for domain in range(len(self.rows))]
        drawn = [0] * len(self.rows)
        for batch in range(1, self.num_batches + 1):
            counts = self._counts(batch, drawn)
            prompts = [next(draws[domain]) for domain, count in enumerate(counts) for _ in range(count)]
            drawn = [before + count for before, count in zip(drawn, counts, strict=True)]
            for _ in range(self.repeat_count):
                for prompt in prompts:
                    yield from [prompt] * self.mini_repeat_count

    def _counts(self, batch: int, drawn: Sequence[int]) -> list[int]:
        """Prompts of each domain, so that all batches so far hold the shares as nearly as whole numbers can."""
        owed = [share * batch * self.batch_size - before for share, before in zip(self.shares, drawn, strict=True)]
        counts = [max(0, int(value + 1e-9)) for value in owed]
        while (missing := self.batch_size - sum(counts)) != 0:
            step = 1 if missing > 0 else -1  # fewer where a domain had more than its share before
            able = [domain for domain in range(len(owed)) if counts[domain] + step >= 0 and self.shares[domain]]
            counts[max(able, key=lambda domain: step * (owed[domain] - counts[domain]))] += step
        return counts

    def _draws(self, domain: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch, domain)) % 2**63)
        rows = self.rows[domain]
        while True:
            order = torch.randperm(len(rows), generator=generator).tolist() if self.shuffle else range(len(rows))
            yield from (rows[index] for index in order)


def check_quota(quota: Any, names: Sequence[str], rows: Sequence[Sequence[int]]) -> list[float]:
    """The share of each domain, in the order of `names`."""
    unknown = quota.keys() - set(names)
    if unknown:
        raise ValueError(
            f"`domain_quota` must name teachers only, {', '.join(map(repr, names))}; got "
            f"{', '.join(map(repr, sorted(unknown)))}."
        )
    for name, own in zip(names, rows, strict=True):
        if quota.get(name, 0) > 0 and not own:
            raise ValueError(
                f"`domain_quota` must give no share to a domain without rows in `train_dataset`; got {quota[name]} for {name!r}."
            )
        if quota.get(name, 0) == 0 and own:
            logger.warning("`domain_quota` gives %s no share: its %d rows are never drawn.", name, len(own))
    return [quota.get(name, 0.0) for name in names]


def check_streams(train_dataset: Any) -> None:
    if isinstance(train_dataset, IterableDataset):
        raise TypeError(
            "`domain_quota` draws rows by index: `train_dataset` must be a datasets.Dataset; got IterableDataset. Mix the streams "
            "by `datasets.interleave_datasets(..., probabilities=...)` instead."
        )
