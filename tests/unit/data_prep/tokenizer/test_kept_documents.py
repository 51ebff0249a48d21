"""Kept documents: edited where edits apply, and byte for byte the input everywhere else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.run.documents import DOCUMENTS, text_bytes
from data_prep.tokenizer import kept_documents
from data_prep.tokenizer.encoding.encoded import Texts
from data_prep.tokenizer.kept_documents import KeptShard, read_kept
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

SPANS = {"books-00000/0000007": [("EMAIL", 9, 22)]}


@pytest.fixture
def books() -> list[str]:
    texts = make_texts(3, 40)
    texts[7], texts[8], texts[12] = "write to x@example.org now", "", "雪é👩"
    return texts


@pytest.mark.parametrize("batch_bytes", [1, 300, 2_000_000])
def test_batches_of_any_size_are_the_same_documents(
    books: list[str], batch_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run, _ = make_run(tmp_path, {"books": books}, ["books-00000/0000000", "books-00000/0000009"], SPANS, {})
    monkeypatch.setattr(kept_documents, "_BATCH_BYTES", batch_bytes)
    batches = list(KeptShard(run, "books-00000").batches())
    books[7] = "write to PI:EMAIL now"
    expected = [(f"books-00000/{row:07d}", text) for row, text in enumerate(books) if row not in (0, 9)]
    assert [pair for b in batches for pair in zip(b.identities, b.texts, strict=True)] == expected
    assert [(document.id, document.text) for document in read_kept(run, "books-00000")] == expected
    if batch_bytes == 1:
        assert all(int((b.texts.sizes > 0).sum()) <= 1 for b in batches)
    chosen = read_kept(run, "books-00000", lambda identity, language: identity.endswith("2"))
    assert [document.id[-2:] for document in chosen] == ["02", "12", "22", "32"]


def test_a_text_that_is_no_utf8_is_a_damaged_shard(books: list[str], tmp_path: Path) -> None:
    _, run, _ = make_run(tmp_path, {"books": books}, [], {}, {})
    path = run.corpus / "books-00000.parquet"
    table = pq.read_table(path)
    raw = table["text"].cast(pa.large_binary()).to_pylist()
    raw[20] = b"\xff\xfe"
    bad = pa.chunked_array([pa.array(raw, pa.large_binary()).view(pa.large_string())])
    pq.write_table(table.set_column(1, DOCUMENTS.field("text"), bad), path)
    with pytest.raises(ValueError, match=r"books-00000\.parquet: damaged \(.*UTF8.*\); `--restart extract`"):
        list(read_kept(run, "books-00000"))


def test_texts_are_a_sequence_of_strings(books: list[str]) -> None:
    column = pa.array(["before", *books, "behind"], pa.large_string())[1:-1]
    for texts in (Texts.of(books), Texts(*text_bytes(column))):
        assert list(texts) == books and texts[-1] == books[-1] and len(texts) == len(books)
        assert list(texts[5:13]) == books[5:13] and list(texts[13:5]) == []
        assert [bytes(one).decode() for one in texts[6:].as_bytes()] == books[6:]
        assert texts[3:].sizes.tolist() == [len(text.encode()) for text in books[3:]]
        assert Texts.of(texts) is texts and texts.index("雪é👩") == 12
        with pytest.raises(IndexError):
            texts[len(books)]
    assert list(Texts.of([])) == []
