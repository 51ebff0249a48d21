"""DeepSpeed, and everything that knows it."""
