"""Text to token files, and token files to batches: ours beside the routes of Megatron-LM and datatrove.

All contenders encode the same text with the same tokenizer. The peers read JSONL; ours runs data_prep's `tokenize`
stage on the Parquet shards that `extract` made of the same JSONL, including the check that each document decodes to its
original bytes. The figure is the processor time of the whole process after imports and table building, so that other
load on the machine matters little; ours starts counting after the first of four shards, when its memory is mapped and
the frequent pieces are cached. "Encoding alone" starts at the first document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from data_prep.config import DataConfig
from data_prep.indexed_dataset.format import bin_path, idx_path, token_dtype
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.tokenize import encode_shard, tokenize_stage
from data_prep.tokenizer.encoding.encode import GigatokenEncoder, ReferenceEncoder, open_encoder
from foundation.progress import Progress
from tools.bench.memory import peak_bytes
from tools.bench.page import show

CONTENDERS = {
    "ours": "ours, the stage tokenize: Parquet to .bin/.idx",
    "megatron": "Megatron-LM, preprocess_data.py: HF tokenizers, one worker",
    "megatron-fast": "Megatron-LM, preprocess_data_fast.py: gigatoken, one worker",
    "datatrove": "datatrove, MegatronDocumentTokenizer",
    "ours-encode": "ours, encoding only",
    "hf-encode": "HF tokenizers, encoding only",
    "gigatoken-encode": "gigatoken, encoding only, cold",
}
"""Contenders and their titles: the first four write `.bin/.idx`, the others only encode."""
_SLOW = ("megatron", "datatrove", "hf-encode")
"""Contenders that get a quarter of the text."""

_BATCH_DOCUMENTS = 100
_TRILLION = 10**12


def main(arguments: list[str]) -> int:
    """Run every contender in its own process, in turn, and print its fastest round: other load slows some rounds."""
    parser = argparse.ArgumentParser(prog="altiplano bench tokens", description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="a finished data_prep run with its tokenizer"
    )
    parser.add_argument("--megabytes", type=float, default=48.0, help="megabytes of text; slow peers get a quarter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "JSONL"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(time_one(given.one[0], Path(given.one[1]), given.run / "tokenizer")))
        return 0
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in given.contenders}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in given.contenders:
            is_slow = name in _SLOW
            files[name] = Path(folder) / ("part.jsonl" if is_slow else "all.jsonl")
            write_jsonl(files[name], given.run / "corpus", given.megabytes * (0.25e6 if is_slow else 1e6))
        if "ours" in files:
            files["ours"] = prepare_run(Path(folder), files["ours"], given.run / "tokenizer")
        with Progress("bench", given.rounds * len(files), "processes") as progress:
            for _ in range(given.rounds):
                for name, path in files.items():
                    command = [sys.executable, "-m", "tools.bench", "tokens", "--run", str(given.run)]
                    done = subprocess.run(
                        [*command, "--one", name, str(path)], env=environment, capture_output=True, text=True
                    )
                    if done.returncode and name.startswith("ours"):
                        print(done.stderr, file=sys.stderr)
                        return 1
                    if not done.returncode:
                        results[name].append(json.loads(done.stdout.splitlines()[-1]))
                    progress.advance()
    best = {name: max(r["megabytes_per_second"] for r in rows) for name, rows in results.items() if rows}
    rows: list[tuple[str, ...]] = []
    for name, found in results.items():
        if not found:  # a peer that fails gets a row saying so
            rows.append((CONTENDERS[name], "failed", "", ""))
            continue
        ours = best.get("ours-encode" if name.endswith("-encode") else "ours")
        times = f"{ours / best[name]:.1f}" if ours and not name.startswith("ours") else ""
        rows.append((CONTENDERS[name], f"{best[name]:.2f}", times, f"{max(r['memory'] for r in found):.0f}"))
    columns = ("", "MB of text / s", "ours ÷ it", "peak memory, MB")
    show(f"text to tokens, one core, the fastest of {given.rounds} rounds", rows, columns)
    loader()
    return 0


def write_jsonl(path: Path, corpus: Path, size: float) -> None:
    """Write about `size` bytes of the corpus, taken from its shards in turn; does nothing when the file exists."""
    if path.exists():
        return
    shards = [pq.read_table(shard, columns=["text"])["text"].to_pylist() for shard in sorted(corpus.glob("*.parquet"))]
    with open(path, "w", encoding="utf-8") as stream:
        for row in range(max(map(len, shards))):
            for texts in shards:
                if row < len(texts):
                    stream.write(json.dumps({"text": texts[row]}, ensure_ascii=False) + "\n")
                    size -= len(texts[row].encode())
                    if size < 0:
                        return


def prepare_run(folder: Path, path: Path, tokenizer: Path) -> Path:
    """Run everything before `tokenize`, without rules, and return the configuration."""
    configuration = folder / "data.yaml"
    settings = {
        "output": str(folder / "run"),
        "workers": 1,
        "shard_bytes": path.stat().st_size // 4 + 1,
        "sources": [{"name": "text", "kind": "jsonl", "paths": [str(path)], "rules": []}],
        "tokenizer": {"path": str(tokenizer)},
    }
    configuration.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "data_prep", "run", "--config", str(configuration), "--until", "train-tokenizer"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return configuration


def read_jsonl(path: Path) -> Iterator[str]:
    """Texts of a JSONL file."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)["text"]


