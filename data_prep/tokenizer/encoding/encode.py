"""Encoding of text to token ids: the reference encoder, the bulk encoders, and the proof that they are equal.

Text is data: if a page contains `</s>`, its characters are encoded, never the control token of that name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer

from data_prep.config import TokenizerKind
from data_prep.tokenizer.encoding.encoded import Encoded, Encoder, PlainEncoder, TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
from foundation.atomic_files import sha256_file, write_json

CHECK_FILE = "encoder_check.json"
MODEL_FILE = "tokenizer.model"
"""File of a SentencePiece tokenizer that sentencepiece reads."""

_PROOF_BATCH_DOCUMENTS = 64


class ReferenceEncoder:
    """Reference encoder: Hugging Face's tokenizers.

    Args:
        folder: contains `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        TokenizerError: a file is missing, or the tokenizer has no end-of-document token.
    """

    def __init__(self, folder: Path) -> None:
        self.path = path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file; `altiplano data train-tokenizer` writes it")
        self.name = f"tokenizers {version('tokenizers')}"
        self._open(whole_and_exact(self.content))
        self.end_of_document = _end_of_document(folder, self._tokenizer)

    def _open(self, content: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        self._tokenizer.encode_special_tokens = True  # `</s>` in a text is four characters, no token

    def continuing(self) -> ReferenceEncoder:
        """Return the encoder of texts that continue a text: without the prefix that is put before a text."""
        other = copy(self)
        other._open(without_prefix(whole_and_exact(self.content)))
        return other

    @cached_property
    def vocabulary_size(self) -> int:
        """Largest id plus one: some vocabularies have holes."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def content(self) -> dict[str, Any]:
        """Content of `tokenizer.json`."""
        parsed: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return parsed

    @property
    def added_tokens(self) -> dict[int, AddedToken]:
        """Added tokens by id: control and reserved entries, and those that a tokenizer finds in a text before it
        divides it."""
        return dict(self._tokenizer.get_added_tokens_decoder())

    @property
    def kind(self) -> TokenizerKind:
        """The kind of tokenizer that can be trained and is like this one."""
        return "sentencepiece_bpe" if self.content["model"].get("byte_fallback") else "byte_level_bpe"

    def encode(self, texts: Sequence[str]) -> Encoded:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        sizes = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        tokens = np.fromiter((token for row in rows for token in row), np.uint32, int(sizes.sum()))
        return _with_end_of_document(tokens, sizes, self.end_of_document)

    def normalize(self, text: str) -> str:
        """Apply the tokenizer's normalizer to a text."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def decode(self, tokens: npt.NDArray[np.integer[Any]]) -> str:
        """Decode tokens; end-of-document tokens are shown by name."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return text


def whole_and_exact(content: dict[str, Any]) -> dict[str, Any]:
    """Return a `tokenizer.json` without leftovers of a library's last call or of training: truncation, padding and
    dropout would cut a document, pad it, or encode it differently each time."""
    return {**content, "truncation": None, "padding": None, "model": {**content["model"], "dropout": None}}


def without_prefix(content: dict[str, Any]) -> dict[str, Any]:
    """Return a `tokenizer.json` that puts nothing before a text: SentencePiece's dummy prefix, GPT-2's space."""

    def changed(step: Any) -> Any:
        if isinstance(step, list):
            return [changed(one) for one in step if one.get("type") != "Prepend"]
        if not isinstance(step, dict):
            return step
        inner = {name: changed(value) if isinstance(value, list) else value for name, value in step.items()}
        if step.get("type") == "Metaspace":
            inner["prepend_scheme"] = "never"
        if step.get("add_prefix_space"):
            inner["add_prefix_space"] = False
        return inner

    normalizer, pre_tokenizer = content["normalizer"], content["pre_tokenizer"]
    if (normalizer or {}).get("type") == "Prepend":
        normalizer = None
    return {**content, "normalizer": changed(normalizer), "pre_tokenizer": changed(pre_tokenizer)}


class GigatokenEncoder:
    """Bulk encoder gigatoken. Use it only through `open_encoder`, which requires that it has been proven equal to the
    reference.

    Raises:
        TokenizerError: gigatoken cannot take this tokenizer.
    """

    name = f"gigatoken {version('gigatoken')}"

    def __init__(self, folder: Path, end_of_document: int, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        self.end_of_document = end_of_document
        content = whole_and_exact(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
        # gigatoken finds control tokens in the text as "added tokens"; it cannot find those that it is not given.
        content["added_tokens"] = []
        self._content = content
        self._open(content)

    def continuing(self) -> GigatokenEncoder:
        """Return the encoder of texts that continue a text."""
        other = copy(self)
        other._open(without_prefix(self._content))
        return other

    def _open(self, content: dict[str, Any]) -> None:
        import gigatoken

        try:
            self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(content))
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"gigatoken cannot take this tokenizer: {str(error).splitlines()[0]}") from None

    def encode(self, texts: Sequence[str]) -> Encoded:
        rows = self._tokenizer.encode_batch(list(texts), parallel=False)
        offsets = np.asarray(rows.layout.offsets.data, np.int64)
        tokens = np.asarray(rows.layout.content.data, np.uint32)[offsets[0] : offsets[-1]]
        return _with_end_of_document(tokens, np.diff(offsets), self.end_of_document)


class SentencePieceEncoder:
    """sentencepiece itself, with the `tokenizer.model` beside a `tokenizer.json`. It writes no token files: the
    reference is compared with it.

    Raises:
        TokenizerError: there is no `tokenizer.model`.
    """

    name = f"sentencepiece {version('sentencepiece')}"

    def __init__(self, folder: Path, end_of_document: int, vocabulary_size: int) -> None:
        import sentencepiece

        path = folder / MODEL_FILE
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file")
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.end_of_document = end_of_document
        self.vocabulary_size = vocabulary_size

    def encode(self, texts: Sequence[str]) -> Encoded:
        rows = self._processor.encode(list(texts), num_threads=1)
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.fromiter((token for row in rows for token in row), np.uint32, int(sizes.sum()))
        return _with_end_of_document(tokens, sizes, self.end_of_document)


def prove_equal(reference: PlainEncoder, bulk: PlainEncoder, texts: Iterable[str]) -> dict[str, Any]:
    """Encode every text with both encoders and compare every token.

    Returns:
        Whether they are equal, the number of documents, bytes and tokens compared, and the first difference.
    """
    result: dict[str, Any] = {"equal": True, "documents": 0, "bytes": 0, "tokens": 0}
    for batch in _batches([*ADVERSARIAL_TEXTS], texts):
        right, given = reference.encode(batch), bulk.encode(batch)
        result["documents"] += len(batch)
        result["bytes"] += sum(len(text.encode()) for text in batch)
        result["tokens"] += len(right.tokens)
        if not np.array_equal(right.sizes, given.sizes) or not np.array_equal(right.tokens, given.tokens):
            differing = next(text for text in batch if not _same(reference.encode([text]), bulk.encode([text])))
            result["equal"] = False
            result["difference"] = _show_difference(reference, bulk, differing)
            return result
    return result


BULK_ENCODERS = (PieceEncoder, GigatokenEncoder)
"""Bulk encoders in the order in which they are tried; the first that is proven equal is used."""


def check_encoders(
    folder: Path, texts: Callable[[], Iterable[str]], *, forms_must_agree: bool = True
) -> dict[str, Any]:
    """Choose the encoder that writes token files for the tokenizer in `folder`, and record it there.

    Args:
        texts: returns a sample of the corpus to be encoded; called once for each encoder.
        forms_must_agree: a difference between `tokenizer.model` and `tokenizer.json` is an error; otherwise it is only
            recorded.

    Raises:
        TokenizerError: sentencepiece with `tokenizer.model` differs from the reference with `tokenizer.json`.
    """
    reference = ReferenceEncoder(folder)
    record: dict[str, Any] = {
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "reference": reference.name,
        "compared": {},
        "used": reference.name,
    }
    if (folder / MODEL_FILE).is_file():
        original = SentencePieceEncoder(folder, reference.end_of_document, reference.vocabulary_size)
        result = prove_equal(reference, original, texts())
        record["compared"][original.name] = result
        if forms_must_agree and not result["equal"]:
            raise TokenizerError(f"{folder}: {MODEL_FILE} and tokenizer.json differ: {result['difference']}")
    for kind in BULK_ENCODERS:
        try:
            bulk = kind(folder, reference.end_of_document, reference.vocabulary_size)
            result = prove_equal(reference, bulk, texts())
        except TokenizerError as error:
            result = {"equal": False, "documents": 0, "bytes": 0, "tokens": 0, "difference": str(error)}
        record["compared"][kind.name] = result
        if result["equal"]:
            record["used"] = kind.name
            break
    write_json(folder / CHECK_FILE, record)
    return record


def open_encoder(reference: ReferenceEncoder) -> Encoder:
    """Open the fastest encoder that is proven equal for this tokenizer, see `check_encoders`."""
    folder = reference.path.parent
    path = folder / CHECK_FILE
    if not path.is_file():
        return reference
    record = json.loads(path.read_text(encoding="utf-8"))
    kinds = {kind.name: kind for kind in BULK_ENCODERS}
    proven_for = (record["tokenizer_sha256"], record["reference"])
    here = (sha256_file(reference.path), reference.name)
    if record["used"] in kinds and proven_for == here:
        return kinds[record["used"]](folder, reference.end_of_document, reference.vocabulary_size)
    if record["used"] != reference.name:
        print(
            f"{path}: was made for other versions; encoding with {reference.name}, which is slower; "
            "`--restart train-tokenizer` checks the faster ones again",
            file=sys.stderr,
        )
    return reference


ADVERSARIAL_TEXTS = (
    "",
    " ",
    "\n\n\n   \t",
    "</s>",
    "a</s>b <s> <unk><pad> <|reserved_0|> <|reserved_195|>x",
    "<s>strike</s> </ s> <|reserved_",
    "\x00\x01\x7f\ufeff\ufffd",
    "e\u0301 \u00e9 \u212b \ufb01 \uff11",  # composed, decomposed and compatibility forms must differ
    "a\u2581b \u2581\u2581 \u2585c \u2047 \u2581",
    "  two  spaces\t\ttabs \u00a0 x  ",
    "नमस्ते दुनिया। 你好，世界。 مرحبا، بالعالم۔ こんにちは、世界…",
    "👩‍👩‍👧‍👦 🇧🇴 \U0010ffff",
    "a\u00a0b\u2003c\u2028d\u3000e\x85f\x1cg",
    "x|y (z) [w] {v} . , ! ? ...!?",
    "0123456789 3.14159 1,000,000",
    "=" * 3000 + " " * 3000 + "\n" * 300,
    "abcdefghijklmnopqrstuvwxyz" * 200 + " " + "é雪" * 100,
)


def _end_of_document(folder: Path, tokenizer: Tokenizer) -> int:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file; its eos_token names the end-of-document token")
    token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    if not name:
        raise TokenizerError(
            f"{path}: no eos_token; token files need an end-of-document token, or documents would run into one "
            'another: name it there, such as "eos_token": "<|endoftext|>"'
        )
    identity: int | None = tokenizer.token_to_id(name)
    if identity is None:
        raise TokenizerError(f"{path}: eos_token {name!r} is not in the vocabulary of {folder / 'tokenizer.json'}")
    return identity


def _with_end_of_document(
    tokens: npt.NDArray[np.uint32], sizes: npt.NDArray[np.int64], end_of_document: int
) -> Encoded:
    ends = np.cumsum(sizes)
    return Encoded(np.insert(tokens, ends, np.uint32(end_of_document)), sizes + 1)


def _batches(*sources: Iterable[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    for source in sources:
        for text in source:
            batch.append(text)
            if len(batch) == _PROOF_BATCH_DOCUMENTS:
                yield batch
                batch = []
    if batch:
        yield batch


def _same(one: Encoded, other: Encoded) -> bool:
    return np.array_equal(one.tokens, other.tokens)


def _show_difference(reference: PlainEncoder, bulk: PlainEncoder, text: str) -> str:
    right, given = reference.encode([text]).tokens, bulk.encode([text]).tokens
    shorter = min(len(right), len(given))
    differs = np.flatnonzero(right[:shorter] != given[:shorter])
    place = int(differs[0]) if len(differs) else shorter
    window = slice(max(0, place - 3), place + 5)
    return (
        f"at token {place} of a text that begins {text[:60]!r}: "
        f"{reference.name} gives {right[window].tolist()}, {bulk.name} {given[window].tolist()}"
    )
