import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import _claims
import pytest
import report
from _figures import FigureError, at, fill
from _tables import cell, full

CONTENT = {
    "seed": 3,
    "speed": {"ratio": 1.23456, "equal": True, "steady": False},
    "rows": [
        {"arm": "ours", "batch": 1, "rate": 2.0, "speed range": [1.5, 2.5]},
        {"arm": "ours", "batch": 2, "rate": 4.0, "speed range": [3.0, 5.0]},
        {"arm": "theirs, slow", "batch": 1, "rate": 0.5, "rho_0.9": 7},
    ],
    "share": 0.305,
    "size": 1_255_854_080,
}
MADE = {
    "command": "python benchmarks/some.py",
    "seed": 0,
    "date": "2026-01-02",
    "device": "CPU: Some, 2 cores, 1 threads",
    "versions": {"python": "3.11"},
}
QUIET = {"cores": 2, "busy_cores_elsewhere": 0.01, "busy": False}


def test_the_page_in_the_repository_is_made_from_the_results_beside_it():
    assert report.main(["--check"]) == 0


def test_a_stale_page_fails_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "PAGE", tmp_path / "README.md")
    report.PAGE.write_text(report.page() + "a line by hand\n", encoding="utf-8")
    assert report.main(["--check"]) == 1
    assert "run `python benchmarks/report.py`" in capsys.readouterr().err


def test_no_figure_is_typed():
    """What is left without the paths holds no number but those that say where a figure was taken: `at 50 m`, `with 8, 16 tokens`."""
    claims = _claims.read(report.RESULTS / "claims.yaml")
    for claim in [claim for part in claims.tables for claim in part.claims]:
        assert bool(claim.figure) == bool(claim.file), f"{claim.says}: a file and a figure go together"
        typed = re.sub(r"\b(at|with) \d+[kM]?(, \d+)*", "", re.sub(r"\{[^{}]*\}", "", claim.figure))
        assert not re.search(r"\d", typed), f"{claim.figure}: a figure comes from the file"


