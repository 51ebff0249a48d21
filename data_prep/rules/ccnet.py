"""CCNet's page rules. Its removal of repeated lines is `dedup.lines`; its buckets of perplexity are `ccnet_head` and
`ccnet_middle` (`rules/perplexity.py`), which need models.

Source: Wenzek et al. 2020, arXiv:1911.00359, sections 3.2 and 3.3; cc_net/mine.py (min_len, lid_threshold).
"""

from __future__ import annotations

from data_prep.rules.rule import Rule

_SOURCE = "Wenzek et al. 2020, arXiv:1911.00359; cc_net/mine.py"

RULES = (
    Rule("ccnet.minimum_characters", "character_count", "at least", 300, f"{_SOURCE}, min_len"),
    Rule("ccnet.language_probability", "language_probability", "at least", 0.5, f"{_SOURCE}, lid_threshold"),
)
