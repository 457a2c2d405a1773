"""Traces and workloads, the core under a virtual clock, bounds to compare with, and pictures of what happened."""
