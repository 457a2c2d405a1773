"""Two processes, of which one has no row of some teachers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "_distributed.py"
OPTIONS = {
    "sampled": {"domain_normalize": True, "teacher_batch_size": 3},
    "full": {"kl_estimator": "full", "gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    done = subprocess.run(
        [*command, str(folder), json.dumps(OPTIONS)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)] for name in OPTIONS}


@pytest.mark.parametrize("name", OPTIONS)
def test_both_processes_end_with_the_same_weights_and_metrics(seen, name):
    first, second = seen[name]
    assert first["world"] == second["world"] == 2
    assert first["weights"] == second["weights"]
    assert first["log"] == second["log"]
    assert any(first["log"])


def test_each_process_had_rows_of_its_own_teachers_only(seen):
    first, second = seen["full"]
    assert all(set(domains) == {1, 2} for domains in first["domains"])
    assert all(domains == [0] for domains in second["domains"])


def test_sharded_teachers_are_called_equally_often_on_all(seen):
    first, second = seen["sampled"]
    assert first["passes"] == second["passes"] > 0


def test_metrics_of_a_domain_are_of_all_processes(seen):
    assert all(
        {"mopd/a/tokens", "mopd/b/tokens", "mopd/c/tokens"} <= set(entry) for entry in seen["full"][0]["log"] if entry
    )