def time_one(name: str, path: Path, tokenizer: Path) -> dict[str, float]:
    """MB of text per second of processor time, and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        route = prepare(name, path, tokenizer, Path(folder))
        start = time.process_time()
        size = route()
        seconds = time.process_time() - start
    memory = peak_bytes() / 1e6
    return {"megabytes_per_second": size / 1e6 / seconds, "memory": memory}


def prepare(name: str, path: Path, tokenizer: Path, folder: Path) -> Callable[[], int]:
    """Import and compile what a contender needs; the returned function is timed and returns the bytes of text it
    encoded."""
    if name == "ours":
        return _ours(path)
    reference = ReferenceEncoder(tokenizer)
    if name == "ours-encode":
        encoder = open_encoder(reference)
        encoder.encode(["compiled now"])
        return _encode_only(encoder.encode, path)
    if name == "hf-encode":
        return _encode_only(reference.encode, path)
    if name == "gigatoken-encode":
        (folder / "tokenizer.json").write_text(_for_gigatoken(tokenizer), encoding="utf-8")
        gigatoken = GigatokenEncoder(folder, reference.end_of_document, reference.vocabulary_size)
        return _encode_only(gigatoken.encode, path)
    size = sum(len(text.encode()) for text in read_jsonl(path))
    routes = {"megatron": _megatron, "megatron-fast": _megatron_fast, "datatrove": _datatrove}
    run = routes[name](path, tokenizer, folder, reference)

    def route() -> int:
        run()
        return size

    return route


def _ours(configuration: Path) -> Callable[[], int]:
    config = DataConfig.model_validate(yaml.safe_load(configuration.read_text(encoding="utf-8")))
    run = RunDirectory(config.output)
    manifest = load_manifest(run)
    stage = tokenize_stage(config, run, manifest)
    encode = partial(encode_shard, stage=stage, seed=config.seed, heldout_share=config.tokens.heldout_share)
    first, *others = manifest.shard_names
    encode(first)

    def route() -> int:
        for name in others:
            encode(name)
        return sum(stage.records()[name].counts["bytes"] for name in others)

    return route


def _encode_only(encode: Callable[[list[str]], object], path: Path) -> Callable[[], int]:
    texts = list(read_jsonl(path))
    size = sum(len(text.encode()) for text in texts)

    def run() -> int:
        for i in range(0, len(texts), _BATCH_DOCUMENTS):
            encode(texts[i : i + _BATCH_DOCUMENTS])
        return size

    return run


def _megatron(path: Path, tokenizer: Path, folder: Path, reference: ReferenceEncoder) -> Callable[[], None]:
    """The work of Megatron-LM's tools/preprocess_data.py with one worker, without its process pool."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from tokenizers import Tokenizer

    hugging_face = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))

    def run() -> None:
        dtype = DType.optimal_dtype(reference.vocabulary_size)
        builder = IndexedDatasetBuilder(str(folder / "out.bin"), dtype=dtype)
        for text in read_jsonl(path):
            ids = [*hugging_face.encode(text, add_special_tokens=False).ids, reference.end_of_document]
            builder.add_document(torch.tensor(ids), [len(ids)])
        builder.finalize(str(folder / "out.idx"))

    return run


