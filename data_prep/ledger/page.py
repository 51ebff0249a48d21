"""The ledger as one self-contained page: pictures, tables, and samples of text."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_prep.ledger import plots

_LANGUAGES_SHOWN = 20
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.5rem } nav a { margin-right: 1rem }
table { border-collapse: collapse; margin: 1rem 0 2rem }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; vertical-align: top }
th { text-align: left } .number { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto }
details { margin: .5rem 0 } summary { cursor: pointer; padding: .2rem 0 }
article { margin: .75rem 0 1rem 1.25rem; border-left: 3px solid #ddd; padding-left: .75rem; overflow-wrap: anywhere }
article.stays { border-color: #2a7f62 }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .5rem .75rem; margin: .25rem 0; font-size: .85rem }
small { color: #555 }
"""


def page(ledger: Mapping[str, Any], title: str) -> str:
    """Make a self-contained HTML page."""
    name = html.escape(title)
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Ledger of {name}</title><style>{_STYLE}</style></head><body><h1>Ledger of {name}</h1>"
    )
    sections = (
        ("Sources", _sources(ledger)),
        ("Reasons", _reasons(ledger)),
        ("Languages", _languages(ledger)),
        ("Lengths", _lengths(ledger)),
        ("Duplicates", _duplicates(ledger["duplicates"])),
        ("Samples", _samples(ledger["samples"], ledger["documents"]["by_any_reason"])),
        ("Input", _inputs(ledger)),
    )
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title, _ in sections)
    body = (f'<h2 id="{title.lower()}">{title}</h2>\n' + "\n".join(parts) for title, parts in sections)
    return "\n".join([head, _summary(ledger), f"<nav>{links}</nav>", *body, "</body></html>\n"])


def _summary(ledger: Mapping[str, Any]) -> str:
    documents, tokens = ledger["documents"], ledger["tokens"]
    text = (
        f"<p><b>{documents['in']:,}</b> documents in = <b>{documents['kept']:,}</b> kept + "
        f"<b>{documents['dropped']:,}</b> dropped. "
        f"{documents['bytes_kept'] / 1e6:,.1f} of {documents['bytes_in'] / 1e6:,.1f} MB of text are kept"
    )
    if tokens is None:
        return text + "; it is not tokenized yet.</p>"
    return text + f": {tokens['train']:,} tokens to train on, {tokens['heldout']:,} held out.</p>"


def _sources(ledger: Mapping[str, Any]) -> Iterator[str]:
    yield plots.sources(ledger["documents"])
    by_source = ledger["tokens"]["by_source"] if ledger["tokens"] else {}
    yield _table(
        ("source", "in", "kept", "dropped", "kept, share", "bytes kept", "tokens", "tokens held out"),
        (
            (
                name,
                account["in"],
                account["kept"],
                account["dropped"],
                _share(account["kept"], account["in"]),
                account["bytes_kept"],
                by_source.get(name, {}).get("tokens", 0),
                by_source.get(name, {}).get("heldout_tokens", 0),
            )
            for name, account in ledger["documents"]["by_source"].items()
        ),
    )


def _reasons(ledger: Mapping[str, Any]) -> Iterator[str]:
    documents = ledger["documents"]
    yield (
        "<p>A document can have several reasons against it. It is counted under the first, so that these add up; "
        "<i>alone</i> counts documents that would be kept without that rule.</p>"
    )
    if not documents["by_any_reason"]:
        yield "<p>No document was dropped.</p>"
        return
    yield plots.reasons(documents)
    yield _table(
        ("reason", "counted under it", "of all", "against", "alone"),
        (
            (
                name,
                documents["by_reason"].get(name, 0),
                _share(documents["by_reason"].get(name, 0), documents["in"]),
                counts["against"],
                counts["alone"],
            )
            for name, counts in documents["by_any_reason"].items()
        ),
    )
    columns = list(documents["by_source"])
    yield "<p>Counted under each reason, by source:</p>"
    yield _table(
        ("reason", *columns),
        (
            (name, *(documents["by_source"][source]["by_reason"].get(name, 0) for source in columns))
            for name in documents["by_reason"]
        ),
    )


