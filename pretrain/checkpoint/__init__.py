"""Checkpoints: complete or invisible, checked by checksum, readable under any topology.

A checkpoint is a folder `step-00000100`: one safetensors file per rank with the fp32 weights and AdamW moments that the
rank updates, as fragments of flattened tensor-parallel shards, and `checkpoint.json`, which says what the whole
parameters look like, where each fragment belongs, and the size and SHA-256 of every file.
"""
