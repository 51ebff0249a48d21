"""What a run of data preparation will take: `altiplano data plan --config CONFIG --nodes N --cores C`.

Some shards of the input, and a quarter of them, go through every stage on this machine. Processor time, output and
files of a stage grow linearly with the input, so that the two sizes give what a stage takes once and what it takes for
each byte. The rest is arithmetic: the input's size, and how many processes the stage can use.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.compile_kernels import GROUPS, compile_kernels
from data_prep.config import DataConfig
from data_prep.run.directory import RunDirectory
from data_prep.run.inputs import find_inputs
from data_prep.run.manifest import Shard, freeze_manifest, load_manifest
from data_prep.stages import STAGES, stages_of_run
from foundation.atomic_files import write_json
from foundation.configuration import load_config
from foundation.progress import Progress, format_seconds, summary_table

SAMPLE_BYTES = 64_000_000
FEWER = 4
"""The smaller sample has one of so many shards of the larger one."""
SIGNIFICANT_SHARDS = 8
"""Shards below which a sample says little, because what a stage takes once outweighs them."""
MANY_FILES = 1_000_000
"""Files at which listing and deleting a folder takes minutes on common parallel file systems."""
_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class Usage:
    """What a stage took on this machine.

    Attributes:
        processor_seconds: of its processes.
        memory: most bytes that one process held.
        kept: bytes of its output; most: bytes on the disk while it ran, beyond those of earlier stages.
        files: that it left.
    """

    processor_seconds: float
    memory: int
    kept: int
    most: int
    files: int


@dataclass(frozen=True)
class Forecast:
    """What a stage will take.

    Attributes:
        processes: that can work on it at a time.
        seconds: from its start to its end.
        memory: bytes of a process; kept, most, files: see `Usage`.
    """

    stage: str
    processes: int
    processor_seconds: float
    seconds: float
    memory: int
    kept: int
    most: int
    files: int


def _size_and_files(root: Path) -> tuple[int, int]:
    size, files = 0, 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                size += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # a partial file that has got its name
                continue
            files += 1
    return size, files


SHUFFLE = "shuffle"
"""The second part of the stage tokenize, which is one process for each source."""


def parts_of_run() -> dict[str, list[str]]:
    """Arguments by what is measured: each stage of a run, and the two parts of tokenize."""
    parts: dict[str, list[str]] = {}
    for stage in stages_of_run():
        if stage == "tokenize":
            parts |= {stage: [stage, "--share", "0/1"], SHUFFLE: [stage]}
        else:
            parts[stage] = [stage]
    return parts


def run_stage(stage: Sequence[str], config: Path, root: Path) -> Usage:
    """Run a stage, with its arguments, in processes of its own.

    Raises:
        ValueError: it failed; with what it said.
    """
    before, files_before = _size_and_files(root)
    most = before
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(_LOOK_EVERY_SECONDS):
            most = max(most, _size_and_files(root)[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    command = [sys.executable, "-m", "data_prep", *stage, "--config", str(config)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise ValueError(f"stage {stage[0]} failed on the sample: {lines[-1] if lines else process.returncode}")
    after, files = _size_and_files(root)
    memory = usage.ru_maxrss * 1024
    seconds = usage.ru_utime + usage.ru_stime
    return Usage(seconds, memory, after - before, max(most, after) - before, files - files_before)


def measure(config: DataConfig, shards: Sequence[Shard], frozen: RunDirectory, folder: Path) -> dict[str, Usage]:
    """Run all stages on some shards of a frozen input, one process at a time."""
    root = folder / f"{len(shards)}-shards"
    settings = {**config.model_dump(mode="json", exclude_defaults=True), "output": str(root), "workers": 1}
    path = folder / f"{len(shards)}-shards.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = RunDirectory(root)
    manifest = json.loads(frozen.manifest.read_text(encoding="utf-8"))
    names = {shard.name for shard in shards}
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["name"] in names]
    root.mkdir()
    write_json(run.manifest, manifest)
    run.commits.mkdir()
    run.manifest_stamps.write_bytes(frozen.manifest_stamps.read_bytes())
    parts = parts_of_run()
    used = {}
    with Progress(f"{len(shards)} shards", len(parts), "stages") as progress:
        for name, stage in parts.items():
            used[name] = run_stage(stage, path, root)
            progress.advance()
    return used


def sample_shards(shards: Sequence[Shard], count: int) -> list[Shard]:
    """Choose shards at equal distances, of each source in proportion and at least one."""
    by_source: dict[str, list[Shard]] = {}
    for shard in shards:
        by_source.setdefault(shard.source, []).append(shard)
    chosen = []
    for own in by_source.values():
        wanted = min(len(own), max(1, round(count * len(own) / len(shards))))
        chosen += [own[k * len(own) // wanted] for k in range(wanted)]
    return chosen


def forecast(
    few: Mapping[str, Usage],
    many: Mapping[str, Usage],
    sizes: tuple[int, int],
    total: int,
    shards: int,
    processes: int,
    sample_bytes: int | None,
    sources: Sequence[int],
) -> list[Forecast]:
    """Extend what two samples took to the whole input.

    Args:
        few, many: usage by stage of the smaller and the larger sample.
        sizes: raw bytes of the two.
        total: raw bytes of the input.
        shards: of the input.
        processes: of all machines.
        sample_bytes: of the text that a tokenizer is trained on; None: none is trained.
        sources: raw bytes of each.
    """
    rows = []
    for stage, less in few.items():
        more = many[stage]
        usable = usable_processes(stage, processes, shards, len(sources))

        def extended(small: float, large: float) -> float:
            return large + (large - small) / (sizes[1] - sizes[0]) * max(0, total - sizes[1])

        # Seconds are noisy, and more input takes no less; the shuffle removes files, and keeps less than nothing.
        work = extended(min(less.processor_seconds, more.processor_seconds), more.processor_seconds)
        if stage == "train-tokenizer" and sample_bytes is not None:  # merges are learnt from so much and no more
            slope = max(0.0, (more.processor_seconds - less.processor_seconds) / (sizes[1] - sizes[0]))
            work = more.processor_seconds + slope * max(0, min(total, sample_bytes) - sizes[1])
        if stage == SHUFFLE:
            seconds = work * max(sources) / sum(sources)
        else:
            rounds = math.ceil(shards / usable) if usable > 1 else 1
            seconds = max(work / usable, rounds * work / shards) if usable > 1 else work
        rows.append(
            Forecast(
                stage,
                usable,
                work,
                seconds,
                max(less.memory, more.memory),
                round(extended(less.kept, more.kept)),
                round(extended(less.most, more.most)),
                round(extended(less.files, more.files)),
            )
        )
    return rows


def usable_processes(stage: str, processes: int, shards: int, sources: int) -> int:
    """How many of some processes a part of a run can use."""
    if stage == SHUFFLE:
        return min(processes, sources)
    return min(processes, shards) if STAGES[stage].can_share else 1


def plan(config: DataConfig, nodes: int, cores: int, sample_bytes: int, scratch: Path | None) -> dict[str, Any]:
    """Forecast a run.

    Returns:
        JSON: the input's `bytes` and `shards`, the sample's, and `stages`.

    Raises:
        ValueError: there is no input, or a stage fails on the sample.
    """
    sources = [find_inputs(source, config.seed) for source in config.sources]
    total = sum(source.raw_bytes for source in sources)
    if not total:
        raise ValueError("no source has a single readable file; `altiplano data freeze` says what is missing")
    compile_kernels(tuple(GROUPS))  # once on a machine, and not in what the sample takes
    share = min(1.0, sample_bytes / total)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="data-plan-") as temporary:
        folder = Path(temporary)
        sampled = []
        for source, found in zip(config.sources, sources, strict=True):
            largest = max((file.size for file in found.files), default=0)
            limit = max(largest, math.ceil(share * found.raw_bytes)) if share < 1 else source.maximum_bytes
            sampled.append(source.model_copy(update={"maximum_bytes": limit}))
        config = config.model_copy(update={"sources": tuple(sampled)})
        frozen = RunDirectory(folder / "frozen")
        started = time.monotonic()
        manifest = freeze_manifest(config, frozen)
        frozen_bytes = sum(source.raw_bytes for source in manifest.sources)
        freeze_seconds = (time.monotonic() - started) / max(frozen_bytes, 1) * total
        wanted = max(2, math.ceil(min(sample_bytes, frozen_bytes) / config.shard_bytes))
        many_shards = sample_shards(load_manifest(frozen).shards, wanted)
        few_shards = sample_shards(many_shards, max(1, len(many_shards) // FEWER))
        if len(few_shards) == len(many_shards):
            raise ValueError(
                f"the sample has {len(many_shards)} shards, and each source needs two: lower shard_bytes "
                f"(now {config.shard_bytes:,}), or raise --sample"
            )
        few = measure(config, few_shards, frozen, folder)
        many = measure(config, many_shards, frozen, folder)
    sizes = sum(shard.raw_bytes for shard in few_shards), sum(shard.raw_bytes for shard in many_shards)
    shards = max(len(many_shards), round(total / config.shard_bytes))
    training = None if config.tokenizer.path is not None else config.tokenizer.sample_bytes
    of_sources = [source.raw_bytes for source in sources]
    rows = forecast(few, many, sizes, total, shards, nodes * cores, training, of_sources)
    return {
        "bytes": total,
        "shards": shards,
        "sample": {"bytes": sizes[1], "shards": len(many_shards)},
        "nodes": nodes,
        "cores": cores,
        "freeze_seconds": freeze_seconds,
        "stages": [asdict(row) for row in rows],
    }


def advice(found: Mapping[str, Any], memory: int | None, free: int) -> list[str]:
    """What to change before submitting, each in a line.

    Args:
        memory: bytes of a node; None: not known.
        free: bytes left where the output will be.
    """
    lines = []
    stages = found["stages"]
    widest = max(stages, key=lambda row: row["memory"])
    needed = widest["memory"] * found["cores"]
    if memory is not None and needed > memory:
        lines.append(
            f"{widest['stage']} needs {_short(needed / 1e9)} GB on a node with {found['cores']} processes, which has "
            f"{_short(memory / 1e9)} GB: start at most {memory // widest['memory']} there (`workers`)"
        )
    processes = found["nodes"] * found["cores"]
    if found["shards"] < processes:
        lines.append(
            f"{found['shards']:,} shards are fewer than {processes:,} processes: lower shard_bytes, or use fewer nodes"
        )
    files = sum(row["files"] for row in stages)
    if files > MANY_FILES:
        lines.append(
            f"{files:,} files are many for a parallel file system: raise shard_bytes; files are in proportion to shards"
        )
    most = max(_on_disk(stages))
    if most > free:
        lines.append(f"{_short(most / 1e9)} GB of disk are needed; {_short(free / 1e9)} GB are free for the output")
    if found["sample"]["shards"] < SIGNIFICANT_SHARDS:
        lines.append(f"the sample has only {found['sample']['shards']} shards: raise --sample for a better estimate")
    return lines


def _on_disk(stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Most bytes on the disk during each stage, with what earlier ones keep."""
    before, found = 0, []
    for row in stages:
        found.append(before + row["most"])
        before += row["kept"]
    return found


