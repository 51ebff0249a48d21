"""Tables of the benchmark page: each area has its place, and measurements are written there completely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.bench import __main__ as bench
from tools.bench import page
from tools.bench.__main__ import AREAS

DOCUMENT = Path(__file__).parents[3] / "docs" / "benchmarks.md"


def test_every_area_has_a_place_on_the_page() -> None:
    for area in AREAS:
        page.check_page(DOCUMENT, area)


def test_tables_take_the_place_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_shown", [])
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- tables of data -->\nold\n<!-- end of data -->\nafter\n")
    page.show("Speed", [("ours | theirs", 1234567, 2.5), ("a peer", "failed: no module", "")], ("what", "bytes", ""))
    for _ in range(2):  # a second run changes nothing else
        page.write_page(document, "data", "`command`, today.")
    assert document.read_text() == (
        "before\n<!-- tables of data -->\n\n`command`, today.\n\nSpeed:\n\n| what | bytes |  |\n| --- | --- | --- |\n"
        "| ours \\| theirs | 1,234,567 | 2.5 |\n| a peer | failed: no module |  |\n\n<!-- end of data -->\nafter\n"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "no such file"),
        ("nothing\n", "there must be one line '<!-- tables of data -->'"),
        ("<!-- end of data -->\n<!-- tables of data -->\n", "and, below it, one line '<!-- end of data -->'"),
    ],
)
def test_a_page_without_a_place_is_told_before_anything_runs(tmp_path: Path, text: str | None, fault: str) -> None:
    document = tmp_path / "page.md"
    if text is not None:
        document.write_text(text)
    command = [sys.executable, "-m", "tools.bench", "data", "--page", str(document)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and fault in done.stderr, done.stderr


def test_circumstances_say_when_where_and_what() -> None:
    told = page.circumstances("altiplano bench data", ("numpy", "a-package-nobody-has"))
    for part in ("`altiplano bench data`, 20", "commit ", "Python 3.", "numpy ", "a-package-nobody-has not inst"):
        assert part in told, told


def test_an_area_says_what_can_be_set() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.bench", "stages", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--memory-bytes" in done.stdout, done.stderr


@pytest.mark.slow
def test_every_area_runs_to_its_end(tmp_path: Path) -> None:
    """With little work, on the demo's text, which is prepared where it is missing."""
    for peer in ("spacy", "rensa"):
        pytest.importorskip(peer)
    text = Path("runs/demo")
    if not (text / "tokens" / "mixture.yaml").is_file():
        prepare = [sys.executable, "-m", "data_prep", "run", "--config", "configs/data/demo.yaml"]
        assert subprocess.run(prepare).returncode == 0
    document = tmp_path / "page.md"
    document.write_text("".join(f"<!-- tables of {area} -->\n<!-- end of {area} -->\n" for area in AREAS))
    command = [sys.executable, "-m", "tools.bench", "all", "--quick", "--page", str(document)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    written = document.read_text()
    for area in AREAS:
        tables = written.split(f"<!-- tables of {area} -->")[1].split(f"<!-- end of {area} -->")[0]
        assert f"`altiplano bench {area} --" in tables and "| --- |" in tables, tables


@pytest.mark.parametrize("has_gpu", [False, True])
def test_all_areas_run_whatever_one_of_them_does(
    has_gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a GPU its area is skipped, which is no failure; a failing area is named and stops no other."""
    ran = []

    def run(command: list[str], **settings: object) -> SimpleNamespace:
        ran.append(command[3])
        return SimpleNamespace(returncode=int(command[3] == "tokens" and has_gpu))

    monkeypatch.setattr(bench, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.main(["all"]) == int(has_gpu)
    told = capsys.readouterr().out
    assert ran == [name for name in AREAS if has_gpu or name != "gpu"]
    if has_gpu:
        assert "failed: tokens; see above" in told and f"{len(AREAS) - 1} of {len(AREAS)} areas" in told
    else:
        assert "skipped: there is no GPU" in told and told.rstrip().endswith("skipped for lack of a GPU: gpu")
    assert bench.main(["all", "--quick"]) == int(has_gpu)
    assert "gpu" in ran[len(AREAS) - (not has_gpu) :]
