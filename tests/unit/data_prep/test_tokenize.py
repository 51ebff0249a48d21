"""The whole stage: each kept document appears once, shuffled and redacted, the same for any division of work."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_prep import gathering
from data_prep import tokenize as stage_module
from data_prep.config import DataConfig
from data_prep.indexed_dataset.format import TokenFileError
from data_prep.indexed_dataset.origins import Origins
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.run.commit_records import restart
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest
from data_prep.tokenize import tokenize
from data_prep.tokenizer import kept_documents
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import Encoded, TokenizerError
from data_prep.tokenizer.kept_documents import id_fraction
from data_prep.tokenizer.train import train_tokenizer
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

SETTINGS = {"tokenizer": {"vocabulary_size": 512, "reserved_entries": 20}, "tokens": {"heldout_share": 0.1}}
DROPPED = ["books-00000/0000003", "books-00001/0000000", "code-00000/0000039"]
SECRET = "write to x@example.org now"


@pytest.fixture(scope="module")
def sources() -> dict[str, list[str]]:
    books = make_texts(0, 120)
    books[5] = SECRET
    books[6] = ""
    return {"books": books, "code": make_texts(1, 80), "gone": make_texts(2, 5)}


@pytest.fixture(scope="module")
def prepared(
    sources: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, RunDirectory, Manifest]:
    dropped = [*DROPPED, *(f"gone-00000/{row:07d}" for row in range(5))]
    spans = {"books-00000/0000005": [("EMAIL", 9, 22)]}
    config, run, manifest = make_run(tmp_path_factory.mktemp("run"), sources, dropped, spans, SETTINGS)
    train_tokenizer(config, run)
    return config, run, manifest


def read_back(run: RunDirectory, name: str) -> list[str]:
    encoder = ReferenceEncoder(run.tokenizer)
    dataset = IndexedDataset(run.tokens / name)
    texts = []
    for i in range(len(dataset)):
        tokens = dataset.document(i)
        assert tokens[-1] == encoder.end_of_document and encoder.end_of_document not in tokens[:-1]
        texts.append(encoder.decode(tokens[:-1]))
    return texts


def files(run: RunDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.tokens.iterdir())}


def test_kept_documents_come_out_once(
    prepared: tuple[DataConfig, RunDirectory, Manifest],
    sources: dict[str, list[str]],
    in_process: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run, _ = prepared
    restart(run, "tokenize")
    tokenize(config, run)
    output = capsys.readouterr()
    assert "source gone is left out of the mixture: not one of its documents is kept" in output.err

    for name, dropped_rows in (("books", {3, 40}), ("code", {39})):
        kept = [text for row, text in enumerate(sources[name]) if row not in dropped_rows]
        kept = [text.replace("x@example.org", "PI:EMAIL") if text == SECRET else text for text in kept]
        train, heldout = read_back(run, name), read_back(run, f"{name}.heldout")
        assert Counter(train + heldout) == Counter(kept)
        assert 1 <= len(heldout) < 0.3 * len(kept)
        ids = [f"{name}-{row // 40:05d}/{row % 40:07d}" for row in range(len(sources[name])) if row not in dropped_rows]
        chosen = [text for text, i in zip(kept, ids, strict=True) if id_fraction(config.seed, "heldout", i) < 0.1]
        assert Counter(heldout) == Counter(chosen)
        in_order = [text for text in kept if text in set(train)]
        assert train != in_order, "not shuffled"
    assert sorted(path.name for path in run.tokens.iterdir()) == [
        "books.bin",
        "books.heldout.bin",
        "books.heldout.idx",
        "books.heldout.origins.npy",
        "books.idx",
        "books.origins.npy",
        "code.bin",
        "code.heldout.bin",
        "code.heldout.idx",
        "code.heldout.origins.npy",
        "code.idx",
        "code.origins.npy",
        "mixture.yaml",
    ]


def test_every_document_knows_where_it_is_from(
    prepared: tuple[DataConfig, RunDirectory, Manifest], sources: dict[str, list[str]], in_process: None
) -> None:
    config, run, _ = prepared
    tokenize(config, run)
    seen = []
    for name in ("books", "books.heldout", "code", "code.heldout"):
        texts = read_back(run, name)
        origins = Origins(run.tokens / name, name.split(".")[0], len(texts))
        for i, text in enumerate(texts):
            shard, row = origins.identity(i).split("/")
            original = sources[origins.source][int(shard[-5:]) * 40 + int(row)]
            assert text == (original.replace("x@example.org", "PI:EMAIL") if original == SECRET else original)
            seen.append(origins.identity(i))
    assert len(set(seen)) == len(seen) == 200 - len(DROPPED)
    with pytest.raises(TokenFileError, match=r"books.origins.npy: \d+ documents, but the token file beside it has 3"):
        Origins(run.tokens / "books", "books", 3)
    with pytest.raises(TokenFileError, match=r"other.origins.npy: no such file; only"):
        Origins(run.tokens / "other", "other", 3)


def test_mixture_holds_what_the_files_hold(
    prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None
) -> None:
    config, run, _ = prepared
    tokenize(config, run)
    mixture = load_mixture(run.tokens / "mixture.yaml")
    mixture.check_checksums()
    assert mixture.tokenizer.resolve() == run.tokenizer.resolve()
    assert (mixture.vocabulary_size, mixture.end_of_document) == (512, 2)
    assert [entry.name for entry in mixture.datasets] == ["books", "code"]
    for entry in mixture.datasets:
        assert entry.weight == entry.tokens  # none is configured
        assert mixture.open(entry, "train") is not None and mixture.open(entry, "heldout") is not None
    SampleReader(mixture, 32, seed=1).sample(0)
    SampleReader(mixture, 32, seed=1, split="heldout").sample(0)


def test_same_bytes_for_any_order_of_work_and_after_a_kill(
    prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, _ = prepared
    restart(run, "tokenize")
    tokenize(config.model_copy(update={"workers": 1}), run)
    whole = files(run)

    restart(run, "tokenize")
    tokenize(config.model_copy(update={"workers": 2}), run)
    assert files(run) == whole

    restart(run, "tokenize")
    original, calls = stage_module.encode_shard, []

    def killed(name: str, **arguments: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        original(name, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_module, "encode_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenize(config, run)
    monkeypatch.setattr(stage_module, "encode_shard", lambda name, **a: (calls.append(name), original(name, **a)))
    tokenize(config, run)
    assert len(calls) == len(set(calls)), "a committed shard was encoded again"
    assert files(run) == whole

    # Small buffers leave no seam either.
    restart(run, "tokenize")
    monkeypatch.setattr(kept_documents, "_BATCH_BYTES", 100)
    monkeypatch.setattr(gathering, "_GATHERED_TOKENS", 50)
    monkeypatch.setattr(gathering, "_GATHERED_DOCUMENTS", 7)
    tokenize(config, run)
    assert files(run) == whole


def test_a_second_run_does_nothing_and_a_lost_file_is_made_again(
    prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None
) -> None:
    config, run, _ = prepared
    tokenize(config, run)
    whole = files(run)
    times = {path.name: path.stat().st_mtime_ns for path in run.tokens.glob("*.bin")}
    tokenize(config, run)
    assert {path.name: path.stat().st_mtime_ns for path in run.tokens.glob("*.bin")} == times
    (run.tokens / "code.bin").unlink()
    tokenize(config, run)
    assert files(run) == whole
    assert (run.tokens / "books.bin").stat().st_mtime_ns == times["books.bin"]


def test_seed_and_share_decide(prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None) -> None:
    config, run, _ = prepared
    restart(run, "tokenize")
    none = config.model_copy(update={"tokens": config.tokens.model_copy(update={"heldout_share": 0.0})})
    tokenize(none, run)
    assert not list(run.tokens.glob("*.heldout.*"))
    mixture = yaml.safe_load((run.tokens / "mixture.yaml").read_text())
    assert [dataset["heldout"] for dataset in mixture["datasets"]] == [None, None]
    first = read_back(run, "books")
    assert sorted(first) != first
    with pytest.raises(ValueError, match=r"heldout_share is 0\.1, the outputs on disk were made with 0\.0"):
        tokenize(config, run)
    restart(run, "tokenize")


def test_all_held_out(prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None) -> None:
    config, run, _ = prepared
    restart(run, "tokenize")
    share = config.tokens.model_copy(update={"heldout_share": 0.9999999})
    with pytest.raises(ValueError, match=r"source books: all of its 118 kept documents .*heldout_share 0\.9999999"):
        tokenize(config.model_copy(update={"tokens": share}), run)
    restart(run, "tokenize")


def test_configured_weights(tmp_path: Path, in_process: None) -> None:
    sources = {"books": make_texts(0, 120), "code": make_texts(1, 80)}
    config, run, _ = make_run(tmp_path, sources, settings=SETTINGS, weights={"books": 3.0, "code": 1.0})
    train_tokenizer(config, run)
    tokenize(config, run)
    assert [entry.weight for entry in load_mixture(run.tokens / "mixture.yaml").datasets] == [3.0, 1.0]


def test_a_tokenizer_without_end_of_document_is_refused(tmp_path: Path, in_process: None) -> None:
    config, run, _ = make_run(tmp_path, {"books": make_texts(0, 120)}, settings=SETTINGS)
    train_tokenizer(config, run)
    path = run.tokenizer / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(TokenizerError, match="no eos_token"):
        tokenize(config, run)


def test_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real executor: two processes write what one writes."""
    config, run, _ = make_run(tmp_path, {"books": make_texts(0, 80)}, settings=SETTINGS)
    train_tokenizer(config, run)
    written = []
    for workers in (1, 2):
        restart(run, "tokenize")
        tokenize(config.model_copy(update={"workers": workers}), run)
        written.append(files(run))
    assert written[0] == written[1]


