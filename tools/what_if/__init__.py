"""The loss that two rule sets of data preparation lead to; `altiplano data what-if`."""
