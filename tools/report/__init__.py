"""One page about a whole run, or about two beside each other: `python -m tools.report RUN [--against OTHER]`."""
