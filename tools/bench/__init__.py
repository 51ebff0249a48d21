"""Our programs beside their peers, in one run on one machine; what counts is the ratio. Results: docs/benchmarks.md."""
