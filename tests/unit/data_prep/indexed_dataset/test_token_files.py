"""Our `.bin/.idx` pair against megatron-core's own reader and builder, and against damage."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from data_prep.indexed_dataset import reader
from data_prep.indexed_dataset.format import HEADER_BYTES, TokenFileError, bin_path, idx_path, token_dtype
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file


def random_documents(seed: int, count: int, vocabulary_size: int) -> list[npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary_size, random.integers(1, 50)) for _ in range(count)]


def write(prefix: Path, documents: list[npt.NDArray[np.int64]], vocabulary_size: int) -> IndexedDatasetWriter:
    with IndexedDatasetWriter(prefix, vocabulary_size) as writer:
        half = len(documents) // 2
        for document in documents[:half]:
            writer.add_document(document)
        rest = documents[half:]
        writer.add_documents(np.concatenate(rest), np.array([len(document) for document in rest]))
    return writer


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A small good dataset under a name with a dot in it."""
    write(tmp_path / "wiki.heldout", random_documents(0, 7, 300), 300)
    return tmp_path / "wiki.heldout"


@pytest.mark.parametrize("vocabulary_size", [300, 65_499, 65_500, 250_880])
def test_megatron_reads_what_we_write(tmp_path: Path, vocabulary_size: int) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = random_documents(1, 200, vocabulary_size)
    write(tmp_path / "ours", documents, vocabulary_size)

    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "ours"))
    assert theirs.index.dtype == indexed_dataset.DType.optimal_dtype(vocabulary_size) == token_dtype(vocabulary_size)
    assert theirs.document_indices.tolist() == list(range(201))
    assert len(theirs) == 200
    for theirs_document, document in zip(theirs[:], documents, strict=True):
        np.testing.assert_array_equal(theirs_document, document)


def test_the_bytes_are_megatrons(tmp_path: Path) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = random_documents(2, 50, 1000)
    write(tmp_path / "ours", documents, 1000)
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for document in documents:
        builder.add_document(document, [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint8])
def test_we_read_what_megatron_builds(tmp_path: Path, dtype: type[np.integer]) -> None:
    """Documents of several sequences too, as its sentence splitting makes them."""
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = random_documents(3, 40, 200)
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for document in documents:
        first = len(document) // 3
        builder.add_document(document, [first, len(document) - first])
    builder.finalize(str(tmp_path / "theirs.idx"))

    ours = IndexedDataset(tmp_path / "theirs")
    assert len(ours) == 40
    assert ours.sizes.tolist() == [len(document) for document in documents]
    assert ours.token_count == sum(map(len, documents))
    stream = np.concatenate(documents)
    np.testing.assert_array_equal(ours.tokens(0, ours.token_count), stream)
    for i, document in enumerate(documents):
        np.testing.assert_array_equal(ours.document(i), document)
        start, stop = ours.document_range(i)
        assert [ours.document_at(token) for token in (start, stop - 1)] == [i, i]


def test_counts_and_checksums(tmp_path: Path) -> None:
    writer = write(tmp_path / "d", random_documents(4, 9, 300), 300)
    assert (writer.documents, writer.tokens) == (9, IndexedDataset(tmp_path / "d").token_count)
    assert writer.digests == {path: sha256_file(path) for path in (tmp_path / "d.bin", tmp_path / "d.idx")}
    masked = IndexedDatasetWriter(tmp_path / "m", 300, with_loss_mask=True)
    with masked:
        masked.add_documents(np.arange(5), np.array([2, 3]), np.array([True, False, True, True, False]))
    assert masked.digests == {path: sha256_file(path) for path in tmp_path.glob("m.*")} and len(masked.digests) == 3


def test_chunks_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = random_documents(5, 100, 300)
    write(tmp_path / "whole", documents, 300)
    monkeypatch.setattr("data_prep.indexed_dataset.writer._CHUNK", 7)
    monkeypatch.setattr("data_prep.indexed_dataset.reader._CHUNK", 7)
    write(tmp_path / "chunked", documents, 300)
    assert (tmp_path / "whole.idx").read_bytes() == (tmp_path / "chunked.idx").read_bytes()
    IndexedDataset(tmp_path / "chunked").check_index()


