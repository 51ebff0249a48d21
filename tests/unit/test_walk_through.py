"""The walk-through of CONTRIBUTING.md, applied to a copy of the code and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from pretrain.families.registry import FAMILIES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^`(?P<path>[^`\n]+)`:\n\n)?^```(?P<form>python|diff|yaml)\n(?P<body>.*?)^```\n", re.M | re.S)
STATEMENTS = "1\n00:00:01,000 --> 00:00:02,500\nIt rose in the night.\n\n2\n00:00:03,000 --> 00:00:04,000\nWhy?\n"
QUESTIONS = "1\r\n00:00:01,000 --> 00:00:02,500\r\nWho goes there?\r\nIs it you?\r\n"


def apply_blocks(text: str, folder: Path) -> list[str]:
    """Write each new file, and make each change to a file, in `folder`; a diff without a path continues the last one.

    Returns:
        Paths of the files that were written.
    """
    written = []
    path = ""
    for block in BLOCK.finditer(text):
        path = block["path"] or path
        if block["form"] != "diff":
            assert not (folder / path).exists(), path
            (folder / path).write_text(block["body"])
        else:
            lines = block["body"].splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            content = (folder / path).read_text()
            assert content.count(before) == 1, f"{path} has {content.count(before)} times:\n{before}"
            (folder / path).write_text(content.replace(before, after))
        written.append(path)
    return written


def test_the_walk_through_of_contributing_works(tmp_path: Path) -> None:
    for package in ("data_prep", "foundation"):  # with __pycache__: kernels of unchanged files are not compiled again
        shutil.copytree(ROOT / package, tmp_path / package)
    for package in ("pretrain", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = apply_blocks((ROOT / "CONTRIBUTING.md").read_text(), tmp_path)
    assert [Path(path).name for path in written] == [
        "subtitles.py", "__init__.py", "questions.py", "table.py", "table.py", "statements.py", "__init__.py",
        "__init__.py", "films.yaml", "helium.py", "registry.py", "registry.py", "small.py", "test_reference.py",
        "test_reference.py",
    ]  # fmt: skip
    (tmp_path / "films").mkdir()
    for name, text in [("a.srt", STATEMENTS), ("b.srt", QUESTIONS), ("c.srt", QUESTIONS), ("d.srt", "\0"), ("e", "")]:
        (tmp_path / "films" / name).write_text(text, newline="")

    def altiplano(*arguments: str) -> str:
        command = [sys.executable, "-m", "data_prep", *arguments, "--config", "films.yaml"]
        done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "3 documents; set aside" in altiplano("run", "--until", "decide")
    documents = pq.read_table(tmp_path / "run/corpus/films-00000.parquet").to_pylist()
    assert documents[0]["text"] == "It rose in the night.\n\nWhy?\n"
    signals = pq.read_table(tmp_path / "run/signals/films-00000.parquet")
    assert signals.column("question_line_share").to_pylist() == [0.5, 1.0, 1.0]
    verdicts = pq.read_table(tmp_path / "run/verdicts/films-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [
        [], ["statements.questions"], ["statements.questions", "duplicate.exact"],
    ]  # fmt: skip
    told = altiplano("why", "films-00000/0000001")
    assert re.search(r"question_line_share +1\n", told)
    assert re.search(r"FAILS +statements\.questions +1 \(question_line_share at most 0\.5; CONTRIBUTING", told)

    judged = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"),
            *("-k", "helium or complete"),
            *("tests/unit/pretrain/families/test_reference.py", "tests/unit/pretrain/families/test_registry.py"),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    passed = f"{len(FAMILIES) + 2} passed"  # every family is complete, the new one too, and it equals transformers'
    assert judged.returncode == 0 and passed in judged.stdout, judged.stdout + judged.stderr
