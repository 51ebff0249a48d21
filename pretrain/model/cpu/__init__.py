"""What the model does otherwise on a CPU, for speed: forward and backward written by hand."""
