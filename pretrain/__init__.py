"""Pretraining: Megatron token files in, a trained language model out."""
