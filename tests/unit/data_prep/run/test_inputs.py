from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from data_prep.config import SourceConfig
from data_prep.run.inputs import InputFile, SourceFiles, find_inputs, resolve, with_digests


def found(source: SourceConfig, seed: int = 1) -> list[str]:
    return [Path(file.path).name for file in find_inputs(source, seed).files]


def make(folder: Path, *names: str, size: int = 10) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name.ljust(size))


def test_placeholders_are_the_folders_of_the_running_python() -> None:
    assert resolve("{python_library}/x") == sysconfig.get_path("stdlib") + "/x"
    with pytest.raises(
        ValueError, match=r"unknown placeholder \{venv\}; known are \{python_library\}, \{site_packages\}"
    ):
        resolve("{venv}/lib")


def test_a_folder_is_searched_in_depth_for_files_of_the_kind(tmp_path: Path) -> None:
    make(tmp_path, "b.py", "a.py", "deep/c.py", "__pycache__/d.py", "site-packages/e.py", ".hidden/f.py", "g.png", "h")
    source = SourceConfig(name="x", kind="python", paths=(str(tmp_path),))
    assert found(source) == ["a.py", "b.py", "c.py"]
    assert find_inputs(source, 1).skipped == {".png": 1, "(none)": 1}


def test_patterns_and_files_are_taken_as_given_and_missing_ones_reported(tmp_path: Path) -> None:
    make(tmp_path, "one/a.odd", "two/b.odd", "c.txt")
    paths = (f"{tmp_path}/*/*.odd", f"{tmp_path}/c.txt", f"{tmp_path}/none/*.md", "/does/not/exist")
    files = find_inputs(SourceConfig(name="x", kind="text", paths=paths), 1)
    assert [Path(file.path).name for file in files.files] == ["c.txt", "a.odd", "b.odd"]
    assert files.missing == paths[2:]


def test_a_linked_file_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nothing")
    files = find_inputs(SourceConfig(name="x", kind="text", paths=(str(tmp_path),)), 1)
    assert [Path(file.path).name for file in files.files] == ["a.txt"]
    assert files.skipped == {"(broken link)": 1}


def test_a_file_that_must_not_be_read_is_an_error_and_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.txt", "b.txt")
    (tmp_path / "b.txt").chmod(0)
    if os.geteuid() == 0:  # who may read everything
        monkeypatch.setattr("os.access", lambda path, mode: not path.endswith("b.txt"))
    with pytest.raises(ValueError, match=r"b\.txt: this user may not read it; change its permissions.*source x"):
        find_inputs(SourceConfig(name="x", kind="text", paths=(str(tmp_path),)), 1)


def test_a_file_whose_reading_fails_is_named() -> None:
    # the memory of a process has nothing at its first address
    memory = SourceFiles("x", "text", (InputFile("/proc/self/mem", 0, ""),))
    with pytest.raises(ValueError, match=r"^/proc/self/mem: cannot be read \(Input/output error\); repair it"):
        with_digests(memory, lambda size: None)


def test_maximum_bytes_chooses_by_seed_and_not_by_place(tmp_path: Path) -> None:
    names = [f"{number:03d}.txt" for number in range(100)]
    make(tmp_path / "here", *names)
    make(tmp_path / "there", *names)

    def chosen(folder: str, seed: int) -> list[str]:
        return found(SourceConfig(name="x", kind="text", paths=(str(tmp_path / folder),), maximum_bytes=205), seed)

    assert len(chosen("here", 1)) == 20
    assert chosen("here", 1) == chosen("there", 1) == sorted(chosen("here", 1))
    assert chosen("here", 1) != chosen("here", 2)
    files = find_inputs(SourceConfig(name="x", kind="text", paths=(f"{tmp_path}/here",), maximum_bytes=205), 1)
    assert (files.left_out_files, files.left_out_bytes, files.raw_bytes) == (80, 800, 200)


def test_the_largest_files_are_taken(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}.txt" for number in range(6)))
    for number in (1, 4):
        (tmp_path / f"{number}.txt").write_text("x" * (100 + number))
    source = SourceConfig(name="x", kind="text", paths=(str(tmp_path),), largest_files=3)
    files = find_inputs(source, 1)
    assert [Path(file.path).name for file in files.files] == ["0.txt", "1.txt", "4.txt"] and files.left_out_files == 3


def test_excluded_files_folders_and_patterns_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt", "notes/c.txt", "notes/old/d.txt", "other/e.txt")
    exclude = [f"{tmp_path}/a.txt", f"{tmp_path}/*/old", f"{tmp_path}/oth*", f"{tmp_path}/nothing"]
    source = SourceConfig(name="notes", kind="text", paths=(str(tmp_path),), exclude=tuple(exclude))
    files = find_inputs(source, 1)
    assert [Path(file.path).name for file in files.files] == ["b.txt", "c.txt"]
    assert files.skipped == {"(excluded)": 3} and files.missing == (f"exclude {tmp_path}/nothing",)


def test_excluded_names_are_whole_names(tmp_path: Path) -> None:
    """`a` is neither `ab` nor `a.txt`."""
    make(tmp_path, "a/1.txt", "ab/2.txt", "a.txt")
    source = SourceConfig(name="notes", kind="text", paths=(str(tmp_path),), exclude=(f"{tmp_path}/a",))
    assert found(source) == ["a.txt", "2.txt"]