EXAMPLES = """examples:
  altiplano data plan --config corpus.yaml
      on one machine with as many processes as it has cores
  altiplano data plan --config corpus.yaml --nodes 100 --cores 64 --memory 256
      on a cluster, before anything is submitted; then slurm/data_prep.sbatch
  altiplano data plan --config corpus.yaml --nodes 100 --cores 64 shard_bytes=1000000000
      with another setting"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data plan",
        description="Time, memory, disk and files of each stage of a run, from a sample that goes through all of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the run, see configs/data/")
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="processes on each (default: its cores)")
    parser.add_argument("--memory", type=float, help="GB of memory of a machine; says where it does not suffice")
    parser.add_argument(
        "--sample", type=float, default=SAMPLE_BYTES / 1e6, metavar="MB", help="raw input to run here (default 64)"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for the sample's outputs (default: that of temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name, such as shard_bytes=1000000000")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    parser = make_parser()
    given = parser.parse_intermixed_args(arguments)
    for name in ("nodes", "cores", "sample"):
        if getattr(given, name) <= 0:
            parser.error(f"--{name} {getattr(given, name)}: must be positive")
    try:
        config = load_config(DataConfig, given.config, given.overrides)
        found = plan(config, given.nodes, given.cores, int(given.sample * 1e6), given.scratch)
    except (ValueError, OSError) as error:
        print(f"data plan: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(found))
        return 0
    _show(found)
    place = next(parent for parent in (config.output, *config.output.absolute().parents) if parent.is_dir())
    disk = os.statvfs(place)
    memory = None if given.memory is None else int(given.memory * 1e9)
    for line in advice(found, memory, disk.f_bavail * disk.f_frsize):
        print(line)
    return 0


def _short(value: float) -> str:
    """Two digits and more where a number is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _show(found: Mapping[str, Any]) -> None:
    processes = found["nodes"] * found["cores"]
    freeze = found["freeze_seconds"]
    rows: list[tuple[object, ...]] = [("freeze", 1, _short(freeze / 3600), format_seconds(freeze), "", "", "", "")]
    for row, on_disk in zip(found["stages"], _on_disk(found["stages"]), strict=True):
        sizes = (_short(size / 1e9) for size in (row["memory"], row["kept"], on_disk))
        work = _short(row["processor_seconds"] / 3600)
        rows.append((row["stage"], row["processes"], work, format_seconds(row["seconds"]), *sizes, row["files"]))
    titles = ("stage", "processes", "core hours", "time", "GB each", "GB kept", "GB at most", "files")
    summary_table(f"{found['bytes'] / 1e9:,.3f} GB on {processes:,} processes", rows, titles)
    seconds = found["freeze_seconds"] + sum(row["seconds"] for row in found["stages"])
    core_hours = sum(row["processor_seconds"] for row in found["stages"]) / 3600
    print(
        f"in all {format_seconds(seconds)}, {core_hours:,.2f} core hours, {found['shards']:,} shards. From "
        f"{found['sample']['bytes'] / 1e6:,.1f} MB in {found['sample']['shards']} shards on this machine, idle or not; "
        "waiting for disks and for the scheduler is not in it."
    )


if __name__ == "__main__":
    sys.exit(main())