def _languages(ledger: Mapping[str, Any]) -> Iterator[str]:
    documents = ledger["documents"]
    yield plots.languages(documents)
    yield "<p>Probability of the identified language:</p>"
    yield plots.probabilities(documents)
    heads = ("language", "in", "kept", "dropped", "kept, share", "bytes kept", "most frequent reason")
    rows = [
        (
            name,
            account["in"],
            account["kept"],
            account["dropped"],
            _share(account["kept"], account["in"]),
            account["bytes_kept"],
            next(iter(account["by_reason"]), ""),
        )
        for name, account in documents["by_language"].items()
    ]
    yield _table(heads, rows[:_LANGUAGES_SHOWN])
    if len(rows) > _LANGUAGES_SHOWN:
        rest = _table(heads, rows[_LANGUAGES_SHOWN:])
        yield f"<details><summary>{len(rows) - _LANGUAGES_SHOWN} more languages</summary>{rest}</details>"


def _lengths(ledger: Mapping[str, Any]) -> Iterator[str]:
    documents = ledger["documents"]
    yield plots.lengths(documents)
    for name, account in documents["by_source"].items():
        yield f"<details><summary>{html.escape(name)}</summary>{plots.lengths(account)}</details>"


def _duplicates(duplicates: Mapping[str, Any]) -> Iterator[str]:
    copies = ", ".join(f"{count:,} {kind}" for kind, count in duplicates["copies"].items()) or "none"
    yield (
        f"<p>{duplicates['documents_with_copies']:,} documents have copies. Removed copies: {copies}. "
        "The largest clusters, each with the kept document and its least similar copies:</p>"
    )
    for cluster in duplicates["largest"]:
        stays = cluster["stays"]
        yield (
            f"<details><summary><b>{cluster['copies']:,}</b> copies of {html.escape(stays['id'])} "
            f"<small>{html.escape(_one_line(stays['excerpt']))}</small></summary>"
        )
        yield _article(f"{stays['id']} is kept", stays["url"], "", stays["excerpt"], "stays")
        for copy in cluster["examples"]:
            why = f"{copy['kind']}: Jaccard {copy['jaccard']:.3f}, containment {copy['containment']:.3f}"
            yield _article(copy["id"], copy["url"], why, copy["excerpt"])
        yield "</details>"


def _samples(samples: Mapping[str, Sequence[Mapping[str, str]]], counts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "<p>A random sample of the documents dropped for each reason, with personal data replaced. "
        "<code>altiplano data why ID</code> shows everything about one.</p>"
    )
    for reason in counts:
        yield f"<details><summary>{html.escape(reason)} <small>{counts[reason]['against']:,}</small></summary>"
        for sample in samples.get(reason, ()):
            yield _article(sample["place"], sample["url"], sample["why"], sample["excerpt"])
        yield "</details>"


def _article(name: str, url: str, why: str, excerpt: str, kind: str = "") -> str:
    lines = "".join(f"<br><small>{html.escape(line)}</small>" for line in (url, why) if line)
    return f'<article class="{kind}"><b>{html.escape(name)}</b>{lines}<pre>{html.escape(excerpt)}</pre></article>'


def _inputs(ledger: Mapping[str, Any]) -> Iterator[str]:
    yield _table(
        (
            "source",
            "kind",
            "files",
            "bytes",
            "passed over",
            "files left out",
            "not of this kind",
            "not on this machine",
        ),
        (
            (
                name,
                source["kind"],
                source["files"],
                source["bytes"],
                _listed(source["passed_over"]),
                source["left_out_files"],
                ", ".join(f"{count} {suffix}" for suffix, count in Counter(source["skipped_by_suffix"]).most_common(6)),
                ", ".join(source["not_on_this_machine"]),
            )
            for name, source in ledger["input"].items()
        ),
    )
    crawls = [(name, *one) for name, source in ledger["input"].items() for one in source.get("crawls", {}).items()]
    if crawls:
        yield _table(
            ("source", "crawl", "captures planned", "fetched", "left out", "not asked for"),
            (
                (
                    name,
                    folder,
                    counts["planned"],
                    counts["fetched"],
                    *(_listed(counts[key]) for key in ("left_out", "left_out_by_the_plan")),
                )
                for name, folder, counts in crawls
            ),
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:90]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _table(heads: Sequence[str], given: Iterable[Sequence[object]]) -> str:
    rows = list(given)
    number = ' class="number"'
    first = rows[0] if rows else ("",) * len(heads)
    lines = ["<table><tr>"]
    for head, value in zip(heads, first, strict=True):
        lines.append(f"<th{number if isinstance(value, int) else ''}>{html.escape(head)}</th>")
    lines.append("</tr>")
    for row in rows:
        cells = (
            f'<td class="number">{value:,}</td>' if isinstance(value, int) else f"<td>{html.escape(str(value))}</td>"
            for value in row
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
