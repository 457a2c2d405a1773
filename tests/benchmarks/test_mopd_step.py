"""benchmarks/mopd_step.py and gpu_mopd.py: as many tokens in all arms, weights counted once, and no figures without a GPU."""

import pytest


@pytest.fixture(scope="module")
def step():
    import mopd_step

    return mopd_step


@pytest.fixture(scope="module")
def compared(step):
    return step.compare(step.QUICK, 1, 2)


def test_all_arms_see_as_many_tokens(step, compared):
    rows = compared["rows"]
    assert len(rows) == 4
    each = step.QUICK.rows * (step.QUICK.prompt_tokens + step.QUICK.new_tokens)
    assert {row["tokens_a_training"] for row in rows} == {each}


def test_adapters_share_one_base_in_memory(step, compared):
    from _mopd_step import lora, make_base
    from peft import get_peft_model

    base = make_base(step.QUICK)
    one = sum(value.numel() * value.element_size() for value in base.parameters())
    with_adapter = sum(v.numel() * v.element_size() for v in get_peft_model(base, lora(step.QUICK)).parameters())
    weights = {row["arm"]: row["weights_bytes"] for row in compared["rows"]}
    assert weights["mopd, adapters"] == one + 4 * (with_adapter - one)
    assert weights["mopd, copies"] == with_adapter + 3 * one
    assert weights["trl, one teacher"] == with_adapter + one


def test_goals_are_judged_by_the_rows():
    import gpu_mopd

    rows = [
        {"arm": gpu_mopd.TRL, "step_s": 1.0, "peak_bytes": 100},
        {"arm": "mopd, adapters, full", "step_s": 1.14, "peak_bytes": 90},
        {"arm": "mopd, offload, full", "step_s": 2.0, "peak_bytes": 101},
    ]
    found = gpu_mopd.goals(rows)
    assert [goal["reached"] for goal in found.values()] == [True, False]
    assert gpu_mopd.goals([{**row, "peak_bytes": None} for row in rows]).keys() == {
        "adapters: a step at most 1.15 x TRL's"
    }


def test_without_a_gpu_there_are_no_figures(capsys):
    import gpu_mopd
    import torch

    with pytest.raises(SystemExit):
        gpu_mopd.main(["--device", "cpu"])
    assert "--device cpu goes with --quick" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu_mopd.main([])


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu():
    import gpu_mopd

    gpu_mopd.main(["--device", "cpu", "--quick"])
