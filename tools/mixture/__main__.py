"""`altiplano mixture`: weights of the sources from small runs on random mixtures.

Each small run has weights of its own. A law of each source's held-out loss by the weights is fitted to them; the best
weights are those that minimise a mean of these losses, as far as the sources have tokens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from foundation.atomic_files import restrict_file_modes, write_json, write_text
from foundation.configuration import load_config
from foundation.progress import summary_table
from tools.ladder.run import add_run_options, parsed, run_here, run_left, write_list
from tools.mixture.law import INTERVAL, Answer, Array, MixtureError, answer
from tools.mixture.page import mixture_page
from tools.mixture.proxies import (
    MIXTURE_FILE,
    Proxies,
    losses_of,
    proxies_of,
    write_mixture,
    write_proxies,
)
from tools.mixture.settings import MixtureConfig
from tools.report.run import read_json

ANSWER_FILE, PAGE_FILE = "answer.json", "mixture.html"

EXAMPLES = """examples:
  altiplano mixture plan configs/mixture/demo.yaml
      the random weights, and what the runs cost
  altiplano mixture run configs/mixture/demo.yaml --at-once 2
      train those that are not finished; the same command goes on after Ctrl-C
  altiplano mixture fit configs/mixture/demo.yaml
      the best weights, with an interval, and a page about them
  altiplano mixture check configs/mixture/demo.yaml
      train one run on them, and compare it with what was predicted and with the weights at hand"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano mixture",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="plan|run|fit|check", required=True)

    def add(name: str, act: Callable[[argparse.Namespace, Proxies], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        command.add_argument("search", type=Path, help="YAML file of the search, see configs/mixture/")
        command.add_argument("overrides", nargs="*", help="its settings by dotted name, such as runs=40")
        command.set_defaults(act=act)
        return command

    add("plan", _plan, "list the random mixtures, and write the configurations of their runs")
    command = add("run", _run, "train the runs that are not finished")
    add_run_options(command)
    add("fit", _fit, "fit the law of each source's loss, and find the best weights")
    add("check", _check, "train one more run, on the best weights, and compare it with its prediction")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 1 the runs do not allow what is asked, or the check is outside the interval; 2 wrong settings
    or files; that of a run that failed."""
    given = parsed(make_parser(), arguments)
    restrict_file_modes()
    try:
        proxies = proxies_of(load_config(MixtureConfig, given.search, given.overrides))
        return int(given.act(given, proxies))
    except MixtureError as error:
        print(f"mixture: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"mixture: {error}", file=sys.stderr)
        return 2


def _plan(given: argparse.Namespace, proxies: Proxies) -> int:
    _write(proxies)
    done = _done(proxies)
    summary_table(
        f"{proxies.settings.output}: {len(proxies.all())} runs, {len(done)} of them finished",
        [
            (proxy.name, *(f"{weight:.1%}" for weight in proxy.weights), _goal_text(proxies, done.get(proxy.name)))
            for proxy in proxies.all()
        ],
        ("run", *proxies.sources, "goal"),
    )
    rung = proxies.all()[0].rung
    total = rung.flops * len(proxies.all())
    print(f"each trains {rung.parameters:,} parameters on {rung.tokens:,} tokens: {total:.3g} FLOPs in all")
    for name, most in zip(proxies.sources, proxies.most, strict=True):
        if most < 1:
            print(f"{name}: at most {most:.1%} of the run that the mixture is for, by its tokens")
    print(f"next: altiplano mixture run {given.search}")
    return 0


def _run(given: argparse.Namespace, proxies: Proxies) -> int:
    _write(proxies)
    code = run_left(proxies.settings.output, [proxy.rung for proxy in proxies.all()], _done(proxies), given)
    if not code:
        print(f"next: altiplano mixture fit {given.search}")
    return code


def _fit(given: argparse.Namespace, proxies: Proxies) -> int:
    done = _done(proxies)
    found = _answer(proxies, done)
    noise = _noise(proxies, done)
    folder = proxies.settings.output
    best = proxies.best(found.weights)
    made = _json(proxies, found, done, noise)
    write_json(folder / ANSWER_FILE, made)
    write_mixture(proxies.mixture, found.weights, folder / MIXTURE_FILE)
    write_proxies(proxies, [best])
    write_text(folder / PAGE_FILE, mixture_page(folder.name, made))
    now = proxies.given[0].weights
    rows = zip(proxies.sources, now, found.weights, found.low, found.high, proxies.most, strict=True)
    summary_table(
        f"Weights from {len(done)} runs",
        [(name, *(f"{value:.1%}" for value in values)) for name, *values in rows],
        ("source", "now", "best", "from", "to", "at most"),
    )
    print(
        f"goal: {found.loss:.4f}, {INTERVAL:.0%} interval {found.loss_low:.4f} to {found.loss_high:.4f}; "
        f"the weights at hand reach {_given_goal(proxies, done):.4f}, and seeds differ by {noise:.4f}\n"
        f"runs that were left out of the fit are missed by {found.error:.4f} (root mean square), "
        f"{found.explained:.0%} of their differences is explained, rank correlation {found.rank:.2f}\n"
        f"the best run so far is {_best_run_text(made)}\n"
        f"mixture: {folder / MIXTURE_FILE}; page: {folder / PAGE_FILE}\nnext: altiplano mixture check {given.search}"
    )
    return 0


def _check(given: argparse.Namespace, proxies: Proxies) -> int:
    folder = proxies.settings.output
    made = read_json(folder / ANSWER_FILE)
    if made is None:
        raise ValueError(f"{folder / ANSWER_FILE}: no such file; run `altiplano mixture fit {given.search}` first")
    best = proxies.best(np.array([made["weights"][name]["best"] for name in proxies.sources]))
    losses = losses_of(best, proxies.judged)
    if losses is None:
        write_proxies(proxies, [best])
        code = run_here([best.rung], 1)
        if code:
            return code
        losses = losses_of(best, proxies.judged)
        assert losses is not None
    reached = float(losses @ proxies.shares)
    now = _given_goal(proxies, _done(proxies))
    is_inside = made["goal"]["low"] <= reached <= made["goal"]["high"]
    made["checked"] = {"goal": reached, **dict(zip(proxies.judged, map(float, losses), strict=True))}
    write_json(folder / ANSWER_FILE, made)
    write_text(folder / PAGE_FILE, mixture_page(folder.name, made))
    summary_table(
        "Held-out losses",
        [
            (name, f"{made['by_source'][name]:.4f}", f"{loss:.4f}")
            for name, loss in zip(proxies.judged, losses, strict=True)
        ],
        ("source", "predicted", "reached"),
    )
    print(
        f"goal: predicted {made['goal']['predicted']:.4f}, {INTERVAL:.0%} interval {made['goal']['low']:.4f} to "
        f"{made['goal']['high']:.4f}; reached {reached:.4f}, {'inside' if is_inside else 'OUTSIDE'}\n"
        f"the weights at hand reach {now:.4f}: {now - reached:+.4f}, where seeds differ by {made['seeds']:.4f}; "
        f"the best run of the search is {_best_run_text(made)}"
    )
    return 0 if is_inside else 1


def _write(proxies: Proxies) -> None:
    write_proxies(proxies, proxies.all())
    write_list(proxies.settings.output, [proxy.rung for proxy in proxies.all()])


def _done(proxies: Proxies) -> dict[str, Array]:
    """Losses of the finished runs by name."""
    found = {proxy.name: losses_of(proxy, proxies.judged) for proxy in proxies.all()}
    return {name: losses for name, losses in found.items() if losses is not None}


def _answer(proxies: Proxies, done: dict[str, Array]) -> Answer:
    if not done:
        raise MixtureError("no run is finished; run `altiplano mixture run` first")
    weights = np.array([proxy.weights for proxy in proxies.all() if proxy.name in done])
    losses = np.array(list(done.values()))
    return answer(weights, losses, proxies.shares, proxies.most, proxies.settings.seed)


def _noise(proxies: Proxies, done: dict[str, Array]) -> float:
    """Standard deviation of the goal between runs with other seeds.

    Raises:
        MixtureError: fewer than two of them are finished.
    """
    goals = [float(done[proxy.name] @ proxies.shares) for proxy in proxies.given if proxy.name in done]
    if len(goals) < 2:
        raise MixtureError("the runs on the weights at hand are not finished: they show how much of a loss is chance")
    return float(np.std(goals, ddof=1))


def _given_goal(proxies: Proxies, done: dict[str, Array]) -> float:
    return float(np.mean([done[proxy.name] @ proxies.shares for proxy in proxies.given if proxy.name in done]))


def _goal_text(proxies: Proxies, losses: Array | None) -> str:
    return "" if losses is None else f"{float(losses @ proxies.shares):.4f}"


def _best_run_text(made: dict[str, Any]) -> str:
    best = made["best_run"]
    weights = ", ".join(f"{weight:.0%} {name}" for name, weight in best["weights"].items())
    return f"{best['name']}, {best['goal']:.4f}, with {weights}"


def _json(proxies: Proxies, found: Answer, done: dict[str, Array], noise: float) -> dict[str, Any]:
    goals = {name: float(losses @ proxies.shares) for name, losses in done.items()}
    best = min((proxy for proxy in proxies.all() if proxy.name in done), key=lambda proxy: goals[proxy.name])
    rows = zip(
        proxies.sources, proxies.given[0].weights, found.weights, found.low, found.high, proxies.most, strict=True
    )
    return {
        "made": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "runs": len(done),
        "best_run": {
            "name": best.name,
            "goal": goals[best.name],
            "weights": dict(zip(proxies.sources, map(float, best.weights), strict=True)),
        },
        "weights": {
            name: dict(zip(("now", "best", "low", "high", "most"), map(float, values), strict=True))
            for name, *values in rows
        },
        "goal": {
            "shares": dict(zip(proxies.judged, map(float, proxies.shares), strict=True)),
            "predicted": found.loss,
            "low": found.loss_low,
            "high": found.loss_high,
        },
        "by_source": dict(zip(proxies.judged, map(float, found.by_source), strict=True)),
        "left_out": {"error": found.error, "explained": found.explained, "rank": found.rank},
        "points": [
            {"reached": reached, "predicted": float(predicted)}
            for reached, predicted in zip(goals.values(), found.left_out, strict=True)
        ],
        "seeds": noise,
        "checked": None,
    }


if __name__ == "__main__":
    sys.exit(main())
