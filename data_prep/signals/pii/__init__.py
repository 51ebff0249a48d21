"""Personal data: one module for each group of kinds, and `find`, which brings them together."""
