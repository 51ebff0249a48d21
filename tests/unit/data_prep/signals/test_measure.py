"""The signals of documents in a table equal those of each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.config import FingerprintConfig
from data_prep.run.documents import text_bytes
from data_prep.signals.fingerprints import exact_hash, shingle_set
from data_prep.signals.language import LanguageIdentifier
from data_prep.signals.measure import _read_documents, measure_documents
from data_prep.signals.pii.find import find_pii
from data_prep.signals.table import SIGNALS
from data_prep.signals.text_statistics import STATISTICS, measure_string
from data_prep.signals.texts import Instruments

TEXTS = ["", "Write to jane@example.org, please.", "我爱你。\n我爱你。", "the cat " * 300, "schöne Grüße\x00 aus Köln"]


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


def table(texts: list[str]) -> pa.Table:
    return pa.table({"id": [f"s-00000/{i:07d}" for i in range(len(texts))], "text": pa.array(texts, pa.large_string())})


def test_every_column_is_that_of_its_text(identifier: LanguageIdentifier) -> None:
    fingerprints = FingerprintConfig(bands=2, rows=3)
    measured = measure_documents(table(TEXTS), fingerprints, Instruments(identifier))
    assert measured.schema == SIGNALS
    assert measured.column("exact_hash").null_count == 0
    for text, row in zip(TEXTS, measured.to_pylist(), strict=True):
        assert {name: row[name] for name in STATISTICS} == measure_string(text)
        assert (row["language"], row["language_probability"]) == identifier.identify(text)
        assert row["exact_hash"] == exact_hash(text.encode())
        assert row["shingle_count"] == len(shingle_set(text.encode(), fingerprints.shingle_words))
        assert len(row["minhash"]) == (6 if text else 0)
        assert row["pii_spans"] == [span._asdict() for span in find_pii(text)]


def test_a_slice_and_several_chunks_are_read_where_they_stand(identifier: LanguageIdentifier) -> None:
    fingerprints = FingerprintConfig()
    whole = measure_documents(table(TEXTS), fingerprints, Instruments(identifier))
    assert measure_documents(table(TEXTS).slice(1, 3), fingerprints, Instruments(identifier)).equals(whole.slice(1, 3))
    chunks = pa.concat_tables([table(TEXTS).slice(0, 2), table(TEXTS).slice(2)])
    assert chunks.column("text").num_chunks == 2
    assert measure_documents(chunks, fingerprints, Instruments(identifier)).equals(whole)
    assert len(measure_documents(table([]), fingerprints, Instruments(identifier))) == 0


def test_the_language_of_each_line(identifier: LanguageIdentifier) -> None:
    german, english = "Das ist ein Satz in deutscher Sprache.", "This is a sentence in the English language."
    texts = ["", f"{german}\n\n{english}", english + "\n"]
    measured = measure_documents(table(texts), FingerprintConfig(), Instruments(identifier, identifies_lines=True))
    lines = measured.column("line_languages").to_pylist()
    assert lines[0] == []
    assert (lines[1][0], lines[1][2], len(lines[1])) == ("de", "en", 3)
    assert lines[2] == ["en"]
    probabilities = measured.column("line_language_probabilities").to_pylist()
    assert [len(row) for row in probabilities] == [0, 3, 1]
    assert probabilities[1][0] == np.float32(identifier.identify(german + "\n")[1])
    unasked = measure_documents(table(texts), FingerprintConfig(), Instruments(identifier))
    assert unasked.column("line_languages").null_count == unasked.column("quality_probability").null_count == 3


def test_bytes_are_not_copied() -> None:
    texts = pa.array(["ab", "c", "déf"], pa.large_string())
    data, offsets = text_bytes(texts[1:])
    assert bytes(data[offsets[1] : offsets[2]]).decode() == "déf"
    assert data.ctypes.data == texts.buffers()[2].address
    assert not data.flags.writeable
    assert np.array_equal(text_bytes(pa.array([], pa.large_string()))[1], [0])


def test_a_text_that_is_null_is_refused() -> None:
    with pytest.raises(ValueError, match="column text: 1 of 2 rows are null"):
        text_bytes(pa.array(["a", None], pa.large_string()))


@pytest.mark.parametrize("content", [b"", b"PAR1 cut short"])
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s-00000.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s-00000\.parquet: not a readable document shard .*--restart extract"):
        list(_read_documents(path, ["id", "text"]))
