"""Personal data: a module for each group of kinds, and `find`, which combines them."""
