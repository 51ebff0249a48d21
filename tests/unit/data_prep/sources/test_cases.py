"""Inputs that went wrong once, from the folder of cases beside the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from data_prep.config import TokenizerConfig
from data_prep.sources import Document, Fault, reader_of
from data_prep.tokenizer.adopt import check_tokenizer
from data_prep.tokenizer.encoding.encode import ReferenceEncoder

CASES = Path(__file__).parents[5] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")


def read(name: str) -> tuple[list[Document], list[Fault]]:
    path = CASES / name
    kind = "warc" if ".warc" in name else "parquet" if name.endswith(".parquet") else "jsonl"
    reader, size = reader_of(kind), path.stat().st_size
    assert reader.accepts(str(path))
    found = [item for piece in reader.divide(str(path), size, 10**9) for item in reader.read(piece, 10**6)]
    return [item for item in found if isinstance(item, Document)], [item for item in found if isinstance(item, Fault)]


@pytest.mark.parametrize(
    ("name", "documents", "reasons"),
    [
        ("br_first_then_three.warc.gz", 4, []),
        ("x_gzip.warc.gz", 1, []),
        ("clen_too_big.warc.gz", 2, ["damaged_record"]),
        ("clen_off_+1_plain.warc", 3, []),
        ("plain_latin1.warc.gz", 1, []),
        ("no_content_type.warc.gz", 0, ["no_content_type"]),
        ("ja_sjis_nec_meta.warc.gz", 1, []),
        ("ko_euckr_cp949_hdr.warc.gz", 1, []),
        ("es_utf8_badbyte_hdr.warc.gz", 1, []),
        ("bom.jsonl", 3, []),
        ("gz_trailing_garbage.jsonl.gz", 3, ["damaged_file"]),
        ("pq_ns_timestamp.parquet", 2, []),
        ("pq_year_10000_timestamp.parquet", 2, []),
        ("pq_bad_utf8_in_list.parquet", 2, []),
        ("pq_dictionary_text.parquet", 2, []),
        ("c4_folder/c4-train.00000-of-01024.json.gz", 1, []),
        ("c4_folder/part.json", 1, []),
    ],
)
def test_what_is_good_is_kept(name: str, documents: int, reasons: list[str]) -> None:
    good, faults = read(name)
    assert (len(good), [fault.reason for fault in faults]) == (documents, reasons)


def test_what_the_web_writes_in_other_encodings() -> None:
    assert "①" in read("ja_sjis_nec_meta.warc.gz")[0][0].text
    assert "똠방각하" in read("ko_euckr_cp949_hdr.warc.gz")[0][0].text
    assert read("es_utf8_badbyte_hdr.warc.gz")[0][0].text.count("\ufffd") == 1
    assert read("plain_latin1.warc.gz")[0][0].text.strip() == "café olé"


def test_a_truncated_file_gives_what_gzip_gives() -> None:
    path = CASES / "gz_truncated.jsonl.gz"
    lines = subprocess.run(["gzip", "-dc", path], capture_output=True).stdout.count(b"\n")
    good, faults = read(path.name)
    assert (len(good), [fault.reason for fault in faults]) == (lines, ["damaged_file"])


def test_what_is_refused_is_named() -> None:
    with pytest.raises(ValueError, match=r"xz\.jsonl\.xz: files compressed by xz \(\.xz\) are not read"):
        path = CASES / "xz.jsonl.xz"
        list(reader_of("jsonl").read(reader_of("jsonl").divide(str(path), 112, 10**9)[0], 1000))
    with pytest.raises(ValueError, match=r"pq_dup_meta.parquet: the column `m` occurs 2 times"):
        read("pq_dup_meta.parquet")


@pytest.mark.parametrize("name", ["tokenizer_no_dummy_prefix", "tokenizer_saved_by_transformers_after_truncation"])
def test_saved_tokenizers_encode_the_whole_text(name: str) -> None:
    check_tokenizer(CASES / name, TokenizerConfig(path=CASES / name))
    encoder = ReferenceEncoder(CASES / name)
    text = "a few words " * 100
    assert encoder.decode(encoder.encode([text]).tokens[:-1]) == text
