"""Rules for source code.

Source: Together Computer 2023, RedPajama-Data-v1, GitHub filters (after Codex, Chen et al. 2021, arXiv:2107.03374,
section 3.1, and CodeParrot). RedPajama's licences and file extensions are left to the source. Its tokens are those of a
trained tokenizer; here they are the pieces of a pre-tokenizer, which are fewer, so the last rule drops slightly fewer
documents.
"""

from __future__ import annotations

from data_prep.rules.rule import Rule

_SOURCE = "RedPajama-Data-v1, GitHub filters, data_prep/github/README.md"

RULES = (
    Rule("code.longest_line", "longest_line_characters", "at most", 1000, _SOURCE),
    Rule("code.mean_line", "mean_line_characters", "at most", 100, _SOURCE),
    Rule("code.alphanumeric_characters", "alphanumeric_share", "at least", 0.25, _SOURCE),
    Rule("code.alphabetic_characters_per_token", "alphabetic_characters_per_token", "at least", 1.5, _SOURCE),
)
