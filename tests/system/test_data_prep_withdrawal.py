"""Documents that are taken out of a finished run: what is left of it, and what a training run on it does."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main
from data_prep.indexed_dataset.origins import Origins
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.run.commit_records import Stage
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.withdrawal import erase
from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.data.loader import training_samples
from pretrain.data.mixture import load_mixture
from tests.small_run import MODEL
from tests.system.test_data_prep_arrivals import bytes_of, prepare, texts_of
from tools import seen

pytestmark = pytest.mark.xdist_group("withdrawal")

LENGTH = 64


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml` and its finished run: plain text with copies, and conversations in packs."""
    folder = tmp_path_factory.mktemp("withdrawal")
    web = texts_of("web", 60)
    web[40] = web[7]
    web[41] = "\n".join([*web[9].split("\n")[:-1], "Another end of this one."])
    later = texts_of("later", 8)
    later[3] = web[12]
    for name, texts in {"web": web, "later": later}.items():
        rows = [{"text": text, "url": f"https://example.org/{name}/{row}"} for row, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [
        {"instruction": f"Say {text.split()[0]} {row}.", "output": text[:30]}
        for row, text in enumerate(texts_of("chat", 40))
    ]
    (folder / "chat.json").write_text(json.dumps(questions))
    sources = [
        {"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": []},
        {"name": "chat", "kind": "conversations", "form": "alpaca", "paths": [str(folder / "chat.json")], "rules": []},
    ]
    config = {
        "output": "run",
        "workers": 1,
        "shard_bytes": 8_000,
        "sources": sources,
        "withdrawn": "withdrawn.jsonl",
        "tokenizer": {"vocabulary_size": 540, "reserved_entries": 20},
        "tokens": {"heldout_share": 0.15, "template": "plain", "pack": LENGTH},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    arrival = {"name": "later", "kind": "jsonl", "paths": [str(folder / "later.jsonl")], "rules": [], "arrival": 1}
    (folder / "more.yaml").write_text(yaml.safe_dump({**config, "sources": [*sources, arrival]}))
    (folder / "first").mkdir()
    (folder / "first" / "withdrawn.jsonl").touch()
    with pytest.MonkeyPatch.context() as patch:
        assert prepare(folder / "first", folder / "data.yaml", "run", patch) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the finished run."""
    shutil.copytree(finished / "first", tmp_path / "here", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def remove(finished: Path, *documents: str) -> int:
    return main(["remove", "--config", str(finished / "data.yaml"), "--document", *documents])


def ids_of(folder: Path, prefix: str, count: int) -> list[str]:
    """Some documents of a token file."""
    path = folder / "run/tokens" / prefix
    origins = Origins(path, prefix.removesuffix(".heldout"), len(IndexedDataset(path).sequence_sizes))
    found = [origins.identity(row) for row in range(len(origins.packed))]
    return [identity for identity in found if identity is not None][3 : 3 + count]


def test_what_is_left_is_a_run_from_nothing_with_the_same_list(
    finished: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(copied)
    gone = [*ids_of(copied, "web", 2), *ids_of(copied, "chat", 1), *ids_of(copied, "web.heldout", 1)]
    for part in (gone[:1], gone[1:3], gone[3:]):
        assert remove(finished, *part) == 0
    after = bytes_of(copied)
    files = [f"tokens/{name}" for name in ("web.bin", "web.heldout.bin", "chat.bin", "mixture.yaml")]
    records = [f"commits/tokenize/{source}.json" for source in ("web", "chat")]
    assert {path for path in before if after[path] != before[path]} == {*files, *records}
    assert after.keys() - before.keys() == {f"tokens/{p}.withdrawn.json" for p in ("web", "web.heldout", "chat")}
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    listed = (copied / "withdrawn.jsonl").read_text()
    assert sorted(json.loads(line)["id"] for line in listed.splitlines()) == sorted(gone)
    (nothing / "withdrawn.jsonl").write_text(listed)
    assert prepare(nothing, finished / "data.yaml", "run", monkeypatch) == 0
    assert bytes_of(nothing) == after
    load_mixture(nothing / "run/tokens/mixture.yaml").check_checksums()


def test_their_tokens_are_overwritten_and_not_counted_and_no_others(finished: Path, copied: Path) -> None:
    end = ReferenceEncoder(copied / "run/tokenizer").end_of_document
    gone = {*ids_of(copied, "web", 3), *ids_of(copied, "chat", 2)}
    assert remove(finished, *gone) == 0
    left = set(gone)
    for source in ("web", "chat"):
        old, new = (IndexedDataset(folder / f"run/tokens/{source}") for folder in (finished / "first", copied))
        assert new.has_mask_file == (source == "chat")
        origins = Origins(new.prefix, source, len(new.sequence_sizes))
        start = 0
        for row, size in enumerate(new.sequence_sizes.tolist()):
            here = slice(start, start + size)
            is_gone = origins.identity(row) in gone
            assert (new.tokens(*_ends(here)) == (end if is_gone else old.tokens(*_ends(here)))).all()
            assert (new.loss_mask(*_ends(here)) == (False if is_gone else old.loss_mask(*_ends(here)))).all()
            left -= {origins.identity(row)}
            start += size
        whole = new.loss_mask(0, new.token_count)
        for begin in range(0, new.token_count - 40, 17):  # windows that begin and end anywhere
            assert (new.loss_mask(begin, begin + 40) == whole[begin : begin + 40]).all()
    assert not left


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop


@pytest.mark.parametrize("moment", ["new tokens are written", "the list is written", "the tokens are in place"])
def test_interrupted_it_is_continued(
    moment: str, finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the second time, when there is a list of the first."""
    (first, second), place = ids_of(copied, "web", 2), copied / "run/tokens"
    for document in (first, second):
        with monkeypatch.context() as interrupted:
            _interrupt_at(moment, interrupted)
            assert remove(finished, document) == 130
        capsys.readouterr()
        assert main(["remove", "--config", str(finished / "data.yaml")]) == 0
        assert "encoding" not in capsys.readouterr().out, "only copying is done again"
        load_mixture(place / "mixture.yaml").check_checksums()
    shutil.copytree(finished / "first", copied.parent / "at once", copy_function=shutil.copy2)
    shutil.copy(copied / "withdrawn.jsonl", copied.parent / "at once")
    monkeypatch.chdir(copied.parent / "at once")
    assert main(["remove", "--config", str(finished / "data.yaml")]) == 0
    assert bytes_of(copied) == bytes_of(copied.parent / "at once")


def test_a_list_that_a_kill_left_behind_is_not_taken_for_that_of_new_token_files(
    finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as interrupted:
        _interrupt_at("the list is written", interrupted)
        assert remove(finished, *ids_of(copied, "web", 1)) == 130
    assert (copied / "run/tokens/web.withdrawn.json").is_file()
    for path in (copied / "run/tokens/web.bin", copied / "run/commits/tokenize/web.json"):
        path.unlink()
    (copied / "withdrawn.jsonl").write_text("")
    assert main(["run", "--config", str(finished / "data.yaml")]) == 0
    assert bytes_of(copied) == bytes_of(finished / "first")


def _interrupt_at(moment: str, patch: pytest.MonkeyPatch) -> None:
    def after(act: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*given: Any, **named: Any) -> Any:
            act(*given, **named)
            raise KeyboardInterrupt

        return stopped

    if moment == "new tokens are written":
        patch.setattr(erase, "_copy_without", after(erase._copy_without))
    elif moment == "the list is written":
        patch.setattr(erase.Withdrawn, "write", after(erase.Withdrawn.write))
    else:
        amend = Stage.amend

        def last(stage: Stage, unit: str, digests: dict[Path, str | None]) -> None:
            if None not in digests.values():
                raise KeyboardInterrupt
            amend(stage, unit, digests)

        patch.setattr(Stage, "amend", last)


def test_the_copy_that_was_kept_goes_as_well_and_one_that_arrives_does_not_come_back(
    finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {row: name for name, row in _rows(copied)}
    assert remove(finished, "https://example.org/web/40", "https://example.org/web/41", shards["12"]) == 0
    printed = capsys.readouterr().out
    listed = {row["url"]: row["why"] for row in map(json.loads, (copied / "withdrawn.jsonl").read_text().splitlines())}
    page = "https://example.org/web/"
    assert listed.keys() == {f"{page}{row}" for row in (7, 9, 12, 40, 41)}
    assert listed[f"{page}7"] == f"exact copy of {shards['40']}" and listed[f"{page}9"].startswith("near copy of")
    assert "2 copies kept in their place go as well" in printed and "2 of them are in no token file" in printed
    withdrawn = IndexedDataset(copied / "run/tokens/web").withdrawn
    assert withdrawn is not None and {one.id for one in withdrawn.documents} <= {shards[r] for r in ("7", "9", "12")}
    tokens = (copied / "run/tokens/web.bin").read_bytes()
    assert main(["add", "--config", str(finished / "more.yaml")]) == 0
    assert (copied / "run/tokens/web.bin").read_bytes() == tokens
    later = json.loads((copied / "run/ledger.json").read_text())["documents"]["by_source"]["later"]
    assert (later["in"], later["dropped"]) == (8, 1), "the copy of a document that was taken out"


def _rows(folder: Path) -> list[tuple[str, str]]:
    """Id of each document of `web`, and the number at the end of its URL."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["id", "url"]) for path in sorted((folder / "run/corpus").glob("web-*"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return [(row["id"], row["url"].rpartition("/")[2]) for row in rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--document", "https://example.org/nowhere"], "no document has this id or URL"),
        (["--document", "web-00000/0000999"], "rows count from 0"),
        (["--note", "why"], "--note: has no effect"),
        (["--document", "web-00000/0000001", "withdrawn=null"], "withdrawn: missing; name the list"),
        (["withdrawn=null"], "nothing to take out"),
        (["withdrawn=elsewhere.jsonl"], "elsewhere.jsonl: no such file"),
        (["--document", "web-00000/0000001", "output=nothing"], "the run is not finished"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    arguments: list[str], message: str, finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_of(copied)
    options = [part for part in arguments if "=" not in part or "://" in part]
    settings = [part for part in arguments if part not in options]
    assert main(["remove", "--config", str(finished / "data.yaml"), *settings, *options]) == 2
    assert message in capsys.readouterr().err
    assert bytes_of(copied) == before and not (copied / "withdrawn.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("web-00000/0000001", "withdrawn.jsonl:2: "),
        ('{"name": "web-00000/0000001"}', "withdrawn.jsonl:2: 'id'"),
        ('{"id": "web-00000/1"}', "withdrawn.jsonl:2: no document web-00000/1; "),
        ('{"id": "elsewhere-00000/0000001"}', "withdrawn.jsonl:2: shard 'elsewhere-00000' is not in the manifest"),
        ('{"id": 7}', "withdrawn.jsonl:2: "),
    ],
)
def test_a_faulty_line_of_the_list_is_named(
    line: str, message: str, finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "withdrawn.jsonl").write_text(f'{{"id": "{ids_of(copied, "web", 1)[0]}"}}\n{line}\n')
    assert main(["run", "--config", str(finished / "data.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_list_is_named_before_hours_of_measuring(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "new", finished / "data.yaml", "run", monkeypatch) == 2
    assert "withdrawn.jsonl: no such file" in capsys.readouterr().err
    assert not (tmp_path / "new" / "run" / "corpus").exists()


def test_what_was_taken_out_cannot_come_back(finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gone,) = ids_of(copied, "web", 1)
    assert remove(finished, gone) == 0
    (copied / "withdrawn.jsonl").write_text("")
    assert main(["run", "--config", str(finished / "data.yaml")]) == 2
    assert f"{gone} was taken out and is not on the list `withdrawn` any more" in capsys.readouterr().err
    assert main(["run", "--config", str(finished / "data.yaml"), "--restart", "tokenize"]) == 0
    first, again = bytes_of(finished / "first"), bytes_of(copied)
    assert again == first


def test_a_training_run_goes_on_without_them_and_says_what_it_had_seen(
    finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = copied / "run/tokens"
    training = {
        "model": {**MODEL, "vocabulary_size": 540, "layers": 1, "hidden_size": 16, "maximum_positions": LENGTH},
        "data": {"mixture": str(tokens / "mixture.yaml"), "sequence_length": LENGTH},
        "objective": {"separate_documents": True},
        "batch": {"global_batch_size": 4, "micro_batch_size": 4},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 60, "warmup_steps": 1},
        "checkpoint": {"every_steps": 20, "keep_last": 9},
    }
    for name in ("whole", "train"):
        (copied / f"{name}.yaml").write_text(yaml.safe_dump({**training, "output": str(copied / name)}))
    assert "taken out" not in train(copied, "whole.yaml")
    train(copied, "train.yaml", "stop_after_step=40")
    config = load_config(TrainConfig, copied / "train.yaml")
    before = training_samples(config)
    samples, digest, gone = before.samples(np.arange(240)), before.digest(), _seen_early_and_late(before)
    assert remove(finished, gone) == 0
    capsys.readouterr()

    reader = training_samples(config)
    assert reader.digest() == digest
    touched = np.flatnonzero((reader.samples(np.arange(240)) != samples).any(1)) // 4 + 1
    assert seen.main(["--config", str(copied / "train.yaml")]) == 0  # it has not been started since
    steps = _seen(copied)[gone]["steps"]
    assert set(touched[touched <= 40].tolist()) <= set(steps) and max(steps) <= 40
    assert steps == seen.seen_documents(config, [gone])["documents"][gone]["steps"]
    assert _seen(copied)[gone]["checkpoints"] == [step for step in (20, 40) if step >= steps[0]]
    assert gone in capsys.readouterr().out

    log = train(copied, "train.yaml")
    assert "1 documents of web were taken out of its token files" in log
    losses = {name: _losses(copied / name) for name in ("whole", "train")}
    first = int(touched[touched > 40].min())
    assert [losses["train"][step] for step in range(1, first)] == [losses["whole"][step] for step in range(1, first)]
    assert losses["train"][first] != losses["whole"][first]
    assert seen.main(["--config", str(copied / "train.yaml")]) == 0
    assert (_seen(copied)[gone]["steps"], _seen(copied)[gone]["without_it_after"]) == (steps, 40)
    assert _seen(copied)[gone]["checkpoints"] == [step for step in (20, 40, 60) if step >= steps[0]]

    (tokens / "web.bin").write_bytes((finished / "first/run/tokens/web.bin").read_bytes())
    with pytest.raises(ValueError, match="not the file from which the documents in"):
        training_samples(config).digest()
    (tokens / "web.withdrawn.json").unlink()
    with pytest.raises(ValueError, match=r"web\.withdrawn\.json: is missing, but .* records it"):
        training_samples(config)


def _seen_early_and_late(reader: Any) -> str:
    """A document that some of the first 40 steps see, and some of steps 46 to 60."""
    web = reader.names.index("web")
    where = reader.locate(np.arange(240))
    early, late = (
        {window for d, window in zip(where.dataset[part], where.window[part], strict=True) if d == web}
        for part in (slice(0, 160), slice(180, 240))
    )
    origins = Origins(reader.datasets[web].prefix, "web", len(reader.datasets[web]))
    candidates = []
    for row in range(len(origins.packed)):
        start, stop = reader.datasets[web].document_range(row)
        windows = set(range(start // LENGTH, (stop - 1) // LENGTH + 1))
        between = {w for d, w in zip(where.dataset[160:180], where.window[160:180], strict=True) if d == web}
        if windows & early and windows & late and not windows & between:
            candidates.append(origins.identity(row))
    return str(random.Random(1).choice(candidates))


def _seen(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "train" / "seen.json").read_text())["documents"]
    return found


def _losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def train(folder: Path, config: str, *settings: str) -> str:
    command = [sys.executable, "-m", "pretrain", "--config", config, *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
