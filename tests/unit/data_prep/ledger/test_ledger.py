from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.evidence import REMOVAL_COLUMNS
from data_prep.extract import extract
from data_prep.ledger.counts import LedgerError, build_ledger, load_ledger, write_ledger
from data_prep.ledger.samples import SAMPLES, Draw
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import VERDICTS
from data_prep.run.manifest import load_manifest
from data_prep.signals.table import SIGNALS
from foundation.atomic_files import write_text


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Five documents of two sources and one that was set aside; the later stages' files are written by hand."""
    for source in ("books", "code"):
        (tmp_path / source).mkdir()
    for name, text in (
        ("books/a", "one"),
        ("books/b", "two two"),
        ("books/c", ""),
        ("code/d", "x"),
        ("code/e", "y"),
        ("code/f", "to z@y.io"),
    ):
        (tmp_path / f"{name}.txt").write_text(text)
    run = RunDirectory(tmp_path / "run")
    extract(config_of(run), run)
    decide(run, "books-00000", [("en", []), ("de", ["gopher.minimum_words", "duplicate.near"])])
    decide(run, "code-00000", [("en", []), ("en", []), ("en", ["duplicate.exact"])])
    removals = [
        {"id": identity, "kind": kind, "duplicate_of": "code-00000/0000001", "jaccard": jaccard, "containment": 1.0}
        for identity, kind, jaccard in (("code-00000/0000002", "exact", 1.0), ("books-00000/0000001", "near", 0.9))
    ]
    (run.dedup / "removals").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(removals, schema=REMOVAL_COLUMNS), run.dedup / "removals" / "books-00000.parquet"
    )
    return run


def config_of(run: RunDirectory) -> DataConfig:
    folder = run.root.parent
    sources = [{"name": name, "kind": "text", "paths": (str(folder / name),)} for name in ("books", "code")]
    return DataConfig.model_validate({"output": run.root, "workers": 1, "sources": tuple(sources)})


def decide(run: RunDirectory, shard: str, verdicts: list[tuple[str, list[str]]], kept: bool | None = None) -> None:
    texts = pq.read_table(run.corpus / f"{shard}.parquet").to_pylist()
    rows: list[dict[str, Any]] = [
        {
            "id": f"{shard}/{row:07d}",
            "source": shard.split("-")[0],
            "language": language,
            "kept": not reasons if kept is None else kept,
            "reasons": reasons,
            "cuts": [],
        }
        for row, (language, reasons) in enumerate(verdicts)
    ]
    languages = [language for language, _ in verdicts] + ["en"] * len(texts)
    signals = [
        {
            "id": text["id"],
            "byte_count": len(text["text"]),
            "word_count": len(text["text"].split()),
            "language": language,
            "language_probability": 0.97,
            "pii_spans": [{"kind": "EMAIL", "start": 3, "end": 9}] if "@" in text["text"] else [],
        }
        for text, language in zip(texts, languages, strict=False)
    ]
    for stage, folder, table in (
        ("decide", run.verdicts, pa.Table.from_pylist(rows, schema=VERDICTS)),
        ("measure", run.signals, pa.Table.from_pylist(signals, schema=SIGNALS)),
    ):
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / f"{shard}.parquet")
        Stage(run, stage, 1, {}, "").commit(shard, [folder / f"{shard}.parquet"], {})


def write_mixture(run: RunDirectory, books: int, code: int) -> None:
    counts = "documents: {}, tokens: 70, heldout_documents: 1, heldout_tokens: 30"
    datasets = "\n".join(f"- {{name: {name}, {counts.format(n)}}}" for name, n in (("books", books), ("code", code)))
    write_text(run.tokens / "mixture.yaml", f"version: 1\ndatasets:\n{datasets}\n")


def test_every_document_is_accounted_for(run: RunDirectory) -> None:
    ledger = build_ledger(config_of(run), load_manifest(run), run)
    documents = ledger["documents"]
    assert (documents["in"], documents["kept"], documents["dropped"]) == (6, 3, 3)
    assert documents["by_reason"] == {"duplicate.exact": 1, "gopher.minimum_words": 1, "quarantine:empty": 1}
    assert documents["by_source"]["books"]["in"] == 3 and documents["by_source"]["books"]["kept"] == 1
    assert {name: account["in"] for name, account in documents["by_language"].items()} == {
        "en": 4,
        "(not read)": 1,
        "de": 1,
    }
    assert (documents["bytes_in"], documents["bytes_kept"]) == (21, 5)
    assert ledger["tokens"] is None


def test_reasons_are_counted_first_any_and_alone(run: RunDirectory) -> None:
    documents = build_ledger(config_of(run), load_manifest(run), run)["documents"]
    assert documents["by_any_reason"] == {
        "duplicate.exact": {"against": 1, "alone": 1},
        "duplicate.near": {"against": 1, "alone": 0},
        "gopher.minimum_words": {"against": 1, "alone": 0},
        "quarantine:empty": {"against": 1, "alone": 1},
    }