def _megatron_fast(path: Path, tokenizer: Path, folder: Path, reference: ReferenceEncoder) -> Callable[[], None]:
    """The work of Megatron-LM's tools/preprocess_data_fast.py (August 2026) with one worker: gigatoken encodes the
    whole file and all documents are written in one call, which megatron-core's builder supports from 0.19 on."""
    import awkward  # type: ignore[import-untyped]
    import gigatoken
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    encoder = gigatoken.Tokenizer.from_json(_for_gigatoken(tokenizer))

    def run() -> None:
        documents = encoder.encode_files(gigatoken.JsonlFileSource([path], field="text"), parallel=False)
        end = np.full((len(documents), 1), reference.end_of_document, np.uint32)
        documents = awkward.concatenate([documents, awkward.from_regular(awkward.from_numpy(end))], axis=1)
        dtype = DType.optimal_dtype(reference.vocabulary_size)
        builder = IndexedDatasetBuilder(str(folder / "out.bin"), dtype=dtype)
        sizes = awkward.to_numpy(awkward.num(documents))
        builder.data_file.write(awkward.to_numpy(awkward.flatten(documents)).astype(dtype).tobytes())
        builder.sequence_lengths.extend(sizes.tolist())
        builder.document_indices.extend(range(1, len(sizes) + 1))
        builder.finalize(str(folder / "out.idx"))

    return run


def _for_gigatoken(tokenizer: Path) -> str:
    """A `tokenizer.json` that gigatoken accepts: it refuses BLOOM's pre-tokenizer, so this has the same merges with
    GPT-2's."""
    content = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    if content["pre_tokenizer"] is not None:
        content["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }
    return json.dumps(content)


def _datatrove(path: Path, tokenizer: Path, folder: Path, reference: ReferenceEncoder) -> Callable[[], None]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    pipeline = [
        JsonlReader(str(path.parent), glob_pattern=path.name),
        MegatronDocumentTokenizer(
            str(folder / "out"), tokenizer_name_or_path=str(tokenizer / "tokenizer.json"), eos_token="</s>"
        ),
    ]
    executor = LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=str(folder / "logs"))

    def run() -> None:
        executor.run()

    return run


