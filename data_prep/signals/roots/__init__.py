"""Statistics and parameters of ROOTS, the corpus of BLOOM."""
