import json

import report


def test_the_page_in_the_repository_is_made_from_the_results_beside_it():
    assert report.main(["--check"]) == 0


def test_plain_figures_tables_and_nested_objects(tmp_path):
    content = {
        "seed": 3,
        "speed": {"ratio": 1.23456, "equal": True},
        "rows": [{"a": 1, "b": None}, {"a": 2, "c": [1, 2]}],
    }
    (tmp_path / "some_study.json").write_text(json.dumps(content))
    page = report.page(tmp_path)
    assert "## some study" in page
    assert "| seed | 3 |" in page
    assert "| ratio | 1.235 |" in page
    assert "| equal | yes |" in page
    assert "| a | b | c |" in page
    assert "| 2 | none | 1, 2 |" in page


def test_timings_of_a_busy_machine_are_not_on_the_page(tmp_path):
    (tmp_path / "speed.busy.json").write_text("{}")
    assert "speed" not in report.page(tmp_path)


def test_a_cell_stays_short():
    assert report.show([1, 2.5, None]) == "1, 2.5, none"
    assert report.show(list(range(20))) == "0, ... 19 (20 in all)"
    assert report.show([{"a": 1}, {"a": 2}]) == "2 rows"


def test_every_result_says_how_it_was_made():
    for path in report.RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        assert {"command", "seed", "date", "device", "versions"} <= content.keys(), path.name
