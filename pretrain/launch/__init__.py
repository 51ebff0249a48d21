"""Joining processes, stopping them, exit codes, checking nodes, one run for each output folder."""
