"""The whole page about one run."""

from __future__ import annotations

import statistics
from datetime import datetime
from html import escape

import yaml

from foundation.progress import format_seconds
from foundation.version import described, program
from pretrain.families.mapping import parameter_count
from tools.charts import number
from tools.report.data import documents_part, export_part, tokens_part
from tools.report.markup import STYLE, missing, section, table
from tools.report.run import Run
from tools.report.training import (
    evaluation_part,
    events_part,
    mixture_part,
    nodes_part,
    parity_part,
    spike_count,
    spikes_part,
    training_part,
)


def page(run: Run) -> str:
    """The whole page as HTML."""
    sections = [section("Summary", _summary(run)), section("Training", training_part(run))]
    if run.metrics:
        sections += [
            section("Evaluation", evaluation_part(run)),
            section("Spikes", spikes_part(run)),
            section("Data consumed", mixture_part(run)),
            section("Events", events_part(run)),
            section("Processes and time", nodes_part(run)),
            section("Parallelism", parity_part(run)),
        ]
    sections += [
        section("Documents", documents_part(run)),
        section("Tokens", tokens_part(run)),
        section("Exported model", export_part(run)),
        section("Settings and versions", _settings(run)),
    ]
    return whole_page(run.folder.name, "Altiplano run report", sections)


def whole_page(title: str, subtitle: str, sections: list[str]) -> str:
    """A page that needs nothing from outside."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    name = escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · Altiplano</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<header><h1>{name}</h1><p>{escape(subtitle)}, written {now} by Altiplano {described(program())}</p></header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


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
    if run.settings:
        model = run.settings.model
        shape = f"{model.layers} layers of {model.hidden_size}, {model.attention_heads} heads"
        tiles.append(("weights", number(parameter_count(model)), shape))
        if run.settings.is_partial:
            count = run.settings.trained_count
            tiles.append(("trained weights", number(count), f"{count / parameter_count(model):.2%}; others frozen"))
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
    mfu = run.points("train", "mfu")
    if mfu:
        note = "MFU, median" + (f", of {run.peak}" if run.peak else "")
        tiles.append(("share of peak speed", f"{statistics.median(value for _, value in mfu):.1%}", note))
    goodput = run.points("train", "goodput")
    if goodput:
        tiles.append(("goodput", f"{goodput[-1][1]:.1%}", "of the time led to kept steps"))
    if loss:
        rollbacks = sum(entry.kind == "rollback" for entry in run.spikes)
        tiles.append(("spikes", f"{spike_count(run.spikes)}", f"{rollbacks} rolled back"))
    if run.topology:
        tiles.append(("processes", f"{run.processes}", run.topology))
    if run.check:
        equal = "equal to the checkpoint" if run.check["within_bound"] else "NOT equal to the checkpoint"
        tiles.append(("export", "✓" if run.check["within_bound"] else "✗", equal))
    if not tiles:
        return missing("Nothing has been made in this folder yet", "altiplano data run")
    cells = (
        f"<div><small>{escape(label)}</small><b>{escape(value)}</b><span>{escape(note)}</span></div>"
        for label, value, note in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _settings(run: Run) -> str:
    out = []
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        out.append(
            f"<details><summary>Training settings, defaults included</summary><pre>{escape(text)}</pre></details>"
        )
    if run.versions:
        out.append(table(("part", "version"), sorted(run.versions.items())))
    return "".join(out) or missing("There is no checkpoint yet", "deepspeed --module pretrain --config FILE")
