"""What rewards say once: of ungraded tests, and by one process of a machine alone."""

import subprocess
import sys

import pytest

from mimo_hf.rewards import CodeReward, notices

from .conftest import call

TESTS = [{"input": "2\n", "output": "4\n"}, {"input": "3\n", "output": "9\n"}]
HALF = "```python\nprint(4)\n```"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(notices, "_said", set())
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "mimo_hf.rewards"]


def test_ungraded_tests_are_told_once_with_the_way(any_sandbox, caplog):
    reward = CodeReward("strict", any_sandbox)
    assert [call(reward, [HALF], tests=[TESTS]), call(reward, [HALF], tests=[TESTS], test_levels=[None])] == [
        [0.0]
    ] * 2
    assert len(said(caplog)) == 1
    assert "`mimo_hf.rewards.grade_tests`" in said(caplog)[0]
    assert "`test_levels`" in said(caplog)[0]


@pytest.mark.parametrize("scheme", ["vanilla", "soft"])
def test_schemes_that_need_no_levels_say_nothing(any_sandbox, caplog, scheme):
    call(CodeReward(scheme, any_sandbox), [HALF], tests=[TESTS])
    assert said(caplog) == []


def test_graded_tests_say_nothing(any_sandbox, caplog):
    graded = {"test_levels": [[0, 1]], "level_scores": [[0.5, 0.5]]}
    assert call(CodeReward("strict", any_sandbox), [HALF], tests=[TESTS], **graded) == [0.5]
    assert said(caplog) == []


@pytest.mark.parametrize(("rank", "expected"), [("0", ["once"]), ("1", [])])
def test_one_process_of_a_machine_speaks(monkeypatch, caplog, rank, expected):
    monkeypatch.setenv("LOCAL_RANK", rank)
    notices.warn_once("once")
    notices.warn_once("once")
    assert said(caplog) == expected


def test_the_text_is_printed_without_a_place_in_the_source(tmp_path):
    script = "from mimo_hf.rewards.notices import warn_once; warn_once('NO SECURITY BOUNDARY')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == "NO SECURITY BOUNDARY\n"