def loader() -> None:
    """Time batches from the page cache, and the first batch of a trillion tokens (sparse files)."""
    from pretrain.config import ObjectiveConfig
    from pretrain.data.batch_sizes import BatchSizes
    from pretrain.data.batches import Batches
    from pretrain.data.loader import SampleReader
    from pretrain.data.mixture import load_mixture
    from pretrain.data.objective import Objective

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cached = write_mixture(folder / "cached", 3, 20_000_000, sparse=False)
        reader = SampleReader(load_mixture(cached), 2048, 1)
        rows = []
        plain, separated = (Objective(ObjectiveConfig(separate_documents=apart)) for apart in (False, True))
        for micro_batch_size, objective, what in (
            (1, plain, ""),
            (4, plain, ""),
            (4, separated, ", separated"),
        ):
            batches = Batches(reader, micro_batch_size, objective=objective).training(0, BatchSizes(256))
            next(batches)
            start, samples = time.process_time(), 0
            while time.process_time() - start < 2:
                next(batches)
                samples += micro_batch_size
            rate = f"{samples * 2048 / 2e6:.0f} million tokens / s"
            rows.append([f"sequence 2048, micro-batch {micro_batch_size}{what}", rate])
        for what, ahead in (("as they are asked for", 0), ("made ahead", 1)):
            batches = Batches(reader, 64, objective=separated).training(0, BatchSizes(64))
            rows.append([f"waiting for 64 × 2048 tokens, {what}", f"{waiting(batches, ahead) * 1e3:.2f} ms a step"])
        vast = write_mixture(folder / "vast", 10, _TRILLION // 10, sparse=True)
        before = peak_bytes()
        start = time.perf_counter()
        reader = SampleReader(load_mixture(vast), 2048, 1)
        reader.digest()
        next(Batches(reader, 4).training(0, BatchSizes(2048)))
        seconds = time.perf_counter() - start
        grown = (peak_bytes() - before) / 1e6
        rows.append(["first batch of 10^12 tokens, 10 datasets", f"{seconds:.2f} s, {grown:.0f} MB more memory"])
    show("token files to batches, one core", rows, ("", ""))


def waiting(batches: Iterator[object], ahead: int) -> float:
    """Median seconds that a step waits for its batch, when a step is some 50 ms of matrix products on one thread."""
    import torch

    from pretrain.data.prefetch import prefetch

    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024)
    taken = prefetch(batches, ahead) if ahead else batches
    next(taken)
    waited = []
    for _ in range(30):
        for _ in range(2):
            matrix @ matrix
        start = time.perf_counter()
        next(taken)
        waited.append(time.perf_counter() - start)
    return statistics.median(waited)


def write_mixture(folder: Path, datasets: int, tokens: int, sparse: bool) -> Path:
    """A mixture of datasets of equal size; sparse ones are all zeros and take no disk space."""
    folder.mkdir()
    entries = []
    document_tokens = min(tokens, 2 * 10**9)
    sizes = np.full(-(-tokens // document_tokens), document_tokens)
    sizes[-1] = tokens - int(sizes[:-1].sum())
    dtype = token_dtype(32_000)
    for d in range(datasets):
        prefix = folder / f"dataset_{d}"
        with IndexedDatasetWriter(prefix, 32_000) as writer:
            if sparse:
                writer.add_document(np.zeros(1, dtype))
            else:
                random = np.random.default_rng(d)
                for size in sizes:
                    writer.add_document(random.integers(0, 32_000, size, dtype))
        if sparse:
            index = idx_path(prefix)
            index.unlink()
            _write_index(index, sizes, dtype)
            os.truncate(bin_path(prefix), tokens * dtype.itemsize)
        zeros = {"bin": "0" * 64, "idx": "0" * 64}
        entries.append(
            {"name": prefix.name, "path": prefix.name, "heldout": None, "documents": len(sizes), "tokens": tokens}
            | {"heldout_documents": 0, "heldout_tokens": 0, "weight": d + 1.0, "sha256": zeros, "heldout_sha256": None}
        )
    mixture = {"version": 1, "tokenizer": "none", "vocabulary_size": 32_000, "end_of_document": 2, "datasets": entries}
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(mixture))
    return path


def _write_index(path: Path, sizes: np.ndarray[tuple[int], np.dtype[np.int64]], dtype: np.dtype[np.generic]) -> None:
    from data_prep.indexed_dataset.format import POINTER_DTYPE, SIZE_DTYPE, IndexHeader

    ends = np.cumsum(sizes)
    header = IndexHeader(dtype, len(sizes), len(sizes)).pack()
    pointers = ((ends - sizes) * dtype.itemsize).astype(POINTER_DTYPE)
    bounds = np.arange(len(sizes) + 1, dtype=POINTER_DTYPE)
    path.write_bytes(header + sizes.astype(SIZE_DTYPE).tobytes() + pointers.tobytes() + bounds.tobytes())
