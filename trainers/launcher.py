"""Whether the launcher has started as many processes as it was asked for."""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

# What tells a process of its place, by torchrun, accelerate's own multi-process launchers and MPI.
PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def warn_of_missing_processes(environment: Mapping[str, str], num_processes: int) -> None:
    """
    `accelerate launch --cpu --num_processes 2` starts one process. It names an address to meet at (`MASTER_ADDR`) if it was asked for
    several, but tells this one of no others.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if num_processes == 1 and by_accelerate and not any(name in environment for name in PLACES):
        logger.warning(
            "`accelerate launch` was asked for more than one process and has started one: on a CPU it starts no others. Training goes "
            "on with one. For two, run: torchrun --nproc_per_node 2 SCRIPT"
        )
