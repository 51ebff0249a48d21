"""Tokenizers in the form of released models: which encoder is proven equal, and that it is equal on any text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizer.encoding.encode import (
    GigatokenEncoder,
    ReferenceEncoder,
    check_encoders,
    open_encoder,
)
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
from tests.unit.data_prep.tokenizer.corpus import make_texts

TEXTS = [
    *make_texts(0, 300),
    *["def f(x):\r\n        return 1234 + 56789\n\n\tpass  "] * 30,
    "I'VE we'll 日本語テキスト",
]
END = "<|end|>"

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def byte_level(*patterns: str, normalizer: Any = None, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def gemma() -> Tokenizer:
    """SentencePiece BPE without a space before the text, and with its pre-tokenizer that has no effect."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    names = [END, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    content = json.loads(tokenizer.to_str())
    content["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    content["added_tokens"] = content["added_tokens"][:2]
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    content["pre_tokenizer"] = spaces
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    content["decoder"] = {"type": "Sequence", "decoders": steps}
    return Tokenizer.from_str(json.dumps(content))


def llama_3() -> Tokenizer:
    return byte_level(rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}", ignore_merges=True)


def qwen() -> Tokenizer:
    return byte_level(rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_SIGNS}", normalizer=normalizers.NFC())


KNOWN: dict[str, tuple[Any, type]] = {
    "Llama 3": (llama_3, GigatokenEncoder),
    "Qwen 2 and 3": (qwen, GigatokenEncoder),
    "DeepSeek V3": (lambda: byte_level(*_DEEPSEEK), GigatokenEncoder),
    "Gemma": (gemma, PieceEncoder),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, (make, _) in KNOWN.items():
        found[name] = folder = tmp_path_factory.mktemp("known")
        make().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
        check_encoders(folder, lambda: TEXTS)
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_a_fast_encoder_is_proven_equal(folders: dict[str, Path], name: str) -> None:
    assert isinstance(open_encoder(ReferenceEncoder(folders[name])), KNOWN[name][1])


@given(
    st.lists(
        st.text(st.one_of(st.sampled_from(" .\r\n\t(é雪aſK's12▁\u0301"), st.characters(exclude_categories=["Cs"]))),
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_encoded_as_the_reference_does(folders: dict[str, Path], texts: list[str]) -> None:
    for name, folder in folders.items():
        reference = ReferenceEncoder(folder)
        right, found = reference.encode(texts), open_encoder(reference).encode(texts)
        np.testing.assert_array_equal(found.tokens, right.tokens, err_msg=name)
        np.testing.assert_array_equal(found.sizes, right.sizes, err_msg=name)
