"""Warm processes that run programs with limits, and the one profile of what programs in bubblewrap are kept from. See README.md."""
