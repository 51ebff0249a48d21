"""C4's page rules, in its two published variants, and mC4's.

Both variants also remove lines of the documents that they keep, see `signals/web_statistics.py`; the ranges are in the
verdicts (`cuts`) and left out of the token files.

Source: Raffel et al. 2020, JMLR 21(140), section 2.2 (`c4_paper`); tensorflow_datasets/text/c4_utils.py, which made the
released data (`c4_dataset`): there the numbers of words and sentences are swapped. mC4: Xue et al. 2021,
arXiv:2010.11934, section 3.1. The filter by a list of bad words is the rule set `bad_words`, the removal of spans of
three sentences that occur twice is `dedup.sentences`.
"""

from __future__ import annotations

from data_prep.rules.rule import Rule

_PAPER = "Raffel et al. 2020, JMLR 21(140), section 2.2"
_DATASET = "tensorflow_datasets, text/c4_utils.py, clean_page"

PAPER_RULES = (
    Rule("c4_paper.curly_brackets", "curly_bracket_count", "at most", 0, _PAPER),
    Rule("c4_paper.lorem_ipsum", "lorem_ipsum_count", "at most", 0, _PAPER),
    Rule("c4_paper.sentences", "c4_paper_sentences", "at least", 5, _PAPER),
)

DATASET_RULES = (
    Rule("c4_dataset.curly_brackets", "c4_dataset_curly_bracket_lines", "at most", 0, _DATASET),
    Rule("c4_dataset.lorem_ipsum", "c4_dataset_lorem_ipsum_lines", "at most", 0, _DATASET),
    Rule("c4_dataset.sentences", "c4_dataset_sentences", "at least", 3, _DATASET),
)

MC4_RULES = (
    Rule("mc4.long_lines", "long_line_count", "at least", 3, "Xue et al. 2021, arXiv:2010.11934, section 3.1"),
)