def test_links_of_the_page_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)(?:#\w+)?\)", report.page()):
        assert (report.RESULTS / link).exists(), link


def test_paths_of_figures():
    assert at(CONTENT, "speed.ratio") == 1.23456
    assert at(CONTENT, "rows[batch=2].rate") == 4.0
    assert at(CONTENT, "rows[arm=ours][batch=1].rate") == 2.0
    assert at(CONTENT, "rows[rate=4].batch") == 2
    assert at(CONTENT, "rows[arm=theirs, slow]['rho_0.9']") == 7
    assert at(CONTENT, "rows[-1].batch") == 1
    assert at(CONTENT, "rows[*].rate") == [2.0, 4.0, 0.5]
    assert at(CONTENT, "rows[arm=ours][*].speed range[1]") == [2.5, 5.0]
    assert (at(CONTENT, "rows[*].rate|min"), at(CONTENT, "rows[*].rate|max"), at(CONTENT, "rows|count")) == (0.5, 4, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("speed.rate", "'speed.rate' leads nowhere at 'rate'"),
        ("rows[arm=ours].rate", "2 rows are left where one is wanted"),
        ("rows[arm=nobody].rate", "0 rows are left where one is wanted"),
        ("rows[colour=red].rate", "leads nowhere at 'colour=red'"),
        ("rows[9].rate", "leads nowhere at '9'"),
        ("rows[*].rate|middle", "leads nowhere at 'middle'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path, message):
    with pytest.raises(FigureError, match=re.escape(message)):
        at(CONTENT, path)


def test_formats_of_figures():
    assert fill("{speed.ratio:.2f} times, {share:.1%}, {size:.2GB}", CONTENT) == "1.23 times, 30.5 %, 1.26 GB"
    assert fill("{speed.equal:equal|other}, {speed.steady:steady|not steady}", CONTENT) == "equal, not steady"
    assert fill("{rows[*].rate:.0f} of {rows[*].batch}", CONTENT) == "2, 4, 0 of 1, 2, 1"
    assert fill("{rows[0].speed range:.1f}", CONTENT) == "1.5 to 2.5"
    assert fill("plain text, seed {seed}", CONTENT) == "plain text, seed 3"
    for text in ("{speed.ratio}", "{speed.equal}"):
        with pytest.raises(FigureError, match="needs a format"):
            fill(text, CONTENT)


def claims_of(*claims: _claims.Claim, **raw_only: str) -> _claims.Claims:
    return _claims.Claims([_claims.Table("Some system", list(claims))], raw_only)


def test_a_claim_shows_its_figure_its_conditions_and_its_file():
    claim = _claims.Claim("It is fast", "{seeds} seeds", "{ratio:.1f} times", "some", paper="3 times")
    page = _claims.page(claims_of(claim), {"some": MADE | {"ratio": 2.04, "seeds": 5}})
    assert "| It is fast | 2.0 times; paper: 3 times | 5 seeds | [some](some.json) |" in page
    assert "Device: Some, 2 cores. Versions: python 3.11." in page
    assert "| [some](some.json) | `python benchmarks/some.py` | 2026-01-02 | Some, 2 cores, 1 threads |  |" in page


def test_what_nobody_measured_is_not_measured():
    page = _claims.page(claims_of(_claims.Claim("It flies", "needs wings"), some="rows only"), {"some": MADE})
    assert "| It flies | not measured | needs wings |  |" in page
    assert "[some](some.json), raw only: rows only" in page


@pytest.mark.parametrize(
    ("other", "timed", "mark"),
    [
        ({"machine": QUIET}, True, ""),
        ({"machine": QUIET | {"busy": True}}, True, " ‡"),
        ({}, True, " ‡"),
        ({}, False, ""),
        ({"device": "CPU: Other, 2 cores", "machine": QUIET}, True, " †"),
        ({"device": "CPU: Other, 2 cores"}, True, " †‡"),
    ],
)
def test_other_processors_and_busy_machines_are_marked(other, timed, mark):
    claim = _claims.Claim("It is fast", "often", "{seed}", "some", timed=timed)
    plain = [_claims.Claim("Plain", "", "{seed}", name) for name in ("one", "two")]
    page = _claims.page(claims_of(claim, *plain), {"some": MADE | other, "one": MADE, "two": MADE})
    assert f"| It is fast | 0 | often | [some](some.json){mark} |" in page


def test_other_versions_are_named():
    claims = claims_of(*[_claims.Claim("Same", "", "{seed}", name) for name in ("one", "two", "three")])
    page = _claims.page(claims, {"one": MADE, "two": MADE, "three": MADE | {"versions": {"python": "3.13"}}})
    assert "Some, 2 cores, 1 threads, python 3.13 |" in page


def test_results_and_claims_that_do_not_meet_are_named():
    claim = _claims.Claim("It is fast", "", "{ratio:.1f}", "some")
    with pytest.raises(
        _claims.ClaimError, match=r"no result is named some; nothing is claimed of other: add a claim, or"
    ):
        _claims.page(claims_of(claim), {"other": MADE})
    with pytest.raises(_claims.ClaimError, match=r"some, 'It is fast': 'ratio' leads nowhere"):
        _claims.page(claims_of(claim), {"some": MADE})


def test_a_misspelt_field_is_named_with_those_there_are(tmp_path):
    (tmp_path / "claims.yaml").write_text("tables: [{title: A, claims: [{says: a, were: b}]}]", encoding="utf-8")
    with pytest.raises(_claims.ClaimError, match="were") as error:
        _claims.read(tmp_path / "claims.yaml")
    assert all(field.name in str(error.value) for field in fields(_claims.Claim))


def test_timings_of_a_busy_machine_are_not_on_record(tmp_path):
    (tmp_path / "speed.busy.json").write_text("{}", encoding="utf-8")
    (tmp_path / "speed.json").write_text("{}", encoding="utf-8")
    assert list(_claims.results(tmp_path)) == ["speed"]


def test_all_of_a_result_is_rendered():
    content = {
        "seed": 3,
        "speed": {"ratio": 1.23456, "equal": True},
        "rows": [{"a": 1, "b": None}, {"a": 2, "c": [1, 2]}],
    }
    text = "\n\n".join(full("some_study", content))
    for part in ("# some study", "| seed | 3 |", "## speed", "| ratio | 1.235 |", "| equal | yes |", "| a | b | c |"):
        assert part in text
    assert "| 2 | none | 1, 2 |" in text


def test_a_cell_stays_short():
    assert cell([1, 2.5, None]) == "1, 2.5, none"
    assert cell(list(range(20))) == "0, ... 19 (20 in all)"
    assert cell([{"a": 1}, {"a": 2}]) == "2 rows"


@pytest.mark.parametrize("name", ["seamless", "seamless.json", "benchmarks/results/seamless.json"])
def test_one_result_is_printed_by_name_or_path(capsys, name):
    assert report.main(["--full", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# seamless\n")
    content = json.loads((report.RESULTS / "seamless.json").read_text(encoding="utf-8"))
    assert all(f"| {arm['arm']} |" in text for arm in content["simulated"])


def test_an_unknown_result_is_named_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        report.main(["--full", "seamles"])
    assert "no result is named 'seamles': did you mean seamless?" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError, match=r"there are .*mtp_batch"):
        report.result("x")


def test_every_result_says_how_it_was_made():
    for path in report.RESULTS.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert MADE.keys() <= content.keys(), path.name
        script = re.match(r"python (\S+\.py)", content["command"])
        assert script is None or (Path(report.__file__).parents[1] / script[1]).exists(), content["command"]
