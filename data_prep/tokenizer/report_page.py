"""Presentation of the tokenizer's report: tables on the terminal, and a picture."""

from __future__ import annotations

import io
from typing import Any

from foundation.progress import summary_table

_LANGUAGES_DRAWN = 40
_GOOD, _FLAGGED, _NOT_COMPARED, _OWN = "#2a7f62", "#c44e52", "#a9cfc1", "#bbbbbb"


def print_tables(report: dict[str, Any]) -> None:
    """Print fertility, bytes per token and other figures."""
    rows: list[list[object]] = []
    for language, found in report["fertility"].items():
        if "ratio" in found:
            verdict = "FLAGGED" if found["flagged"] else "good"
            own = [found["own_tokens_per_word"], found["own_vocabulary_size"], found["ratio"], verdict]
        else:
            own = ["", "", "", "unknown"]
        rows.append(
            [language, round(found["bytes"] / 1e6, 2), found["measured_words"], found["tokens_per_word"] or "", *own]
        )
    summary_table(
        f"Tokens per word: {report['kind']}, {report['vocabulary_size']:,} entries, and monolingual tokenizers",
        rows,
        ("", "MB", "words", "ours", "its own", "entries", "ratio", ""),
    )
    summary_table("Bytes per token", list(report["bytes_per_token"].items()), ("source", "bytes per token"))
    trip, unused, fallback = report["round_trip"], report["unused_entries"], report["byte_fallback"]
    longest = ", ".join(repr(token["text"][:16]) for token in report["longest_tokens"][:5])
    example = f"; the first is {trip['inexact_documents'][0]}" if trip["inexact"] else ""
    summary_table(
        "Other figures",
        [
            (
                "documents that decode to the same bytes",
                f"{trip['documents'] - trip['inexact']:,} of {trip['documents']:,}{example}",
            ),
            ("tokens that are part of a character", f"{fallback['share_of_tokens']:.2%}"),
            ("entries that no document uses", f"{unused['entries']:,}, {unused['share']:.2%}"),
            ("longest entries", longest),
        ],
    )
    unknown = [language for language, found in report["fertility"].items() if "not_compared" in found]
    if unknown:
        print(f"not compared, mostly for lack of text (reasons are in report.json): {', '.join(unknown)}")
    flagged = [language for language, found in report["fertility"].items() if found["flagged"]]
    if flagged:
        print(
            f"flagged, more than 10 % worse: {', '.join(flagged)}. Improve them with tokenizer.language_weights or a "
            "smaller tokenizer.language_exponent, or raise tokenizer.vocabulary_size"
        )


def draw(report: dict[str, Any]) -> bytes:
    """Draw a PNG: tokens per word by language for both tokenizers, and bytes per token by source."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = {name: found for name, found in report["fertility"].items() if found["tokens_per_word"]}
    languages = list(measured)[:_LANGUAGES_DRAWN][::-1]
    sources = list(report["bytes_per_token"])[::-1]
    rows = max(len(languages), len(sources), 4)
    figure = Figure(figsize=(11, 1.5 + 0.36 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(len(languages))
    ours = [measured[name]["tokens_per_word"] for name in languages]
    colours = [
        _FLAGGED if measured[name]["flagged"] else _GOOD if "ratio" in measured[name] else _NOT_COMPARED
        for name in languages
    ]
    bars = left.barh([place + 0.2 for place in places], ours, 0.4, color=colours)
    own = [
        (place, measured[name]["own_tokens_per_word"])
        for place, name in zip(places, languages, strict=True)
        if "ratio" in measured[name]
    ]
    left.barh([place - 0.2 for place, _ in own], [value for _, value in own], 0.4, color=_OWN)
    labels = [f"{measured[name]['ratio']:.2f}×" if "ratio" in measured[name] else "" for name in languages]
    left.bar_label(bars, labels, padding=3, fontsize=8)
    left.set_yticks(list(places), languages)
    left.set(xlabel="tokens per word", title=f"Fertility, {report['vocabulary_size']:,} entries")
    left.margins(x=0.12)
    names = [
        (_GOOD, "this tokenizer"),
        (_FLAGGED, "more than 10 % worse than the language's own"),
        (_NOT_COMPARED, "too little text to compare"),
        (_OWN, "the language's own tokenizer"),
    ]
    handles = [left.barh([0], [0], color=colour, label=label) for colour, label in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    values = [report["bytes_per_token"][name] for name in sources]
    right.bar_label(
        right.barh(sources, values, color="#4c72b0"), [f"{value:.2f}" for value in values], padding=3, fontsize=8
    )
    right.set(xlabel="bytes per token", title="By source")
    right.margins(x=0.12)
    for axes, count in ((left, len(languages)), (right, len(sources))):
        axes.set_ylim(count - rows - 0.6, count - 0.4)  # rows of the same height in both, from the top
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    return image.getvalue()
