"""Statistics and rules, language, MinHash with verified removal, and `measure` as a whole: ours beside the peers.

Every contender runs in a process of its own on one core, in turn. Timing starts once the texts are in memory in the
form that the contender's own reader produces (an Arrow column for ours, Python strings for the peers) and the code is
imported and compiled; it ends with the last result. MB are of UTF-8 text.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foundation.progress import Progress
from tools.bench.page import show

CORPUS = Path("runs/demo")
"""The demo's text; `make bench` prepares it when it is missing."""
CORPUS_HELP = "a run of data_prep that has been measured, or JSON lines (zstd) with `text` and `lang`"
FILTERS = ("c4", "gopher_quality", "gopher_repetition", "fineweb")
_SINGLE_THREAD = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS")

Work = Callable[[], Any]


def main(arguments: list[str]) -> int:
    """Time the contenders and print medians, ratios, and how the peer's verdicts differ from ours."""
    parser = argparse.ArgumentParser(prog="altiplano bench data", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=CORPUS_HELP)
    parser.add_argument(
        "--megabytes", type=float, default=8, help="megabytes of the corpus to use, sampled at equal steps"
    )
    parser.add_argument(
        "--slow-megabytes", type=float, default=2, help="megabytes for the peers that need a second for 1 MB"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=sorted(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--one", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if fault := no_corpus(given.corpus):
        print(fault, file=sys.stderr)
        return 2
    if given.one:
        print(json.dumps(time_one(given.one, given)))
        return 0
    environment = {**os.environ, **dict.fromkeys(_SINGLE_THREAD, "1")}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in given.contenders}
    failures: dict[str, str] = {}
    with Progress("bench data", given.rounds * len(results), "processes") as progress:
        for _ in range(given.rounds):
            for name in results:
                command = [sys.executable, "-m", "tools.bench.data", *arguments, "--one", name]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    failures[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
                else:
                    results[name].append(json.loads(done.stdout.splitlines()[-1]))
                progress.advance()
    speeds = {name: statistics.median(run["MB_per_second"] for run in runs) for name, runs in results.items() if runs}
    rows: list[tuple[object, ...]] = []
    for name in results:
        title, _, peer, _ = CONTENDERS[name]
        if name in failures:
            rows.append((title, "", "", "", f"failed: {failures[name][:100]}"))
            continue
        speed = speeds[name]
        ratio = f"{speed / speeds[peer]:.1f}" if peer in speeds and peer != name else ""
        told = ", ".join(
            f"{key} {value}" for key, value in results[name][0].items() if key not in ("MB", "MB_per_second")
        )
        rows.append((title, f"{speed:.3g}", ratio, results[name][0]["MB"], told))
    show("MB/s of one core", rows, ("what", "MB/s", "times the peer", "MB read", "result"))
    ours = [name for name in failures if CONTENDERS[name][2]]
    return 1 if ours else 0  # a peer that fails gets a row saying so


def time_one(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one contender once; CPU seconds of this process, so that other load on the machine matters little."""
    _, is_slow, _, prepare = CONTENDERS[name]
    texts = load(given.corpus, given.slow_megabytes if is_slow else given.megabytes)
    work = prepare(texts)
    started = time.process_time()
    result = work()
    seconds = time.process_time() - started
    size = sum(len(text.encode()) for text, _ in texts) / 1e6
    return {"MB": round(size, 1), "MB_per_second": size / seconds, **(result or {})}


def no_corpus(path: Path) -> str | None:
    """Why there is no text at this path and how to get it; None when it is there."""
    if path.is_file() or any((path / "signals").glob("*.parquet")):
        return None
    return (
        f"error: there is no corpus at {path}; give one by --corpus ({CORPUS_HELP}), or make the demo's: "
        "altiplano data run --config configs/data/demo.yaml"
    )


def load(path: Path, megabytes: float) -> list[tuple[str, str]]:
    """Texts with their language labels, sampled from the corpus at equal steps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[str, str]] = []
    if path.is_dir():
        for signals in sorted((path / "signals").glob("*.parquet")):
            texts = pq.read_table(path / "corpus" / signals.name, columns=["text"])["text"].to_pylist()
            languages = pq.read_table(signals, columns=["language"])["language"].to_pylist()
            rows += zip(texts, languages, strict=True)
    else:
        with pa.input_stream(str(path), compression="zstd") as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                row = json.loads(line)
                rows.append((row["text"], row["lang"]))
    total = sum(len(text.encode()) for text, _ in rows)
    return rows[:: max(1, round(total / (megabytes * 1e6)))]


def concatenated(texts: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
    """Bytes and offsets of texts, the layout of an Arrow string column."""
    import pyarrow as pa

    from data_prep.run.documents import text_bytes

    return text_bytes(pa.array([text for text, _ in texts], pa.large_string()))


def our_columns(data: Any, offsets: Any, with_roots: bool, languages: Sequence[str]) -> dict[str, Any]:
    """The signals that the rules need, for texts of known languages."""
    import numpy as np

    from data_prep.signals.roots.statistics import ROOTS_STATISTICS, measure_roots
    from data_prep.signals.segmentation import mark_words
    from data_prep.signals.text_statistics import STATISTICS, measure_text
    from data_prep.signals.web_statistics import WEB_STATISTICS, measure_web

    begins = mark_words(data, offsets)
    text = measure_text(data, offsets, begins)
    parts = [(STATISTICS, text), (WEB_STATISTICS, measure_web(data, offsets, text))]
    if with_roots:
        parts.append((ROOTS_STATISTICS, measure_roots(data, offsets, begins, languages)))
    columns = {name: rows[:, k] for names, rows in parts for k, name in enumerate(names)}
    columns["language"] = np.array(languages)
    columns["language_probability"] = np.ones(len(languages))
    return columns


def _our_rules(with_roots: bool) -> Callable[[Sequence[tuple[str, str]]], Work]:
    def prepare(texts: Sequence[tuple[str, str]]) -> Work:
        from data_prep.rules import PUBLISHED_RULE_SETS
        from data_prep.rules.decide import failures

        names = [name for name in PUBLISHED_RULE_SETS if with_roots or name in ("gopher", "c4_paper", "fineweb")]
        rules = [rule for name in names for rule in PUBLISHED_RULE_SETS[name]]
        languages = [language for _, language in texts]
        our_columns(*concatenated(texts[:2]), with_roots, languages[:2])
        data, offsets = concatenated(texts)

        def work() -> dict[str, Any]:
            failed = failures(our_columns(data, offsets, with_roots, languages), rules)
            return {"rules": len(rules), "kept": int((~failed.any(axis=1)).sum())}

        return work

    return prepare


def _peer_filters() -> dict[str, Any]:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return dict(
        zip(
            FILTERS,
            (C4QualityFilter(), GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()),
            strict=True,
        )
    )


def _datatrove_filters(texts: Sequence[tuple[str, str]]) -> Work:
    from datatrove.data import Document

    filters = _peer_filters()
    documents = [Document(text=text, id=str(k)) for k, (text, _) in enumerate(texts)]
    for asked in filters.values():  # loads the tokenizers
        asked.filter(Document(text="It is a sentence. It is another one.", id="x"))

    def work() -> dict[str, Any]:
        kept = 0
        for document in documents:
            # every filter sees the whole text, as our rules do; C4 rewrites the text, so it comes last
            verdicts = [filters[name].filter(document) for name in (*FILTERS[1:], FILTERS[0])]
            kept += all(verdict is True for verdict in verdicts)
        return {"kept": kept}

    return work


def _our_minhash(texts: Sequence[tuple[str, str]]) -> Work:
    from data_prep.config import FingerprintConfig
    from data_prep.signals.fingerprints import fingerprint_text

    data, offsets = concatenated(texts)
    fingerprint_text(data, offsets[:2], FingerprintConfig())
    return lambda: {"signatures": len(fingerprint_text(data, offsets, FingerprintConfig()).counts)}


def _our_dedup(containment: float | None) -> Callable[[Sequence[tuple[str, str]]], Work]:
    def prepare(texts: Sequence[tuple[str, str]]) -> Work:
        from data_prep.dedup.records import KINDS
        from data_prep.dedup.stage import dedup
        from data_prep.run.commit_records import read_records
        from tools.bench.fingerprinted import frozen_run, measure_texts

        def run(taken: Sequence[tuple[str, str]]) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                config, found = frozen_run(Path(folder), 1, dedup={"minimum_containment": containment})
                measure_texts(config, found, [text for text, _ in taken])
                dedup(config, found)
                counts = read_records(found, "dedup")["all"].counts
            return {kind: counts[kind] for kind in KINDS}

        words = " ".join(f"w{k}" for k in range(200))
        run([*texts[:3], *texts[:3], (words, "en"), (f"{words} x", "en"), (f"{words} {words[::-1]}", "en")])
        return lambda: run(texts)

    return prepare


def _datatrove_minhash(texts: Sequence[tuple[str, str]]) -> Work:
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.utils.text import split_into_words
    from datatrove.utils.typeshelper import Languages

    documents = [Document(text=text, id=str(k)) for k, (text, _) in enumerate(texts)]
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    split_into_words("It loads the tokenizer.", Languages.english)

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            signatures, pairs, removed = (f"{folder}/{name}" for name in ("signatures", "pairs", "removed"))
            sign = MinhashDedupSignature(signatures, config=config)
            # datatrove's own call breaks with xxhash 4, which does not accept strings
            sign._hash_func = lambda shingle: xxhash.xxh64_intdigest(shingle.encode())
            sign.run(documents, 0, 1)
            for rank in range(config.num_buckets):
                MinhashDedupBuckets(signatures, pairs, config=config).run(None, rank, config.num_buckets)
            MinhashDedupCluster(pairs, removed, config=config).run(None, 0, 1)
            kept = sum(1 for _ in MinhashDedupFilter(removed).run(iter(documents), 0, 1))
        return {"removed": len(documents) - kept}

    return work


def _rensa(texts: Sequence[tuple[str, str]]) -> Work:
    from rensa import RMinHash

    def work() -> dict[str, Any]:
        signatures = []
        for text, _ in texts:
            words = text.lower().split()
            minhash = RMinHash(num_perm=112, seed=1)
            minhash.update([" ".join(words[k : k + 5]) for k in range(max(len(words) - 4, 1))])
            signatures.append(minhash.digest())
        return {"signatures": len(signatures)}

    return work


def _our_language(texts: Sequence[tuple[str, str]]) -> Work:
    from data_prep.signals.language import LanguageIdentifier

    identifier = LanguageIdentifier()
    data, offsets = concatenated(texts)
    identifier.identify_many(data, offsets[:2])
    return lambda: {"documents": len(identifier.identify_many(data, offsets))}


def _fasttext(texts: Sequence[tuple[str, str]]) -> Work:
    import fasttext

    from data_prep.signals.language import installed_model_path

    model = fasttext.load_model(str(installed_model_path()))
    return lambda: {"documents": len([model.predict(text.replace("\n", " "), k=1) for text, _ in texts])}


def _our_measure(texts: Sequence[tuple[str, str]]) -> Work:
    """Time the stage's own function from document shards to signal files, Parquet and disk included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.compile_kernels import MEASURE, compile_kernels
    from data_prep.config import FingerprintConfig
    from data_prep.run.documents import DOCUMENTS
    from data_prep.signals.language import LanguageIdentifier
    from data_prep.signals.measure import measure_documents
    from data_prep.signals.table import SIGNALS
    from data_prep.signals.texts import Instruments

    compile_kernels(MEASURE)
    instruments = Instruments(LanguageIdentifier())
    folder = Path(tempfile.mkdtemp())
    ids = [f"bench-00000/{k:07d}" for k in range(len(texts))]
    more = {"source": ["bench"] * len(ids), "url": [""] * len(ids), "metadata": ["{}"] * len(ids)}
    table = pa.table({"id": ids, "text": [text for text, _ in texts], **more}, schema=DOCUMENTS)
    pq.write_table(table, folder / "corpus.parquet", compression="zstd")

    def work() -> dict[str, Any]:
        with pq.ParquetWriter(folder / "signals.parquet", SIGNALS, compression="zstd") as writer:
            file = pq.ParquetFile(folder / "corpus.parquet")
            for group in range(file.num_row_groups):
                documents = file.read_row_group(group, columns=["id", "text"])
                writer.write_table(measure_documents(documents, FingerprintConfig(), instruments))
        return {"signals": len(SIGNALS)}

    return work


CONTENDERS: dict[str, tuple[str, bool, str, Callable[[Sequence[tuple[str, str]]], Work]]] = {
    "filters": ("statistics and rules of Gopher, C4, FineWeb", False, "datatrove_filters", _our_rules(False)),
    "filters_all": ("all statistics and rules, ROOTS among them", False, "datatrove_filters", _our_rules(True)),
    "datatrove_filters": ("datatrove: C4, Gopher (two), FineWeb", True, "", _datatrove_filters),
    "signatures": ("MinHash signatures with shingling", False, "rensa", _our_minhash),
    "rensa": ("rensa: signatures, shingling in Python", False, "", _rensa),
    "dedup": ("signatures, proposals, verification", False, "datatrove_minhash", _our_dedup(None)),
    "contained": ("the same, contained documents too", False, "datatrove_minhash", _our_dedup(0.9)),
    "datatrove_minhash": ("datatrove: MinHash, all stages", True, "", _datatrove_minhash),
    "language": ("language of a sample", False, "fasttext", _our_language),
    "fasttext": ("fastText: language of the whole text", False, "", _fasttext),
    "measure": ("measure: every signal, Parquet to Parquet", False, "", _our_measure),
}
"""Name -> title, whether it is slow, the peer it is compared with, and the function that prepares it."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
