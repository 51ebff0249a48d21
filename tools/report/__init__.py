"""One page about a whole run, or about two beside each other: `altiplano report RUN [--against OTHER]`."""
