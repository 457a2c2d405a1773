"""Kernel repositories: found, built, checked and loaded as the `kernels` library wants them."""

import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import kernels as library
import pytest
import torch

from mimo_hf.hub import kernels

ROOT = Path(__file__).parents[2]

SOURCE = {
    "__init__.py": "from . import layers\nfrom .ops import double\n\n__all__ = ['double', 'layers']\n",
    "ops.py": "def double(x):\n    return 2 * x\n",
    "layers.py": "",
    "configs/default.json": "{}\n",
}
BUILD = """[general]
name = "{name}"
version = {version}
edition = 5
license = "Apache-2.0"
backends = ["cpu", "cuda"]

[general.hub]
repo-id = "{repo_id}"

[torch-noarch]
pyext = ["py", "json"]
"""


def make_repository(folder: Path, name="twice-op", repo_id=None, version=1, **source) -> Path:
    path = folder / name
    for file, text in {**SOURCE, **source}.items():
        target = path / "torch-ext" / name.replace("-", "_") / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    text = BUILD.format(name=name, version=version, repo_id=repo_id or f"someone/{name}")
    (path / "build.toml").write_text(text)
    (path / "tests").mkdir()
    (path / "benchmarks").mkdir()
    (path / "benchmarks" / "benchmark.py").write_text("")
    (path / "CARD.md").write_text("---\nlibrary_name: kernels\n---\n")
    (path / "README.md").write_text("---\nlibrary_name: kernels\nlicense: apache-2.0\n---\n# A kernel\n")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of repositories, in the place of ours."""
    path = tmp_path / "repositories"
    path.mkdir()
    monkeypatch.setenv("MIMO_HF_KERNELS", str(path))
    monkeypatch.setenv("LOCAL_KERNELS", "to be=restored")
    monkeypatch.delenv("LOCAL_KERNELS")
    return path


@pytest.fixture
def built(folder):
    make_repository(folder)
    (repository,) = kernels.repositories()
    kernels.build(repository)
    assert kernels.check(repository) == []
    return repository


def edit(file: Path, **changes):
    content = json.loads(file.read_text())
    for field, value in changes.items():
        if value is None:
            del content[field.replace("_", "-")]
        else:
            content[field.replace("_", "-")] = value
    file.write_text(json.dumps(content))


# Our own


def test_a_checkout_holds_our_kernels(monkeypatch):
    monkeypatch.delenv("MIMO_HF_KERNELS", raising=False)
    assert kernels.kernels_folder() == ROOT / "kernels"
    found = kernels.repositories()
    assert {repository.path for repository in found} == {path.parent for path in ROOT.glob("kernels/*/build.toml")}
    assert {repository.repo_id for repository in found} == {f"mimo-hf/{repository.name}" for repository in found}


def test_our_kernels_pass_the_check(monkeypatch):
    monkeypatch.delenv("MIMO_HF_KERNELS", raising=False)
    found = kernels.repositories()
    for repository in found:
        kernels.build(repository)
        assert kernels.check(repository) == []
    assert kernels.check_ids(found) == []


# Building


def test_a_build_is_a_copy_of_the_source_with_metadata(built):
    for backend in ("cpu", "cuda"):
        variant = built.path / "build" / f"torch-{backend}"
        files = {path.relative_to(variant).as_posix() for path in variant.rglob("*") if path.is_file()}
        assert files == {*SOURCE, "metadata.json"}
        assert all((variant / name).read_text() == text for name, text in SOURCE.items())
        metadata = json.loads((variant / "metadata.json").read_text())
        assert {field: metadata[field] for field in ("name", "version", "license", "backend")} == {
            "name": "twice-op",
            "version": 1,
            "license": "Apache-2.0",
            "backend": {"type": backend},
        }


def test_ids_differ_by_backend_version_and_source(tmp_path):
    ids = set()
    for number, changes in enumerate([{}, {"version": 2}, {"ops.py": "def double(x):\n    return x + x\n"}]):
        repository = kernels.read_repository(make_repository(tmp_path / str(number), **changes))
        ids |= {repository.kernel_id("cpu"), repository.kernel_id("cuda")}
    assert len(ids) == 6
    assert all(kernel_id.isidentifier() for kernel_id in ids)


def test_building_again_leaves_what_is_up_to_date(built):
    variant = built.variant("cpu")
    before = (variant / "ops.py").stat().st_ino
    kernels.build(built)
    assert (variant / "ops.py").stat().st_ino == before
    (built.source / "ops.py").write_text("def double(x):\n    return x + x\n")
    kernels.build(built)
    assert (variant / "ops.py").read_text() == "def double(x):\n    return x + x\n"
    assert kernels.check(built) == []
    assert {path.name for path in (built.path / "build").iterdir()} == {"torch-cpu", "torch-cuda"}


def test_what_kernels_share_is_a_part_of_each(folder, tmp_path):
    """Copied by the build, counted in the id, compared by the check; the build needs neither link nor source."""
    path = make_repository(folder, "sharing-op", **{"ops.py": "from ._shared.numbers import TWO as double\n"})
    shared = folder / "_shared"
    shared.mkdir()
    (shared / "numbers.py").write_text("def TWO(x):\n    return 2 * x\n")
    (path / "torch-ext" / "sharing_op" / "_shared").symlink_to("../../../_shared")
    repository = kernels.find("sharing-op")
    kernels.build(repository)
    assert kernels.check(repository) == []
    before = repository.kernel_id("cpu")
    copied = repository.variant("cpu") / "_shared"
    assert not copied.is_symlink()
    assert (copied / "numbers.py").read_text() == (shared / "numbers.py").read_text()

    (shared / "numbers.py").write_text("def TWO(x):\n    return x + x\n")
    assert repository.kernel_id("cpu") != before
    assert any("torch-cpu/_shared/numbers.py differs from" in problem for problem in kernels.check(repository))
    kernels.build(repository)
    shutil.move(repository.path / "build", tmp_path / "alone" / "build")
    shutil.rmtree(folder)
    assert library.get_local_kernel(tmp_path / "alone").double(4) == 8


def test_variants_of_backends_that_are_gone_are_removed(built):
    text = (built.path / "build.toml").read_text().replace('["cpu", "cuda"]', '["cpu"]')
    (built.path / "build.toml").write_text(text)
    kernels.build(kernels.find("twice-op"))
    assert [path.name for path in (built.path / "build").iterdir()] == ["torch-cpu"]


def test_what_can_not_be_written_is_built_in_the_cache(folder, tmp_path, monkeypatch):
    make_repository(folder, "cached-op")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kernels.os, "access", lambda path, mode: False)
    module = kernels.load("cached-op")
    assert module.double(4) == 8
    assert Path(module.__file__).is_relative_to(tmp_path / "home" / "mimo_hf" / "kernels")
    assert not (folder / "cached-op" / "build").exists()


# Checking


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other-op"}, "name is 'other-op', expected 'twice-op'"),
        ({"id": "_twice_op"}, "id is '_twice_op', expected '_twice_op_cpu_"),
        ({"version": 7}, "version is 7, expected 1"),
        ({"license": "MIT"}, "license is 'MIT', expected 'Apache-2.0'"),
        ({"backend": {"type": "cuda"}}, "backend is {'type': 'cuda'}, expected {'type': 'cpu'}"),
        ({"license": None}, "missing field `license`"),
        ({"digest": None}, "has no digest"),
        ({"python_depends": ["triton"]}, "python-depends is ['triton'], expected []"),
    ],
)
def test_wrong_metadata_is_named(built, changes, message):
    edit(built.variant("cpu") / "metadata.json", **changes)
    problems = kernels.check(built)
    assert any(message in problem for problem in problems), problems
    assert all("run `mimo-hf kernels build twice-op`" in problem for problem in problems)


def test_a_build_behind_its_source_is_named(built):
    (built.source / "ops.py").write_text("def double(x):\n    return x + x\n")
    problems = kernels.check(built)
    for backend in ("cpu", "cuda"):
        assert any(f"torch-{backend}/ops.py differs from {built.source}" in problem for problem in problems)


def test_a_file_changed_in_the_build_breaks_the_digest(built):
    (built.variant("cpu") / "ops.py").write_text("def double(x):\n    return 3 * x\n")
    problems = kernels.check(built)
    assert any("torch-cpu: " in problem and "ops.py" in problem for problem in problems)
    assert any("torch-cpu/ops.py differs from" in problem for problem in problems)
    assert not any("torch-cuda" in problem for problem in problems)


def test_byte_code_that_python_has_made_of_the_source_is_no_problem(built):
    py_compile.compile(str(built.variant("cpu") / "ops.py"))
    assert [*built.variant("cpu").rglob("*.pyc")]
    assert kernels.check(built) == []


@pytest.mark.parametrize("place", ["__pycache__", "beside", "library"])
def test_what_python_would_run_in_place_of_the_source_is_named_and_removed(built, place):
    variant = built.variant("cpu")
    cached = Path(py_compile.compile(str(variant / "ops.py")))
    if place == "__pycache__":  # byte code of another source, under the name, size and date of this one
        other = variant.parent / "other.py"
        other.write_text((variant / "ops.py").read_text().replace("2", "3"))
        assert other.stat().st_size == (variant / "ops.py").stat().st_size
        made = Path(py_compile.compile(str(other), cfile=str(variant.parent / "other.pyc"))).read_bytes()
        planted = cached
        planted.write_bytes(cached.read_bytes()[:16] + made[16:])
        other.unlink()
    else:
        planted = variant / {"beside": "more.pyc", "library": "more.so"}[place]
        planted.write_bytes(b"not run here")
    found = f"{planted} is no source, and Python may run it; run `mimo-hf kernels build"
    assert any(problem.startswith(found) for problem in kernels.check(built))
    kernels.build(built)
    assert kernels.check(built) == []
    assert not planted.exists()


def test_what_is_missing_is_named(built):
    (built.path / "CARD.md").unlink()
    shutil.rmtree(built.variant("cuda"))
    (built.path / "README.md").write_text("# A kernel\n")
    problems = kernels.check(built)
    assert any("CARD.md is missing" in problem for problem in problems)
    assert any("torch-cuda is not built: run `mimo-hf kernels build twice-op`" in problem for problem in problems)
    assert any("README.md does not begin with front matter" in problem for problem in problems)


# Bad input


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "twice-op"\n', "", "name"),
        ('repo-id = "someone/twice-op"', "", "repo-id"),
        ('backends = ["cpu", "cuda"]', 'backends = ["abacus"]', "abacus"),
        ("[general]", "[general", "build.toml"),
        ('name = "twice-op"', 'name = "half-op"', r"half_op/__init__.py is missing: the source of half-op"),
    ],
)
def test_a_build_toml_that_can_not_be_used(folder, before, after, message):
    path = make_repository(folder)
    text = (path / "build.toml").read_text()
    assert before in text
    (path / "build.toml").write_text(text.replace(before, after))
    with pytest.raises(kernels.KernelError, match=message):
        kernels.repositories()


def test_a_link_to_what_kernels_share_that_leads_nowhere(folder):
    path = make_repository(folder)
    (path / "torch-ext" / "twice_op" / "_shared").symlink_to("../../../_shared")
    with pytest.raises(
        kernels.KernelError, match=r"twice_op/_shared leads to no folder: put a copy of .*kernels/_shared"
    ):
        kernels.repositories()


def test_two_repositories_with_one_hub_id(folder):
    make_repository(folder, "twice-op", "someone/op")
    make_repository(folder, "thrice-op", "someone/op")
    with pytest.raises(
        kernels.KernelError, match=r"thrice-op and .*twice-op have one repo id, 'someone/op': rename one"
    ):
        kernels.repositories()


def test_two_repositories_with_one_name(folder):
    path = make_repository(folder)
    shutil.copytree(path, folder / "copy")
    with pytest.raises(kernels.KernelError, match=r"copy and .*twice-op have one name, 'twice-op': rename one"):
        kernels.repositories()


def test_two_builds_with_one_id_are_named(folder):
    for name in ("twice-op", "thrice-op"):
        make_repository(folder, name)
    first, second = kernels.repositories()
    for repository in (first, second):
        kernels.build(repository)
    assert kernels.check_ids([first, second]) == []
    edit(second.variant("cpu") / "metadata.json", id=first.kernel_id("cpu"))
    (problem,) = kernels.check_ids([first, second])
    assert problem == f"{first.variant('cpu')} and {second.variant('cpu')} have one id, {first.kernel_id('cpu')!r}."


def test_a_second_copy_with_the_id_of_a_loaded_kernel_is_refused(folder, tmp_path, monkeypatch):
    """The library loads both under one name in sys.modules; what is pickled from one would come back from the other."""
    make_repository(folder, "once-op", **{"ops.py": "def double(x):\n    return x\n"})
    kernels.load("once-op")
    shutil.copytree(folder, tmp_path / "elsewhere")
    monkeypatch.setenv("MIMO_HF_KERNELS", str(tmp_path / "elsewhere"))
    with pytest.raises(kernels.KernelError, match=r"have one id, '_once_op_cpu_.*the first is loaded"):
        kernels.load("once-op")


def test_a_kernel_that_does_not_exist(built):
    with pytest.raises(kernels.KernelError, match="there is no kernel 'half-op'; there are twice-op"):
        kernels.load("half-op")


def test_the_build_for_another_pytorch_is_an_error(built):
    backend = "rocm" if torch.version.cuda else "cuda"
    with pytest.raises(ValueError, match=backend):
        kernels.load("twice-op", backend=backend)


def test_a_folder_without_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMO_HF_KERNELS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"MIMO_HF_KERNELS=.* holds no <name>/build.toml"):
        kernels.repositories()


def test_without_the_library_the_extra_is_named(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ImportError, match=r"pip install 'mimo-hf\[kernels\]'"):
        kernels.load("twice-op")


# Loading


def test_load_builds_what_is_missing_or_behind(folder):
    make_repository(folder, "fresh-op", **{"ops.py": "def double(x):\n    return 3 * x\n"})
    kernels.build(kernels.find("fresh-op"))
    (kernels.find("fresh-op").source / "ops.py").write_text(SOURCE["ops.py"])
    assert kernels.load("fresh-op").double(4) == 8
    shutil.rmtree(folder / "fresh-op" / "build")
    assert kernels.load("someone/fresh-op").double(4) == 8


def test_a_source_that_changed_after_it_was_loaded_is_an_error(folder):
    make_repository(folder, "stale-op")
    kernels.load("stale-op")
    (kernels.find("stale-op").source / "ops.py").write_text("def double(x):\n    return x + x + 1\n")
    with pytest.raises(kernels.KernelError, match="stale_op has changed since this process loaded stale-op"):
        kernels.load("stale-op")


def test_two_versions_live_side_by_side(folder, tmp_path, monkeypatch):
    make_repository(folder, "two-op")
    make_repository(tmp_path / "new", "two-op", version=2, **{"ops.py": "def double(x):\n    return x + x + 1\n"})
    old = kernels.load("two-op")
    monkeypatch.setenv("MIMO_HF_KERNELS", str(tmp_path / "new"))
    new = kernels.load("two-op")
    assert (old.double(4), new.double(4)) == (8, 9)
    assert old.__name__ != new.__name__
    assert sys.modules[old.__name__] is old


def test_use_local_kernels_serves_get_kernel(built, monkeypatch):
    monkeypatch.setenv("LOCAL_KERNELS", "other/op=/other:someone/twice-op=/old")
    assert kernels.use_local_kernels() == {"someone/twice-op": built.path}
    assert os.environ["LOCAL_KERNELS"] == f"other/op=/other:someone/twice-op={built.path}"
    assert library.get_kernel("someone/twice-op", version=1).double(4) == 8


def test_local_kernels_can_not_hold_a_colon(tmp_path, monkeypatch):
    make_repository(tmp_path / "a:b")
    monkeypatch.setenv("MIMO_HF_KERNELS", str(tmp_path / "a:b"))
    with pytest.raises(kernels.KernelError, match="LOCAL_KERNELS can't hold a path with a colon"):
        kernels.use_local_kernels()


LAYERS = """
import torch
from torch import nn
from .ops import double

