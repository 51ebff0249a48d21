"""Command line of data preparation: `altiplano data run --config configs/data/demo.yaml`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.stages import STAGES, stages_of_run
from foundation.atomic_files import restrict_file_modes

if TYPE_CHECKING:
    from data_prep.config import DataConfig
    from data_prep.run.directory import RunDirectory
    from data_prep.run.manifest import Manifest

_FREEZE = "list the input, with sizes and digests, and divide it into shards (manifest.json)"
_ADD = "bring new sources into a finished run; only they are extracted, measured and encoded"
_REMOVE = "take documents, and the copies kept in their place, out of the token files of a finished run"
_OBSTACLES_SHOWN = 5

_EXAMPLES = {
    "run": """\
  altiplano data run --config configs/data/demo.yaml
      all stages; run it again after an interruption: only what is missing is done
  altiplano data run --config configs/data/demo.yaml workers=8 output=/data/demo
      settings on the command line, by dotted names: dedup.minimum_jaccard=0.9 sources.0.maximum_bytes=5000000
  altiplano data run --config configs/data/demo.yaml --restart dedup
      after a change of the rules: choose again which copies stay, and all that follows; nothing is measured again""",
    "add": """\
  altiplano data add --config configs/data/demo.yaml
      after new sources with `arrival: 1` were written into the configuration of a finished run: the outputs of a run
      from nothing, without extracting, measuring or encoding again what is there
  altiplano data add --config configs/data/demo.yaml --until freeze
      only list what is new; then slurm/data_prep.sbatch does the rest on many machines""",
    "remove": """\
  altiplano data remove --config configs/data/demo.yaml --document python-00000/0000012 https://example.org/page
      by id or URL: their tokens are overwritten, the loss counts none of them, all else stays where it is
  altiplano data remove --config configs/data/demo.yaml --from takedown.txt --note "letter of 3 May"
      an id or URL in each line of a file
  altiplano data remove --config configs/data/demo.yaml
      goes on after an interruption, and takes out what was written to the list by hand""",
    "extract": """\
  altiplano data extract --share 3/16 --config configs/data/demo.yaml
      the fourth of sixteen parts of a stage, for machines that share the output folder; slurm/data_prep.sbatch does
      this for every stage""",
    "decide": """\
  altiplano data decide --config configs/data/demo.yaml --what-if configured gopher+fineweb
      what other rules would keep, by source and language, with examples; measures and writes nothing""",
    "report-tokenizer": """\
  altiplano data report-tokenizer --config configs/data/demo.yaml
      tokens per word by language, beside a tokenizer trained on that language alone; every document decoded again""",
    "why": """\
  altiplano data why python-00000/0000012 --config configs/data/demo.yaml
      one document: its text, its signals, the verdict, the evidence
  altiplano data why /usr/share/doc/bash/README.gz --config configs/data/demo.yaml
      a raw file: what was set aside from it, and why""",
}

_EPILOG = f"""
examples:
{chr(10).join(_EXAMPLES.values())}

before and beside these, each with --help: altiplano data crawl, plan, evaluation-set, perplexity-bounds, train-ngrams,
train-quality, train-segmenter, what-if

