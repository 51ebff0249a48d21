"""The layout of a sample: the range of positions that each token attends to, and its own position.

Integers [B, S, C] that pass through the pipeline with the activations. A sample without a layout is a plain text: each
token attends to itself and all earlier tokens, and its position is its place in the sequence.
"""

from __future__ import annotations

FIRST_SEEN = 0
"""Column: first position that the token attends to."""
SEEN_END = 1
"""Column: one past the last position that the token attends to; for a token that also attends to later ones, more than
one past its own place."""
POSITION = 2
"""Column: the token's position for rotary and learned positions."""
BLOCK_POSITION = 3
"""Column: GLM's second position, the place within a blank, from 1; 0 outside (arXiv:2103.10360, section 2.3)."""
COLUMNS = 4