class Doubling(nn.Module):
    def forward(self, x):
        return double(x)
"""


def test_registered_layers_are_found_by_kernelize(folder):
    make_repository(folder, "layer-op", **{"layers.py": LAYERS})

    @library.use_kernel_forward_from_hub("Doubling")
    class Doubling(torch.nn.Module):
        def forward(self, x):
            raise NotImplementedError("not replaced")

    with library.use_kernel_mapping({}, inherit_mapping=False):
        assert kernels.register_layers("layer-op") == ["Doubling"]
        model = library.kernelize(Doubling(), mode=library.Mode.TRAINING, device="cpu", use_fallback=False)
        assert model(torch.ones(2)).tolist() == [2.0, 2.0]
        library.kernelize(Doubling(), mode=library.Mode.INFERENCE, device="cpu", use_fallback=False)


def test_layers_are_registered_for_the_devices_of_the_backends_only(folder):
    path = make_repository(folder, "cpu-op", **{"layers.py": LAYERS.replace("Doubling", "OnlyHere")})
    (path / "build.toml").write_text((path / "build.toml").read_text().replace('["cpu", "cuda"]', '["cpu"]'))
    from kernels.layer.globals import _KERNEL_MAPPING

    with library.use_kernel_mapping({}, inherit_mapping=False):
        kernels.register_layers("cpu-op")
        assert _KERNEL_MAPPING.get()["OnlyHere"].keys() == {"cpu"}


def test_a_kernel_without_layers_has_none_to_register(folder):
    make_repository(folder, "bare-op")
    with pytest.raises(kernels.KernelError, match=r"'bare-op' has no layers: .*layers.py defines none"):
        kernels.register_layers("bare-op")


def test_an_installed_wheel_finds_builds_and_loads_its_kernels(tmp_path):
    """From elsewhere, with the folder of the package not to be written to."""
    copy = tmp_path / "tree"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tiny")
    )
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(copy)], check=True, capture_output=True)
    packaged = tmp_path / "site" / "mimo_hf" / "hub_kernels"
    assert {path.name for path in packaged.iterdir()} >= {
        path.parent.name for path in ROOT.glob("kernels/*/build.toml")
    }
    assert not list(packaged.rglob("build"))
    before = sorted(packaged.rglob("*"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HF_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("MIMO_HF_KERNELS", None)
    script = "import sys, mimo_hf; from mimo_hf import cli; print(mimo_hf.__file__); sys.exit(cli.main(sys.argv[1:]))"
    outputs = []
    for action in ("list", "build", "check"):
        command = [sys.executable, "-c", script, "kernels", action]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout)
    assert all(output.startswith(str(tmp_path / "site")) for output in outputs)
    assert "sink-swa-attn version 1 (Apache-2.0), mimo-hf/sink-swa-attn, backends cpu, cuda, built none" in outputs[0]
    assert str(tmp_path / "home") in outputs[1]
    assert "sink-swa-attn: flash_attn_forward, layers, sink_swa_attention" in outputs[2]
    assert sorted(packaged.rglob("*")) == before
