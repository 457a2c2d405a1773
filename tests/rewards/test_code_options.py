"""Options of the code reward: documented, parsed beside a trainer's, checked."""

import dataclasses
import re

import pytest
from transformers import HfArgumentParser
from trl import TrlParser

from mimo_hf.rewards import CodeReward, CodeRewardOptions

OPTIONS = (
    "--code_reward_scheme soft --sandbox subprocess --sandbox_timeout_s 2 --sandbox_memory_mb 64 --sandbox_workers 1"
)


def test_every_field_is_documented_twice_and_alike():
    for field in dataclasses.fields(CodeRewardOptions):
        entry = re.search(
            rf"^        {field.name} \(.*?\):\n((?:            .*\n)+)", CodeRewardOptions.__doc__, re.MULTILINE
        )
        words = [re.sub(r"[`'\"]", "", text).split() for text in (entry.group(1), field.metadata["help"])]
        assert words[0] == words[1], field.name


def test_the_reward_is_as_the_options_say():
    (options,) = HfArgumentParser(CodeRewardOptions).parse_args_into_dataclasses(OPTIONS.split())
    reward = CodeReward.from_args(options)
    assert (reward.scheme, reward.sandbox.backend, reward.sandbox.workers) == ("soft", "subprocess", 1)
    assert (reward.sandbox.limits.timeout_s, reward.sandbox.limits.memory_bytes) == (2, 64 << 20)


def test_a_file_with_a_trainers_options_and_these_is_read(tmp_path):
    from mimo_hf.trainers import MiMoRLConfig

    run = tmp_path / "run.yaml"
    run.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\neasy_pool_alpha: 0.1\nsandbox: subprocess\n")
    parser = TrlParser((MiMoRLConfig, CodeRewardOptions))
    args, options = parser.parse_args_and_config(["--config", str(run), "--sandbox_workers", "3"])
    assert (args.easy_pool_alpha, options.sandbox, options.sandbox_workers) == (0.1, "subprocess", 3)
    with pytest.raises(TypeError, match=r"`args` must be CodeRewardOptions; got MiMoRLConfig\. .* parse both with"):
        CodeReward.from_args(args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code_reward_scheme": "firm"}, "`code_reward_scheme` must be one of"),
        ({"sandbox": "docker"}, "`sandbox` must be one of"),
        ({"sandbox_timeout_s": 0}, "`sandbox_timeout_s` must be above 0; got 0"),
        ({"sandbox_memory_mb": -1}, "`sandbox_memory_mb` must be above 0; got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CodeRewardOptions(**options)
