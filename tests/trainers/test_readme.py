"""The README's Python runs from top to bottom, and it names every option, metric and trainer."""

import dataclasses
import re
from pathlib import Path

import pytest

import mimo_hf.trainers
from mimo_hf.trainers import JudgeRLVRConfig, MiMoRLConfig

README = Path(mimo_hf.trainers.__file__).with_name("README.md")


@pytest.mark.slow
def test_all_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block.replace('"report_to": "none"', '"report_to": "none", "use_cpu": True'), names)
    assert names["generator"].state.global_step >= 1
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"rl", "engine", "judge", "generate"}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((\.\.?/[^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target.partition("#")[0]).exists(), target


def test_own_options_are_named():
    text = README.read_text(encoding="utf-8")
    own = {field.name for field in dataclasses.fields(JudgeRLVRConfig)} - {
        field.name for field in dataclasses.fields(MiMoRLConfig.__mro__[1])
    }
    minor = {"sampling_seed", "judge_prompt_template", "judge_gate_rows"}
    assert [name for name in own - minor if name not in text and not name.startswith("sandbox_")] == []
    for name in mimo_hf.trainers.__all__:
        assert name in text or name in ("PromptSampler", "sample_responses"), name
