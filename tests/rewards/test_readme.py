"""The guide's recipe runs as it stands: from one problem, and from a JSONL file, to graded rows that the reward takes."""

import re
from pathlib import Path

import mimo_hf.rewards
from mimo_hf.rewards import CodeReward, notices

from .conftest import call

README = Path(mimo_hf.rewards.__file__).with_name("README.md")


def test_the_recipe_from_a_file_to_graded_rows_runs(tmp_path, monkeypatch, capsys, any_sandbox, caplog):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").partition("## Code by test difficulty")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    # 2 squared is 4, as is 2 + 2: the first test is passed by both programs, the second by one of them.
    (row,) = names["dataset"].to_list()
    assert (row["test_levels"], row["level_scores"]) == ([0, 1], [0.5, 0.5])
    assert f"test_levels={row['test_levels']}" in capsys.readouterr().out
    monkeypatch.setattr(notices, "_said", set())
    columns = {name: [row[name]] * 2 for name in ("tests", "test_levels", "level_scores")}
    completions = [f"```python\n{program}\n```" for program in names["programs"]]
    assert call(CodeReward("strict", any_sandbox), completions, **columns) == [1.0, 0.5]
    assert [record for record in caplog.records if record.name == "mimo_hf.rewards"] == []


def test_every_file_is_in_the_table():
    text = README.read_text(encoding="utf-8")
    assert [
        path.name for path in README.parent.glob("*.py") if path.name != "__init__.py" and path.name not in text
    ] == []
