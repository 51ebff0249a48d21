"""However a file is divided, each of its records is read exactly once, in order."""

from __future__ import annotations

import bz2
import gzip
import itertools
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.lines import Line, read_lines
from data_prep.sources.packed_ranges import divide_packed
from data_prep.sources.ranges import FileRange, at_any_byte

SKIPPABLE_FRAME = struct.pack("<II", 0x184D2A53, 5) + b"12345"


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=len(content) % 2 == 0).compress(content)


def zstd_without_size(content: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(content) + packer.flush()


def zstd_with_skippable_frame(content: bytes) -> bytes:
    return SKIPPABLE_FRAME + zstd(content)  # as pzstd writes it


PACKERS: dict[str, list[Callable[[bytes], bytes]]] = {
    ".zst": [zstd, zstd_without_size, zstd_with_skippable_frame],
    ".gz": [gzip.compress],
    ".bz2": [bz2.compress],
}


def write(path: Path, content: bytes, pieces: int, source: random.Random) -> None:
    """Pack some pieces of the content, cut anywhere, one behind the other."""
    packers = PACKERS.get(path.suffix, [lambda piece: piece])
    cuts = sorted(source.randrange(len(content) + 1) for _ in range(pieces - 1))
    bounds = [0, *cuts, len(content)]
    parts = (content[start:end] for start, end in itertools.pairwise(bounds))
    path.write_bytes(b"".join(source.choice(packers)(part) for part in parts))


def lines_of(content: bytes) -> list[bytes]:
    return (content.removesuffix(b"\n")).split(b"\n") if content else []


def read_all(ranges: Sequence[FileRange], maximum_bytes: int = 1000) -> list[Line]:
    return [line for piece in ranges for line in read_lines(piece, maximum_bytes)]


@pytest.mark.parametrize("suffix", ["", ".zst", ".gz", ".bz2"])
def test_however_a_file_is_divided_each_line_is_read_once(tmp_path: Path, suffix: str) -> None:
    source = random.Random(suffix)
    path = tmp_path / f"a.jsonl{suffix}"
    most = 0
    for _ in range(60):
        # words that do not pack well, so that pieces are larger than their headers
        lines = [source.randbytes(source.choice((0, 1, 40))).hex().encode() for _ in range(source.randrange(1, 14))]
        content = b"\n".join(lines) + source.choice((b"", b"\n"))
        write(path, content, source.randrange(1, 7), source)
        size = path.stat().st_size
        for shard_bytes in (7, 40, 100):
            ranges = reader_of("jsonl").divide(str(path), size, shard_bytes)
            most = max(most, len(ranges))
            found = read_all(ranges)
            assert [line.content for line in found] == lines_of(content), (content, ranges)
            for piece in source.sample(ranges, len(ranges)):  # in any order, so that nothing goes on from another
                read_all([piece])
    assert most > 20


@pytest.mark.parametrize("suffix", [".zst", ".gz", ".bz2"])
def test_any_one_part_is_read_as_in_its_row(tmp_path: Path, suffix: str) -> None:
    source = random.Random(4)
    path = tmp_path / f"a.jsonl{suffix}"
    content = b"".join(source.randbytes(source.randrange(60)).hex().encode() + b"\n" for _ in range(50))
    write(path, content, 2, source)
    ranges = reader_of("jsonl").divide(str(path), path.stat().st_size, 150)
    assert sum(piece.unpacked_start > 0 for piece in ranges) >= 5
    in_a_row = [read_all([piece]) for piece in ranges]
    assert [read_all([piece]) for piece in reversed(ranges)][::-1] == in_a_row
    texts = lines_of(content)
    assert [line.content for lines in in_a_row for line in lines] == texts
    # numbers count from the start of the packed range
    first = [line for piece, lines in zip(ranges, in_a_row, strict=True) if piece.start == 0 for line in lines]
    assert [texts[line.number - 1] for line in first] == [line.content for line in first]
    assert [content[line.offset : line.offset + line.size] for line in first] == [line.content for line in first]


def test_parts_in_a_row_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(random.Random(2).randbytes(3000).hex().encode() * 3 + b"\n" * 50))
    ranges = reader_of("jsonl").divide(str(path), path.stat().st_size, 400)
    opened: list[str] = []
    monkeypatch.setattr(
        "data_prep.sources.lines.ByteStream", lambda *place: opened.append(place[0]) or ByteStream(*place)
    )
    read_all(ranges)
    assert len(ranges) > 5 and len(opened) == 1
    read_all(ranges[3:4])
    assert len(opened) == 2


