"""Checkpoints to and from Hugging Face's format, and the proof that both compute the same."""
