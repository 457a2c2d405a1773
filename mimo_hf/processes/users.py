"""Users for programs that root runs. Root is exempt from a limit of processes and may read everything, so it never runs any itself."""

import functools
import itertools
import os
import socket

from .program_server import NO_UID

# Users that nobody is: one a server, since the limit counts a user's processes wherever they are. A process that has servers takes
# a block of them for itself.
FIRST_UID, BLOCKS, BLOCK = 61184, 64, 64
_COUNTER = itertools.count()
_CLAIMS: list[socket.socket] = []


def program_uid() -> int:
    """The user of a new server's programs."""
    if os.getuid() != 0:
        return NO_UID
    return FIRST_UID + _block(os.getpid()) * BLOCK + next(_COUNTER) % BLOCK


@functools.cache
def _block(pid: int) -> int:
    """A block of users that no other living process of this machine has: the name of a socket is a claim that ends with its owner."""
    for number in ((pid + step) % BLOCKS for step in range(BLOCKS)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0mimo-hf-program-users-{number}")
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        return number
    raise OSError(
        f"all {BLOCKS} blocks of users for sandboxed programs are taken: {BLOCKS} processes of this machine have a sandbox as root. "
        "Close one, or run as an ordinary user."
    )
