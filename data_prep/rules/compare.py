"""`decide --what-if A B`: comparison of what two rule sets keep of the measured documents; writes nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DataConfig
from data_prep.ledger.lookup import Lookup
from data_prep.rules import Rule, rule_sets_of_source, rules_named
from data_prep.rules.decide import failures, read_signals
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest

CONFIGURED = "configured"
"""Name of the rules that each source has in the configuration."""
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 100
_SHOWN = 12


@dataclass
class Comparison:
    """Numbers of documents and bytes by group (`all`, a source, a language): in, kept by A, by B, by both."""

    documents: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    sizes: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    against: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """For A and B: number of documents that only the other one keeps, by each reason."""
    examples: tuple[list[tuple[bytes, str, str]], list[tuple[bytes, str, str]]] = field(
        default_factory=lambda: ([], [])
    )
    """For A and B: hash, id and reasons of some documents that only this one drops."""


def compare(config: DataConfig, run: RunDirectory, first: str, second: str) -> Comparison:
    """Apply both rule sets to every document. Duplicates are ignored: they depend on the rules.

    Args:
        first, second: names of rule sets joined by `+`, such as `gopher+language`, see `names_of`.

    Raises:
        ValueError: there is no such rule set, or documents are not measured.
    """
    result = Comparison()
    for shard in load_manifest(run).shards:
        rules = [_rules(config, shard.source, name) for name in (first, second)]
        signals = read_signals(run.signals / f"{shard.name}.parquet", [*rules[0], *rules[1]], ("byte_count",))
        failed = [failures(signals, asked) for asked in rules]
        kept: list[npt.NDArray[np.bool_]] = [np.logical_not(part.any(axis=1)) for part in failed]
        counted = np.stack([np.ones_like(kept[0]), *kept, kept[0] & kept[1]], axis=1).astype(np.int64)
        sizes = counted * signals["byte_count"][:, None]
        _add(result, "all", counted, sizes)
        _add(result, f"source {shard.source}", counted, sizes)
        languages = signals["language"].astype(str)
        for language in np.unique(languages).tolist():
            spoken = languages == language
            _add(result, f"language {language}", counted[spoken], sizes[spoken])
        for side in (0, 1):
            only_here = ~kept[side] & kept[1 - side]
            names = [rule.name for rule in rules[side]]
            result.against[side].update(dict(zip(names, failed[side][only_here].sum(axis=0).tolist(), strict=True)))
            found = result.examples[side]
            for row in np.flatnonzero(only_here).tolist():
                lot = hashlib.blake2b(signals["id"][row].encode(), digest_size=8).digest()
                if len(found) < _EXAMPLES or lot < found[-1][0]:
                    reasons = ", ".join(name for name, fails in zip(names, failed[side][row], strict=True) if fails)
                    found.append((lot, signals["id"][row], reasons))
                    found.sort()
                    del found[_EXAMPLES:]
    return result


def print_comparison(config: DataConfig, run: RunDirectory, first: str, second: str) -> None:
    """Print the tables of `decide --what-if`."""
    from foundation.progress import summary_table

    result = compare(config, run, first, second)
    print(f"A = {first}\nB = {second}\nDuplicates are ignored; nothing is written.")
    sources = [name for name in result.documents if not name.startswith("language ")]
    languages = sorted(
        (name for name in result.documents if name.startswith("language ")),
        key=lambda name: (-int(result.documents[name][0]), name),
    )
    for title, names in (("By source", sources), ("By language", languages[:_SHOWN])):
        rows = []
        for name in names:
            documents, sizes = result.documents[name], result.sizes[name]
            shares = (documents[1:3] / max(int(documents[0]), 1) * 100).round(1)
            rows.append(
                (
                    name.rpartition(" ")[2],
                    int(documents[0]),
                    *(f"{int(count):,} ({share} %)" for count, share in zip(documents[1:3], shares, strict=True)),
                    int(documents[1] - documents[3]),
                    int(documents[2] - documents[3]),
                    round(int(sizes[1]) / 1e6, 2),
                    round(int(sizes[2]) / 1e6, 2),
                )
            )
        summary_table(title, rows, ("", "documents", "A keeps", "B keeps", "only A", "only B", "A, MB", "B, MB"))
    if len(languages) > _SHOWN:
        print(f"and {len(languages) - _SHOWN} languages with fewer documents")
    for side, (here, there) in enumerate((("A", "B"), ("B", "A"))):
        against = [(name, count) for name, count in result.against[side].most_common() if count]
        if not against:
            print(f"{here} drops nothing that {there} keeps")
            continue
        summary_table(f"{here} drops what {there} keeps, by each reason", against, ("reason", "documents"))
        for _, identity, reasons in result.examples[side]:
            print(f"  {identity}  {reasons}\n    {_beginning(run, identity)!r}")


def print_prediction(path: Path, first: str, second: str) -> None:
    """Print what `altiplano data what-if` has predicted for both rule sets.

    Raises:
        ValueError: the file is none of its, or compares other rule sets.
    """
    from foundation.progress import summary_table

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (
                side,
                f"{corpus['tokens']:,}",
                ", ".join(f"{share:.0%} {name}" for name, share in corpus["shares"].items()),
                f"{corpus['loss']:.4f}",
                f"{corpus['low']:.4f} to {corpus['high']:.4f}",
            )
            for side, corpus in zip(("A", "B"), found["corpora"], strict=True)
        ]
        compared, run, difference, verdict = (found[name] for name in ("rule_sets", "run", "difference", "verdict"))
        title = (
            f"Held-out loss of a run of {run['parameters']:,} parameters and {run['tokens']:,} tokens, predicted "
            f"{found['made']}"
        )
        text = (
            f"B relative to A: {difference['predicted']:+.2%} ({difference['low']:+.2%} to {difference['high']:+.2%})"
        )
        probability = f"{found['probability']:.0%} interval"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no answer of `altiplano data what-if fit` ({error!r})") from None
    if compared != [first, second]:
        raise ValueError(f"{path}: compares {compared[0]} and {compared[1]}, not {first} and {second}")
    summary_table(title, rows, ("", "tokens", "mixture", "loss", probability))
    print(f"{text}: {verdict}")


def names_of(rule_sets: str, own: Sequence[str]) -> list[str]:
    """Names of rule sets that are joined by `+`, each once; `configured` stands for those of the source, `own`."""
    names = [name for part in rule_sets.split("+") for name in (own if part == CONFIGURED else (part,))]
    return list(dict.fromkeys(names))


def _rules(config: DataConfig, source: str, rule_sets: str) -> tuple[Rule, ...]:
    return rules_named(config, names_of(rule_sets, rule_sets_of_source(config, source)))


def _add(result: Comparison, name: str, counted: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> None:
    for totals, part in ((result.documents, counted), (result.sizes, sizes)):
        totals[name] = totals.get(name, np.zeros(4, dtype=np.int64)) + part.sum(axis=0)


def _beginning(run: RunDirectory, identity: str) -> str:
    text: str = Lookup(run).document(identity)["text"]
    return text[:_EXAMPLE_CHARACTERS]
