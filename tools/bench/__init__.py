"""Our programs beside their peers, timed in one run on one machine: read the ratios. Results: docs/benchmarks.md."""
