"""Which cores there are and how an action is kept on them, on made-up trees."""

import os
from pathlib import Path

import pytest

from mimo_hf.scheduler.executors import cpu


def test_lists_of_cores_are_read():
    assert cpu.parse_cpu_list("0-3,8,10-11\n") == [0, 1, 2, 3, 8, 10, 11]
    assert cpu.parse_cpu_list("") == []


def test_numa_nodes_are_cut_to_what_this_process_may_use(tmp_path, monkeypatch):
    for node, cores in (("node0", "0-3"), ("node1", "4-7"), ("node2", "8-9")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5, 6, 7}, raising=False)
    assert [sorted(node) for node in cpu.numa_nodes(tmp_path)] == [[1, 2], [5, 6, 7]]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 50}, raising=False)
    assert [sorted(node) for node in cpu.numa_nodes(tmp_path)] == [[1, 50]]  # the tree does not know all of them


def test_siblings_stand_next_to_each_other(tmp_path):
    for core, siblings in ((0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5")):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert cpu._siblings_together([0, 1, 4, 5, 9], tmp_path) == [0, 4, 1, 5, 9]


def test_an_action_gets_its_cores_and_quota_in_its_group(tmp_path):
    group = cpu.CpuGroup(tmp_path, "worker")
    group.admit(123)
    group.give((2, 3, 7), 3)
    assert (group.path / "cgroup.procs").read_text() == "123"
    assert (group.path / "cpuset.cpus").read_text() == "2,3,7"
    assert (group.path / "cpu.max").read_text() == "300000 100000"
    for amount, quota in ((0.5, "50000 100000"), (0, "max 100000")):
        group.give((), amount)
        assert (group.path / "cpuset.cpus").read_text() == ""
        assert (group.path / "cpu.max").read_text() == quota
    group.rest()
    assert (group.path / "cpu.max").read_text() == "1000 100000"
    group.freeze(True)
    assert (group.path / "cgroup.freeze").read_text() == "1"


def test_cgroups_count_only_in_a_writable_version_2_group_with_both_controllers(tmp_path, monkeypatch):
    assert cpu.cgroup2_parent(tmp_path) is None  # an empty tree beside version 1
    folder = tmp_path / "mimo"
    folder.mkdir()
    (folder / "cgroup.subtree_control").write_text("cpu memory")
    own = Path("/proc/self/cgroup").read_text()
    if "0::" not in own:
        read = Path.read_text
        monkeypatch.setattr(
            Path, "read_text", lambda self: "0::/\n" if str(self) == "/proc/self/cgroup" else read(self)
        )
    assert cpu.cgroup2_parent(tmp_path) is None
    (folder / "cgroup.subtree_control").write_text("cpuset cpu memory")
    assert cpu.cgroup2_parent(tmp_path) == folder
    assert cpu.enforcement("auto", tmp_path) == "cgroup2"
    assert cpu.enforcement("count", tmp_path) == "count"


def test_a_level_that_does_not_work_here_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"`cpu_enforce` must be one of .*affinity, count on this machine; got 'cgroup2'"
    ):
        cpu.enforcement("cgroup2", tmp_path)
