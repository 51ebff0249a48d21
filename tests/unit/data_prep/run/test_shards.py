from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest

from data_prep.config import DataConfig, SourceConfig
from data_prep.run.commit_records import Stage, StaleOutputError, committed_digest, restart
from data_prep.run.directory import RunDirectory, Share
from data_prep.run.inputs import InputFile, SourceFiles
from data_prep.run.manifest import Manifest, divide, freeze_manifest, load_manifest


def files(kind: str, **sizes: int) -> SourceFiles:
    return SourceFiles("web", kind, tuple(InputFile(f"/{name}", size, "0" * 64) for name, size in sizes.items()))


def make_config(folder: Path, **settings: object) -> DataConfig:
    source = {"name": "web", "kind": "text", "paths": (str(folder / "raw"),)}
    return DataConfig.model_validate({"output": folder / "run", "sources": (source,), **settings})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(f"text of {name}\n")
    return folder


# --- dividing ---------------------------------------------------------------------------------------------------------


def test_small_files_share_a_shard_and_large_ones_stand_alone() -> None:
    shards = divide(files("text", a=40, b=50, c=30, d=500, e=1), shard_bytes=100)
    assert [[piece.path for piece in shard.ranges] for shard in shards] == [["/a", "/b"], ["/c"], ["/d"], ["/e"]]
    assert [shard.name for shard in shards] == ["web-00000", "web-00001", "web-00002", "web-00003"]


def test_a_large_jsonl_file_is_split_into_ranges_that_cover_it_once() -> None:
    shards = divide(files("jsonl", **{"a.jsonl": 10, "b.jsonl": 1001, "c.jsonl": 10}), shard_bytes=250)
    pieces = [piece for shard in shards for piece in shard.ranges if piece.path == "/b.jsonl"]
    assert pieces[0].start == 0 and pieces[-1].end == 1001 and len(pieces) == 5
    assert all(before.end == after.start for before, after in itertools.pairwise(pieces))
    assert len(shards) == 7


def test_shards_that_come_out_of_one_packed_range_are_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(hashlib.shake_256(b"b").digest(1000)))
    size = path.stat().st_size
    inputs = (InputFile("/a.jsonl", 10, ""), InputFile(str(path), size, ""), InputFile("/c.jsonl", 10, ""))
    config = make_config(tmp_path, shard_bytes=250)
    manifest = Manifest((), divide(SourceFiles("web", "jsonl", inputs), 250), {"shard_bytes": config.shard_bytes})
    assert manifest.chains == (
        ("web-00000",),
        ("web-00001", "web-00002", "web-00003", "web-00004"),
        ("web-00005",),
    )
    assert sum(shard.raw_bytes for shard in manifest.shards) == size + 20
    (told,) = manifest.obstacles()
    assert "b.jsonl.gz: 0.0 MB are compressed in one piece; one process decompresses them" in told


# --- freezing ---------------------------------------------------------------------------------------------------------


def test_the_manifest_is_frozen_a_new_file_does_not_move_the_work(tmp_path: Path, raw: Path) -> None:
    config, run = make_config(tmp_path), RunDirectory(tmp_path / "run")
    manifest = freeze_manifest(config, run)
    (raw / "aa.txt").write_text("came later")
    assert freeze_manifest(config, run) == manifest == load_manifest(run)
    assert [Path(file.path).name for file in manifest.sources[0].files] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_text("text of X\n"), "has changed since it was frozen"),
        (lambda file: file.write_text("longer than before\n"), "has 19 bytes, had 10"),
        (lambda file: file.unlink(), "does not exist any more"),
    ],
)
def test_a_changed_input_is_refused_by_name(tmp_path: Path, raw: Path, change: object, message: str) -> None:
    config, run = make_config(tmp_path), RunDirectory(tmp_path / "run")
    freeze_manifest(config, run)
    change(raw / "b.txt")  # type: ignore[operator]
    with pytest.raises(StaleOutputError, match=rf"b\.txt: the input {message}.*--restart extract"):
        freeze_manifest(config, run)