All outputs are in the folder that the configuration calls `output`. The exit code is 2 for an error in the
configuration or the input, with one line that names it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = make_parser()
    # argparse accepts overrides only where the first one is; users write them on either side of --config
    options, left = parser.parse_known_args(arguments)
    for argument in left:
        if argument.startswith("-"):
            parser.error(f"unknown option {argument}")
    options.overrides = [*options.overrides, *left]
    restrict_file_modes()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worker processes end as well
    try:
        _run(options)
    except ValueError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; finished work is kept; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="altiplano data",
        description="Raw text in, Megatron token files out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    described = {"run": "run all stages", "add": _ADD, "freeze": _FREEZE}
    described |= {name: row.description for name, row in STAGES.items()}
    for name, description in described.items():
        examples = _EXAMPLES.get(name, f"  altiplano data {name} --config configs/data/demo.yaml")
        command = _add_command(commands, name, description, examples)
        _add_common(command, can_restart=name != "add")
        if name == "add":
            choices = ("freeze", *stages_of_run())
            command.add_argument("--until", choices=choices, metavar="STAGE", help="last stage to run; or `freeze`")
        if name == "run":
            command.add_argument("--until", choices=stages_of_run(), metavar="STAGE", help="last stage to run")
        if name in STAGES and STAGES[name].can_share:
            command.add_argument(
                "--share",
                metavar="RANK/PROCESSES",
                help="do only this part of the stage, such as 0/16 to 15/16, each on its own machine; when all "
                "are done, the next stage can start. The input must be frozen first",
            )
        if name == "decide":
            command.add_argument(
                "--what-if",
                nargs=2,
                metavar=("A", "B"),
                help="compare what two rule sets keep, and write nothing: names joined by +, such as gopher+language; "
                "`configured` stands for the rules that each source has",
            )
            command.add_argument(
                "--predicted",
                type=Path,
                metavar="FILE",
                help="with --what-if: also the tokens, mixture and loss of both, from `altiplano data what-if fit`",
            )
    remove = _add_command(commands, "remove", _REMOVE, _EXAMPLES["remove"])
    remove.add_argument("--document", nargs="+", default=[], metavar="ID_OR_URL", help="documents to take out")
    remove.add_argument("--from", type=Path, dest="listed", metavar="FILE", help="an id or URL in each line")
    remove.add_argument("--note", default="", help="written to the list, such as who asked for it")
    _add_common(remove, can_restart=False)
    why = _add_command(
        commands, "why", "show one document, its signals, its verdict and the evidence", _EXAMPLES["why"]
    )
    why.add_argument(
        "document",
        metavar="DOCUMENT_ID",
        help="<source>-<shard>/<row>, such as python-00000/0000012; its URL, or what `id_field` calls it; or the path "
        "of a raw file that was set aside",
    )
    _add_common(why, can_restart=False)
    return parser


def _add_command(commands: Any, name: str, description: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_common(parser: argparse.ArgumentParser, can_restart: bool) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file, see configs/data/")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that override the file's")
    if can_restart:
        parser.add_argument(
            "--restart",
            metavar="STAGE",
            help=f"first remove the outputs of this stage and all later ones ({', '.join(STAGES)})",
        )


def _run(options: argparse.Namespace) -> None:
    from data_prep.config import DataConfig
    from data_prep.run.arrivals import add_sources, report_changes
    from data_prep.run.commit_records import restart
    from data_prep.run.directory import RunDirectory, Share
    from data_prep.run.manifest import freeze_manifest
    from foundation.configuration import load_config, write_resolved

    config = load_config(DataConfig, options.config, options.overrides)
    share = Share.parse(options.share) if getattr(options, "share", None) else None
    restarted = getattr(options, "restart", None)
    if share is not None and restarted is not None:
        raise ValueError("--share and --restart exclude each other: only a single process may remove outputs")
    run = RunDirectory(config.output, share, config.executor)
    if options.command == "why":
        from data_prep.ledger.why import explain

        print(explain(config, run, options.document))
        return

    if options.command == "decide" and options.what_if:
        from data_prep.rules.compare import print_comparison, print_prediction

        print_comparison(config, run, *options.what_if)
        if options.predicted is not None:
            print_prediction(options.predicted, *options.what_if)
        return

    if options.command == "decide" and options.predicted is not None:
        raise ValueError("--predicted: has no effect without --what-if")

    if options.command == "remove":
        from data_prep.withdrawal.command import remove_documents

        with run.locked():
            told = remove_documents(config, run, options.document, options.listed, options.note)
            write_resolved(config, run.root / "config.resolved.yaml")
        print(told)
        return

    if options.command in ("run", "add"):
        stages = stages_of_run(options.until) if options.until != "freeze" else ()
    else:
        stages = tuple(name for name in STAGES if name == options.command)
    if config.tokenizer.path is not None and "train-tokenizer" in stages:
        from data_prep.tokenizer.adopt import check_tokenizer

        check_tokenizer(config.tokenizer.path, config.tokenizer)  # before hours of measuring

    if config.tokens.template is not None and "tokenize" in stages:
        from data_prep.conversations.encoding import check_template

        check_template(config.tokens.template, config.tokenizer.path)  # likewise

    if config.withdrawn is not None and "tokenize" in stages:
        from data_prep.withdrawal.listed import refuse_missing_list

        refuse_missing_list(config.withdrawn)  # likewise

    if "measure" in stages and share is None:
        from data_prep.signals.language import check_languages

        check_languages(config)  # likewise

    with run.locked():
        if restarted is not None:
            removed = restart(run, restarted)
            print(f"removed the outputs of these stages: {', '.join(removed)}")
        reads_input = options.command in ("run", "add", "freeze", "extract") and share is None
        if reads_input:
            print(f"{config.output}: looking for the input", flush=True)
        if options.command == "add":
            print("add: new sources are listed" if add_sources(config, run) else "add: already added; going on")
        manifest = freeze_manifest(config, run)
        if options.command == "freeze" or (options.command == "add" and not stages):
            _print_manifest(manifest)
        if reads_input:
            _print_obstacles(manifest)
        if share is not None:
            _run_share(config, run, options.command)
            return
        write_resolved(config, run.root / "config.resolved.yaml")
        started = time.monotonic()
        for name in stages:
            STAGES[name].load()(config, run)
        if "ledger" in stages:
            report_changes(run)
            _print_ledger(config, run, options.config, time.monotonic() - started)


