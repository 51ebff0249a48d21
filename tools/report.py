"""One page about a whole run: `python -m tools.report RUN` reads what is there and writes RUN/report.html.

The page is a single file without scripts and without anything from outside. A part that is not there yet is said to be
missing, together with the command that makes it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import yaml

from foundation.atomic_files import write_text
from foundation.progress import format_seconds
from pretrain.config import ModelConfig
from pretrain.data.mixture import MixtureFile, load_mixture
from pretrain.families.mapping import parameter_count
from pretrain.monitor.metrics import read_metrics
from tools.charts import Series, bars, line_chart, number, smoothed
from tools.verify_export import RESULT_FILE

REASON_STYLES = 8
"""So many reasons have a colour of their own; the rest share one."""

SHOWN_ROWS = 12
"""Longer tables are folded or summed up from here on."""


class Run:
    """What lies in a run's folder; parts that are not there are None."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give the folder of a run, such as runs/demo")
        self.folder = folder
        self.train = folder / "train"
        self.ledger = _read_json(folder / "ledger.json")
        self.check = _read_json(folder / RESULT_FILE)
        mixture = folder / "tokens" / "mixture.yaml"
        self.mixture: MixtureFile | None = load_mixture(mixture) if mixture.is_file() else None
        metrics = self.train / "metrics.jsonl"
        self.metrics = read_metrics(metrics) if metrics.is_file() else []
        resolved = self.train / "config.resolved.yaml"
        self.config = yaml.safe_load(resolved.read_text(encoding="utf-8")) if resolved.is_file() else None
        self.versions = self._versions()

    def points(self, kind: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of every line of metrics that has a number by this name."""
        lines = [line for line in self.metrics if line["kind"] == kind]
        return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.metrics if line["kind"] == "event" and line.get("event") == event]

    def _versions(self) -> Mapping[str, str]:
        latest = self.train / "checkpoints" / "latest"
        if not latest.is_file():
            return {}
        index = _read_json(latest.parent / latest.read_text(encoding="utf-8").strip() / "checkpoint.json") or {}
        return {name: str(version) for name, version in index.get("versions", {}).items()}


def page(run: Run) -> str:
    """The whole page as HTML."""
    sections = [
        _section("Summary", _summary(run)),
        _section("Training", _training(run)),
        _section("Documents", _documents(run)),
        _section("Tokens", _tokens(run)),
        _section("Exported model", _export(run)),
        _section("Settings and versions", _settings(run)),
    ]
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    name = escape(run.folder.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · Altiplano</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<header><h1>{name}</h1><p>Altiplano run report, written {now}</p></header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _missing(what: str, command: str) -> str:
    return f'<p class="missing">{escape(what)}; <code>{escape(command)}</code> makes it.</p>'


def _summary(run: Run) -> str:
    tiles: list[tuple[str, str, str]] = []
    if run.ledger:
        documents = run.ledger["documents"]
        kept = documents["kept"] / documents["in"] if documents["in"] else 0.0
        tiles.append(("documents kept", f"{documents['kept']:,}", f"{kept:.1%} of {documents['in']:,}"))
    if run.mixture:
        tokens = sum(entry.tokens for entry in run.mixture.datasets)
        held_out = sum(entry.heldout_tokens for entry in run.mixture.datasets)
        tiles.append(("tokens to train on", number(tokens), f"and {number(held_out)} held out"))
    loss = run.points("train", "loss")
    if run.config:
        model = ModelConfig(**run.config["model"])
        shape = f"{model.layers} layers of {model.hidden_size}, {model.attention_heads} heads"
        tiles.append(("weights", number(parameter_count(model)), shape))
    if loss:
        trained = run.points("train", "consumed_tokens")
        tiles.append(("steps", f"{int(loss[-1][0]):,}", f"{number(trained[-1][1])} tokens seen" if trained else ""))
        tiles.append(("training loss", f"{loss[-1][1]:.3f}", f"from {loss[0][1]:.3f}"))
    held_out_loss = run.points("evaluation", "loss")
    if held_out_loss:
        perplexity = run.points("evaluation", "perplexity")
        note = f"perplexity {perplexity[-1][1]:,.1f}" if perplexity else ""
        tiles.append(("held-out loss", f"{held_out_loss[-1][1]:.3f}", note))
    speed = run.points("train", "tokens_per_second")
    if speed:
        seconds = sum(value for _, value in run.points("train", "step_seconds"))
        middle = statistics.median(value for _, value in speed)
        tiles.append(("tokens per second", f"{middle:,.0f}", f"{format_seconds(seconds)} in steps"))
    if run.check:
        equal = "equal to the checkpoint" if run.check["within_bound"] else "NOT equal to the checkpoint"
        tiles.append(("export", "✓" if run.check["within_bound"] else "✗", equal))
    if not tiles:
        return _missing("Nothing has been made in this folder yet", "python -m data_prep run")
    cells = (
        f"<div><small>{escape(label)}</small><b>{escape(value)}</b><span>{escape(note)}</span></div>"
        for label, value, note in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _training(run: Run) -> str:
    loss = run.points("train", "loss")
    if not loss:
        return _missing("No step has been trained yet", "deepspeed --module pretrain --config FILE")
    marks = [(line["step"], "resumed") for line in run.events("resumed")]
    held_out = run.points("evaluation", "loss")
    charts = [
        line_chart(
            "Loss, nats per token",
            [
                Series("faint", "each step", loss),
                Series("strong", "smoothed", smoothed(loss)),
                Series("second", "held out", held_out, dots=True),
            ],
            x_label="step",
            marks=marks,
        ),
        line_chart(
            "Learning rate",
            [Series("strong", "", run.points("train", "learning_rate"))],
            x_label="step",
            marks=marks,
            zero=True,
        ),
    ]
    norm = run.points("train", "gradient_norm")
    lines = [Series("faint", "each step", norm), Series("strong", "smoothed", smoothed(norm))]
    if run.config and norm:
        limit = run.config["optimizer"]["gradient_clipping"]
        lines.append(Series("limit", f"limit {limit:g}", [(norm[0][0], limit), (norm[-1][0], limit)]))
    charts.append(line_chart("Gradient norm, unclipped", lines, x_label="step", marks=marks, zero=True))
    speed = run.points("train", "tokens_per_second")
    charts.append(
        line_chart(
            "Speed, tokens per second",
            [Series("faint", "each step", speed), Series("strong", "smoothed", smoothed(speed))],
            x_label="step",
            marks=marks,
            zero=True,
        )
    )
    rows = [
        (f"{int(step):,}", f"{value:.4f}", f"{_at(run.points('evaluation', 'perplexity'), step):,.2f}")
        for step, value in held_out
    ]
    shown = rows if len(rows) <= 12 else [*rows[:2], ("…", "", ""), *rows[-9:]]
    table = _table(("step", "held-out loss", "perplexity"), shown) if rows else ""
    resumed = f"<p>Stopped and resumed at step {', '.join(f'{int(step):,}' for step, _ in marks)}.</p>" if marks else ""
    return f'{resumed}<div class="charts">{"".join(charts)}</div>{table}'


def _at(points: Sequence[tuple[float, float]], step: float) -> float:
    return next((value for at, value in points if at == step), float("nan"))


def _documents(run: Run) -> str:
    if not run.ledger:
        return _missing("There is no ledger.json yet", "python -m data_prep ledger")
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
        _table(("source", "in", "kept", "MB kept", "share", "kept and dropped"), rows, markup=True, wide_last=True)
    )
    out.append("<h3>Reasons for dropping</h3>")
    largest = reasons[0][1] if reasons else 1
    rows = [
        (escape(reason), f"{n:,}", f"{n / max(total, 1):.2%}", bars([(styles[reason], n / largest, f"{n:,}")]))
        for reason, n in reasons
    ]
    head = ("reason", "documents", "of all", "")
    out.append(_table(head, rows[:SHOWN_ROWS], markup=True, wide_last=True))
    if rows[SHOWN_ROWS:]:
        more = _table(head, rows[SHOWN_ROWS:], markup=True, wide_last=True)
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
        out.append(_table(("language", "in", "kept", "share of what is kept"), rows, markup=True, wide_last=True))
    return "".join(out)


def _tokens(run: Run) -> str:
    if not run.mixture:
        return _missing("There is no tokens/mixture.yaml yet", "python -m data_prep tokenize")
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
    return note + _table(head, rows, markup=True, wide_last=True)


def _export(run: Run) -> str:
    check = run.check
    if not check:
        return _missing("The model has not been exported and checked yet", "python -m tools.verify_export")
    verdict = "computes" if check["within_bound"] else "does NOT compute"
    out = [
        f'<p class="{"good" if check["within_bound"] else "bad"}">Loaded by transformers, the model '
        f"{verdict} what the checkpoint does ({escape(check['checkpoint'])}, {escape(check['dtype'])} weights).</p>",
        _table(
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


def _settings(run: Run) -> str:
    out = []
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        out.append(
            f"<details><summary>Training settings, defaults included</summary><pre>{escape(text)}</pre></details>"
        )
    if run.versions:
        out.append(_table(("part", "version"), sorted(run.versions.items())))
    return "".join(out) or _missing("There is no checkpoint yet", "deepspeed --module pretrain --config FILE")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markup: bool = False, wide_last: bool = False) -> str:
    def cell(text: str) -> str:
        return f"<td>{text if markup else escape(text)}</td>"

    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    kind = ' class="wide-last"' if wide_last else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None


STYLE = """
:root{--ink:#1f2933;--soft:#5f6c7b;--line:#e3e8ee;--page:#f6f8fa;--card:#fff;--blue:#2563a8;--pale:#a9c5e4;
--orange:#d9661f;--green:#2f855a;--red:#c53030}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b5;--line:#2d3742;--page:#12171c;--card:#1a2129;
--blue:#6aa9ea;--pale:#35557a;--orange:#f08a4b;--green:#4fae7f;--red:#ef6b6b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:32px}h1{margin:0;font-size:28px}header p{margin:2px 0 0;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;margin:20px 0;padding:18px 24px 22px}
h2{margin:0 0 12px;font-size:18px}h3{margin:20px 0 6px;font-size:15px}p{margin:6px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(210px,42%),1fr));gap:12px}
.tiles div{border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tiles small,.tiles span{display:block;color:var(--soft);font-size:13px}
.tiles b{display:block;font-size:23px;line-height:1.25;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(460px,100%),1fr));gap:18px 26px;margin:8px 0 12px}
figure{margin:0}figcaption{display:flex;justify-content:space-between;gap:12px;flex-wrap:wrap;font-size:14px}
.legend{color:var(--soft);font-size:13px}.legend span{margin-left:14px;white-space:nowrap}
.legend i{display:inline-block;width:16px;height:3px;margin-right:5px;vertical-align:middle;border-radius:2px}
i.strong{background:var(--blue)}i.faint{background:var(--pale)}i.second{background:var(--orange)}
i.limit{background:var(--soft)}
svg{display:block;width:100%;height:auto}.grid{stroke:var(--line);stroke-width:1}
.tick{fill:var(--soft);font-size:12px;font-family:inherit}.mark{stroke:var(--soft);stroke-dasharray:4 4}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.faint{stroke:var(--pale);stroke-width:1.2}
.line.strong{stroke:var(--blue)}.line.second{stroke:var(--orange)}
.line.limit{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:2 4}
.dot{fill:var(--card);stroke-width:2}.dot.second{stroke:var(--orange)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
table.wide-last{width:100%}table.wide-last td:last-child{width:42%}
th,td{padding:5px 18px 5px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:13px}th:first-child,td:first-child{text-align:left}
table.wide-last th:last-child,table.wide-last td:last-child{text-align:left;padding-right:0}
.bar{display:flex;height:14px;border-radius:3px;overflow:hidden;min-width:160px}.bar i{display:block;height:100%}
.kept{background:var(--green)}.r0{background:#d9661f}.r1{background:#e0a030}.r2{background:#b7465c}.r3{background:#7a5ab0}
.r4{background:#3f88c5}.r5{background:#8c6d46}.r6{background:#d17fa8}.r7{background:#5a9aa0}.r8{background:#9aa5b1}
.missing{color:var(--soft);border-left:3px solid var(--line);padding-left:12px}
.good{color:var(--green)}.bad{color:var(--red);font-weight:600}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:10px 14px;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre b{color:var(--blue)}code{background:var(--page);border-radius:4px;padding:1px 5px;font-size:13px}
summary{cursor:pointer;color:var(--soft)}details{margin-bottom:12px}
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.report", description="Write a page about a whole run.")
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/demo")
    given = parser.parse_args(arguments)
    try:
        out = given.run / "report.html"
        write_text(out, page(Run(given.run)))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
