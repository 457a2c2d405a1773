"""`python -m mimo_hf.trainers.judge_rlvr` is `mimo-hf judge-rlvr`."""

import sys

from .command_line import command

if __name__ == "__main__":
    sys.exit(command())
