"""Valid and broken token files on the command line, some written by megatron-core."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from data_prep.tokenizer.byte_level import save_byte_level_bpe
from tools import inspect_tokens

END = 2
RULES = ("--vocabulary-size", "1000", "--end-of-document", str(END))


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Written by megatron-core: no end, an end inside, two sequences, an empty one; int32 where uint16 would do."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "faulty.bin"), dtype=np.int32)
    for pieces in ([[5, 6, 7, END]], [[5, 6]], [[8, END, 9, END]], [[10, 11], [12, END]], [[]]):
        builder.add_document(torch.tensor([t for piece in pieces for t in piece]), [len(piece) for piece in pieces])
    builder.finalize(str(tmp_path / "faulty.idx"))
    return tmp_path / "faulty"


def test_faults_are_counted_and_a_copy_has_none(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_tokens.main([str(faulty), "--verify", *RULES]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in ("documents", "tokens", "highest_id")} == {
        "documents": 5,
        "tokens": 14,
        "highest_id": 12,
    }
    assert found["examples"] == {"without_end": [1], "end_inside": [2], "several_sequences": [3], "empty": [4]}

    copy = faulty.with_name("copy")
    assert inspect_tokens.main([str(faulty), "--convert", str(copy), *RULES]) == 0
    counts = json.loads(capsys.readouterr().out)
    wanted = {"documents_read": 5, "tokens_read": 14, "ends_appended": 1, "divided": 1, "empty": 1}
    assert {key: counts[key] for key in wanted} == wanted
    dataset = IndexedDataset(copy)
    assert dataset.dtype == np.uint16
    documents = [dataset.document(i).tolist() for i in range(len(dataset))]
    assert documents == [[5, 6, 7, END], [5, 6, END], [8, END], [9, END], [10, 11, 12, END]]
    assert inspect_tokens.main([str(copy), "--verify", *RULES]) == 0


def test_datatrove_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [[4, 5, END], [END], [900, 901, 902, END]]
    np.concatenate(documents).astype("<u2").tofile(tmp_path / "data.ds")
    np.cumsum([len(d) for d in documents]).astype("<u8").tofile(tmp_path / "data.ds.index")
    assert inspect_tokens.main([str(tmp_path / "data"), "--convert", str(tmp_path / "copy"), *RULES]) == 0
    dataset = IndexedDataset(tmp_path / "copy")
    assert [dataset.document(i).tolist() for i in range(3)] == documents
    with open(tmp_path / "data.ds", "ab") as stream:
        stream.write(b"\0\0\0")
    capsys.readouterr()
    assert inspect_tokens.main([str(tmp_path / "data"), "--verify", *RULES]) == 2
    assert "data.ds: 19 bytes are not the 8 tokens" in capsys.readouterr().err


def test_an_id_outside_the_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with IndexedDatasetWriter(tmp_path / "data", 1000) as writer:
        writer.add_document(np.array([5, 999, END]))
    rules = ("--vocabulary-size", "999", "--end-of-document", "2")
    assert inspect_tokens.main([str(tmp_path / "data"), "--verify", *rules]) == 1
    assert json.loads(capsys.readouterr().out)["examples"] == {"outside_vocabulary": [0]}
    assert inspect_tokens.main([str(tmp_path / "data"), "--convert", str(tmp_path / "copy"), *rules]) == 2
    assert "token id 999" in capsys.readouterr().err
    assert not (tmp_path / "copy.idx").exists()
    assert inspect_tokens.main([str(tmp_path / "data"), "--convert", str(tmp_path / "data"), *RULES]) == 2
    assert "is the input" in capsys.readouterr().err


def test_statistics_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", "<pad>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokens").mkdir()
    save_byte_level_bpe(tokenizer, tmp_path / "tokenizer")
    texts = ["llama", "altiplano", "puna\x1b[31m"]
    with IndexedDatasetWriter(tmp_path / "tokens" / "data", len(vocabulary)) as writer:
        for text in texts:
            writer.add_document(np.array([*tokenizer.encode(text).ids, END]))
    prefix = str(tmp_path / "tokens" / "data")
    assert inspect_tokens.main([prefix, "--checksums"]) == 0
    output = capsys.readouterr().out
    assert "3 documents, 26 tokens of uint16" in output
    assert "0% 6, 5% 6, 25% 8, 50% 10" in output and "100.0% of 3 documents looked at end with token 2" in output
    assert "bytes per token  1.000" in output and "token 2 is the end of a document" in output
    assert all(digest in output for digest in writer.digests.values())
    assert inspect_tokens.main([prefix, "--documents", "1:3"]) == 0
    output = capsys.readouterr().out
    assert "document 1: 10 tokens" in output and "altiplano</s>" in output
    assert "\x1b" not in output, "control characters must not reach the terminal"
    assert inspect_tokens.main([prefix, "--documents", "2:9"]) == 2
    assert "data has 3 documents" in capsys.readouterr().err
