"""C4, mC4 and FineWeb: cases by hand, where the variants disagree, and the lines that are cut."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.edits import edit, merge_cuts
from data_prep.signals.segmentation import mark_words
from data_prep.signals.text_statistics import measure_text
from data_prep.signals.web_statistics import DATASET, PAPER, WEB_STATISTICS, c4_cuts, measure_web


def measure(*texts: str) -> list[dict[str, float]]:
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, encoded)])
    rows = measure_web(data, offsets, measure_text(data, offsets, mark_words(data, offsets)))
    return [dict(zip(WEB_STATISTICS, row.tolist(), strict=True)) for row in rows]


def kept_lines(text: str, variant: int) -> list[str]:
    return edit(text.encode(), [], c4_cuts(text.encode(), variant)).decode().splitlines()


@pytest.mark.parametrize(
    ("line", "paper", "dataset"),
    [
        ("One two three four five.", True, True),
        ("One two three.", True, False),  # the paper asks for 3 words a line, the dataset's code for 5
        ("One two.", False, False),
        ("One two three four five", False, False),
        ("One two three four five...", False, False),
        ("Is it so that we may?", True, True),
        ("Yes, it is like that!", True, True),
        ('He said: "It is like that"', True, True),
        ("It ends in a ’quote’", False, False),
        ("Please enable JavaScript to see it.", False, False),
        ("By going on you agree to our Privacy Policy.", False, False),
        ("This page uses cookies for its work.", False, False),
        ("We use of cookies here and there.", False, False),
        ("The cook uses a cookie cutter here.", True, True),
        ("a " * 4 + "b" * 1000 + ".", True, False),  # with the full stop 1,001 characters
        ("a " * 4 + "b" * 999 + ".", True, True),
        ("As is known by now.[12]", True, True),  # a citation at the end is taken out first
        ("As is known by now. [12]", False, False),  # and leaves a blank at the end behind
        ("[1] [2] [3] is it.", False, False),  # citations are no words
    ],
)
def test_lines_of_c4(line: str, paper: bool, dataset: bool) -> None:
    assert (len(kept_lines(line, PAPER)) == 1) is paper
    assert (len(kept_lines(line, DATASET)) == 1) is dataset
    (measured,) = measure(line)
    assert (measured["c4_paper_sentences"] > 0) is paper
    assert (measured["c4_dataset_sentences"] > 0) is dataset


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One two three four five.", 1),
        ("It rains here. It snows there! Does it? Yes.", 4),
        ("It costs 3.50 euros, e.g. in town.", 1),
        ("Dr. Smith met Mr. Jones and J. Brown there.", 1),
        ('"It rains here." She left the house.', 2),
        ("Well... It rains here all day.", 2),
        ("It says “so it is.” That is all.", 2),
    ],
)
def test_sentences(line: str, sentences: int) -> None:
    assert measure(line)[0]["c4_paper_sentences"] == sentences


def test_where_the_variants_of_the_page_rules_disagree() -> None:
    bracket_in_a_line_that_goes, in_one_that_stays = measure("menu {\nIt is a page of text.", "It is a {page} of text.")
    assert bracket_in_a_line_that_goes["curly_bracket_count"] == 1
    assert bracket_in_a_line_that_goes["c4_dataset_curly_bracket_lines"] == 0
    assert in_one_that_stays["c4_dataset_curly_bracket_lines"] == 1
    lorem, upper = measure("lorem ipsum dolor", "This is no LOREM Ipsum at all.")
    assert (lorem["lorem_ipsum_count"], lorem["c4_dataset_lorem_ipsum_lines"]) == (1, 0)
    assert (upper["lorem_ipsum_count"], upper["c4_dataset_lorem_ipsum_lines"]) == (1, 1)


def test_cuts_are_whole_lines_and_citations() -> None:
    text = "Menu\nÜber uns\n  A first line that stays here[1].\r\n\nIt ends[edit] in a word.\nMore"
    assert edit(text.encode(), [], c4_cuts(text.encode(), DATASET)) == (
        b"  A first line that stays here.\r\nIt ends in a word.\n"
    )
    assert c4_cuts(b"", PAPER) == []


def test_what_personal_data_is_inside_of_cuts_goes_with_them() -> None:
    text = "aé me@x.org é b you@x.org"
    data = text.encode()
    spans = [("EMAIL", data.index(b"me@"), data.index(b" \xc3\xa9 b")), ("EMAIL", data.index(b"you"), len(data))]
    assert edit(data, spans, [(0, 3)]).decode() == " PI:EMAIL é b PI:EMAIL"
    assert edit(data, spans, [(4, data.index(b"b you"))]).decode() == "aé b PI:EMAIL"
    for cut in ((2, 4), (0, 2)):
        with pytest.raises(ValueError, match=rf"cut \[{cut[0]}, {cut[1]}\) divides a character"):
            edit(data, [], [cut])
    with pytest.raises(ValueError, match=r"cut \[3, 99\) must be in order and within \[0, 27\)"):
        edit(data, [], [(3, 99)])
    assert merge_cuts([(5, 7), (0, 2), (2, 3), (6, 9)]) == [(0, 3), (5, 9)]


def test_lines_of_fineweb() -> None:
    text = "A first line that is longer than thirty.\nshort\nshort\n\n最後の行です。\n"
    (measured,) = measure(text)
    assert measured["terminal_line_share"] == 2 / 4
    assert measured["short_line_share"] == 3 / 4
    words = 8 + 2 + 4  # 最後 の 行 です
    assert measured["line_feeds_per_word"] == 5 / words
    assert measured["duplicate_line_character_share_without_breaks"] == pytest.approx(5 / (40 + 5 + 5 + 7))
    long = "x" * 199 + "é"
    assert measure(f"{long}\n{long[:-1]}\n{long}\r\n  \n{long}")[0]["long_line_count"] == 3
    assert set(measure("")[0].values()) == {0.0}
