"""Module paths of the last release, by which scripts import trainers and checkpoints are pickled."""

import importlib
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from mimo_hf.trainers import JudgeRLVRConfig, MiMoRLConfig

NAMES = {
    "engine_rollout": ("Generated", "rollout.engine_rollout"),
    "judge_rlvr": ("main", "judge_rlvr.command"),
    "judge_rlvr_config": ("JudgeRLVRConfig", "judge_rlvr.judge_rlvr_config"),
    "judge_rlvr_options": ("JudgeRLVRPipelineConfig", "judge_rlvr.options"),
    "judge_rlvr_trainer": ("hand_over", "judge_rlvr.judge_rlvr_trainer"),
    "mimo_rl_config": ("MiMoRLConfig", "mimo_rl.mimo_rl_config"),
    "mimo_rl_trainer": ("last_whole_checkpoint", "mimo_rl.mimo_rl_trainer"),
    "prompt_sampler": ("PromptSampler", "rollout.prompt_sampler"),
    "seamless": ("RolloutError", "rollout.seamless"),
}


@pytest.mark.parametrize("earlier", NAMES)
def test_a_name_is_forwarded_and_its_new_path_is_said(earlier):
    name, home = NAMES[earlier]
    with pytest.warns(FutureWarning, match=f"`{name}` is in `mimo_hf.trainers.{home}`"):
        found = getattr(importlib.import_module(f"mimo_hf.trainers.{earlier}"), name)
    assert found is getattr(importlib.import_module(f"mimo_hf.trainers.{home}"), name)


def test_every_path_leads_to_a_module():
    table = next(
        finder.places for finder in sys.meta_path if "mimo_hf.trainers.seamless" in getattr(finder, "places", ())
    )
    for earlier, home in table.items():
        assert importlib.import_module(home).__name__ == home
        assert vars(importlib.import_module(earlier)).get("__getattr__")


def test_an_old_path_alone_imports_nothing():
    code = "import sys, mimo_hf.trainers.mimo_rl_trainer; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize("config", [MiMoRLConfig, JudgeRLVRConfig])
def test_training_arguments_of_the_last_release_load(tmp_path, config):
    """A checkpoint's training_args.bin names the class by its path."""
    args = config(str(tmp_path), use_cpu=True, bf16=False, dynamic_sampling=True)
    path = config.__module__.encode()
    text = pickle.dumps(args, protocol=2)
    earlier = text.replace(path, b"mimo_hf.trainers." + path.rpartition(b".")[2])
    assert earlier != text
    with pytest.warns(FutureWarning, match=config.__name__):
        loaded = pickle.loads(earlier)
    assert type(loaded) is config
    assert loaded.to_dict() == args.to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(loaded, tmp_path / "training_args.bin")
        again = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert again.to_dict() == args.to_dict()
