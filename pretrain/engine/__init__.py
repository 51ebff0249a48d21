"""DeepSpeed, and everything that depends on it."""
