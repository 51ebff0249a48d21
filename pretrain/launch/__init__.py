"""Launch and end of a run: joining processes, agreement between ranks, stopping, exit codes, node check."""