def _run_share(config: DataConfig, run: RunDirectory, stage: str) -> None:
    from data_prep.run.executors import ShareDone

    try:
        STAGES[stage].load()(config, run)
    except ShareDone as done:
        print(done)


def _print_manifest(manifest: Manifest) -> None:
    """Print the frozen input."""
    from foundation.progress import summary_table

    shards = Counter(shard.source for shard in manifest.shards)
    rows = [(s.name, s.kind, len(s.files), round(s.raw_bytes / 1e6, 1), shards[s.name]) for s in manifest.sources]
    summary_table("Input", rows, ("source", "kind", "files", "MB", "shards"))


def _print_obstacles(manifest: Manifest) -> None:
    """Print which large files cannot be divided into shards."""
    obstacles = list(manifest.obstacles())
    print(*obstacles[:_OBSTACLES_SHOWN], sep="\n", end="\n" if obstacles else "")
    if len(obstacles) > _OBSTACLES_SHOWN:
        print(f"and {len(obstacles) - _OBSTACLES_SHOWN:,} more files of one piece")


def _print_ledger(config: DataConfig, run: RunDirectory, config_path: Path, seconds: float) -> None:
    from data_prep.ledger.counts import load_ledger
    from foundation.progress import format_seconds, summary_table

    ledger = load_ledger(run)
    documents, tokens = ledger["documents"], ledger["tokens"]
    by_source = tokens["by_source"] if tokens else {}
    rows: list[tuple[object, ...]] = [
        (
            name,
            account["in"],
            account["kept"],
            account["dropped"],
            round(account["bytes_kept"] / 1e6, 1),
            by_source.get(name, {}).get("tokens", 0),
            by_source.get(name, {}).get("heldout_tokens", 0),
        )
        for name, account in documents["by_source"].items()
    ]
    rows.append(
        (
            "all",
            documents["in"],
            documents["kept"],
            documents["dropped"],
            round(documents["bytes_kept"] / 1e6, 1),
            tokens["train"] if tokens else 0,
            tokens["heldout"] if tokens else 0,
        )
    )
    summary_table("Documents", rows, ("source", "in", "kept", "dropped", "MB kept", "tokens", "held out"))
    reasons = [(name, count) for name, count in documents["by_reason"].items()]
    summary_table("Why documents were dropped", reasons, ("reason", "documents"))
    message = [
        f"in {format_seconds(seconds)}; everything is in {config.output}:",
        f"  {run.root / 'ledger.html'}  the counts as a page",
        f"  {run.corpus}, {run.quarantine}  documents, and those that could not be read",
    ]
    if tokens:
        example = f"{config.sources[0].name}-00000/0000000"
        message += [
            f"  {run.tokenizer}  the tokenizer",
            f"  {run.tokens / 'mixture.yaml'}  the token files, ready to train on",
            "next:",
            f"  altiplano data why {example} --config {config_path}     why a document was kept or dropped",
            f"  altiplano data report-tokenizer --config {config_path}     the tokenizer's efficiency by language",
            "  deepspeed --module pretrain --config configs/train/demo.yaml "
            f"data.mixture={run.tokens / 'mixture.yaml'}",
        ]
    print("\n".join(message))


if __name__ == "__main__":
    sys.exit(main())
