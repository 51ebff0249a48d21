"""The trained tokenizer: its entries, its round trip, its determinism, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep.config import TokenizerConfig
from data_prep.run.commit_records import StaleOutputError
from data_prep.tokenizer.byte_level import reserved_entries, save_byte_level_bpe, train_byte_level_bpe
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import PRE_TOKENIZER_PATTERN, PieceEncoder
from data_prep.tokenizer.train import train_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts

SMALL = TokenizerConfig(vocabulary_size=512, reserved_entries=20)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_texts(0, 300)


@pytest.fixture(scope="module")
def folder(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_level_bpe(train_byte_level_bpe(iter(texts), SMALL), folder)
    return folder


def test_entries_stand_in_their_order(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 512
    assert [tokenizer.id_to_token(i) for i in range(24)] == list(reserved_entries(20))
    assert reserved_entries(20)[:6] == ("<unk>", "<s>", "</s>", "<pad>", "<|reserved_0|>", "<|reserved_1|>")
    content = json.loads((folder / "tokenizer.json").read_text())
    assert content["normalizer"] is None
    assert content["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": PRE_TOKENIZER_PATTERN}
    assert content["pre_tokenizer"]["pretokenizers"][0]["behavior"] == "Isolated"


def test_pre_tokenizer_splits_as_blooms(folder: Path) -> None:
    """Cases worked out from the pattern: no contractions, no digits split, every character kept."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    split = tokenizer.pre_tokenizer.__getitem__(0)
    pieces = [piece for piece, _ in split.pre_tokenize_str("don't pay 1234, (a|b)  x。y")]
    assert pieces == ["don't", " pay", " 1234", ", (", "a", "|", "b", ") ", " x", "。", "y"]


def test_no_merge_spells_a_reserved_entry() -> None:
    """`<s>` is frequent in HTML; without care the trainer merges it into the control token's id."""
    html = [f"<s>{word}</s> {word}<s></s><pad>" for word in ("uno", "dos", "tres", "cuatro")] * 50
    tokenizer = train_byte_level_bpe(iter([*html, *make_texts(1, 300)]), SMALL)
    tokenizer.encode_special_tokens = True
    names = set(reserved_entries(20))
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert not [merge for merge in merges if "".join(merge) in names]
    for text in (*html[:4], "</s>", " </s>", "<s>", "<|reserved_3|>"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert min(ids) >= 24, text
        assert tokenizer.decode(ids) == text


def test_every_text_comes_back(folder: Path, texts: list[str]) -> None:
    encoder = ReferenceEncoder(folder)
    for text in (*texts, "", "\x00", "\ufeff a\r\n", "😀" * 5, "ﬁ １ Å e\u0301", "".join(map(chr, range(32, 1000)))):
        encoded = encoder.encode([text])
        assert encoded.tokens[-1] == encoder.end_of_document == 2
        assert encoded.sizes.tolist() == [len(encoded.tokens)]
        assert 2 not in encoded.tokens[:-1]
        assert encoder.decode(encoded.tokens[:-1]) == text


@pytest.mark.parametrize("threads", ["1", "4"])
def test_training_is_deterministic(folder: Path, threads: str, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tests.unit.data_prep.tokenizer.test_train import *;"
        f"save_byte_level_bpe(train_byte_level_bpe(iter(make_texts(0, 300)), SMALL), Path({str(tmp_path)!r}))"
    )
    environment = {
        "RAYON_NUM_THREADS": threads,
        "PYTHONPATH": str(Path(__file__).parents[4]),
        "PYTHONHASHSEED": threads,
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_transformers_loads_it(folder: Path, texts: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert (loaded.eos_token, loaded.eos_token_id) == ("</s>", 2)
    assert (loaded.bos_token_id, loaded.pad_token_id, loaded.unk_token_id, len(loaded)) == (1, 3, 0, 512)
    encoder = ReferenceEncoder(folder)
    for text in texts[:50]:
        plain = text.replace("</s>", "").replace("<s>", "").replace("<|reserved_0|>", "")
        assert loaded(plain)["input_ids"] == encoder.encode([plain]).tokens[:-1].tolist()
        assert loaded.decode(loaded(plain)["input_ids"]) == plain


def test_too_little_text_names_the_size_that_can_be_reached() -> None:
    settings = TokenizerConfig(vocabulary_size=16384, reserved_entries=20)
    with pytest.raises(
        TokenizerError, match=r"vocabulary_size 16384 cannot be filled: .*vocabulary_size=(\d+)"
    ) as caught:
        train_byte_level_bpe(iter(make_texts(0, 300)), settings)
    reachable = int(str(caught.value).rsplit("=", 1)[1])
    train_byte_level_bpe(iter(make_texts(0, 300)), TokenizerConfig(vocabulary_size=reachable, reserved_entries=20))


def test_vocabulary_smaller_than_what_is_always_there() -> None:
    with pytest.raises(TokenizerError, match=r"512 is too small: 404 control and .* 256 bytes take 660"):
        train_byte_level_bpe(iter(["a"]), TokenizerConfig(vocabulary_size=512, reserved_entries=400))


def test_the_stage_writes_and_commits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {"books": make_texts(0, 90), "code": make_texts(1, 50)}
    settings = {"tokenizer": {"vocabulary_size": 512, "reserved_entries": 20}}
    config, run, _ = make_run(tmp_path, sources, dropped=["books-00000/0000003"], settings=settings)
    train_tokenizer(config, run)
    report = json.loads((run.tokenizer / "report.json").read_text())
    assert report["vocabulary_size"] == 512
    # All that is kept, but for the documents that fertility is measured on.
    drawn = {name: counts["documents"] for name, counts in report["sample"]["by_source"].items()}
    assert 80 < drawn["books"] < 89 and 44 < drawn["code"] <= 50
    assert report["sample"]["by_language"]["es"]["documents"] == sum(drawn.values())
    assert report["round_trip"]["documents"] == 139 and not report["round_trip"]["inexact"]
    assert all(1 < ratio < 10 for ratio in report["bytes_per_token"].values())
    check = json.loads((run.tokenizer / "encoder_check.json").read_text())
    assert check["used"] == PieceEncoder.name

    before = (run.tokenizer / "tokenizer.json").stat().st_mtime_ns
    train_tokenizer(config, run)
    assert (run.tokenizer / "tokenizer.json").stat().st_mtime_ns == before
    assert "already done" in capsys.readouterr().out
    changed = config.model_copy(update={"tokenizer": TokenizerConfig(vocabulary_size=640, reserved_entries=20)})
    with pytest.raises(StaleOutputError, match="vocabulary_size"):
        train_tokenizer(changed, run)


def test_nothing_is_kept(tmp_path: Path) -> None:
    config, run, _ = make_run(tmp_path, {"a": ["x"]}, dropped=["a-00000/0000000"])
    with pytest.raises(ValueError, match="no source has a kept document"):
        train_tokenizer(config, run)


def test_any_vocabulary_size_is_taken() -> None:
    """BLOOM's 250,680 is no multiple of 128; the model pads."""
    assert TokenizerConfig(vocabulary_size=250_680).vocabulary_size == 250_680
    settings = TokenizerConfig(vocabulary_size=601, reserved_entries=20)
    assert train_byte_level_bpe(iter(make_texts(0, 300)), settings).get_vocab_size() == 601
