"""The bytes of each token, and the proof that tokens decode to the original document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import kernel
from data_prep.kernels.machine_words import differing_of_32
from data_prep.tokenizer.encoding.encode import ADVERSARIAL_TEXTS, ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import SPACE, Encoded, Texts, TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import byte_letters

_AT_ONCE = 32
"""Number of bytes that are compared at once."""

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")

SPACE_MARK = "U+2581, which comes back as a space"
_EXACT_STEPS = {"Prepend", "Replace", "ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"}
"""Types of normalizers and pre-tokenizers that keep a text as it is, or as SentencePiece writes it."""


@dataclass(frozen=True)
class TokenBytes:
    """Text of every entry of a vocabulary.

    Attributes:
        texts: bytes of each entry; None for control and reserved entries, which have no text.
        is_fallback: entries of a single byte of a multi-byte character, [vocabulary], which spell characters without an
            entry.
        prefix: bytes that encoding puts before each document, and decoding takes off: SentencePiece's dummy prefix.
        rewriting: description of what the tokenizer may rewrite before it divides a text; "" if nothing.
        normalize: function that the tokenizer applies to a text before it divides it.
        is_sentencepiece: spaces are written as U+2581.
    """

    texts: tuple[bytes | None, ...]
    is_fallback: npt.NDArray[np.bool_]
    prefix: bytes
    rewriting: str = ""
    normalize: Callable[[str], str] = str
    is_sentencepiece: bool = False

    def may_differ(self, text: str) -> bool:
        """Return whether decoding may differ from this text because the tokenizer rewrites it by definition."""
        return bool(self.rewriting) and (self.rewriting != SPACE_MARK or SPACE in text)

    def is_rewritten(self, tokens: npt.NDArray[np.integer[Any]], text: str) -> bool:
        """Return whether tokens decode to the normalized text, with or without a space before it."""
        found = b"".join(self.texts[token] or b"" for token in tokens.tolist())
        right = self.normalize(text)
        right_bytes = (right.replace(SPACE, " ") if self.is_sentencepiece else right).encode()
        return found in (right_bytes, b" " + right_bytes)

    @classmethod
    def of(cls, encoder: ReferenceEncoder) -> TokenBytes:
        """Build the table from `tokenizer.json`.

        Raises:
            TokenizerError: neither byte-level BPE nor SentencePiece BPE with byte fallback.
        """
        content = encoder.content
        is_sentencepiece = bool(content["model"].get("byte_fallback"))
        is_byte_level = (content["decoder"] or {}).get("type") == "ByteLevel"
        if content["model"]["type"] != "BPE" or not (is_sentencepiece or is_byte_level):
            raise TokenizerError(f"{encoder.path}: neither byte-level BPE nor SentencePiece BPE with byte fallback")
        names: list[str | None] = [None] * encoder.vocabulary_size
        for name, identity in content["model"]["vocab"].items():
            names[identity] = name
        literal: dict[int, bytes] = {}
        for identity, token in encoder.added_tokens.items():
            names[identity] = None
            if not token.special:
                literal[identity] = token.content.encode()
        is_fallback = np.zeros(len(names), np.bool_)
        texts: list[bytes | None] = []
        if is_sentencepiece:
            for i, name in enumerate(names):
                byte = _BYTE_PIECE.fullmatch(name or "")
                is_fallback[i] = byte is not None and int(byte[1], 16) >= 0x80
                if byte:
                    texts.append(bytes([int(byte[1], 16)]))
                else:
                    texts.append(literal.get(i) if name is None else name.replace(SPACE, " ").encode())
            rewriting = _rewriting(content) or SPACE_MARK
            table = cls(tuple(texts), is_fallback, b"", rewriting, encoder.normalize, is_sentencepiece=True)
            # several steps together determine whether there is a dummy prefix, so their result is examined
            begins_with_space = (texts[encoder.encode(["a"]).tokens[0]] or b"").startswith(b" ")
            return replace(table, prefix=b" ") if begins_with_space else table
        bytes_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        for i, name in enumerate(names):
            text = literal.get(i) if name is None else bytes(bytes_of[letter] for letter in name)
            texts.append(text)
            is_fallback[i] = text is not None and len(text) == 1 and text[0] >= 0x80
        return cls(tuple(texts), is_fallback, b"", _rewriting(content), encoder.normalize)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Number of bytes of each entry; -1 if it has no text."""
        return np.array([-1 if text is None else len(text) for text in self.texts], np.int32)

    @cached_property
    def _flat(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(b"".join(text or b"" for text in self.texts) + bytes(_AT_ONCE), np.uint8)

    @cached_property
    def _places(self) -> npt.NDArray[np.uint64]:
        """Start of each entry in `_flat`, 32 bits, and its length, 32 bits; all bits set if it has no text."""
        lengths = np.maximum(self.lengths, 0).astype(np.uint64)
        starts = np.cumsum(lengths) - lengths
        return starts << np.uint64(32) | self.lengths.astype(np.uint32)

    def inexact(self, encoded: Encoded, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which documents differ from their decoded tokens, [documents]."""
        held = Texts.of(texts)
        prefix = np.frombuffer(self.prefix, np.uint8)
        result = np.empty(len(held), np.bool_)
        _compare(encoded.tokens, encoded.sizes, held.data, held.offsets, prefix, self._places, self._flat, result)
        return result

    def loss_mask(self, encoded: Encoded, no_loss: Sequence[Sequence[tuple[int, int]]]) -> npt.NDArray[np.bool_]:
        """Return whether the loss counts each token, [tokens].

        A token counts unless its last byte is in a range of `no_loss`; an end-of-document token counts as the token
        before it.

        Args:
            no_loss: half-open ranges of bytes of each document, in order; the tokens must be exact.
        """
        mask = np.ones(len(encoded.tokens), np.bool_)
        first = 0
        for size, ranges in zip(encoded.sizes.tolist(), no_loss, strict=True):
            if ranges:
                content = slice(first, first + size - 1)
                last_bytes = np.cumsum(self.lengths[encoded.tokens[content]]) - len(self.prefix) - 1
                bounds = np.array(ranges).reshape(-1)
                mask[content] = np.searchsorted(bounds, last_bytes, "right") % 2 == 0
                mask[first + size - 1] = mask[first + size - 2]
            first += size
        return mask


def check_that_texts_come_back(encoder: ReferenceEncoder, table: TokenBytes) -> None:
    """Check that texts that tokenizers are known to alter, and each added token among words, survive encoding and
    decoding.

    Raises:
        TokenizerError: the tokens of a text decode neither to it nor to its normalized form.
    """
    added = [token.content for token in encoder.added_tokens.values() if not token.special]
    texts = [*ADVERSARIAL_TEXTS, *(f"a {content} b" for content in added)]
    encoded = encoder.encode(texts)
    ends = np.cumsum(encoded.sizes)
    inexact = table.inexact(encoded, texts)
    for text, end, size, is_inexact in zip(texts, ends.tolist(), encoded.sizes.tolist(), inexact.tolist(), strict=True):
        tokens = encoded.tokens[end - size : end - 1]
        if is_inexact and not (table.may_differ(text) and table.is_rewritten(tokens, text)):
            found = b"".join(table.texts[token] or b"" for token in tokens.tolist()).decode("utf-8", "backslashreplace")
            raise TokenizerError(
                f"{encoder.path}: a text does not come back from its tokens: {text[:60]!r} comes back as {found[:60]!r}"
                "; it cannot be used for token files, which must decode to their text"
            )


def _rewriting(content: Mapping[str, Any]) -> str:
    """Describe what an adopted tokenizer does to a text beyond writing spaces as SentencePiece does."""
    steps = _steps(content["normalizer"], "normalizers") + _steps(content["pre_tokenizer"], "pretokenizers")
    found = [step["type"] for step in steps if step["type"] not in _EXACT_STEPS]
    found += [step["type"] for step in steps if step["type"] == "Replace" and step["pattern"] != {"String": " "}]
    found += ["a space before each document" for step in steps if step.get("add_prefix_space")]
    return ", ".join(dict.fromkeys(found))


def _steps(part: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part[name] for step in _steps(inner, name)]


@kernel
def _compare(
    tokens: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    prefix: npt.NDArray[np.uint8],
    places: npt.NDArray[np.uint64],
    flat: npt.NDArray[np.uint8],
    result: npt.NDArray[np.bool_],
) -> None:
    first, one = 0, np.uint64(1)
    for document in range(len(sizes)):
        begin, end = offsets[document], offsets[document + 1]
        place = begin - len(prefix) if end > begin else begin
        differing = np.uint64(0)
        for i in range(np.uint64(first), np.uint64(first + sizes[document] - 1)):
            entry = places[np.uint64(tokens[i])]
            start, length = np.int64(entry >> np.uint64(32)), np.int64(entry & np.uint64(0xFFFFFFFF))
            if place + length > end:
                differing = one
                break
            if length < _AT_ONCE and place >= begin and place + _AT_ONCE <= len(data):
                differing |= differing_of_32(data, place, flat, start) & ((one << np.uint64(length)) - one)
            else:
                for k in range(length):
                    byte = data[place + k] if place + k >= begin else prefix[place + k - begin + len(prefix)]
                    differing |= np.uint64(byte != flat[start + k])
            place += length
        result[document] = differing != 0 or place != end
        first += sizes[document]
