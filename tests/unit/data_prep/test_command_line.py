"""The command line as a person meets it: exit status, one line for a mistake, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.__main__ import main

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("one")
    (tmp_path / "raw" / "b.txt").write_bytes(b"caf\xe9")
    path = tmp_path / "data.yaml"
    path.write_text(
        f"output: {tmp_path}/run\nworkers: 1\nsources:\n  - name: books\n    kind: text\n    paths: [{tmp_path}/raw]\n"
    )
    return path


def test_extract_and_why(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--config", str(config), "seed=7"]) == 0
    assert "1 documents; set aside" in capsys.readouterr().out
    assert "seed: 7" in (tmp_path / "run" / "config.resolved.yaml").read_text()
    assert main(["why", "raw/b.txt", "--config", str(config), "seed=7"]) == 0
    assert "b.txt:1: set aside as invalid_utf8: byte 0xe9 at offset 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "sources.0.kin=text"], "sources.0.kin: unknown setting; did you mean 'kind'?"),
        (["extract", "sources.0.kind=txt"], "did you mean 'text'?"),
        (["extract", "sources.0.paths=['{venv}/x']"], "unknown placeholder {venv}"),
        (["extract", "sources.0.paths=[/does/not/exist]"], "no source has a single readable file"),
        (["extract", "--restart", "extrct"], "--restart extrct: no such stage; stages are extract"),
        (["ledger"], "extract is not complete"),
        (["why", "nonsense"], "run `altiplano data extract` first"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--config", str(config)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]


def test_a_stage_in_shares(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c", "d", "e"):
        (tmp_path / "raw" / f"{name}.txt").write_text(f"text of {name}")
    common = ["--config", str(config), "shard_bytes=5"]
    assert main(["extract", "--share", "0/2", *common]) == 2
    assert "run `altiplano data freeze` first" in capsys.readouterr().err
    assert main(["freeze", *common]) == 0
    assert "books" in capsys.readouterr().out and not (tmp_path / "run" / "corpus").exists()
    for rank, units in ((1, 2), (0, 3)):
        assert main(["extract", "--share", f"{rank}/2", *common]) == 0
        assert f"share {rank} of 2: its {units} of 5 units are done" in capsys.readouterr().out
    assert main(["run", "--until", "extract", *common]) == 0
    assert "extract: all 5 already done" in capsys.readouterr().out
    assert main(["extract", "--share", "0/2", "--restart", "extract", *common]) == 2
    assert "--share and --restart exclude each other" in capsys.readouterr().err


def test_a_changed_setting_is_refused_and_restart_takes_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--config", str(config)]) == 0
    assert main(["extract", "--config", str(config), "maximum_document_bytes=1000"]) == 2
    assert "maximum_document_bytes is 1000, the outputs on disk were made with 20000000" in capsys.readouterr().err
    assert main(["extract", "--config", str(config), "maximum_document_bytes=1000", "--restart", "extract"]) == 0


def test_a_tokenizer_that_cannot_serve_is_said_before_anything_is_done(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--config", str(config)]
    (tmp_path / "theirs").mkdir()
    assert main([*command, f"tokenizer.path={tmp_path / 'theirs'}"]) == 2
    assert "theirs contains neither tokenizer.json nor tokenizer.model" in capsys.readouterr().err
    (tmp_path / "theirs" / "tokenizer.model").write_bytes(b"\xff\xff")
    assert main([*command, f"tokenizer.path={tmp_path / 'theirs'}"]) == 2
    assert "tokenizer.model: not a SentencePiece model" in capsys.readouterr().err
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert main([*command, "--until", "extract", f"tokenizer.path={tmp_path / 'theirs'}"]) == 0


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "examples:" in told and "train-tokenizer" in told and "--restart dedup" in told


def test_the_module_runs_and_imports_no_torch(config: Path) -> None:
    program = (
        "import sys; from data_prep.__main__ import main; "
        f"status = main(['extract', '--config', {str(config)!r}]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
