"""A file is complete or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from foundation.atomic_files import (
    NoRoomError,
    OtherContentError,
    digest,
    room_for,
    sha256_file,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"abc")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_bytes() == b"abc"
    assert [found.name for found in path.parent.iterdir()] == ["file.bin"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.parquet.partial").write_text("half of it", encoding="utf-8")
    assert not list(tmp_path.glob("*.parquet"))
    with whole_file(tmp_path / "file.parquet") as temporary, open(temporary, "a", encoding="utf-8") as file:
        file.write("all")
    assert (tmp_path / "file.parquet").read_text(encoding="utf-8") == "all"


def test_a_file_that_nobody_wrote_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"file: nothing was written to file\.partial"),
        whole_file(tmp_path / "file"),
    ):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError), whole_folder(path) as temporary:
        (temporary / "part").write_text("x", encoding="utf-8")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "folder.partial" / "old").write_text("x", encoding="utf-8")
    with whole_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "part").write_text("x", encoding="utf-8")
    assert [found.name for found in tmp_path.rglob("*")] == ["folder", "inner", "part"]
    with pytest.raises(FileExistsError, match="exists already; remove it"), whole_folder(path):
        pass


def test_json_keeps_the_order_of_keys_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["b", "a"]
    assert "é" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))


def test_digests(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert digest({"b": [1, 2], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,2]}').hexdigest()
    assert digest({"a": 1}) != digest({"a": 1.5})


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (
            errno.ENOSPC,
            r"; [\d,]+ of [\d,]+ bytes are free there: make room and run the same command again: ",
        ),
        (errno.EDQUOT, r"; [\d,]+ of [\d,]+ bytes are free there, but not to this user: make room in your quota and"),
        (
            errno.EFBIG,
            r"; let this process write larger files \(`ulimit -f`\) and run the same command again: ",
        ),
    ],
)
def test_without_room_the_file_and_what_to_do_are_named(tmp_path: Path, number: int, end: str) -> None:
    path = tmp_path / "inner" / "a.bin"
    told = re.escape(f"{os.strerror(number)}: {path}, of which 3 bytes were written") + end
    for nested in (False, True):
        with pytest.raises(NoRoomError, match=f"^{told}"), whole_file(tmp_path / "b"), whole_file(path) as temporary:
            temporary.write_bytes(b"abc")
            if nested:
                with room_for(temporary):
                    raise OSError(number, os.strerror(number))
            raise OSError(number, os.strerror(number))
    assert not list((tmp_path / "inner").iterdir())
    with pytest.raises(PermissionError), room_for(path):
        raise PermissionError(errno.EACCES, "no")


def test_two_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as one:
        one.write_text("one" * 1000, encoding="utf-8")
        with whole_file(tmp_path / "a") as two:
            assert two != one
            two.write_text("two", encoding="utf-8")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "two"
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_file_was_written_too(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as temporary:
        temporary.write_text("", encoding="utf-8")
    assert (tmp_path / "a").read_bytes() == b""


def test_the_first_of_two_stays_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    digests: dict[Path, str] = {}
    for _ in range(2):
        with whole_file(path, keep_first=True, digests=digests) as temporary:
            temporary.write_bytes(b"abc")
    inode = path.stat().st_ino
    with (
        pytest.raises(OtherContentError, match="a: another process has written a file with other bytes"),
        whole_file(path, keep_first=True, digests=digests) as temporary,
    ):
        temporary.write_bytes(b"abd")
    assert (path.read_bytes(), path.stat().st_ino) == (b"abc", inode)
    assert digests == {path: hashlib.sha256(b"abc").hexdigest()}
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_a_process_killed_after_it_put_a_file_in_place_leaves_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    os.link(path, tmp_path / "a.partial")  # its private name was not removed any more
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_bytes(b"of the next process")
        raise RuntimeError
    assert path.read_bytes() == b"abc"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]
