"""The table of dependencies in SECURITY.md, beside the floors and the tested set."""

import re
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ["peft", "trl", "kernels", "math", "plot", "completion", "ray", "spaces", "dev"]
# They read this repository only; tomli reads its build.toml before Python 3.11.
NOT_LISTED = {"bandit", "basedpyright", "hypothesis", "mypy", "pytest-xdist", "ruff", "tomli"}


def floors():
    """Name and lower bound of all that `setup.cfg` asks for."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    asked = [setup["options"]["install_requires"], *(extras.get(extra, raw=True) for extra in EXTRAS)]
    lines = [line for text in asked for line in text.splitlines() if line and not line.startswith("%")]
    found = {}
    for requirement in map(Requirement, lines):
        (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
        found[canonicalize_name(requirement.name)] = Version(bound)
    return found


def test_no_floor_lies_below_that_of_the_security_page():
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \|", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {canonicalize_name(name): (Version(floor), Version(tested)) for name, floor, tested in rows}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    tested_set = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    asked = floors()
    assert asked.keys() - NOT_LISTED == listed.keys()
    for name, (floor, tested) in listed.items():
        assert asked[name] >= floor, name
        assert tested_set[name] == tested >= floor, name
