"""The model: our own block on megatron-core's tensor-parallel layers.

Legend of the shape suffixes: S sequence length, B micro-batch size, D hidden size, H attention heads,
K key/value heads, E size of a head, F feed-forward size, V vocabulary size. On a sharded tensor H, K, F and V
mean this rank's share.
"""
