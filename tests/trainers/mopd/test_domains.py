"""Which teacher a row has, and batches with fixed shares."""

import collections

import pytest
from datasets import ClassLabel, Dataset

from mimo_hf.trainers.mopd.domains import Domains, QuotaSampler

NAMES = ["math", "code"]


def domains(values, column="domain", ask="domain", default=None, title="train_dataset"):
    rows = Dataset.from_dict({"prompt": [str(i) for i in range(len(values))], column: values})
    return Domains(NAMES, ask, default, {title: rows})


def test_rows_go_to_the_teacher_that_their_column_names():
    routing = domains(["code", "math", "code"])
    assert routing.indices([{"domain": name} for name in ("math", "code", "math")]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("column", ["teacher_id", "teacher"])
def test_data_sets_for_trls_own_trainer_work(column):
    routing = domains(["code", "math"], column)
    assert routing.column == column
    assert routing.index({column: "code"}) == 1


def test_a_column_that_was_asked_for_is_not_replaced():
    with pytest.raises(ValueError, match=r"'skill'.*'teacher_id'"):
        domains(["code", "math"], "teacher_id", ask="skill")


@pytest.mark.parametrize("title", ["train_dataset", "eval_dataset"])
def test_an_unknown_domain_is_named_with_the_known_ones(title):
    with pytest.raises(ValueError, match=rf"{title}.*'math', 'code'; got 'chess'.*default_teacher"):
        domains(["code", "chess"], title=title)


def test_a_row_without_a_domain_is_an_error_unless_there_is_a_default():
    with pytest.raises(ValueError, match=r"None, which has no teacher"):
        domains(["code", None])
    routing = domains(["code", None, "chess"], default="math")
    assert routing.indices([{"domain": None}, {"domain": "chess"}, {"domain": "code"}]).tolist() == [0, 0, 1]


def test_a_missing_column_is_named_with_those_that_there_are():
    rows = Dataset.from_dict({"prompt": ["1"], "topic": ["math"]})
    with pytest.raises(ValueError, match=r"'domain'.*'prompt', 'topic'.*domain_column"):
        Domains(NAMES, "domain", None, {"train_dataset": rows})
    assert Domains(NAMES, "domain", "code", {"train_dataset": rows}).index({"topic": "math"}) == 1


def test_an_unknown_default_is_refused():
    with pytest.raises(ValueError, match=r"default_teacher.*'math', 'code'.*'chess'"):
        domains(["code"], default="chess")


@pytest.mark.parametrize("values", [[0, 1], [0.5, 1.0], [["math"], ["code"]]])
def test_a_column_of_another_type_is_named(values):
    with pytest.raises((TypeError, ValueError), match=r"'domain'"):
        domains(values)


def test_labels_of_a_class_label_are_names():
    rows = Dataset.from_dict({"prompt": ["1", "2"], "domain": [1, 0]})
    rows = rows.cast_column("domain", ClassLabel(names=["code", "math"]))
    routing = Domains(NAMES, "domain", None, {"train_dataset": rows})
    assert routing.indices(list(rows)).tolist() == [0, 1]


def test_labels_that_stand_for_other_names_in_another_data_set_are_refused():
    rows = Dataset.from_dict({"prompt": ["1", "2"], "domain": [1, 0]})
    named = {
        title: rows.cast_column("domain", ClassLabel(names=names))
        for title, names in (("train_dataset", ["code", "math"]), ("eval_dataset", ["math", "code"]))
    }
    with pytest.raises(
        ValueError, match=r"labels of the column 'domain' must be the same.*'math', 'code'.*eval_dataset"
    ):
        Domains(NAMES, "domain", None, named)
    as_text = Dataset.from_dict({"prompt": ["1"], "domain": ["code"]})
    routing = Domains(NAMES, "domain", None, {"train_dataset": named["train_dataset"], "eval_dataset": as_text})
    assert routing.indices(list(named["train_dataset"])).tolist() == [0, 1]


def test_a_teacher_that_no_row_has_is_told(caplog):
    domains(["code", "code"])
    assert "The teacher math is never used" in caplog.text


def test_rows_of_a_stream_are_checked_as_they_come():
    stream = Dataset.from_dict({"prompt": ["1"], "domain": ["chess"]}).to_iterable_dataset()
    routing = Domains(NAMES, "domain", None, {"train_dataset": stream})
    with pytest.raises(ValueError, match=r"'chess'"):
        routing.indices(list(stream))


def sampler(rows, shares, batch_size, repeat=1, copies=1, shuffle=True, seed=0):
    return QuotaSampler(rows, shares, batch_size, copies, repeat, shuffle, seed)


@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.9, 0.1, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.34, 0.33, 0.33)])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_all_batches_so_far_hold_the_shares_to_less_than_a_prompt(shares, batch_size):
    rows = [range(40), range(100, 103), range(200, 257)]
    drawn = list(sampler(rows, shares, batch_size))
    assert len(drawn) == 100 // batch_size * batch_size
    counts = collections.Counter()
    for number, start in enumerate(range(0, len(drawn), batch_size), 1):
        batch = drawn[start : start + batch_size]
        counts.update(prompt // 100 for prompt in batch)
        for domain, share in enumerate(shares):
            assert abs(counts[domain] - share * number * batch_size) < 1 + 1e-6


def test_a_domain_starts_anew_only_when_all_its_rows_were_drawn():
    rows = [range(4), range(100, 160)]
    drawn = [prompt for prompt in sampler(rows, (0.5, 0.5), 4) if prompt < 100]
    for start in range(0, len(drawn) - 3, 4):
        assert sorted(drawn[start : start + 4]) == [0, 1, 2, 3]


def test_prompts_are_repeated_as_by_trls_sampler():
    drawn = list(sampler([[0, 1], [10, 11]], (0.5, 0.5), 2, repeat=2, copies=3, shuffle=False))
    assert drawn == [0] * 3 + [10] * 3 + [0] * 3 + [10] * 3 + [1] * 3 + [11] * 3 + [1] * 3 + [11] * 3
    assert len(sampler([[0, 1], [10, 11]], (0.5, 0.5), 2, repeat=2, copies=3)) == len(drawn)


def test_the_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        made = sampler([range(20), range(100, 120)], (0.5, 0.5), 4, seed=seed)
        made.set_epoch(epoch)
        return list(made)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
