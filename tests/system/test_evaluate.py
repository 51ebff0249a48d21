"""lm-eval (an optional extra) measures on an exported model what our own model computes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file
from pretrain.checkpoint.single import load_single_process_model
from tests.unit.pretrain.families.small import InMemory, small_model
from tools import evaluate
from tools.hugging_face import to_hf as convert
from tools.hugging_face.from_hf import from_hugging_face

TEXTS = ("def add(a, b):\n    return a + b\n", "Water boils at one hundred degrees.", "x" * 150)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small LLaMA of random weights with a tokenizer of bytes, and a mixture that holds three texts out."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"</s>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a", "eos_token": "</s>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(names))
    entry = {"name": "text", "weight": 1.0}
    for key, name in (("", "text"), ("heldout_", "text.heldout")):
        with IndexedDatasetWriter(tmp_path / name, 257) as writer:
            for text in TEXTS:
                writer.add_document(np.array([*tokenizer.encode(text).ids, 0]))
        sizes = {f"{key}documents": len(TEXTS), f"{key}tokens": sum(len(text) + 1 for text in TEXTS)}
        digests = {kind: sha256_file(tmp_path / f"{name}.{kind}") for kind in ("bin", "idx")}
        entry |= {"heldout" if key else "path": name, **sizes, f"{key}sha256": digests}
    mixture = {"version": 1, "tokenizer": "tokenizer", "vocabulary_size": 257, "end_of_document": 0}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({**mixture, "datasets": [entry]}))

    model = small_model("llama").model_copy(update={"vocabulary_size": 257})
    settings = {"tokenizer": tmp_path / "tokenizer", "end_of_document": 0, "dtype": "float32", "shard_bytes": 10**9}
    convert.to_hugging_face(InMemory(model), tmp_path / "hf", **settings)
    return tmp_path / "hf"


@pytest.mark.slow
def test_lm_eval_measures_what_our_model_computes(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the optional extra [eval] is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert evaluate.main([str(exported), "--mixture", str(exported.parent / "mixture.yaml")]) == 0
    assert "altiplano_continuations" in capsys.readouterr().out
    results = json.loads((exported.parent / evaluate.RESULT_FILE).read_text())["results"]

    from_hugging_face(exported, exported.parent / "imported")
    model = load_single_process_model(exported.parent / "imported")
    held_out, bits = IndexedDataset(exported.parent / "text.heldout"), 0.0
    for i in range(len(held_out)):
        # As in training, the end of the document before stands first; the one at the end is no part of the text.
        tokens = torch.tensor([[0, *held_out.document(i)[:-1].tolist()]])
        log_probabilities = model(tokens[:, :-1]).log_softmax(-1)[0]
        bits -= float(log_probabilities.gather(1, tokens[0, 1:, None]).sum()) / math.log(2)
    expected = bits / sum(map(len, TEXTS))
    assert results["altiplano_held_out"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= results["altiplano_continuations"]["acc,none"] <= 1
    assert results["altiplano_continuations"]["sample_len"] == 28


def test_without_the_extra_it_says_how_to_get_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert evaluate.main([str(exported)]) == 2
    assert "optional extra: .venv/bin/pip install" in capsys.readouterr().err
