"""SHA-256 beside reading and writing: the digests are those of hashlib, and damage is never passed over."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from pathlib import Path

import pytest

from foundation import checksums
from foundation.atomic_files import whole_folder
from foundation.checksums import hashed_file, verified_meanwhile


class Damaged(ValueError):
    pass


def damaged(path: Path) -> Damaged:
    return Damaged(path.name)


def recorded(folder: Path, count: int = 3) -> list[tuple[Path, str]]:
    files = [folder / f"{number}.bin" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(random.Random(number).randbytes(3_000_001))
    return [(file, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_written_and_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with early write-back after every few bytes."""
    monkeypatch.setattr(checksums, "_WRITE_BACK_BYTES", 50_000)
    pieces = [random.Random(size).randbytes(size) for size in (0, 1, 100, 70_000, 3_000_000, 5)] * 4
    with hashed_file(tmp_path / "file") as file:
        for piece in pieces:
            file.write(memoryview(piece))
        found = file.digest()
    content = (tmp_path / "file").read_bytes()
    assert content == b"".join(pieces)
    assert (found, file.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_pieces_that_are_not_hashed_yet_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is faster than the hash waits for it, so that memory is bounded."""
    hashing = threading.Semaphore(0)

    class Slow:
        hashed = 0

        def update(self, data: bytes) -> None:
            hashing.acquire()
            self.hashed += 1

        def hexdigest(self) -> str:
            return str(self.hashed)

    monkeypatch.setattr(checksums.hashlib, "sha256", Slow)
    with hashed_file(tmp_path / "file") as file:
        written = []

        def write() -> None:
            for number in range(20):
                file.write(b"a")
                written.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.5)
        before = len(written)
        hashing.release(20)
        writer.join()
        assert before == checksums._WAITING
        assert file.digest() == "20"


def test_whole_files_pass_and_a_damaged_last_one_leaves_nothing(tmp_path: Path) -> None:
    files = recorded(tmp_path)
    with whole_folder(tmp_path / "out") as out, verified_meanwhile(files, damaged):
        (out / "made").write_text("")
    assert (tmp_path / "out" / "made").exists()

    flip_last_byte(files[-1][0])
    bad = tmp_path / "bad"
    with pytest.raises(Damaged, match=r"2\.bin"), whole_folder(bad) as out, verified_meanwhile(files, damaged):
        (out / "made").write_text("")
    files[0][0].unlink()
    with pytest.raises(Damaged, match=r"0\.bin"), verified_meanwhile(files, damaged):  # the first one
        pass
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out"]


def test_an_error_that_damage_may_have_caused_gives_way_to_it(tmp_path: Path) -> None:
    files = recorded(tmp_path)
    with pytest.raises(KeyError, match="unknown"), verified_meanwhile(files, damaged):
        raise KeyError("unknown")  # nothing is damaged
    flip_last_byte(files[-1][0])
    with pytest.raises(Damaged, match=r"2\.bin") as found, verified_meanwhile(files, damaged):
        raise KeyError("unknown")
    assert isinstance(found.value.__cause__, KeyError)
    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):  # at once
        with pytest.raises(type(error)), verified_meanwhile(files, damaged):
            raise error
