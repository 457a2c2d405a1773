"""MOPD (arXiv 2601.02780, 4.4): one student learns from many teachers, one a domain, on its own answers."""
