"""The layout of a sample: which range of positions each token sees, and where it stands.

Integers [B, S, C], that go through the pipeline beside the activations. Without one, a sample is a plain text: each
token sees itself and those before it, and its position is its place.
"""

from __future__ import annotations

FIRST_SEEN = 0
"""The first position that the token sees."""
SEEN_END = 1
"""One past the last position that the token sees; larger than its own place where it looks ahead."""
POSITION = 2
"""The token's position for rotary and learned positions."""
BLOCK_POSITION = 3
"""GLM's second position: place within a blank that is filled in, from 1; 0 outside (arXiv:2103.10360, section 2.3)."""
COLUMNS = 4
