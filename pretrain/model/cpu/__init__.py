"""Operations that are faster on a CPU with forward and backward written by hand."""
