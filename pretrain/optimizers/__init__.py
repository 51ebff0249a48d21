"""Optimizers that need more of a weight than the range that ZeRO-1 gives a rank."""