def test_the_times_of_a_fresh_file_prove_nothing(tmp_path: Path, raw: Path) -> None:
    # written twice within one tick of the clock, it would have the same size and times, so it is read again
    run = RunDirectory(tmp_path / "run")
    os.utime(raw / "a.txt", (1, 1))  # an old file by its content's time, but its inode was changed just now
    freeze_manifest(make_config(tmp_path), run)
    assert json.loads((run.commits / "manifest-stamps.json").read_text()) == {}


def test_a_touched_file_with_the_same_content_is_no_change(tmp_path: Path, raw: Path) -> None:
    config, run = make_config(tmp_path), RunDirectory(tmp_path / "run")
    freeze_manifest(config, run)
    os.utime(raw / "b.txt", (1, 1))
    freeze_manifest(config, run)


def test_a_changed_setting_is_refused_by_name_and_values(tmp_path: Path, raw: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    freeze_manifest(make_config(tmp_path), run)
    with pytest.raises(StaleOutputError, match=r"setting shard_bytes is 5, .* made with 16000000.*--restart extract"):
        freeze_manifest(make_config(tmp_path, shard_bytes=5), run)
    freeze_manifest(make_config(tmp_path, workers=7), run)  # changes no byte, so it may change


def test_an_edited_manifest_is_refused(tmp_path: Path, raw: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    freeze_manifest(make_config(tmp_path), run)
    content = json.loads(run.manifest.read_text())
    content["sources"][0]["files"].pop()
    run.manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json: edited"):
        load_manifest(run)


def test_no_input_at_all_is_an_error_that_names_the_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no source has a single readable file.*raw \(web\)"):
        freeze_manifest(make_config(tmp_path), RunDirectory(tmp_path / "run"))


def test_the_same_name_twice_is_an_error() -> None:
    source = SourceConfig(name="web", kind="text", paths=("x",))
    with pytest.raises(ValueError, match="'web' is given twice"):
        DataConfig(output=Path("x"), sources=(source, source))


# --- commit records ---------------------------------------------------------------------------------------------------


def make_stage(tmp_path: Path, **changed: object) -> Stage:
    values: dict[str, object] = {"version": 1, "settings": {"limit": {"words": 5}}, "inputs": "i" * 64, **changed}
    return Stage(RunDirectory(tmp_path), "measure", **values)  # type: ignore[arg-type]


def commit(stage: Stage, unit: str = "web-00000") -> Path:
    output = stage.run.signals / f"{unit}.parquet"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("content")
    stage.commit(unit, [output], {"documents": 3})
    return output


def test_a_unit_is_done_when_it_is_committed(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    assert not stage.is_done("web-00000")
    output = commit(stage)
    assert stage.is_done("web-00000") and make_stage(tmp_path).is_done("web-00000")
    record = stage.records()["web-00000"]
    assert record.counts == {"documents": 3} and list(record.checksums) == ["signals/web-00000.parquet"]
    assert output.exists()


@pytest.mark.parametrize(
    ("damage", "told"), [(Path.unlink, "is missing"), (lambda p: p.write_text("cut"), "has 3 bytes")]
)
def test_a_lost_or_cut_output_is_done_again_and_said(
    tmp_path: Path, damage: object, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = make_stage(tmp_path)
    damage(commit(stage))  # type: ignore[operator]
    assert not stage.is_done("web-00000")
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"limit": {"words": 6}}}, r"measure web-00000: the setting limit\.words is 6, .* made with 5"),
        ({"settings": {}}, r"limit\.words is '\(not set\)', .* made with 5"),
        ({"inputs": "j" * 64}, "measure web-00000 was made from another input"),
        ({"version": 2}, "written by version 1 of this stage, the code is version 2"),
    ],
)
def test_a_stale_record_is_refused_with_the_remedy(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    commit(make_stage(tmp_path))
    with pytest.raises(StaleOutputError, match=message + r".*--restart measure"):
        make_stage(tmp_path, **changed).is_done("web-00000")


def test_a_half_written_record_counts_as_not_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = make_stage(tmp_path)
    commit(stage)
    (stage.folder / "web-00000.json").write_text('{"unit": "web-0')
    assert not stage.is_done("web-00000")
    assert "not a commit record" in capsys.readouterr().err


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    commit(stage)
    before = stage.digest()
    assert before == committed_digest(stage.run, "measure", ["web-00000"])
    output = stage.run.signals / "web-00000.parquet"
    output.write_text("CONTENT")
    stage.commit("web-00000", [output], {"documents": 3})
    assert stage.digest() != before


def test_what_is_hashed_already_is_not_read_and_scratch_is_known_by_its_size(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    output, scratch = stage.run.signals / "web-00000.parquet", stage.run.signals / "web-00000.scratch"
    stage.run.signals.mkdir(parents=True)
    output.write_text("content")
    scratch.write_text("to be removed")
    stage.commit("web-00000", [output], {}, digests={output: "known"}, scratch=[scratch])
    record = stage.records()["web-00000"]
    assert record.checksums == {"signals/web-00000.parquet": "known"}
    assert record.outputs["signals/web-00000.scratch"] == (13, None) and stage.is_done("web-00000")
    scratch.write_text("cut off")
    assert not stage.is_done("web-00000")


def test_a_stage_that_is_not_complete_cannot_be_read(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    commit(stage)
    with pytest.raises(ValueError, match=r"measure is not complete, 1 of 2 .*web-00001.*altiplano data measure"):
        committed_digest(stage.run, "measure", ["web-00000", "web-00001"])


def test_restart_removes_this_stage_and_later_ones_only(tmp_path: Path, raw: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    freeze_manifest(make_config(tmp_path), run)
    for name, folder in (("extract", run.corpus), ("measure", run.signals), ("decide", run.verdicts)):
        folder.mkdir()
        (folder / "x").write_text("x")
        Stage(run, name, 1, {}, "").commit("x", [folder / "x"], {})
    restart(run, "measure")
    assert (run.corpus / "x").exists() and Stage(run, "extract", 1, {}, "").is_done("x") and run.manifest.exists()
    assert not run.signals.exists() and not run.verdicts.exists()
    assert not Stage(run, "decide", 1, {}, "").is_done("x")
    restart(run, "extract")
    assert not run.corpus.exists() and not run.manifest.exists()


def test_restart_of_an_unknown_stage_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--restart mesure: no such stage; stages are extract, measure"):
        restart(RunDirectory(tmp_path), "mesure")


def test_processes_with_shares_of_a_run_hold_it_together(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path, Share(0, 2)).locked(),
        RunDirectory(tmp_path, Share(1, 2)).locked(),
        pytest.raises(ValueError, match="another process is using"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(ValueError, match="is using this run"),
        RunDirectory(tmp_path, Share(0, 2)).locked(),
    ):
        pass


def test_what_a_killed_run_on_ray_left_is_removed_but_not_what_another_share_works_in(tmp_path: Path) -> None:
    (tmp_path / ".work-abc" / "completions").mkdir(parents=True)
    with RunDirectory(tmp_path, Share(0, 2)).locked():
        assert (tmp_path / ".work-abc").exists()
    with RunDirectory(tmp_path).locked():
        assert not (tmp_path / ".work-abc").exists()


@pytest.mark.parametrize("text", ["2/2", "1", "a/2", "-1/2", "1/0"])
def test_a_share_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=f"--share {text}: must be RANK/PROCESSES"):
        Share.parse(text)


def test_two_processes_cannot_work_in_one_run(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path).locked(),
        pytest.raises(ValueError, match=rf"process {os.getpid()} on \S+ is using this run"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
