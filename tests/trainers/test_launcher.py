"""The environment that accelerate's launcher gives to its process, as accelerate makes it."""

import logging

import pytest
from accelerate.commands import launch
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from mimo_hf.trainers.launcher import PLACES, warn_of_missing_processes

OURS = "mimo_hf.trainers.launcher"  # accelerate warns of its own defaults


@pytest.fixture
def environment(monkeypatch):
    for name in (*PLACES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def make(*options):
        arguments = launch.launch_command_parser().parse_args([*options, "script.py"])
        arguments, *_ = launch._validate_launch_command(arguments)
        return prepare_simple_launcher_cmd_env(arguments)[1]

    return make


def test_one_process_instead_of_two_is_told_with_the_command_that_works(environment, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_missing_processes(environment("--cpu", "--num_processes", "2"), 1)
    (message,) = [record.getMessage() for record in caplog.records if record.name == OURS]
    assert message.endswith("For two, run: torchrun --nproc_per_node 2 SCRIPT")


def test_nothing_is_told_where_the_launcher_kept_its_word(environment, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_missing_processes(environment("--cpu", "--num_processes", "1"), 1)
        warn_of_missing_processes(environment("--cpu", "--num_processes", "2"), 2)
        of_torchrun = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        warn_of_missing_processes(environment("--cpu", "--num_processes", "2") | of_torchrun, 1)
        warn_of_missing_processes({}, 1)
        warn_of_missing_processes({"MASTER_ADDR": "127.0.0.1"}, 1)
    assert [record for record in caplog.records if record.name == OURS] == []


def test_the_trainer_looks(make_trainer, monkeypatch, caplog, environment):
    for name, value in environment("--cpu", "--num_processes", "2").items():
        if name.startswith(("ACCELERATE", "MASTER")):
            monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        make_trainer()
    assert sum("torchrun --nproc_per_node 2" in record.getMessage() for record in caplog.records) == 1
