"""The ledger as one self-contained page: tables, and pictures inside of the file."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_REASONS_SHOWN = 8
_LANGUAGES_SHOWN = 16
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
"""


def page(ledger: dict[str, Any], title: str) -> str:
    """HTML with everything inside: it can be mailed or opened from anywhere."""
    documents = ledger["documents"]
    tokens = ledger["tokens"] or {"train": 0, "heldout": 0, "by_source": {}}
    sources = []
    for name, account in documents["by_source"].items():
        counts = tokens["by_source"].get(name, {})
        sources.append(
            (
                name,
                account["in"],
                account["kept"],
                account["dropped"],
                _share(account["kept"], account["in"]),
                account["bytes_kept"],
                counts.get("tokens", 0),
                counts.get("heldout_tokens", 0),
            )
        )
    reasons = [(name, count, _share(count, documents["in"])) for name, count in documents["by_reason"].items()]
    languages = [
        (name, account["in"], account["kept"], account["bytes_kept"])
        for name, account in documents["by_language"].items()
    ]
    inputs = []
    for name, source in ledger["input"].items():
        skipped = ", ".join(f"{count} {suffix}" for suffix, count in _largest(source["skipped_by_suffix"], 6))
        missing = ", ".join(source["not_on_this_machine"])
        inputs.append(
            (name, source["kind"], source["files"], source["bytes"], source["left_out_files"], skipped, missing)
        )
    picture = base64.b64encode(draw(ledger)).decode()
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f"<title>Ledger of {html.escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Ledger of {html.escape(title)}</h1>",
            f"<p>{documents['in']:,} documents in = {documents['kept']:,} kept + {documents['dropped']:,} dropped. "
            f"{tokens['train']:,} tokens to train on, {tokens['heldout']:,} held out.</p>",
            f'<img alt="Documents by source and reason, kept bytes by language" src="data:image/png;base64,{picture}">',
            "<h2>Sources</h2>",
            _table(
                ("source", "in", "kept", "dropped", "kept, share", "bytes kept", "tokens", "tokens held out"), sources
            ),
            "<h2>Reasons</h2><p>The first reason against each document that was dropped.</p>",
            _table(("reason", "documents", "of all"), reasons),
            "<h2>Languages</h2>",
            _table(("language", "in", "kept", "bytes kept"), languages),
            "<h2>Input</h2>",
            _table(
                (
                    "source",
                    "kind",
                    "files",
                    "bytes",
                    "left out by maximum_bytes",
                    "not of this kind",
                    "not on this machine",
                ),
                inputs,
            ),
            "</body></html>\n",
        ]
    )


def draw(ledger: dict[str, Any]) -> bytes:
    """A PNG: what became of each source's documents, and the languages that were kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    documents = ledger["documents"]
    sources = list(documents["by_source"])[::-1]
    shown = [name for name, _ in _largest(documents["by_reason"], _REASONS_SHOWN)]
    figure = Figure(figsize=(11, 1.6 + 0.55 * max(len(sources), 6)), layout="constrained")
    FigureCanvasAgg(figure)
    left_axes, right_axes = figure.subplots(1, 2, width_ratios=(3, 2))

    left = [0.0] * len(sources)
    colours = [
        "#2a7f62",
        "#c44e52",
        "#dd8452",
        "#ccb974",
        "#8172b3",
        "#937860",
        "#da8bc3",
        "#8c8c8c",
        "#64b5cd",
        "#bbbbbb",
    ]
    for index, reason in enumerate(["kept", *shown, "other reasons"]):
        widths = []
        for source in sources:
            account = documents["by_source"][source]
            if reason == "kept":
                count = account["kept"]
            elif reason == "other reasons":
                count = sum(count for name, count in account["by_reason"].items() if name not in shown)
            else:
                count = account["by_reason"].get(reason, 0)
            widths.append(100 * count / account["in"] if account["in"] else 0)
        if any(widths):
            left_axes.barh(sources, widths, left=left, label=reason, color=colours[index])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    left_axes.set(xlabel="% of the source's documents", title="What became of the documents", xlim=(0, 100))
    left_axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=3, fontsize=8, frameon=False)

    languages = Counter({name: account["bytes_kept"] for name, account in documents["by_language"].items()})
    top = [(name, count) for name, count in languages.most_common(_LANGUAGES_SHOWN) if count][::-1]
    if top:
        right_axes.barh([name for name, _ in top], [count / 1e6 for _, count in top], color="#4c72b0", log=True)
    right_axes.set(xlabel="MB kept (logarithmic)", title="Languages")
    for axes in (left_axes, right_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    return image.getvalue()


def _largest(counts: dict[str, int], number: int) -> list[tuple[str, int]]:
    return Counter(counts).most_common(number)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = (
            f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{html.escape(str(value))}</td>"
            for value in row
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
