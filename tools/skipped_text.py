"""The samples that a rollback skipped, as text: written for a person, and compared with the corpus around them.

The run itself writes token ids and measures of tokens (`pretrain/spikes/first_look.py`). This adds the text, its
statistics and its language, with the tools of data preparation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from data_prep.signals.language import LanguageIdentifier
from data_prep.signals.text_statistics import measure_string
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.configuration import load_config
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.data.loader import SampleReader, training_samples
from pretrain.spikes.first_look import (
    SPIKES_FOLDER,
    TEXT_FILE,
    Sample,
    first_look,
    samples_to_compare,
    source,
    token_measures,
    write_first_look,
)
from pretrain.spikes.ledger import LEDGER_FILE, Entry, branch_name, read_ledger, rollbacks

TEXT_MEASURES = (
    "duplicate_5_gram_character_share",
    "duplicate_10_gram_character_share",
    "top_2_gram_character_share",
    "duplicate_line_character_share",
    "alphabetic_word_share",
    "mean_word_length",
    "hash_symbols_per_word",
    "alphanumeric_share",
)
"""Columns of `data_prep.signals.text_statistics` that are compared."""


def write_skipped_texts(console: Console, run: Path, branch: str, mixture: Path | None = None) -> None:
    """Write `samples.txt` and `first_look.json` of an abandoned branch with text, and print what is remarkable.

    Args:
        run: output folder of the training run.
        branch: its name, such as `abandoned-01`; empty for that of the last rollback.
        mixture: `mixture.yaml` of the token files where they have moved; None: the path in the run's configuration.

    Raises:
        ValueError: no such branch, or the run's settings, token files or tokenizer are not there.
    """
    entry, name = _rollback(run, branch)
    reader = _reader(run, mixture)
    encoder = ReferenceEncoder(reader.mixture.tokenizer)

    def text(sample: Sample) -> str:
        return "\n".join(encoder.decode(piece) for piece in sample.pieces)

    def measure(sample: Sample) -> dict[str, float]:
        written = text(sample)
        statistics = measure_string(written)
        return {
            **token_measures(sample),
            **{name: statistics[name] for name in TEXT_MEASURES},
            "characters_per_token": len(written) / len(sample.tokens),
        }

    kinds: dict[str, Callable[[Sample], str]] = {"sources": source}
    try:
        identifier = LanguageIdentifier()
        kinds["languages"] = lambda sample: identifier.identify(text(sample))[0]
    except (ImportError, ValueError, OSError) as error:
        console.print(Text(f"languages are not compared: {error}"), soft_wrap=True)
    samples = samples_to_compare(reader, entry)
    look = first_look(samples, measure, kinds)
    folder = run / SPIKES_FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    write_first_look(folder, entry, samples, look, text)
    for sentence in look["remarkable"]:
        console.print(Text(sentence), soft_wrap=True)
    console.print(Text(f"wrote {folder / TEXT_FILE}"), soft_wrap=True)


def _rollback(run: Path, branch: str) -> tuple[Entry, str]:
    """The rollback that abandoned a branch, and the branch's name."""
    entries = rollbacks(read_ledger(run / LEDGER_FILE))
    if not entries:
        raise ValueError(f"--samples: {run / LEDGER_FILE} has no rollback, so that no samples were skipped")
    by_name = {branch_name(number): entry for number, entry in enumerate(entries, start=1)}
    name = branch or branch_name(len(entries))
    if name not in by_name:
        raise ValueError(f"--samples {branch}: no branch of this run has that name; there are {', '.join(by_name)}")
    return by_name[name], name


def _reader(run: Path, mixture: Path | None) -> SampleReader:
    resolved = run / RESOLVED_FILE
    if not resolved.is_file():
        raise ValueError(f"{resolved}: no such file; give the output folder of a training run")
    config = load_config(TrainConfig, resolved)
    return training_samples(config, mixture)
