"""FineWeb's own quality rules, which it applies after Gopher's and C4's.

Source: Penedo et al. 2024, arXiv:2406.17557, section 3.6; the limit of line feeds is in its code (datatrove 0.10,
fineweb_quality_filter.py). The rule on line feeds per word does not apply to scripts without spaces for which there is
no model that divides them into words.
"""

from __future__ import annotations

from data_prep.kernels.characters import UNDIVIDED_LANGUAGES
from data_prep.rules.rule import Rule

_PAPER = "Penedo et al. 2024, arXiv:2406.17557, section 3.6"
_CODE = "datatrove 0.10, fineweb_quality_filter.py, new_line_ratio"

RULES = (
    Rule("fineweb.terminal_lines", "terminal_line_share", "at least", 0.12, _PAPER),
    Rule("fineweb.short_lines", "short_line_share", "at most", 0.67, _PAPER),
    Rule("fineweb.duplicate_line_characters", "duplicate_line_character_share_without_breaks", "at most", 0.01, _PAPER),
    Rule("fineweb.line_feeds", "line_feeds_per_word", "at most", 0.3, _CODE, not_languages=UNDIVIDED_LANGUAGES),
)
