"""The table of stages of data preparation, in their order."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageRow:
    """Row of the table.

    Args:
        description: what the stage does, and where it writes.
        function: `module:function`, called with the configuration and the run's folder. It is imported when the stage
            runs, because each stage imports libraries of its own.
        reads: earlier stages whose outputs it reads.
        outputs: files and folders in the run's folder, without commit records.
        can_share: several machines can divide its units among them.
        on_request: `run` leaves it out, because no other stage reads its outputs.
    """

    description: str
    function: str
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    can_share: bool = False
    on_request: bool = False

    def load(self) -> Callable[[Any, Any], None]:
        """Import and return the function of the stage."""
        module, _, name = self.function.partition(":")
        function: Callable[[Any, Any], None] = getattr(importlib.import_module(module), name)
        return function


STAGES: dict[str, StageRow] = {
    "extract": StageRow(
        "raw files to document shards (corpus/); faulty ones are set aside (quarantine/)",
        "data_prep.extract:extract",
        reads=(),
        outputs=("corpus", "quarantine"),
        can_share=True,
    ),
    "measure": StageRow(
        "every statistic, language, fingerprint and personal data of each document (signals/)",
        "data_prep.signals.measure:measure",
        reads=("extract",),
        outputs=("signals",),
        can_share=True,
    ),
    "dedup": StageRow(
        "find exact and near duplicates, each pair verified (dedup/)",
        "data_prep.dedup.stage:dedup",
        reads=("extract", "measure"),
        outputs=("dedup",),
        can_share=True,
    ),
    "decide": StageRow(
        "apply the rules to the signals: kept, or dropped for a reason (verdicts/)",
        "data_prep.rules.decide:decide",
        reads=("extract", "measure", "dedup"),
        outputs=("verdicts",),
        can_share=True,
    ),
    "train-tokenizer": StageRow(
        "train a BPE tokenizer, byte-level or SentencePiece, on a sample of kept text (tokenizer/)",
        "data_prep.tokenizer.train:train_tokenizer",
        reads=("extract", "measure", "decide"),
        outputs=("tokenizer",),
    ),
    "report-tokenizer": StageRow(
        "compare the tokenizer with one trained on each language alone; decode every document (tokenizer_report/)",
        "data_prep.tokenizer.report:report_tokenizer",
        reads=("extract", "measure", "decide", "train-tokenizer"),
        outputs=("tokenizer_report",),
        on_request=True,
    ),
    "tokenize": StageRow(
        "write Megatron token files and the mixture (tokens/)",
        "data_prep.tokenize:tokenize",
        reads=("extract", "measure", "decide", "train-tokenizer"),
        outputs=("tokens",),
        can_share=True,
    ),
    "ledger": StageRow(
        "count kept and dropped documents by reason (ledger.json, ledger.html)",
        "data_prep.ledger.counts:write_ledger",
        reads=("extract", "measure", "dedup", "decide", "tokenize"),
        outputs=("ledger.json", "ledger.html"),
    ),
}


def stages_of_run(until: str | None = None) -> tuple[str, ...]:
    """Return the names of the stages that `run` does, up to and including `until`."""
    names = tuple(name for name, row in STAGES.items() if not row.on_request)
    return names if until is None else names[: names.index(until) + 1]


def from_stage_on(stage: str) -> tuple[str, ...]:
    """Return the names of a stage and all later ones."""
    names = tuple(STAGES)
    return names[names.index(stage) :]
