"""The README names every option, metric and trainer; tests/test_readme.py runs it."""

import dataclasses
from pathlib import Path

import mimo_hf.trainers
from mimo_hf.trainers import JudgeRLVRConfig, MiMoRLConfig

README = Path(mimo_hf.trainers.__file__).with_name("README.md")


def test_own_options_are_named():
    text = README.read_text(encoding="utf-8")
    own = {field.name for field in dataclasses.fields(JudgeRLVRConfig)} - {
        field.name for field in dataclasses.fields(MiMoRLConfig.__mro__[1])
    }
    minor = {"sampling_seed", "judge_prompt_template", "judge_gate_rows"}
    assert [name for name in own - minor if name not in text] == []
    for name in mimo_hf.trainers.__all__:
        assert name in text or name in ("PromptSampler", "sample_responses"), name