def test_a_failed_write_leaves_the_old_pair(prefix: Path) -> None:
    before = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
    with pytest.raises(RuntimeError, match="stop"), IndexedDatasetWriter(prefix, 300) as writer:
        writer.add_document(np.arange(5))
        raise RuntimeError("stop")
    assert {path.name: path.read_bytes() for path in prefix.parent.iterdir()} == before


def test_an_old_index_never_stands_beside_a_new_bin(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the two renames."""
    replace = os.replace

    def crash_at_the_index(source: Path, target: Path) -> None:
        if Path(target).suffix == ".idx":
            raise OSError("crash")
        replace(source, target)

    monkeypatch.setattr("os.replace", crash_at_the_index)
    with pytest.raises(OSError, match="crash"):
        write(prefix, random_documents(9, 7, 300), 300)
    with pytest.raises(TokenFileError, match=r"wiki\.heldout\.idx: no such file"):
        IndexedDataset(prefix)


@pytest.mark.parametrize(
    ("tokens", "sizes", "message"),
    [
        ([1, 2, 300], [3], r"token id 300 .* outside the vocabulary \[0, 300\)"),
        ([1, -2], [2], r"token id -2 .* outside the vocabulary \[0, 300\)"),
        ([1, 2], [2, 0], "document 1 has 0 tokens"),
        ([1, 2], [3], "2 tokens, but the sizes add up to 3"),
    ],
)
def test_writer_refuses(tmp_path: Path, tokens: list[int], sizes: list[int], message: str) -> None:
    with pytest.raises(TokenFileError, match=message), IndexedDatasetWriter(tmp_path / "d", 300) as writer:
        writer.add_documents(np.array(tokens), np.array(sizes))
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_an_empty_dataset(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="no documents"), IndexedDatasetWriter(tmp_path / "d", 300):
        pass
    assert list(tmp_path.iterdir()) == []


def test_truncated_bin(prefix: Path) -> None:
    path = bin_path(prefix)
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    message = rf"wiki.heldout.bin: truncated: {len(data) - 3} bytes.* {len(data) // 2} tokens .* take {len(data)}"
    with pytest.raises(TokenFileError, match=message):
        IndexedDataset(prefix)
    path.write_bytes(data + b"xx")
    with pytest.raises(TokenFileError, match="too long"):
        IndexedDataset(prefix)
    path.unlink()
    with pytest.raises(TokenFileError, match=r"wiki\.heldout\.bin: no such file"):
        IndexedDataset(prefix)


@pytest.mark.parametrize("length", [0, 5, HEADER_BYTES - 1, HEADER_BYTES, 60])
def test_truncated_idx(prefix: Path, length: int) -> None:
    path = idx_path(prefix)
    path.write_bytes(path.read_bytes()[:length])
    expected = "not a Megatron index" if length == 0 else rf"wiki\.heldout\.idx: truncated: {length} bytes"
    with pytest.raises(TokenFileError, match=expected):
        IndexedDataset(prefix)


def patch(path: Path, offset: int, layout: str, value: object) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (0, "3s", b"GIF", "not a Megatron index: begins with b'GIF"),
        (9, "<Q", 2, "index version 2; only version 1"),
        (17, "<B", 9, "unknown token type 9; known are 1 uint8"),
        (17, "<B", 6, "unknown token type 6"),
        (17, "<B", 4, r"truncated: .* of type int32 take"),
        (18, "<Q", 8, "truncated: .* 8 sequences and 7 documents take"),
        (26, "<Q", 0, "0 document boundaries"),
        # one of the sizes in the middle, an offset, a document boundary
        (34 + 4 * 2, "<i", 49_000, "sequence 3 begins at byte"),
        (34 + 4 * 2, "<i", -1, "sequence 2 has -1 tokens"),
        (34 + 4 * 7 + 8 * 3, "<q", 1, "sequence 3 begins at byte 1"),
        (34 + 12 * 7 + 8 * 3, "<q", 6, "document 3 ends at sequence 4, before its beginning, 6"),
        (34 + 12 * 7, "<q", 1, r"span sequences \[1, 7\) where \[0, 7\) is right"),
    ],
)
def test_damaged_index(prefix: Path, offset: int, layout: str, value: object, message: str) -> None:
    IndexedDataset(prefix)
    patch(idx_path(prefix), offset, layout, value)
    with pytest.raises(TokenFileError, match=message):
        IndexedDataset(prefix)


def test_sizes_that_do_not_sum_to_bin(prefix: Path) -> None:
    """The last size and the .bin disagree; offsets are consistent."""
    sizes = IndexedDataset(prefix).sizes
    patch(idx_path(prefix), HEADER_BYTES + 4 * 6, "<i", int(sizes[6]) + 10)
    with pytest.raises(TokenFileError, match=rf"its {sizes.sum() + 10} tokens of type uint16 take"):
        IndexedDataset(prefix)


def test_out_of_range_is_an_error(prefix: Path) -> None:
    dataset = IndexedDataset(prefix)
    for call in (
        lambda: dataset.document(7),
        lambda: dataset.document(-1),
        lambda: dataset.tokens(0, dataset.token_count + 1),
        lambda: dataset.document_at(dataset.token_count),
    ):
        with pytest.raises(IndexError, match="there are"):
            call()


def test_many_open_datasets_keep_no_file_open(tmp_path: Path) -> None:

    with IndexedDatasetWriter(tmp_path / "a", 1000) as writer:
        writer.add_documents(np.arange(10, dtype=np.uint32), np.array([4, 6]))
    before = len(os.listdir("/proc/self/fd"))
    datasets = [IndexedDataset(tmp_path / "a") for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(dataset.document(1).tolist() == [4, 5, 6, 7, 8, 9] for dataset in datasets)


def test_an_open_dataset_takes_two_maps_however_many_documents_it_has(tmp_path: Path) -> None:
    """A process may have 65,530 maps, and every shard of a source is open while its documents are shuffled."""
    write(tmp_path / "a", random_documents(1, 20, 1000), 1000)
    before = Path("/proc/self/maps").read_text().count(str(tmp_path / "a"))
    datasets = [IndexedDataset(tmp_path / "a") for _ in range(50)]
    assert Path("/proc/self/maps").read_text().count(str(tmp_path / "a")) == before + 2 * len(datasets)


def test_too_many_maps_name_the_setting(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMaps:
        def mmap(self, *_: object) -> int | None:
            ctypes.set_errno(errno.ENOMEM)
            return ctypes.c_void_p(-1).value

    monkeypatch.setattr(reader, "_LIBC", NoMaps())
    with pytest.raises(OSError, match=r"as many files as the system allows, see `sysctl vm.max_map_count`: '\S+\.idx'"):
        IndexedDataset(prefix)


READS_TO_THE_END = """
import sys, threading, time
from pathlib import Path
from data_prep.indexed_dataset.reader import IndexedDataset
dataset = IndexedDataset(Path(sys.argv[1]))
def read():
    while True:
        dataset.tokens(0, dataset.token_count).sum()
threading.Thread(target=read, daemon=True).start()
time.sleep(0.2)
"""


def test_a_thread_may_read_while_the_process_ends(tmp_path: Path) -> None:
    """As the one that makes batches ahead; maps that are gone at exit would end the process by a signal."""
    with IndexedDatasetWriter(tmp_path / "a", 300) as writer:
        writer.add_document(np.arange(1_000_000) % 300)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", READS_TO_THE_END, str(tmp_path / "a")], cwd=Path(__file__).parents[4]
        )
        assert done.returncode == 0
