"""One owner a machine, and clients of it in other processes."""
