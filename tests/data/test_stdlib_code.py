"""The standard library as a corpus: what is in it, and on which side of the split."""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mimo_hf.data import held_out_files, is_held_out, stdlib_code

ROOT = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def splits():
    return {split: stdlib_code(split) for split in ("train", "held_out")}


def test_a_file_is_in_one_split_only(splits):
    train, held_out = (set(splits[split]["path"]) for split in ("train", "held_out"))
    assert train.isdisjoint(held_out)
    assert len(train) == len(splits["train"])
    assert not any(is_held_out(path) for path in train)
    assert all(is_held_out(path) for path in held_out)


def test_about_one_file_in_twenty_is_held_out(splits):
    share = len(splits["held_out"]) / (len(splits["train"]) + len(splits["held_out"]))
    assert 0.02 < share < 0.09


def test_the_split_is_a_hash_of_the_relative_path():
    paths = [f"package/module_{number}.py" for number in range(1000)]
    expected = [hashlib.sha256(path.encode()).hexdigest()[:2] < "0d" for path in paths]
    assert [is_held_out(path) for path in paths] == expected
    assert [is_held_out(Path(path)) for path in paths] == expected


def test_texts_are_the_files(splits):
    for row in splits["held_out"]:
        assert row["text"] == (ROOT / row["path"]).read_text(encoding="utf-8")


def test_known_modules_are_in_and_tests_tables_and_build_files_are_out(splits):
    paths = {*splits["train"]["path"], *splits["held_out"]["path"]}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= paths
    folders = {folder for path in paths for folder in Path(path).parts[:-1]}
    assert folders.isdisjoint({"test", "tests", "idle_test", "site-packages", "encodings"})
    assert not [path for path in paths if "_sysconfigdata_" in path or path.startswith("config-")]


def test_held_out_files_are_the_held_out_split(splits):
    assert [path.relative_to(ROOT).as_posix() for path in held_out_files()] == splits["held_out"]["path"]


def test_files_that_are_no_text_or_of_odd_size_are_left_out(tmp_path, monkeypatch):
    lines = b"x = 1\n" * 200
    files = {
        "good.py": lines,
        "package/good.py": lines,
        "latin.py": lines + b"# \xe9",
        "short.py": b"x = 1\n",
        "long.py": lines * 1000,
        "text.txt": lines,
        "test/bad.py": lines,
        "_sysconfigdata_linux.py": lines,
    }
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "broken_link.py").symlink_to(tmp_path / "nowhere.py")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(stdlib_code.__globals__, "is_held_out", lambda path: False)
    assert stdlib_code("train")["path"] == ["good.py", "package/good.py"]
    assert held_out_files() == []


def test_held_out_files_need_neither_datasets_nor_torch():
    code = (
        "import sys; from mimo_hf.data import held_out_files as f; f(); print({'datasets', 'torch'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("split", ["test", "Train", "", None])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(ValueError, match=r"`split` must be one of .*'train', 'held_out'.*got"):
        stdlib_code(split)


def test_an_absolute_path_is_refused():
    with pytest.raises(ValueError, match="relative to the standard library"):
        is_held_out("/usr/lib/python3/json/decoder.py")
