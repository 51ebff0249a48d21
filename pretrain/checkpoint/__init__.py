"""Checkpoints: complete or invisible, checked by checksum, readable under any topology.

A checkpoint is a folder `step-00000100` with one safetensors file per rank, which contains the fp32 weights and AdamW
moments that the rank updates as fragments of flattened tensor-parallel shards, and with `checkpoint.json`, which
contains the shapes of the whole parameters, the range of each fragment, and the size and SHA-256 of every file.
"""