def test_lengths_and_probabilities_hold_every_document_that_was_read(run: RunDirectory) -> None:
    documents = build_ledger(config_of(run), load_manifest(run), run)["documents"]
    assert documents["by_bytes_from"] == {
        "1": {"kept": 2, "dropped": 0},  # x, y
        "2": {"kept": 1, "dropped": 0},  # one
        "4": {"kept": 0, "dropped": 1},  # two two
        "8": {"kept": 0, "dropped": 1},  # to z@y.io
    }
    assert documents["by_language_probability_from"] == {"0.95": {"kept": 3, "dropped": 2}}


def test_clusters_and_samples_show_text_without_personal_data(run: RunDirectory) -> None:
    ledger = build_ledger(config_of(run), load_manifest(run), run)
    (cluster,) = ledger["duplicates"]["largest"]
    assert (cluster["stays"]["id"], cluster["stays"]["excerpt"], cluster["copies"]) == ("code-00000/0000001", "y", 2)
    assert [(copy["id"], copy["excerpt"]) for copy in cluster["examples"]] == [
        ("books-00000/0000001", "two two"),  # the least similar one comes first
        ("code-00000/0000002", "to PI:EMAIL"),
    ]
    samples = ledger["samples"]
    assert list(samples) == ["duplicate.exact", "duplicate.near", "gopher.minimum_words", "quarantine:empty"]
    (few_words,) = samples["gopher.minimum_words"]
    assert few_words["excerpt"] == "two two" and "required: word_count at least 50" in few_words["why"]
    (empty,) = samples["quarantine:empty"]
    assert empty["place"].endswith("books/c.txt") and empty["why"] == "no text, or white space only"


def test_samples_are_drawn_by_lot_whatever_the_order() -> None:
    names = [f"web-00000/{row:07d}" for row in range(100)]
    draws = []
    for order in (names, names[::-1]):
        draw = Draw(1)
        for name in order:
            draw.offer("reason", name)
        draws.append(draw.chosen())
    assert draws[0] == draws[1] and len(draws[0]["reason"]) == SAMPLES
    assert draws[0]["reason"] != names[:SAMPLES]


def test_tokens_are_those_of_the_mixture(run: RunDirectory) -> None:
    write_mixture(run, books=0, code=1)
    tokens = build_ledger(config_of(run), load_manifest(run), run)["tokens"]
    assert (tokens["train"], tokens["heldout"]) == (140, 60) and tokens["by_source"]["code"]["tokens"] == 70


def test_a_document_that_is_missing_from_the_token_files_is_an_error(run: RunDirectory) -> None:
    write_mixture(run, books=0, code=7)
    with pytest.raises(LedgerError, match="source code: 2 documents were kept, 8 are in its token files"):
        build_ledger(config_of(run), load_manifest(run), run)


def test_books_that_do_not_balance_are_an_error(run: RunDirectory) -> None:
    decide(run, "code-00000", [("en", []), ("en", [])])
    with pytest.raises(LedgerError, match="shard code-00000: 3 documents were extracted, 3 measured, 2 decided"):
        build_ledger(config_of(run), load_manifest(run), run)
    decide(run, "code-00000", [("en", []), ("en", []), ("en", [])], kept=False)
    with pytest.raises(LedgerError, match="code-00000/0000000 is dropped without a reason"):
        build_ledger(config_of(run), load_manifest(run), run)
    decide(run, "code-00000", [("en", []), ("en", ["code.longest_line"]), ("en", [])], kept=True)
    with pytest.raises(
        LedgerError, match=r"code-00000/0000001 is kept with reasons against it: \['code\.longest_line'\]"
    ):
        build_ledger(config_of(run), load_manifest(run), run)


def test_the_page_holds_everything_in_itself(run: RunDirectory) -> None:
    write_mixture(run, books=0, code=1)
    write_ledger(config_of(run), run)
    ledger = load_ledger(run)
    page = (run.root / "ledger.html").read_text()
    assert "<b>6</b> documents in = <b>3</b> kept + <b>3</b> dropped" in page and "gopher.minimum_words" in page
    assert page.count("<svg") == page.count("</svg>") == 7  # five pictures, and the lengths of two sources
    assert "http" not in page.replace('"http://www.w3.org/', "")  # names, never fetched
    assert "PI:EMAIL" in page and "z@y.io" not in page
    write_ledger(config_of(run), run)
    assert load_ledger(run) == ledger and (run.root / "ledger.html").read_text() == page


def test_a_ledger_before_the_verdicts_names_the_stage_that_is_missing(run: RunDirectory) -> None:
    (run.commits / "decide" / "books-00000.json").unlink()
    with pytest.raises(ValueError, match="decide is not complete, 1 of 2 units are missing"):
        write_ledger(config_of(run), run)
