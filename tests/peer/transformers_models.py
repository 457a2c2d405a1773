"""
Runs transformers' own model tests on the models of this project, with two classes of transformers' as controls.

    pip download --no-deps --no-binary :all: transformers==5.22.2 && tar xf transformers-5.22.2.tar.gz
    pip install parameterized
    python tests/peer/transformers_models.py --upstream transformers-5.22.2 --generation CHECKOUT

Everything runs on the transformers that Python imports; --upstream should hold the tests of that very version. The source
distribution has the tests of models, configurations, training and parallelism, but neither tests/generation nor
tests/exporters nor tests/causal_lm_tester.py: those come from --generation, a checkout of transformers' repository, at best at the
tag of the version. Tests are copied into a temporary folder and run there, a family at a time; the result is written after each.

Takes about twenty minutes on one core. The result is benchmarks/results/peer_transformers.json, told in docs/peer_tests.md.
"""

import argparse
import importlib.util
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import _peer
import _record

FAMILIES = {
    "UpstreamMiMoV2Flash": "transformers' MiMoV2Flash (control)",
    "UpstreamQwen2": "transformers' Qwen2 (control)",
    "MiMoV2Flash": "MiMo-V2-Flash, one MTP head",
    "MiMo": "MiMo-7B, one MTP layer",
    "HySparse": "HySparse, padded on the left",
    "HySparseExperts": "HySparse with experts, padded on the left",
}
# The source distribution's files with tests that are run, and those with --distributed.
FILES = ("test_modeling_common.py", "test_configuration_common.py", "test_training_mixin.py")
DISTRIBUTED = ("test_tensor_parallel_mixin.py", "test_expert_parallel_mixin.py", "test_fsdp_mixin.py")
# What transformers' tests import and the source distribution lacks, and what stands there where no checkout is given.
FROM_CHECKOUT = {
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "causal_lm_tester.py": "class CausalLMModelTest:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs: dict = {}\n",
}
# Imported by causal_lm_tester.py only; its tests need models of the Hub.
NEVER = {"test_pipeline_mixin.py": "class PipelineTesterMixin:\n    pass\n"}


def main():
    arguments = parse_arguments()
    file = _record.RESULTS / f"{arguments.name}.json"
    families = earlier(file, version("transformers"))
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        work = Path(folder)
        sources = lay_tests(work / "tests", arguments.upstream, arguments.generation, arguments.distributed)
        for family in arguments.family or FAMILIES:
            print(f"{family}: {FAMILIES[family]}", flush=True)
            tests = run_family(work, family, arguments)
            _peer.tell(tests)
            families[family] = {"family": FAMILIES[family], **_peer.entry(tests)}
            if not arguments.keyword:
                write(arguments, families, sources)
    _peer.close(file, arguments.keyword)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--upstream",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="transformers' source distribution, unpacked, or a checkout",
    )
    parser.add_argument(
        "--generation",
        type=Path,
        metavar="CHECKOUT",
        help="where tests/generation, tests/exporters and tests/causal_lm_tester.py are taken from; default: --upstream, and "
        "where that lacks them, their tests are not run and the result says so",
    )
    parser.add_argument(
        "--family", action="append", choices=list(FAMILIES), help="may be given several times; default: all"
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="tests of tensor, expert and data parallelism too (two processes each, slow)",
    )
    parser.add_argument(
        "-k", dest="keyword", metavar="EXPRESSION", help="only these tests, as in pytest; nothing is written"
    )
    parser.add_argument(
        "--name", default="peer_transformers", help="of the result in benchmarks/results; default: %(default)s"
    )
    arguments = parser.parse_args(words)
    if not (arguments.upstream / "tests/test_modeling_common.py").is_file():
        parser.error(
            f"--upstream must be a folder with tests/test_modeling_common.py; {arguments.upstream} has none. "
            "Unpack the source distribution (first line of this help), or name a checkout of transformers' repository."
        )
    if arguments.generation and not (arguments.generation / "tests/generation/test_utils.py").is_file():
        parser.error(
            f"--generation must be a folder with tests/generation/test_utils.py; {arguments.generation} has none. "
            "Name a checkout of transformers' repository, or leave the option out: generation tests are then not run."
        )
    if importlib.util.find_spec("parameterized") is None:
        parser.error("transformers' tests need the package parameterized. Install it: pip install parameterized")
    return arguments


def lay_tests(
    tests: Path, upstream: Path, generation: Path | None, distributed: bool = False
) -> dict[str, dict | None]:
    """
    Lays transformers' tests, and `_families.py` among them, into the new folder `tests`.

    Returns:
        Where each of the files with tests comes from (a digest, and the checkout's commit if there is one), or None for those
        that are not there.
    """
    shutil.copytree(upstream / "tests", tests)
    (tests / "__init__.py").touch()
    (tests / "conftest.py").unlink(missing_ok=True)
    files = FILES + (DISTRIBUTED if distributed else ())
    sources: dict[str, dict | None] = {
        name: _peer.origin(upstream, f"tests/{name}") for name in files if (tests / name).is_file()
    }
    for name, stand_in in FROM_CHECKOUT.items():
        home = next(
            (folder for folder in (generation, upstream) if folder and (folder / "tests" / name).is_file()), None
        )
        sources[name] = _peer.origin(home, f"tests/{name}") if home else None
        (tests / name).parent.mkdir(exist_ok=True)
        ((tests / name).parent / "__init__.py").touch()
        (tests / name).write_text((home / "tests" / name).read_text("utf-8") if home else stand_in, encoding="utf-8")
        if home and name.startswith("utils/"):  # it imports a module from utils/ beside tests/
            shutil.copytree(home / "utils/test_module", tests.parent / "utils/test_module")
    for name, stand_in in NEVER.items():
        (tests / name).write_text(stand_in, encoding="utf-8")
    shutil.copy(_peer.HERE / "_families.py", tests / "test_families.py")
    return sources


def run_family(work: Path, family: str, arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    settings = {"PEER_DISTRIBUTED": "1" if arguments.distributed else "0"}
    tests = _peer.run(work, f"tests/test_families.py::{family}Test", (), arguments.keyword, settings)
    return {name.partition("::")[2]: test for name, test in tests.items()}


def earlier(file: Path, transformers: str) -> dict[str, dict]:
    """Families of an earlier run with this transformers, which a run of others (--family) leaves as they are."""
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return content["families"] if content["versions"]["transformers"] == transformers else {}


def write(arguments: argparse.Namespace, families: dict[str, dict], sources: dict[str, dict | None]):
    command = ["python tests/peer/transformers_models.py --upstream", f"transformers-{version('transformers')}"]
    command += ["--generation CHECKOUT"] if arguments.generation else []
    command += ["--distributed"] if arguments.distributed else []
    command += [f"--name {arguments.name}"] if arguments.name != "peer_transformers" else []
    payload = {
        "upstream": sources,
        "distributed": arguments.distributed,
        "not_run": [name for name in FAMILIES if name not in families],
        "families": {name: families[name] for name in FAMILIES if name in families},
    }
    _record.record(arguments.name, payload, command=" ".join(command), timed=False)


if __name__ == "__main__":
    main()
