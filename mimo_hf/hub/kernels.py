"""
Our kernel repositories: finds them in a checkout or in an installed wheel, builds what the `kernels` library loads, checks
and loads it.

A repository's source is `torch-ext/<name>/`, and in it `_shared`, a link to what all kernels have in common. `build` copies both to
`build/torch-cpu/` and `build/torch-cuda/`, each with a `metadata.json` whose `id`, the name under which Python knows the
module, holds a hash of the source: two versions of a kernel live side by side in one process.
"""

import base64
import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub import metadata_load

FOLDER_VARIABLE = "MIMO_HF_KERNELS"
FILES = ("*.py", "*.json")


class KernelError(ValueError):
    """A kernel repository is not as it should be; the message has one line for each problem."""


@dataclass(frozen=True)
class Repository:
    """One folder of `kernels/`, as its `build.toml` says."""

    path: Path
    name: str
    version: int
    license: str
    backends: tuple[str, ...]
    repo_id: str

    @property
    def python_name(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.path / "torch-ext" / self.python_name

    def files(self) -> dict[str, bytes]:
        """The source and what it shares with other kernels, by relative path."""
        return _read(self.source)

    def kernel_id(self, backend: str) -> str:
        """Unique for this name, version, backend and source."""
        digest = hashlib.sha256(f"{self.name} {self.version} {backend}".encode())
        for file, content in self.files().items():
            digest.update(f"\0{file}\0{len(content)}\0".encode() + content)
        return f"_{self.python_name}_{backend}_{digest.hexdigest()[:12]}"

    @property
    def root(self) -> Path:
        """The folder that holds `build/`: the repository itself in a checkout, a cache where that can't be written."""
        if not self.path.is_relative_to(_packaged_folder()) and os.access(self.path, os.W_OK):
            return self.path
        from huggingface_hub.constants import HF_HOME

        return Path(HF_HOME) / "mimo_hf" / "kernels" / self.kernel_id("source").removeprefix("_source_")

    def variant(self, backend: str) -> Path:
        return self.root / "build" / f"torch-{backend}"


# Finding


def _packaged_folder() -> Path:
    return Path(__file__).resolve().parents[1] / "hub_kernels"


def kernels_folder() -> Path:
    """
    The folder of all repositories: `MIMO_HF_KERNELS`, or inside the package in a wheel, beside it in a checkout.

    Raises:
        FileNotFoundError: there are none.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    packaged = _packaged_folder()
    candidates = [Path(chosen)] if chosen else [packaged, packaged.parents[1] / "kernels"]
    for folder in candidates:
        if any(folder.glob("*/build.toml")):
            return folder.resolve()
    if chosen:
        raise FileNotFoundError(
            f"{FOLDER_VARIABLE}={chosen} holds no <name>/build.toml: name the folder that holds them."
        )
    raise FileNotFoundError(
        f"no kernel repositories in {packaged.parent} nor beside it: install mimo_hf from its wheel or a checkout, or set "
        f"{FOLDER_VARIABLE}."
    )


def read_repository(path: Path) -> Repository:
    """
    Raises:
        KernelError: `build.toml` is not valid, or names no source.
    """
    _library()
    from kernels._rust import Build

    try:
        backends = tuple(str(backend).rpartition(".")[2].lower() for backend in Build.open(path).general.backends)
        general = _read_toml(path / "build.toml")["general"]
        repository = Repository(
            path=path,
            name=general["name"],
            version=general["version"],
            license=general["license"],
            backends=backends,
            repo_id=general["hub"]["repo-id"],
        )
    except KeyError as error:
        raise KernelError(f"{path / 'build.toml'}: [general] lacks {error}.") from error
    except ValueError as error:
        raise KernelError(f"{path / 'build.toml'}: {error}") from error
    if not (repository.source / "__init__.py").is_file():
        raise KernelError(
            f"{repository.source / '__init__.py'} is missing: the source of {repository.name} goes there."
        )
    shared = repository.source / "_shared"
    if os.path.lexists(shared) and not shared.is_dir():
        raise KernelError(f"{shared} leads to no folder: put a copy of mimo_hf's kernels/_shared there.")
    return repository


def repositories(folder: Path | None = None) -> list[Repository]:
    """
    Raises:
        KernelError: two repositories have one name or one Hub id.
    """
    folder = kernels_folder() if folder is None else folder
    found = [read_repository(file.parent) for file in sorted(folder.glob("*/build.toml"))]
    for field in ("name", "repo_id"):
        owners: dict[str, Path] = {}
        for repository in found:
            value = getattr(repository, field)
            if value in owners:
                raise KernelError(
                    f"{owners[value]} and {repository.path} have one {field.replace('_', ' ')}, {value!r}: rename one in "
                    "its build.toml."
                )
            owners[value] = repository.path
    return found


def find(name: str, folder: Path | None = None) -> Repository:
    """
    A repository by its name or Hub id.

    Raises:
        KernelError: there is none.
    """
    found = repositories(folder)
    for repository in found:
        if name in (repository.name, repository.repo_id):
            return repository
    raise KernelError(f"there is no kernel {name!r}; there are {', '.join(known.name for known in found)}.")


# Building


def build(repository: Repository) -> list[Path]:
    """
    Writes `build/torch-<backend>/` for each backend, and removes variants that no backend has; what is up to date stays.

    Returns:
        The variants, which `kernels.get_local_kernel` loads.
    """
    wanted = [repository.variant(backend) for backend in repository.backends]
    for stale in set((repository.root / "build").glob("torch*")) - set(wanted):
        shutil.rmtree(stale)
    for backend, variant in zip(repository.backends, wanted, strict=True):
        if next(_variant_problems(repository, backend), None) is not None:
            _write_variant(repository, backend, variant)
    return wanted


def _write_variant(repository: Repository, backend: str, variant: Path):
    variant.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=variant.parent, prefix=".") as temporary:
        new = Path(temporary) / variant.name
        for file, content in repository.files().items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_bytes(content)
        digest = {"algorithm": "sha256", "files": _digest(repository.files())}
        metadata = _metadata(repository, backend) | {"digest": digest}
        (new / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        if variant.exists():
            variant.rename(Path(temporary) / "old")
        try:
            new.rename(variant)
        except OSError:
            # Another process was quicker.
            if next(_variant_problems(repository, backend), None) is not None:
                raise


def _metadata(repository: Repository, backend: str) -> dict[str, Any]:
    return {
        "name": repository.name,
        "id": repository.kernel_id(backend),
        "version": repository.version,
        "license": repository.license,
        "backend": {"type": backend},
        "python-depends": [],
    }


# Checking


def check(repository: Repository) -> list[str]:
    """
    Problems of a repository and its build, one line each; none where all is well.

    Checks the cards, and of every variant: metadata (name, id, version, license, backend), the digest of its files, that
    they equal the source, and that nothing else is there but byte code that this Python has made of them.
    """
    problems = [
        f"{repository.path / file} is missing."
        for file in ("CARD.md", "README.md", "benchmarks/benchmark.py", "tests")
        if not (repository.path / file).exists()
    ]
    readme = repository.path / "README.md"
    if readme.exists() and (metadata_load(readme) or {}).get("library_name") != "kernels":
        problems.append(f"{readme} does not begin with front matter that has `library_name: kernels`.")
    for backend in repository.backends:
        problems += _variant_problems(repository, backend)
    return problems


def check_ids(found: list[Repository]) -> list[str]:
    """A line for each `id` that two built variants share: the second to be loaded would pass for the first."""
    owners: dict[str, Path] = {}
    problems = []
    for repository in found:
        for file in sorted((repository.root / "build").glob("*/metadata.json")):
            kernel_id = json.loads(file.read_text()).get("id")
            if kernel_id in owners:
                problems.append(f"{owners[kernel_id]} and {file.parent} have one id, {kernel_id!r}.")
            owners[kernel_id] = file.parent
    return problems


def _variant_problems(repository: Repository, backend: str) -> Iterator[str]:
    from kernels._rust import Digest, DigestAlgorithm, DigestValidationError, Metadata

    variant = repository.variant(backend)
    remedy = f"run `mimo-hf kernels build {repository.name}`."
    if not variant.is_dir():
        yield f"{variant} is not built: {remedy}"
        return
    try:
        metadata = Metadata.read_from_file(variant / "metadata.json")
    except ValueError as error:
        yield f"{variant / 'metadata.json'}: {error}; {remedy}"
        return
    actual = json.loads((variant / "metadata.json").read_text())
    for field, value in _metadata(repository, backend).items():
        if actual.get(field) != value:
            yield f"{variant / 'metadata.json'}: {field} is {actual.get(field)!r}, expected {value!r}; {remedy}"
    if metadata.digest is None:
        yield f"{variant / 'metadata.json'} has no digest; {remedy}"
    else:
        try:
            metadata.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, variant))
        except DigestValidationError as error:
            yield f"{variant}: {error}; {remedy}"
    source, copy = repository.files(), _read(variant)
    copy.pop("metadata.json", None)
    for file in sorted(source.keys() | copy.keys()):
        if source.get(file) != copy.get(file):
            yield f"{variant / file} differs from {repository.source}; {remedy}"
    for path in sorted(variant.rglob("*")):
        if not (path.is_dir() or any(path.match(pattern) for pattern in FILES) or _is_made_of_its_source(path)):
            yield f"{path} is no source, and Python may run it; {remedy}"


def _is_made_of_its_source(path: Path) -> bool:
    """Whether a file of byte code is what this Python makes of the source beside it."""
    try:
        source = Path(importlib.util.source_from_cache(path))
    except ValueError:
        return False
    if not source.is_file() or importlib.util.cache_from_source(source) != str(path):
        return False
    with tempfile.TemporaryDirectory() as folder:
        made = py_compile.compile(str(source), cfile=f"{folder}/made.pyc", doraise=False, quiet=2)
        return made is not None and Path(made).read_bytes() == path.read_bytes()


# Loading


def load(name: str, backend: str | None = None) -> ModuleType:
    """
    A kernel as a module, built first where the build is missing or behind its source.

    Args:
        name: its name, as `sink-swa-attn`, or Hub id.
        backend: "cpu" or "cuda"; None: the one of the installed PyTorch.

    Raises:
        ImportError: the `kernels` library is not installed.
        KernelError: there is no such kernel, another module has its id, or its source changed after it was loaded.
        ValueError: the backend is not the installed PyTorch's.
    """
    library = _library()
    repository = find(name)
    build(repository)
    ids = {repository.kernel_id(known): repository.variant(known) for known in repository.backends}
    for loaded in library.get_loaded_kernels():
        place = Path(sys.modules[loaded.metadata.id].__file__ or "").parent
        if loaded.metadata.id in ids and place.resolve() != ids[loaded.metadata.id].resolve():
            raise KernelError(
                f"{place} and {ids[loaded.metadata.id]} have one id, {loaded.metadata.id!r}, and the first is loaded: load "
                "one of them in a process."
            )
    module = library.get_local_kernel(repository.root, backend=backend)
    if module.__name__ not in ids:
        raise KernelError(
            f"{repository.source} has changed since this process loaded {repository.name}, and the kernels library keeps "
            "what it loaded: restart Python."
        )
    return module


def use_local_kernels(*names: str) -> dict[str, Path]:
    """
    Builds our kernels and points `LOCAL_KERNELS` at them: from then on this process and its children find
    `get_kernel("mimo-hf/sink-swa-attn", version=1)` and `attn_implementation="mimo-hf/sink-swa-attn"` without the Hub.

    Args:
        names: of kernels; none: all.

    Returns:
        What was added to `LOCAL_KERNELS`.
    """
    chosen = [find(name) for name in names] or repositories()
    added = {}
    for repository in chosen:
        if ":" in str(repository.root):
            raise KernelError(
                f"{repository.root}: LOCAL_KERNELS can't hold a path with a colon; set {FOLDER_VARIABLE}."
            )
        build(repository)
        added[repository.repo_id] = repository.root
    entries = [entry for entry in os.environ.get("LOCAL_KERNELS", "").split(":") if entry]
    entries = [entry for entry in entries if entry.partition("=")[0] not in added]
    os.environ["LOCAL_KERNELS"] = ":".join([*entries, *(f"{repo_id}={path}" for repo_id, path in added.items())])
    return added


def register_attention(name: str) -> str:
    """
    Makes a kernel an `attn_implementation` under its own name and its Hub id, from its build on this machine.

    transformers does this by itself for a Hub id, where it accepts the installed version of the `kernels` library; the own
    name works with every version.

    Returns:
        Its own name: `model.set_attn_implementation(register_attention("sink-swa-attn"))`.

    Raises:
        KernelError: there is no such kernel, or it is no attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    repository, module = find(name), load(name)
    if not (hasattr(module, "flash_attn_forward") and hasattr(module, "supports_flash_attn")):
        raise KernelError(f"{name!r} is no attention: it has no `flash_attn_forward` and `supports_flash_attn`.")
    for known_as in (repository.name, repository.repo_id):
        AttentionInterface.register(known_as, module.flash_attn_forward)
        AttentionMaskInterface.register(known_as, sdpa_mask)
    return repository.name


def register_layers(name: str) -> list[str]:
    """
    Makes a kernel's layers known to the `kernels` library from its build on this machine, for every device that it is built
    for: `kernels.kernelize`, and `use_kernels=True` in transformers, put them in the place of a model's layers of these names.

    Returns:
        The names of the layers: `register_layers("hysparse-attn")`.

    Raises:
        KernelError: there is no such kernel, or it has no layers.
    """
    library = _library()
    repository, module = find(name), load(name)
    layers = getattr(module, "layers", None)
    names = [] if layers is None else [key for key, x in vars(layers).items() if _is_class_of(layers, x)]
    if not names:
        raise KernelError(f"{name!r} has no layers: {repository.source / 'layers.py'} defines none.")
    for layer_name in names:
        layer = library.LocalLayerRepository(repository.root, layer_name=layer_name)
        library.register_kernel_mapping({layer_name: dict.fromkeys(repository.backends, layer)})
    return names


def _is_class_of(module: ModuleType, value: object) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _library() -> Any:
    try:
        import kernels
    except ImportError as error:
        raise ImportError("kernel repositories need the kernels library: pip install 'mimo-hf[kernels]'") from error
    return kernels


def _read(folder: Path) -> dict[str, bytes]:
    places = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    files = {file for file in places if any(file.match(pattern) for pattern in FILES)}
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(files)}


def _digest(files: dict[str, bytes]) -> dict[str, str]:
    return {file: base64.b64encode(hashlib.sha256(content).digest()).decode() for file, content in files.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))
