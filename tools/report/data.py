"""The parts about documents, tokens and the exported model."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tools.charts import bars
from tools.report.markup import missing, table
from tools.report.run import Run

REASON_STYLES = 8
"""Number of reasons with a colour of their own; the others share one."""

SHOWN_ROWS = 12
"""Longer tables are folded or summed up from here on."""


def documents_part(run: Run) -> str:
    if not run.ledger:
        return missing("There is no ledger.json yet", "altiplano data ledger")
    documents = run.ledger["documents"]
    total, kept_documents = documents["in"], documents["kept"]
    reasons = sorted(documents["by_reason"].items(), key=lambda item: (-item[1], item[0]))
    styles = {reason: f"r{min(i, REASON_STYLES)}" for i, (reason, _) in enumerate(reasons)}
    out = [
        f"<p>{total:,} documents in = {kept_documents:,} kept + {documents['dropped']:,} dropped. "
        "A document counts under the first reason against it.</p>"
    ]
    rows: list[Sequence[str]] = []
    for name, counts in sorted(documents["by_source"].items()):
        size = counts["in"] or 1
        parts = [("kept", counts["kept"] / size, f"kept: {counts['kept']:,}")]
        ordered = sorted(counts["by_reason"].items(), key=lambda item: -item[1])
        parts += [(styles.get(reason, f"r{REASON_STYLES}"), n / size, f"{reason}: {n:,}") for reason, n in ordered]
        megabytes = f"{counts['bytes_kept'] / 1e6:,.1f}"
        share = f"{counts['kept'] / size:.1%}"
        rows.append((escape(name), f"{counts['in']:,}", f"{counts['kept']:,}", megabytes, share, bars(parts)))
    out.append("<h3>By source</h3>")
    out.append(
        table(("source", "in", "kept", "MB kept", "share", "kept and dropped"), rows, markup=True, wide_last=True)
    )
    out.append("<h3>Reasons for dropping</h3>")
    largest = reasons[0][1] if reasons else 1
    rows = [
        (escape(reason), f"{n:,}", f"{n / max(total, 1):.2%}", bars([(styles[reason], n / largest, f"{n:,}")]))
        for reason, n in reasons
    ]
    head = ("reason", "documents", "of all", "")
    out.append(table(head, rows[:SHOWN_ROWS], markup=True, wide_last=True))
    if rows[SHOWN_ROWS:]:
        more = table(head, rows[SHOWN_ROWS:], markup=True, wide_last=True)
        out.append(f"<details><summary>{len(rows) - SHOWN_ROWS} rarer reasons</summary>{more}</details>")
    languages = documents.get("by_language", {})
    if languages:
        ordered = sorted(languages.items(), key=lambda item: -item[1]["kept"])
        rows = [
            (
                escape(code),
                f"{counts['in']:,}",
                f"{counts['kept']:,}",
                bars([("kept", counts["kept"] / max(kept_documents, 1), f"{counts['kept']:,}")]),
            )
            for code, counts in ordered[:SHOWN_ROWS]
        ]
        rest = [counts for _, counts in ordered[SHOWN_ROWS:]]
        if rest:
            kept = sum(counts["kept"] for counts in rest)
            bar = bars([("kept", kept / max(kept_documents, 1), f"{kept:,}")])
            rows.append((f"{len(rest)} others", f"{sum(counts['in'] for counts in rest):,}", f"{kept:,}", bar))
        out.append("<h3>By language</h3>")
        out.append(table(("language", "in", "kept", "share of what is kept"), rows, markup=True, wide_last=True))
    return "".join(out)


def tokens_part(run: Run) -> str:
    if not run.mixture:
        return missing("There is no tokens/mixture.yaml yet", "altiplano data tokenize")
    datasets = run.mixture.datasets
    weights = sum(entry.weight for entry in datasets)
    rows = [
        (
            escape(entry.name),
            f"{entry.documents:,}",
            f"{entry.tokens:,}",
            f"{entry.heldout_documents:,}",
            f"{entry.heldout_tokens:,}",
            f"{entry.weight / weights:.1%}",
            bars([("kept", entry.weight / weights, "share of the mixture")]),
        )
        for entry in datasets
    ]
    head = ("source", "documents", "tokens", "held-out documents", "held-out tokens", "weight", "share of training")
    end = run.mixture.end_of_document
    note = f"<p>Vocabulary of {run.mixture.vocabulary_size:,}; each document ends with token {end}.</p>"
    return note + table(head, rows, markup=True, wide_last=True)


def export_part(run: Run) -> str:
    check = run.check
    if not check:
        return missing("The model has not been exported and checked yet", "altiplano convert verify")
    verdict = "computes" if check["within_bound"] else "does NOT compute"
    out = [
        f'<p class="{"good" if check["within_bound"] else "bad"}">Loaded by transformers, the model '
        f"{verdict} what the checkpoint does ({escape(check['checkpoint'])}, {escape(check['dtype'])} weights).</p>",
        table(
            ("compared", "value"),
            [
                ("held-out tokens", f"{check['tokens_compared']:,}"),
                ("largest difference of two logits", f"{check['max_abs_difference']:.2e}"),
                ("bound", f"{check['bound']:.2e}"),
                ("largest logit", f"{check['largest_logit']:.2f}"),
                ("same most likely next token", f"{check['greedy_agreement']:.3%}"),
            ],
        ),
        "<h3>What it writes</h3>",
    ]
    out += [
        f"<pre><b>{escape(sample['prompt'])}</b>{escape(sample['continuation'])}</pre>" for sample in check["samples"]
    ]
    return "".join(out)
