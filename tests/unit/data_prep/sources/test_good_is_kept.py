"""Damaged and unusual files: every good record is read, and every fault is counted once."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.content_codings import CodingError, undo_codings
from data_prep.sources.web_encodings import decode_as, decode_page


def read(path: Path, kind: str, shard_bytes: int = 10**9, maximum_bytes: int = 10**6) -> list[Document | Fault]:
    size = path.stat().st_size
    return [
        item
        for piece in reader_of(kind).divide(str(path), size, shard_bytes)
        for item in reader_of(kind).read(piece, maximum_bytes)
    ]


def urls(found: list[Document | Fault]) -> list[str]:
    return [item.url for item in found if isinstance(item, Document)]


def reasons(found: list[Document | Fault]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Fault)]


# ---------------------------------------------------------------------------------------------------------------------
# web archives


def response(
    number: int,
    body: bytes | None = None,
    length: Callable[[int], int | str] = lambda right: right,
    headers: str = "Content-Type: text/html; charset=utf-8\r\n",
) -> bytes:
    noise = random.Random(number).randbytes(150).hex()
    body = body or f"<html><body><main><p>Page {number} has words and {noise}.</p></main></body></html>".encode()
    content = b"HTTP/1.1 200 OK\r\n" + headers.encode() + b"\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.org/{number}\r\n"
    return head.encode() + f"Content-Length: {length(len(content))}\r\n\r\n".encode() + content + b"\r\n\r\n"


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".warc": lambda record: record,
    ".warc.gz": gzip.compress,
    ".warc.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
WRONG_LENGTHS: list[tuple[Callable[[int], int | str], bool]] = [
    (lambda right: right + 1, True),
    (lambda right: right - 1, True),
    (lambda right: right + 4, True),
    (lambda right: right + 40, False),
    (lambda right: right - 40, False),
    (lambda right: 100_000, False),
    (lambda right: 10**15, False),
    (lambda right: 0, False),
    (lambda right: "many", False),
    (lambda right: "", False),
]


@pytest.mark.parametrize("suffix", [*PACKERS, "one.warc.gz", "one.warc.zst"])
@pytest.mark.parametrize(("length", "is_kept"), WRONG_LENGTHS)
def test_a_wrong_length_costs_no_record_behind_it(
    tmp_path: Path, suffix: str, length: Callable[[int], int | str], is_kept: bool
) -> None:
    records = [response(n, length=length if n in (2, 5) else lambda right: right) for n in range(9)]
    path = tmp_path / f"a{suffix}"
    if suffix.startswith("one"):
        path.write_bytes(PACKERS[suffix.removeprefix("one")](b"".join(records)))
    else:
        path.write_bytes(b"".join(map(PACKERS[suffix], records)))
    found = read(path, "warc")
    assert urls(found) == [f"http://a.org/{n}" for n in range(9) if is_kept or n not in (2, 5)]
    assert reasons(found) == [] if is_kept else ["damaged_record"] * 2


@pytest.mark.parametrize("suffix", [".warc.gz", ".warc.zst"])
@pytest.mark.parametrize("seed", range(12))
def test_damage_within_a_member_costs_this_member(tmp_path: Path, suffix: str, seed: int) -> None:
    source = random.Random(seed)
    packed = [PACKERS[suffix](response(n)) for n in range(9)]
    broken = bytearray(packed[4])
    place = source.randrange(len(broken))
    broken[place : place + 30] = source.randbytes(len(broken[place : place + 30]))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join([*packed[:4], bytes(broken), *packed[5:]]))
    found = read(path, "warc")
    assert urls(found) == [f"http://a.org/{n}" for n in range(9) if n != 4] and len(reasons(found)) == 1


def test_lines_that_are_no_record_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(response(0) + b"no record\nat all\n" + response(1) + b"WARC/1.0\r\n" * 3 + response(2))
    found = read(path, "warc")
    assert urls(found) == ["http://a.org/0", "http://a.org/1", "http://a.org/2"]
    assert set(reasons(found)) == {"damaged_record"}


def test_many_bad_lengths_cost_no_more_work_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.sources.compression import _Range

    def bytes_read(records: int) -> int:
        path = tmp_path / "a.warc"
        path.write_bytes(b"".join(response(n, length=lambda right: 10**12) for n in range(records)))
        taken = 0

        def counted(self: _Range, buffer: Any) -> int:
            nonlocal taken
            count = whole(self, buffer)
            taken += count
            return count

        whole = _Range.readinto
        with monkeypatch.context() as patch:
            patch.setattr(_Range, "readinto", counted)
            assert len(read(path, "warc")) == records
        return taken

    assert bytes_read(400) <= 4.1 * bytes_read(100)


def test_records_that_are_passed_over_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    request = response(1).replace(b"Type: response", b"Type: request")
    missing = response(2).replace(b"200 OK", b"404 No")
    picture = response(3, headers="Content-Type: image/png\r\n")
    untyped = response(4, headers="Server: x\r\n")
    path.write_bytes(b"".join([response(0), request, missing, picture, picture, untyped]))
    size = path.stat().st_size
    reading = reader_of("warc").read(reader_of("warc").divide(str(path), size, 10**9)[0], 10**6)
    found: list[Document | Fault] = []
    while True:
        try:
            found.append(next(reading))
        except StopIteration as stop:
            assert stop.value == {"request record": 1, "status 4xx": 1, "content type image": 2}
            break
    assert urls(found) == ["http://a.org/0"] and reasons(found) == ["no_content_type"]


PAGE = b"<html><body><main><p>" + b"A page about potatoes and quinoa. " * 50 + b"</p></main></body></html>"


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-GZip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("zstd", zstandard.compress),
    ("identity", bytes),
    ("gzip, br", lambda content: brotli.compress(gzip.compress(content))),
    ("deflate , identity,gzip", lambda content: gzip.compress(zlib.compress(content))),
]


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
def test_content_codings(tmp_path: Path, coding: str, pack: Callable[[bytes], bytes]) -> None:
    assert undo_codings(pack(PAGE), coding, 10**6) == PAGE
    assert len(undo_codings(pack(PAGE), coding, 100)) == 101  # no more is unpacked than is asked for
    assert undo_codings(PAGE, coding, 10**6) == PAGE  # the crawler unpacked it and left the header
    headers = f"Content-Type: text/html\r\nContent-Encoding: {coding}\r\n"
    path = tmp_path / "a.warc"
    path.write_bytes(response(0, pack(PAGE), headers=headers))
    (document,) = read(path, "warc")
    assert isinstance(document, Document) and document.text.startswith("A page about potatoes")
    if coding != "identity":
        path.write_bytes(response(0, pack(PAGE)[:-20], headers=headers) + response(1))
        cut, whole = read(path, "warc")
        assert isinstance(cut, Fault) and cut.reason == "damaged_content" and isinstance(whole, Document)


def test_a_coding_that_is_not_known_is_named() -> None:
    with pytest.raises(CodingError, match="coding 'sdch' is not known") as caught:
        undo_codings(PAGE, "sdch", 1000)
    assert caught.value.reason == "unknown_coding"
    with pytest.raises(CodingError, match="9 content codings are listed"):
        undo_codings(PAGE, ", ".join(["gzip"] * 9), 1000)


def packed_by_compress(content: bytes, longest_bits: int, clear_every: int) -> bytes:
    """LZW as compress(1) has it."""
    out, held, count, codes = bytearray([0x1F, 0x9D, 0x80 | longest_bits]), 0, 0, 0
    table, bits = {bytes([i]): i for i in range(256)}, 9

    def put(code: int) -> None:
        nonlocal held, count, codes
        held, count, codes = held | code << count, count + bits, codes + 1
        while count >= 8:
            out.append(held & 255)
            held, count = held >> 8, count - 8

    def fill_group() -> None:
        nonlocal codes
        while codes % 8:
            put(0)
        codes = 0

    string, free = b"", 257
    for place in range(len(content)):
        byte = content[place : place + 1]
        if string + byte in table:
            string += byte
            continue
        put(table[string])
        if free < 1 << longest_bits:
            table[string + byte] = free
            free += 1
            if free > 1 << bits and bits < longest_bits:
                fill_group()
                bits += 1
        elif clear_every and place % clear_every == 0:
            put(256)
            fill_group()
            table, free, bits = {bytes([i]): i for i in range(256)}, 257, 9
        string = byte
    put(table[string])
    return bytes(out + bytes([held & 255] * (count > 0)))


@pytest.mark.parametrize(("longest_bits", "clear_every"), [(16, 0), (12, 0), (12, 1), (13, 7)])
def test_what_compress_wrote(longest_bits: int, clear_every: int) -> None:
    for content in (PAGE, random.Random(1).randbytes(20_000).hex().encode(), b"ab" * 30_000):
        packed = packed_by_compress(content, longest_bits, clear_every)
        assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True).stdout == content
        assert undo_codings(packed, "x-compress", 10**6) == content


# ---------------------------------------------------------------------------------------------------------------------
# encodings


@pytest.mark.parametrize(
    ("label", "content", "text"),
    [
        ("Shift_JIS", "①髙﨑".encode("cp932"), "①髙﨑"),
        ("x-sjis", b"\x82<a>", "\ufffd<a>"),
        ("euc-jp", b"\xad\xa1\xad\xb5\xc6\xfc\x8e\xb1", "①Ⅰ日ｱ"),
        ("iso-2022-jp", b"\x1b$B-!F|\x1b(Bx", "①日x"),
        ("ks_c_5601-1987", "똠방 펲시".encode("cp949"), "똠방 펲시"),
        ("gb2312", "𠀋€镕".encode("gb18030") + b"\x80", "𠀋€镕€"),
        ("big5", "碁銹裏".encode("cp950"), "碁銹裏"),
        ("big5", "嘅喺".encode("big5hkscs"), "嘅喺"),
        ("latin1", b"\x93caf\xe9\x94 \x81", "“café” \x81"),
        ("us-ascii", b"\x80", "€"),
        ("windows-1253", b"\xaa\xe1", "\ufffdα"),
        ("tis-620", b"\xa1\x85", "ก…"),
        ("koi8-u", b"\xae\xbe\xa4", "ўЎє"),
        ("iso-8859-8-i", b"\xe0", "א"),
        ("x-mac-cyrillic", b"\x80", "А"),
        ("utf-16", "é".encode("utf-16-le"), "é"),
        ("unicode-1-1-utf-8", "é".encode(), "é"),
    ],
)
def test_labels_mean_what_browsers_take_them_for(label: str, content: bytes, text: str) -> None:
    assert decode_as(content, label) == text


@pytest.mark.parametrize("label", ["iso-2022-kr", "hz-gb-2312", "x-user-defined", "no-such-thing", "base64", "a\0b"])
def test_labels_without_a_meaning(label: str) -> None:
    assert decode_as(b"abc", label) is None


SENTENCE = "El pueblo está al pie de la montaña y la gente cultiva maíz. "


def test_single_bad_bytes_become_replacement_characters() -> None:
    content = (SENTENCE * 10).encode()
    broken = content[:305] + b"\xe9" + content[305:]
    for declared in ("utf-8", "iso-8859-1", None):
        text = decode_page(broken, declared)
        assert text is not None and text.count("\ufffd") == 1 and text.count("montaña") == 10
    japanese = "この村は山のふもとにある。".encode("cp932") * 20
    assert (decode_page(japanese[:101] + b"\xff" + japanese[101:], "shift_jis") or "").count("\ufffd") <= 2
    assert decode_page(b"x" * 300 + b"\xff", "utf-8") == "x" * 300 + "\ufffd"


def test_a_page_of_bad_bytes_is_no_text() -> None:
    assert decode_page(random.Random(1).randbytes(2000), "utf-8") is None
    # many of them: it is another encoding, and not a damaged page
    assert decode_page((SENTENCE * 10).encode("latin-1"), "utf-8") == SENTENCE * 10


# ---------------------------------------------------------------------------------------------------------------------
# packed lines


PACKED_LINES = [(".gz", gzip.compress), (".zst", zstandard.compress), (".bz2", bz2.compress)]


@pytest.mark.parametrize(("suffix", "pack"), PACKED_LINES)
@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_all_lines_before_a_damage_and_one_fault(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], shard_bytes: int
) -> None:
    lines = [json.dumps({"text": random.Random(n).randbytes(40).hex(), "n": n}).encode() for n in range(3000)]
    content = b"\n".join(lines)
    packed = pack(content)
    path = tmp_path / f"a.json{suffix}"
    for whole, damaged in [
        (3000, packed + b"garbage that is none"),
        (3000, packed[:-3] if suffix != ".zst" else packed + b"\0"),
        (None, packed[: len(packed) // 2]),
    ]:
        path.write_bytes(damaged)
        found = read(path, "jsonl", shard_bytes)
        numbers = [item.metadata["n"] for item in found if isinstance(item, Document)]
        program = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2"}[suffix]
        least = subprocess.run([program, "-dc", path], capture_output=True).stdout.count(b"\n")
        assert numbers == list(range(len(numbers))) and len(numbers) >= (
            whole or max(least, 0 if suffix == ".bz2" else 1000)
        )
        assert reasons(found) == ["damaged_file"]
    path.write_bytes(packed + bytes(100) if suffix == ".gz" else packed)  # padding is no damage
    assert len(read(path, "jsonl", shard_bytes)) == 3000 and not reasons(read(path, "jsonl", shard_bytes))


def test_byte_order_marks_in_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n\xef\xbb\xbf\n')
    assert [item.text for item in read(path, "jsonl") if isinstance(item, Document)] == ["one", "two"]


# ---------------------------------------------------------------------------------------------------------------------
# Parquet

COLUMNS: dict[str, tuple[pa.Array, list[Any]]] = {
    "ns": (pa.array([5, None], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000005", None]),
    "zone": (pa.array([5 * 10**9, None], pa.timestamp("ns", tz="UTC")), ["1970-01-01 00:00:05+00:00", None]),
    "us": (pa.array([datetime.datetime(2024, 1, 2, 3), None]), ["2024-01-02 03:00:00", None]),
    "late": (pa.array([253402300800000, None], pa.timestamp("ms")), ["10000-01-01 00:00:00", None]),
    "date": (pa.array([10**7, None], pa.date32()), ["29349-01-26", None]),
    "time": (pa.array([1, None], pa.time64("ns")), ["00:00:00.000000001", None]),
    "duration": (pa.array([1, None], pa.duration("ns")), ["1 nanoseconds", None]),
    "decimal": (pa.array([decimal.Decimal("1.20"), None]), ["1.20", None]),
    "half": (pa.array([1.5, float("nan")], pa.float16()), [1.5, "nan"]),
    "binary": (pa.array([b"\xff", None]), ["\\xff", None]),
    "fixed": (pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
    "view": (pa.array(["é", None], pa.string_view()), ["é", None]),
    "category": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "bad_list": (pa.array([[b"ok\xff"], None], pa.list_(pa.binary())), [["ok\\xff"], None]),
    "times": (pa.array([[None], None], pa.list_(pa.timestamp("ns"))), [[None], None]),
    "pair": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
    "nested": (pa.array([{"a": {"b": [b"\xfe"]}}, None]), [{"a": {"b": ["\\xfe"]}}, None]),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [{"a": 1}, None]),
    "twice": (pa.array([[("a", 1), ("a", 2)], []], pa.map_(pa.string(), pa.int64())), [[["a", 1], ["a", 2]], {}]),
    "unsigned": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "nothing": (pa.nulls(2), [None, None]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_is_metadata(tmp_path: Path, name: str) -> None:
    column, values = COLUMNS[name]
    pq.write_table(pa.table({"text": ["one", "two"], name: column}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", "parquet")
    assert [item.metadata[name] for item in found if isinstance(item, Document)] == values
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())]
)
def test_strings_in_any_layout_are_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["one", None, "é"], pa.string()).cast(kind)}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", "parquet")
    assert [item.text for item in found if isinstance(item, Document)] == ["one", "é"] and reasons(found) == ["empty"]


def test_a_column_name_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["one"]), pa.array([1]), pa.array([2])], ["text", "m", "m"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: the column `m` occurs 2 times"):
        read(tmp_path / "a.parquet", "parquet")