def test_a_long_line_is_skipped_and_its_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" + b"x" * 3_000_000 + b"\ntwo\n")
    size = path.stat().st_size
    for ranges in ([FileRange(str(path), 0, size, size)], at_any_byte(str(path), size, 100_000)):
        assert [(line.content, line.size) for line in read_all(ranges)] == [
            (b"one", 3),
            (None, 3_000_000),
            (b"two", 3),
        ]


@pytest.mark.parametrize("suffix", [".zst", ".gz", ".bz2"])
def test_packed_pieces_are_found_and_small_ones_stay_together(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    packer = PACKERS[suffix][0]
    pieces = [packer(random.Random(number).randbytes(1000)) for number in range(40)]
    path.write_bytes(b"".join(pieces))
    shard_bytes = 5 * max(map(len, pieces))
    ranges = divide_packed(str(path), path.stat().st_size, shard_bytes, of_lines=True)
    starts = [sum(map(len, pieces[:number])) for number in range(40)]
    assert 6 <= len(ranges) <= 9 and {piece.start for piece in ranges} <= set(starts)
    assert max(piece.end - piece.start for piece in ranges) < 1.5 * shard_bytes


def test_a_short_member_of_much_text_before_another_one(tmp_path: Path) -> None:
    """Its text is longer than what is decompressed at a time, and the next member is in the same block of the file."""
    members = [gzip.compress(mark * 300_000) for mark in (b"a\n", b"b\n", b"c\n")]
    (path := tmp_path / "file.jsonl.gz").write_bytes(b"".join(members))
    ranges = divide_packed(str(path), path.stat().st_size, len(members[0]), of_lines=False)
    assert [piece.start for piece in ranges] == [0, len(members[0]), len(members[0]) + len(members[1])]


def test_a_member_inside_of_a_member_is_no_place_to_enter(tmp_path: Path) -> None:
    # a packed page that was not packed again stands there byte for byte, with a valid header and checksum
    inner = b"".join(gzip.compress(random.Random(number).randbytes(500)) for number in range(20))
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(inner, compresslevel=0) + gzip.compress(b"x"))
    ranges = divide_packed(str(path), path.stat().st_size, 1000, of_lines=False)
    assert [piece.start for piece in ranges] in ([0], [0, len(gzip.compress(inner, compresslevel=0))])


@pytest.mark.parametrize("suffix", [".zst", ".gz", ".bz2"])
def test_damage_in_one_range_costs_no_other(tmp_path: Path, suffix: str) -> None:
    packer = PACKERS[suffix][0]
    lines = [[random.Random(f"{p}/{n}").randbytes(50).hex().encode() for n in range(30)] for p in range(4)]
    pieces = [packer(b"\n".join(group) + b"\n") for group in lines]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(pieces))
    ranges = reader_of("jsonl").divide(str(path), path.stat().st_size, len(pieces[0]))
    assert len(ranges) == 4
    broken = bytearray(path.read_bytes())
    place = len(pieces[0]) + len(pieces[1]) // 2
    broken[place : place + 40] = bytes(40)
    path.write_bytes(broken)
    assert [line.content for line in read_all(ranges[3:])] == lines[3][1:]  # its first line is the second's last
    with pytest.raises(DamagedFileError, match="damaged"):
        read_all(ranges[1:2])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError, match=r"damaged (zstd|gzip|bzip2) file"):
        read_all(ranges[3:])


def test_parquet_is_divided_by_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [random.Random(number).randbytes(100).hex() for number in range(200)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=20, compression="none", use_dictionary=False)
    read, size = reader_of("parquet").read, path.stat().st_size
    for shard_bytes, expected in ((1000, 10), (9000, 5), (10**9, 1)):
        ranges = reader_of("parquet").divide(str(path), size, shard_bytes)
        found = [document for piece in ranges for document in read(piece, 10_000)]
        assert len(ranges) == expected
        assert [document.text for document in found if isinstance(document, Document)] == texts
        assert [document.url for document in found if isinstance(document, Document)] == [
            f"{path}#row={row}" for row in range(200)
        ]


def test_a_parquet_file_without_a_footer_is_one_range_and_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"x" * 1000)
    (piece,) = reader_of("parquet").divide(str(path), 1000, 100)
    (fault,) = reader_of("parquet").read(piece, 10_000)
    assert isinstance(fault, Fault) and fault.reason == "damaged_file"
