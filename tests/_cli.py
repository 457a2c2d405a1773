"""What the tests of `mimo-hf` share: calls of it, and what they print."""

import os
import re

from mimo_hf import cli

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "NO_COLOR"}}
ESCAPE = "\x1b"
SHORT = ["--max-new-tokens", "13"]


def generate(model, *options):
    return cli.main(["generate", "--model", str(model), *options])


def values(output):
    """{'tokens': '13', ...} from the lines after the table."""
    return dict(line.split(": ", 1) for line in output[output.index("outputs equal:") :].splitlines())


def refused(capsys, *argv):
    """The one line on stderr of a command that exits with 2 before it prints anything."""
    assert cli.main([str(argument) for argument in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert re.match(r"mimo-hf( [a-z]+)*: error: ", output.err)
    assert "Traceback" not in output.err
    return output.err
