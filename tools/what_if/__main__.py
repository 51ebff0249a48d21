"""`altiplano data what-if`: the loss that two rule sets lead to.

Both rule sets choose from the same measured documents. Each corpus is tokenized with the same tokenizer, a ladder of
small runs is trained on either, and the loss of the run that the ladder names is predicted for both, on the held-out
documents that both rule sets keep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from foundation.atomic_files import restrict_file_modes, write_json
from foundation.configuration import load_config
from foundation.progress import summary_table
from pretrain.config import TrainConfig
from pretrain.data.epochs import with_steps
from tools.ladder.interval import INTERVAL, LadderError
from tools.ladder.run import add_run_options, parsed, run_left, write_list
from tools.ladder.rungs import MOST_EPOCHS, Cost, Result, Rung, cost_of, results_of, write_configs
from tools.what_if.comparison import Comparison, compare
from tools.what_if.corpora import SIDES, Corpus, corpora, make_corpora
from tools.what_if.settings import WhatIfConfig

ANSWER_FILE = "answer.json"

EXAMPLES = """examples:
  altiplano data what-if plan configs/ladder/what_if.yaml
      make both corpora, from documents that are measured already, and list what would be trained
  altiplano data what-if run configs/ladder/what_if.yaml --at-once 2
      train the rungs that are not finished, of both; the same command goes on after Ctrl-C
  altiplano data what-if fit configs/ladder/what_if.yaml
      tokens, mixture and predicted loss of both, and which is better if that can be known"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data what-if",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="plan|run|fit", required=True)

    def add(name: str, act: Callable[[argparse.Namespace, WhatIfConfig], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        command.add_argument("what_if", type=Path, help="YAML file, see configs/ladder/what_if.yaml")
        command.add_argument("overrides", nargs="*", help="its settings by dotted name, such as output=runs/other")
        command.set_defaults(act=act)
        return command

    add("plan", _plan, "make both corpora, and list the rungs")
    add_run_options(add("run", _run, "train the rungs that are not finished"))
    add("fit", _fit, "predict the loss on either corpus, and compare")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 1 the rungs do not allow a prediction; 2 wrong settings or files; that of a rung that
    failed."""
    given = parsed(make_parser(), arguments)
    restrict_file_modes()
    try:
        return int(given.act(given, load_config(WhatIfConfig, given.what_if, given.overrides)))
    except LadderError as error:
        print(f"what-if: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"what-if: {error}", file=sys.stderr)
        return 2


def _plan(given: argparse.Namespace, settings: WhatIfConfig) -> int:
    make_corpora(settings)
    both = corpora(settings)
    _write(settings, both)
    _show_corpora(both)
    first = both[0]
    total = sum(rung.flops for corpus in both for rung in corpus.rungs)
    target = _target(first)
    print(
        f"{len(first.rungs)} rungs on either corpus, {total:.3g} FLOPs in all, {total / target.flops:.1%} of the run "
        f"whose loss is predicted ({target.parameters:,} parameters, {target.tokens:,} tokens)\n"
        f"next: altiplano data what-if run {given.what_if}"
    )
    return 0


def _run(given: argparse.Namespace, settings: WhatIfConfig) -> int:
    both = corpora(settings)
    _write(settings, both)
    done = {f"{corpus.side} {result.name}" for corpus in both for result in _results(corpus)}
    code = run_left(settings.output, _all_rungs(both), done, given)
    if not code:
        print(f"next: altiplano data what-if fit {given.what_if}")
    return code


def _fit(given: argparse.Namespace, settings: WhatIfConfig) -> int:
    both = corpora(settings)
    target = _target(both[0])
    for corpus in both:
        if target.tokens > MOST_EPOCHS * corpus.tokens:
            raise LadderError(
                f"{corpus.side} = {corpus.rules} keeps {corpus.tokens:,} tokens, over which the run would pass "
                f"{target.tokens / corpus.tokens:.1f} times; from {MOST_EPOCHS:g} on, repeated tokens are worth less "
                "than new ones, which no ladder of shorter runs shows: predict a shorter run"
            )
    found = compare(_results(both[0]), _results(both[1]), target)
    write_json(settings.output / ANSWER_FILE, _answer(both, target, found))
    _show_corpora(both)
    summary_table(
        f"Held-out loss of {target.parameters:,} parameters after {target.tokens:,} tokens, from {found.pairs} pairs",
        [
            (corpus.side, corpus.rules, f"{one.loss:.4f}", f"{one.low:.4f}", f"{one.high:.4f}")
            for corpus, one in zip(both, (found.first, found.second), strict=True)
        ],
        ("", "rules", "predicted", "from", f"to ({INTERVAL:.0%})"),
    )
    print(
        f"B relative to A: {found.difference:+.2%}, {INTERVAL:.0%} interval {found.low:+.2%} to {found.high:+.2%}: "
        f"{_verdict(found)}\nwritten to {settings.output / ANSWER_FILE}; beside the documents: altiplano data decide "
        f"--config {settings.data} --what-if {' '.join(settings.rule_sets)} --predicted {settings.output / ANSWER_FILE}"
    )
    return 0


def _verdict(found: Comparison) -> str:
    if found.better is None:
        return "they CANNOT be told apart; repeat rungs with other seeds, or add larger ones"
    return f"{SIDES[found.better]} leads to the lower loss"


def _write(settings: WhatIfConfig, both: Sequence[Corpus]) -> None:
    write_configs(_all_rungs(both))
    write_list(settings.output, _all_rungs(both))


def _all_rungs(both: Sequence[Corpus]) -> list[Rung]:
    """Rungs of both corpora, named after them."""
    return [replace(rung, name=f"{corpus.side} {rung.name}") for corpus in both for rung in corpus.rungs]


def _results(corpus: Corpus) -> list[Result]:
    return results_of(corpus.ladder, list(corpus.rungs))


def _target(corpus: Corpus) -> Cost:
    """Cost of the run whose loss is predicted."""
    return cost_of(with_steps(load_config(TrainConfig, corpus.ladder.train)))


def _shares(corpus: Corpus) -> dict[str, float]:
    """Share of each source in training."""
    whole = sum(entry.weight for entry in corpus.mixture.datasets)
    return {entry.name: entry.weight / whole for entry in corpus.mixture.datasets}


def _show_corpora(both: Sequence[Corpus]) -> None:
    tokens = [{entry.name: entry.tokens for entry in corpus.mixture.datasets} for corpus in both]
    shares = [_shares(corpus) for corpus in both]
    sources = list(dict.fromkeys(name for side in tokens for name in side))
    rows = [
        (name, *(side.get(name, 0) for side in tokens), *(f"{side.get(name, 0):.1%}" for side in shares))
        for name in sources
    ]
    rows.append(("all", *(corpus.tokens for corpus in both), "", ""))
    columns = ("source", "A, tokens", "B, tokens", "A, share", "B, share")
    summary_table(" and ".join(f"{corpus.side} = {corpus.rules}" for corpus in both), rows, columns)
    judged = sum(entry.heldout_tokens for entry in both[0].mixture.datasets)
    print(f"judged by {judged:,} tokens of held-out documents that both keep")


def _answer(both: Sequence[Corpus], target: Cost, found: Comparison) -> dict[str, Any]:
    return {
        "made": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "rule_sets": [corpus.rules for corpus in both],
        "corpora": [
            {
                "tokens": corpus.tokens,
                "shares": _shares(corpus),
                "loss": one.loss,
                "low": one.low,
                "high": one.high,
            }
            for corpus, one in zip(both, (found.first, found.second), strict=True)
        ],
        "run": target._asdict(),
        "probability": INTERVAL,
        "difference": {"predicted": found.difference, "low": found.low, "high": found.high},
        "better": None if found.better is None else SIDES[found.better],
        "verdict": _verdict(found),
        "comparison": asdict(found),
    }


if __name__ == "__main__":
    sys.exit(main())
