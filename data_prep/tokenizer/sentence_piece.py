"""SentencePiece BPE as LLaMA's and Baichuan's: digits split, byte fallback, identity normalisation, dummy prefix.

Entries, in this order: `<unk>` `<s>` `</s>`, reserved ones if there are any, the 256 bytes, then merges and characters.
`</s>` ends a document. A rare character is encoded as its bytes.

The model is written twice: `tokenizer.model` for sentencepiece, and `tokenizer.json` for tokenizers and transformers.
The two are compared before either is used, see `encode.check_encoders`.

The format writes a space as U+2581 (`▁`), so this character itself decodes to a space. All other characters decode to
themselves.

Sources: Kudo and Richardson 2018, arXiv:1808.06226; Touvron et al. 2023, arXiv:2302.13971, section 2.1 (digits, bytes);
Yang et al. 2023, arXiv:2309.10305 (no normalisation).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoding.encode import MODEL_FILE
from data_prep.tokenizer.encoding.encoded import SPACE, TokenizerError, reserved_names
from foundation.atomic_files import whole_file, write_json, write_text

NORMAL, _UNKNOWN_TYPE, CONTROL, _USER_DEFINED, _UNUSED, BYTE = range(1, 7)
"""Types of pieces in the model's file (sentencepiece_model.proto)."""

FILES = (MODEL_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_LONGEST_LINE_BYTES = 65536
"""Limit of a line, at which longer ones are divided: the trainer would skip them."""
_NEVER_LEARNT = re.compile("[\\x00\\n\\u2581\\u2585]+")
"""Characters that no piece contains: line feeds, as in LLaMA, and those that the trainer's file format uses itself: a
line with one would be skipped. Other white space is learnt."""


def train_sentencepiece_bpe(texts: Iterable[str], settings: TokenizerConfig, *, must_fill: bool = True) -> bytes:
    """Learn the pieces; the content of a `tokenizer.model`. The same texts give the same bytes.

    Args:
        must_fill: a vocabulary that the texts cannot fill is an error; otherwise it stays smaller.

    Raises:
        TokenizerError: the vocabulary is too small for the fixed entries, or cannot be filled.
    """
    model = io.BytesIO()
    lines = _lines(texts)
    first = list(islice(lines, 1))
    if not first:
        raise TokenizerError("there is no text to learn a tokenizer from")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain(first, lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=settings.vocabulary_size,
            hard_vocab_limit=must_fill,
            character_coverage=settings.character_coverage,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=_LONGEST_LINE_BYTES,
            control_symbols=list(reserved_names(settings.reserved)),
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,  # recorded in the model's file; BPE uses only one
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(_explained(str(error), settings)) from None
    return model.getvalue()


def _explained(message: str, settings: TokenizerConfig) -> str:
    vocabulary_size = settings.vocabulary_size
    if too_high := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        size = int(too_high[1])
        return (
            f"tokenizer.vocabulary_size {vocabulary_size} cannot be filled: the sample is enough for {size} entries. "
            f"Give it more text, or set tokenizer.vocabulary_size={size}"
        )
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"tokenizer.vocabulary_size {vocabulary_size} is too small: control and reserved entries, 256 bytes and "
            f"the sample's characters take {too_small[1]}; raise it, or lower character_coverage "
            f"({settings.character_coverage}): rare characters are then spelled by their bytes"
        )
    return f"sentencepiece cannot train: {message}"


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in _NEVER_LEARNT.split(text):
            if len(line) * 4 <= _LONGEST_LINE_BYTES:
                if line:
                    yield line
                continue
            step = _LONGEST_LINE_BYTES // 4
            yield from (line[start : start + step] for start in range(0, len(line), step))


def parse(model: bytes) -> Any:
    """Parse a model as a protocol buffer: `pieces` with `piece`, `score` and `type`; `normalizer_spec`; `trainer_spec`.

    Raises:
        TokenizerError: not a SentencePiece model.
    """
    parsed = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        parsed.ParseFromString(model)
    except Exception as error:  # each implementation of protobuf has its own exception type
        raise TokenizerError(f"not a SentencePiece model: {error}") from None
    if not parsed.pieces:
        raise TokenizerError("not a SentencePiece model: it has no pieces")
    return parsed


def to_tokenizers(model: bytes) -> Tokenizer:
    """Convert a model to Hugging Face's tokenizers.

    SentencePiece repeatedly merges the two adjacent symbols that form the piece of the highest score, whichever they
    are. So each way to form a piece of two others becomes a merge, in the order of the scores.

    Raises:
        TokenizerError: the model is not BPE with byte fallback and identity normalisation.
    """
    parsed = parse(model)
    spec, rules = parsed.trainer_spec, parsed.normalizer_spec
    for name, found, right in (
        ("model_type", spec.model_type, 2),
        ("byte_fallback", spec.byte_fallback, True),
        ("treat_whitespace_as_suffix", spec.treat_whitespace_as_suffix, False),
        ("normalization rules", len(rules.precompiled_charsmap), 0),
        ("add_dummy_prefix", rules.add_dummy_prefix, True),
        ("remove_extra_whitespaces", rules.remove_extra_whitespaces, False),
        ("escape_whitespaces", rules.escape_whitespaces, True),
        ("user-defined pieces", sum(piece.type == _USER_DEFINED for piece in parsed.pieces), 0),
    ):
        if found != right:
            raise TokenizerError(f"unsupported SentencePiece model: {name} is {found!r}, it must be {right!r}")
    vocabulary = {piece.piece: i for i, piece in enumerate(parsed.pieces)}
    normal = {piece.piece: piece.score for piece in parsed.pieces if piece.type == NORMAL}
    ways = [
        (-score, vocabulary[text[:cut]], text[:cut], text[cut:])
        for text, score in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    ways.sort(key=lambda way: way[:2])
    unknown = next(piece.piece for piece in parsed.pieces if piece.type == _UNKNOWN_TYPE)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for _, _, left, right in ways],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [piece.piece for piece in parsed.pieces if piece.type in (_UNKNOWN_TYPE, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
    return tokenizer


def save_sentencepiece_bpe(model: bytes, folder: Path) -> None:
    """Write `tokenizer.model` and the three files that `transformers.AutoTokenizer` loads."""
    with whole_file(folder / MODEL_FILE) as temporary:
        temporary.write_bytes(model)
    write_text(folder / "tokenizer.json", to_tokenizers(model).to_str(pretty=True))
    parsed = parse(model)
    named = {"unk_token": "unk_id", "bos_token": "bos_id", "eos_token": "eos_id"}
    identities = {token: getattr(parsed.trainer_spec, identity) for token, identity in named.items()}
    special = {token: parsed.pieces[identity].piece for token, identity in identities.items() if identity >= 0}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            # Uses tokenizer.json as it is; classes of model families would alter it.
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
        },
    )
