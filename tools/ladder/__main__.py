"""`altiplano ladder`: predict the loss of a run from small ones, before it is paid for.

A ladder is a file that names the run to be predicted, and sizes and lengths of small runs like it (the rungs). They are
ordinary runs; a law of the loss is fitted to what they reach; the prediction has an interval, and is written down
before the large run begins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foundation.atomic_files import restrict_file_modes, write_json, write_text
from foundation.configuration import load_config
from foundation.progress import format_seconds, summary_table
from pretrain.config import TrainConfig
from pretrain.data.epochs import with_steps
from tools.charts import number
from tools.ladder.fitting import LadderFit, fit_ladder, law_rows, outcome_rows
from tools.ladder.interval import INTERVAL, LadderError, points_of
from tools.ladder.page import charts, ladder_page
from tools.ladder.prediction import check, predict, with_outcomes
from tools.ladder.run import add_run_options, parsed, run_left, write_list
from tools.ladder.rungs import (
    Rung,
    cost_of,
    points_table,
    read_points,
    results_of,
    rungs_of,
    write_configs,
)
from tools.ladder.settings import LadderConfig
from tools.report.run import read_json

FIT_FILE, POINTS_FILE, PAGE_FILE = "fit.json", "points.csv", "ladder.html"

EXAMPLES = """examples:
  altiplano ladder plan configs/ladder/demo.yaml
      the rungs, and what they cost beside the run that is to be predicted; nothing is trained
  altiplano ladder run configs/ladder/demo.yaml --at-once 2
      trains what is not finished; the same command again goes on where it was interrupted
  altiplano ladder run configs/ladder/demo.yaml --slurm --nodes=1 --gpus-per-node=8
      the same as an array of Slurm jobs
  altiplano ladder fit configs/ladder/demo.yaml
      the law of the loss, from whatever rungs are finished, and a page about it
  altiplano ladder predict configs/ladder/demo.yaml
      the loss of the run that the ladder names; --config names another
  altiplano ladder check configs/ladder/demo.yaml runs/ladder/target
      afterwards: inside the interval or not
  altiplano ladder fit --points runs.csv
      runs from elsewhere: parameters, tokens, loss"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano ladder",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="plan|run|fit|predict|check", required=True)

    def add(name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        command.set_defaults(act=act, name=name)
        return command

    def add_ladder(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
        command.add_argument("ladder", type=Path, nargs=nargs, help="YAML file of the ladder, see configs/ladder/")
        command.add_argument("overrides", nargs="*", help="its settings by dotted name, such as output=runs/other")

    command = add("plan", _plan, "list the rungs and their cost, and write their configurations")
    add_ladder(command)
    command = add("run", _run, "train the rungs that are not finished")
    add_ladder(command)
    add_run_options(command)
    command = add("fit", _fit, "fit the laws to the finished rungs, and write a page about them")
    add_ladder(command, nargs="?")
    command.add_argument("--points", type=Path, help="a CSV file of other runs, in place of a ladder")
    command = add("predict", _predict, "predict the loss of a run, and write it down before the run begins")
    add_ladder(command)
    command.add_argument("--config", type=Path, help="its configuration; default: the run that the ladder names")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of it, such as seed=2"
    )
    command = add("check", _check, "compare a finished run with its prediction")
    command.add_argument("ladder", type=Path, help="YAML file of the ladder")
    command.add_argument("run", type=Path, help="output folder of the run")
    command.add_argument("overrides", nargs="*", help="settings of the ladder by dotted name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 1 the rungs do not allow what is asked, or a run is outside its interval; 2 wrong settings or
    files; that of a rung that failed."""
    given = parsed(make_parser(), arguments)
    restrict_file_modes()
    try:
        return int(given.act(given))
    except LadderError as error:
        print(f"ladder: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"ladder: {error}", file=sys.stderr)
        return 2


def _opened(given: argparse.Namespace) -> tuple[LadderConfig, list[Rung]]:
    ladder = load_config(LadderConfig, given.ladder, given.overrides)
    return ladder, rungs_of(ladder)


def _plan(given: argparse.Namespace) -> int:
    ladder, rungs = _opened(given)
    _write(ladder, rungs)
    done = {result.name: result for result in results_of(ladder, rungs)}
    summary_table(
        f"{ladder.output}: {len(rungs)} rungs, {len(done)} of them finished",
        [
            (
                rung.name,
                rung.parameters,
                rung.tokens,
                f"{rung.tokens / rung.parameters:.1f}",
                rung.config.schedule.steps,
                f"{rung.flops:.3g}",
                done[rung.name].loss if rung.name in done else "",
            )
            for rung in rungs
        ],
        ("rung", "parameters", "tokens", "for each", "steps", "FLOPs", "held-out loss"),
    )
    target = with_steps(load_config(TrainConfig, ladder.train))
    parameters, tokens, flops = cost_of(target)
    total = sum(rung.flops for rung in rungs)
    print(
        f"{len(rungs)} rungs over a factor of {rungs[-1].flops / rungs[0].flops:.1f}: {total:.3g} FLOPs, "
        f"{total / flops:.1%} of the {flops:.3g} of the run that is to be predicted ({number(parameters)} parameters, "
        f"{number(tokens)} tokens, {flops / rungs[-1].flops:.1f} times the largest rung)"
    )
    seconds = [(done[rung.name].seconds, rung.flops) for rung in rungs if rung.name in done]
    timed = [(took, spent) for took, spent in seconds if took]
    if timed:
        rate = sum(spent for _, spent in timed) / sum(took for took, _ in timed)
        left = sum(rung.flops for rung in rungs if rung.name not in done)
        print(
            f"at the {number(rate)}FLOP/s of the finished rungs, one after the other: {format_seconds(left / rate)} "
            f"for the others, {format_seconds(flops / rate)} for {target.output}"
        )
    print(f"next: altiplano ladder run {given.ladder}")
    return 0


def _write(ladder: LadderConfig, rungs: list[Rung]) -> None:
    write_configs(rungs)
    write_list(ladder.output, rungs)


def _run(given: argparse.Namespace) -> int:
    ladder, rungs = _opened(given)
    _write(ladder, rungs)
    code = run_left(ladder.output, rungs, {result.name for result in results_of(ladder, rungs)}, given)
    print(f"{len(results_of(ladder, rungs))} of {len(rungs)} rungs are finished")
    if not code:
        print(f"next: altiplano ladder fit {given.ladder}")
    return code


def _fit(given: argparse.Namespace) -> int:
    if (given.ladder is None) == (given.points is None):
        raise ValueError("give the YAML file of a ladder, or --points with a CSV file")
    if given.points is not None:
        results = read_points(given.points)
        found, page = fit_ladder(results), given.points.with_suffix(".html")
        predictions: list[dict[str, Any]] = []
    else:
        ladder, rungs = _opened(given)
        results = results_of(ladder, rungs)
        print(f"{len(results)} of {len(rungs)} rungs are finished")
        found, page = fit_ladder(results), ladder.output / PAGE_FILE
        write_text(ladder.output / POINTS_FILE, points_table(results))
        write_json(ladder.output / FIT_FILE, found.to_json())
        predictions = with_outcomes(ladder)
    drawn = charts(found, predictions)
    write_text(page, ladder_page(page.parent.name, found, predictions, drawn))
    for name, chart in drawn.items():
        write_text(page.with_name(f"{page.stem}_{name}.svg"), chart)
    _show(found)
    print(f"page: {page}")
    if found.refusal is not None:
        raise LadderError(f"no prediction can be made: {found.refusal}")
    if given.points is None:
        print(f"next: altiplano ladder predict {given.ladder}")
    return 0


def _show(found: LadderFit) -> None:
    summary_table("L(N, D) = E + A / N^α + B / D^β", law_rows(found), ("", "value", "90 % of the resampled fits"))
    summary_table("What is optimal: N ∝ C^a, D ∝ C^(1 - a)", outcome_rows(found), ("approach", "a", ""))


def _predict(given: argparse.Namespace) -> int:
    ladder, rungs = _opened(given)
    target = load_config(TrainConfig, given.config or ladder.train, given.set)
    results = results_of(ladder, rungs)
    path = predict(ladder, rungs[0], results, points_of(results), target)
    made = read_json(path)
    half = (made["high"] - made["low"]) / 2 / made["loss"]
    rows: list[tuple[str, str]] = [
        ("run", f"{made['run']['output']}: {made['parameters']:,} parameters, {made['tokens']:,} tokens"),
        ("compute", f"{made['flops']:.3g} FLOPs, {made['beyond']['largest_rung']:.1f} times the largest rung"),
        ("held-out loss", f"{made['loss']:.4f} nats per token"),
        (f"{INTERVAL:.0%} interval", f"{made['low']:.4f} to {made['high']:.4f} (± {half:.1%})"),
        ("backtests", _backtests_text(made["forecast"])),
    ]
    if made["by_compute"] is not None:
        rows.append(("by compute alone", f"{made['by_compute']['loss']:.4f}, from {made['by_compute']['rungs']} rungs"))
    best = made["optimum"]
    rows.append(
        (
            "optimal for this compute",
            f"{number(best['parameters'])} parameters, {number(best['tokens'])} tokens: {best['loss']:.4f}",
        )
    )
    summary_table(f"Prediction of {made['made']}, from {made['rungs']['count']} runs", rows)
    print(
        f"written to {path}\nnext: altiplano train, then altiplano ladder check {given.ladder} {made['run']['output']}"
    )
    return 0


def _backtests_text(forecast: dict[str, object]) -> str:
    tests = forecast["backtests"]
    assert isinstance(tests, list)
    largest = max(abs(test["predicted"] / test["loss"] - 1) for test in tests)
    reach = max(test["ratio"] for test in tests)
    return f"{len(tests)}, up to {reach:.1f} times further; wrong by {largest:.1%} at most"


def _check(given: argparse.Namespace) -> int:
    made, loss, is_inside = check(load_config(LadderConfig, given.ladder, given.overrides), given.run)
    print(
        f"predicted {made['loss']:.4f}, {made['probability']:.0%} interval {made['low']:.4f} to {made['high']:.4f} "
        f"({made['made']})\nreached   {loss:.4f}, {loss / made['loss'] - 1:+.2%}: "
        f"{'inside' if is_inside else 'OUTSIDE'} the interval"
    )
    return 0 if is_inside else 1


if __name__ == "__main__":
    sys.exit(main())
