"""The scripts under tests/peer: what they read from a run, what they put in the place of what, and the page that tells their results."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent / "peer"))
import _outcomes
import _peer
import _trl_swap
import transformers_models
import trl_trainers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
SOME_TESTS = """
import unittest

import pytest

class SomeTest(unittest.TestCase):
    def tearDown(self):
        if "teardown" in self.id():
            raise OSError("no disk at /some/where/disk")

    def test_passes(self):
        pass

    def test_fails_in_teardown(self):
        pass

    def test_one_part_of_three_fails(self):
        for number in (1, 2, 3):
            with self.subTest(number):
                assert number != 2, "two at 0x7f00"

    def test_a_part_is_skipped(self):
        with self.subTest("here"):
            pass
        with self.subTest("there"):
            self.skipTest("not there")

@pytest.mark.skip(reason="another day")
def test_skipped():
    pass

@pytest.mark.xfail(reason="known")
def test_expected():
    assert False
"""


def test_a_run_gives_one_outcome_a_test_the_worst_of_its_parts(tmp_path):
    (tmp_path / "test_some.py").write_text(SOME_TESTS, encoding="utf-8")
    found = _peer.run(tmp_path, "test_some.py", (), None, {})
    assert found == {
        "SomeTest::test_passes": {"outcome": "passed", "reason": ""},
        "SomeTest::test_fails_in_teardown": {"outcome": "failed", "reason": "OSError: no disk at disk"},
        "SomeTest::test_one_part_of_three_fails": {"outcome": "failed", "reason": "AssertionError: two at 0x..."},
        "SomeTest::test_a_part_is_skipped": {"outcome": "skipped", "reason": "not there"},
        "test_skipped": {"outcome": "skipped", "reason": "another day"},
        "test_expected": {"outcome": "xfailed", "reason": "known"},
    }
    assert _outcomes.count(found) == {"passed": 1, "failed": 2, "skipped": 2, "xfailed": 1}
    entry = _peer.entry(found)
    assert entry["passes"] == ["SomeTest::test_passes"]
    assert set(entry["failures"]) == {
        "SomeTest::test_fails_in_teardown",
        "SomeTest::test_one_part_of_three_fails",
    }
    assert entry["skips"]["another day"] == ["test_skipped"]


def test_a_run_that_can_not_begin_says_what_pytest_said(tmp_path):
    (tmp_path / "test_broken.py").write_text("import no_such_package\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"(?s)test_broken.py: pytest ended with 2.*no_such_package"):
        _peer.run(tmp_path, "test_broken.py", (), None, {})


def test_the_last_line_tells_of_an_error_in_another_process():
    reason = "torch.multiprocessing.spawn.ProcessRaisedException: \n\n-- Process 0 terminated:\nTraceback\nValueError: odd\n"
    assert _outcomes.short(reason) == "ValueError: odd"
    assert _outcomes.short("") == ""


def test_only_names_that_a_module_has_are_replaced():
    trainer, config = type("Ours", (), {}), type("OurConfig", (), {})
    both, one = ModuleType("both"), ModuleType("one")
    both.GRPOTrainer = both.GRPOConfig = one.GRPOConfig = object
    _trl_swap.put([both, one], trainer, config)
    assert (both.GRPOTrainer, both.GRPOConfig, one.GRPOConfig) == (trainer, config, config)
    assert not hasattr(one, "GRPOTrainer")


def asks_for_a_model():
    return "trl-internal-testing/tiny-Model", "other/place"


def test_names_of_the_hub_without_a_stand_in_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _trl_swap.missing(asks_for_a_model, ["Qwen/Other", 3]) == ["Qwen/Other", "trl-internal-testing/tiny-Model"]
    (tmp_path / "trl-internal-testing/tiny-Model").mkdir(parents=True)
    assert _trl_swap.missing(asks_for_a_model) == []


def test_a_digest_changes_with_the_last_bit_of_a_weight():
    import torch

    weight = torch.ones(2, dtype=torch.bfloat16)
    other = weight.clone()
    other[1] = torch.nextafter(weight[1], weight[1] + 1)
    assert _trl_swap.digest({"a": weight}) == _trl_swap.digest({"a": weight.clone()})
    assert len({_trl_swap.digest(weights) for weights in ({"a": weight}, {"b": weight}, {"a": other})}) == 3


def test_trainers_are_compared_with_the_control():
    def ran(weights, passes, failures=()):
        return {"weights": weights, "passes": passes, "failures": dict.fromkeys(failures, "why")}

    trainers = {
        "JudgeRLVRTrainer": ran(["x 1", "y 3"], ["x"], ["y", "z"]),
        "GRPOTrainer": ran(["x 1", "y 2"], ["x", "y"], ["z"]),
    }
    compared = trl_trainers.compared(trainers)
    assert list(compared) == ["GRPOTrainer", "JudgeRLVRTrainer"]
    assert compared["JudgeRLVRTrainer"]["with_the_controls_weights"] == 1
    assert compared["JudgeRLVRTrainer"]["other_outcome_than_the_control"] == ["y"]


@pytest.fixture
def upstream(tmp_path):
    """A source distribution: no generation tests, and a conftest.py that must not run."""
    tests = tmp_path / "upstream/tests"
    tests.mkdir(parents=True)
    for name in ("test_modeling_common.py", "test_training_mixin.py", "test_pipeline_mixin.py", "conftest.py"):
        (tests / name).write_text(f"# {name}\n", encoding="utf-8")
    return tests.parent


def test_what_the_source_distribution_lacks_is_replaced_and_said(tmp_path, upstream):
    sources = transformers_models.lay_tests(tmp_path / "tests", upstream, None)
    assert sources["generation/test_utils.py"] is None
    assert set(sources["test_training_mixin.py"]) == {"sha256"}
    assert "test_pipeline_mixin.py" not in sources
    laid = tmp_path / "tests"
    assert not (laid / "conftest.py").exists()
    assert "GenerationTesterMixin" in (laid / "generation/test_utils.py").read_text("utf-8")
    assert (laid / "test_families.py").read_bytes() == (ROOT / "tests/peer/_families.py").read_bytes()


def test_generation_tests_come_from_the_checkout(tmp_path, upstream):
    checkout = tmp_path / "checkout/tests/generation"
    checkout.mkdir(parents=True)
    (checkout / "test_utils.py").write_text("# of the checkout\n", encoding="utf-8")
    sources = transformers_models.lay_tests(tmp_path / "tests", upstream, tmp_path / "checkout")
    assert sources["generation/test_utils.py"] is not None
    assert sources["exporters/test_export.py"] is None
    assert (tmp_path / "tests/generation/test_utils.py").read_text("utf-8") == "# of the checkout\n"


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (
            transformers_models,
            ["--upstream", "nowhere"],
            "--upstream must be a folder with tests/test_modeling_common",
        ),
        (
            trl_trainers,
            ["--upstream", "nowhere"],
            "--upstream must be a folder with tests/test_grpo_trainer.py; nowhere",
        ),
        (trl_trainers, ["--upstream", ".", "--trainer", "PPO"], "invalid choice: 'PPO'"),
    ],
)
def test_wrong_arguments_are_named(capsys, script, words, message):
    with pytest.raises(SystemExit):
        script.parse_arguments(words)
    assert message in capsys.readouterr().err


def test_a_checkout_without_generation_tests_and_a_missing_package_are_named(capsys, monkeypatch, upstream):
    with pytest.raises(SystemExit):
        transformers_models.parse_arguments(["--upstream", str(upstream), "--generation", str(upstream)])
    assert "leave the option out" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        transformers_models.parse_arguments(["--upstream", str(upstream)])
    assert "pip install parameterized" in capsys.readouterr().err


def test_an_earlier_run_is_kept_only_for_the_same_transformers(tmp_path):
    file = tmp_path / "peer.json"
    assert transformers_models.earlier(file, "5.22.2") == {}
    file.write_text(json.dumps({"versions": {"transformers": "5.22.2"}, "families": {"MiMo": {}}}), encoding="utf-8")
    assert transformers_models.earlier(file, "5.22.2") == {"MiMo": {}}
    assert transformers_models.earlier(file, "5.24.0") == {}


def test_the_page_tells_what_is_on_record():
    page = (ROOT / "docs/peer_tests.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?([^|`]+?)`? \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    told = {name: [int(passed), int(failed), int(skipped)] for name, passed, failed, skipped in rows}
    runs = {}
    for file in sorted(RESULTS.glob("peer_*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content["versions"]["transformers"]
        for name, run in content.get("trainers", content.get("families")).items():
            title = f"{run['family']}, {version}" if "family" in run else name
            runs[title] = [run["passed"], run["failed"], run["skipped"]]
            for test in run["failures"]:
                assert f"`{re.sub(r'^.*::', '', test)}`" in page, (file.name, test)
    assert told == runs
