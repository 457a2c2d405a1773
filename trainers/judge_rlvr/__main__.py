"""`python -m mimo_hf.trainers.judge_rlvr` is `mimo-hf judge-rlvr`."""

import sys

from ...cli import main

if __name__ == "__main__":
    sys.exit(main(["judge-rlvr", *sys.argv[1:]]))