def test_what_the_loss_leaves_out_stands_beside_the_tokens(
    tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"Question {i}: {text}\nAnswer {i}: {text}!" for i, text in enumerate(make_texts(0, 120))]
    # Every third document is learnt whole.
    marks = {row: text.index("\nAnswer") + 1 for row, text in enumerate(texts) if row % 3}
    metadata = {f"talks-{row // 40:05d}/{row % 40:07d}": f'{{"no_loss": [[0, {end}]]}}' for row, end in marks.items()}
    config, run, _ = make_run(
        tmp_path, {"talks": texts, "code": make_texts(1, 80)}, settings=SETTINGS, metadata=metadata
    )
    train_tokenizer(config, run)
    tokenize(config, run)
    assert not (run.tokens / "code.loss_mask").exists()
    encoder = ReferenceEncoder(run.tokenizer)
    seen = 0
    for name in ("talks", "talks.heldout"):
        dataset = IndexedDataset(run.tokens / name)
        origins = Origins(run.tokens / name, "talks", len(dataset))
        assert dataset.has_loss_mask
        for i in range(len(dataset)):
            shard, row = origins.identity(i).split("/")
            number = int(shard[-5:]) * 40 + int(row)
            learnt = encoder.decode(dataset.document(i)[dataset.loss_mask(*dataset.document_range(i))])
            right = texts[number][marks.get(number, 0) :] + "</s>"
            # A token that reaches over the end of the question counts.
            assert learnt.endswith(right) and len(learnt) < len(right) + 12
            seen += 1
    assert seen == 120

    mixture = load_mixture(run.tokens / "mixture.yaml")
    mixture.check_checksums()
    reader = SampleReader(mixture, 32, seed=1)
    assert reader.has_mask_files
    digest = reader.digest()
    damaged = bytearray((run.tokens / "talks.loss_mask").read_bytes())
    damaged[5] ^= 1
    (run.tokens / "talks.loss_mask").write_bytes(damaged)
    with pytest.raises(TokenFileError, match=r"talks\.loss_mask: SHA-256 is"):
        mixture.check_checksums()
    assert SampleReader(mixture, 32, seed=1).digest() != digest, "another mask is another training run"
    (run.tokens / "talks.loss_mask").write_bytes(damaged[:-1])
    with pytest.raises(TokenFileError, match=r"talks\.loss_mask: \d+ bytes, but talks\.bin has \d+ tokens"):
        SampleReader(mixture, 32, seed=1)
    (run.tokens / "talks.loss_mask").unlink()
    with pytest.raises(TokenFileError, match=r"talks\.loss_mask: is missing, but .* records it"):
        SampleReader(mixture, 32, seed=1)
    restart(run, "tokenize")
    tokenize(config, run)
    first = files(run)
    restart(run, "tokenize")
    tokenize(config.model_copy(update={"workers": 1}), run)
    assert files(run) == first, "also with masks the bytes do not depend on the order of work"


def test_a_wrong_token_is_found_while_it_is_written(
    prepared: tuple[DataConfig, RunDirectory, Manifest], in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, _ = prepared
    restart(run, "tokenize")
    right, table = stage_module._opened(run.tokenizer, "")

    class OneTokenOff:
        vocabulary_size, end_of_document = right.vocabulary_size, right.end_of_document

        def encode(self, texts: list[str]) -> Encoded:
            encoded = right.encode(texts)
            encoded.tokens[int(encoded.sizes[:2].sum())] ^= 1
            return encoded

    monkeypatch.setattr(stage_module, "_opened", lambda folder, inputs: (OneTokenOff(), table))
    with pytest.raises(TokenizerError, match=r"document \w+-0000\d/0000002 does not decode to its original text"):
        tokenize(config.model_copy(update={"workers": 1}), run)
    restart(run, "tokenize")
