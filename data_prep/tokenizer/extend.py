"""Extension of a SentencePiece vocabulary by the pieces of another one, as for Chinese-LLaMA (Cui et al. 2023,
arXiv:2304.08177, section 3.1). Ids of the old vocabulary do not change.

Added pieces have scores below all old ones, in the order of the other vocabulary. So a text is first merged exactly as
before, and only then are its tokens merged into new ones: each added piece replaces a run of old tokens, and a text
without any added piece is encoded as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from data_prep.tokenizer.encoding.encode import MODEL_FILE, ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import SPACE, TokenizerError
from data_prep.tokenizer.sentence_piece import CONTROL, NORMAL, parse, save_sentencepiece_bpe, to_tokenizers


@dataclass(frozen=True)
class Extension:
    """A merged vocabulary.

    Attributes:
        model: content of its `tokenizer.model`.
        old_size: entries before; added ones follow.
        added: the added pieces, by id.
        shared: number of pieces of the other vocabulary that the old one has.
        unreachable: added pieces whose text is encoded differently, because old merges divide it in another way.
    """

    model: bytes
    old_size: int
    added: tuple[str, ...]
    shared: int
    unreachable: tuple[str, ...]


def merge_vocabularies(old: bytes, other: bytes) -> Extension:
    """Append the pieces of another model to the old one.

    Args:
        old, other: contents of two `tokenizer.model`.

    Raises:
        TokenizerError: one of them is no SentencePiece BPE with byte fallback, or the other has nothing new.
    """
    for model in (old, other):
        to_tokenizers(model)  # raises if it cannot be used
    merged, source = parse(old), parse(other)
    old_size = len(merged.pieces)
    known = {piece.piece for piece in merged.pieces}
    lowest = min((piece.score for piece in merged.pieces if piece.type == NORMAL), default=0.0)
    learnt = [piece.piece for piece in source.pieces if piece.type == NORMAL]
    added = [piece for piece in learnt if piece not in known]
    if not added:
        raise TokenizerError(f"all {len(learnt)} pieces of the other vocabulary are in the old one: nothing to add")
    for rank, text in enumerate(added, start=1):
        piece = merged.pieces.add()
        piece.piece, piece.score, piece.type = text, lowest - rank, NORMAL
    merged.trainer_spec.vocab_size = len(merged.pieces)
    model = merged.SerializeToString()
    encoder = _without_prefix(model)
    unreachable = tuple(
        text for i, text in enumerate(added, start=old_size) if encoder.encode(text.replace(SPACE, " ")) != [i]
    )
    return Extension(model, old_size, tuple(added), len(learnt) - len(added), unreachable)


def extend_tokenizer(old: Path, other: Path, out: Path) -> Extension:
    """Merge two tokenizers' folders and write the files of the result to `out`.

    Raises:
        TokenizerError: see `merge_vocabularies`; or a folder has no `tokenizer.model`; or `out` is one of the two.
    """
    if out.resolve() in (old.resolve(), other.resolve()):
        raise TokenizerError(f"{out}: is one of the inputs; give another folder")
    extension = merge_vocabularies(read_model(old), read_model(other))
    out.mkdir(parents=True, exist_ok=True)
    save_sentencepiece_bpe(extension.model, out)
    return extension


def read_model(folder: Path) -> bytes:
    """Read the `tokenizer.model` of a folder.

    Raises:
        TokenizerError: there is none.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file; only SentencePiece vocabularies can be extended")
    return path.read_bytes()


def sources_of_added(old: Path, extended: Path) -> list[list[int]]:
    """Return for each added entry of a tokenizer, by id, the old tokens that a model's row for it is the mean of: those
    of its text, or all of them for a control token, which has none.

    Raises:
        TokenizerError: the extended vocabulary does not begin with the old one, or has nothing more.
    """
    if (old / MODEL_FILE).is_file():
        sources = old_pieces(read_model(old), read_model(extended))
    else:
        sources = _sources_of_control(ReferenceEncoder(old), ReferenceEncoder(extended))
    if not sources:
        raise TokenizerError(f"{extended}: has no more entries than {old}: the model needs no new rows")
    return sources


def _sources_of_control(old: ReferenceEncoder, extended: ReferenceEncoder) -> list[list[int]]:
    size, after = old.vocabulary_size, extended.vocabulary_size
    control = {identity for identity, token in extended.added_tokens.items() if token.special}
    before, now = (encoder.content["model"]["vocab"] for encoder in (old, extended))
    moved = next((text for text, i in before.items() if i not in control and now.get(text) != i), None)
    if moved is not None or not set(range(size, after)) <= control:
        what = f"{moved!r} has another id" if moved is not None else "an added entry is no control token"
        raise TokenizerError(
            f"{extended.path}: {what} than in {old.path}; of tokenizers without {MODEL_FILE}, only control tokens can "
            "be added"
        )
    return [list(range(size)) for _ in range(size, after)]


def old_pieces(old: bytes, extended: bytes) -> list[list[int]]:
    """Return the old tokens of the text of each added entry, by id; of a control token, all of them.

    Raises:
        TokenizerError: the extended vocabulary does not begin with the old one.
    """
    before, after = parse(old).pieces, parse(extended).pieces
    for i, piece in enumerate(before):
        is_renamed = i < len(after) and piece.type == after[i].type == CONTROL
        if not is_renamed and (i >= len(after) or (after[i].piece, after[i].type) != (piece.piece, piece.type)):
            found = after[i].piece if i < len(after) else "nothing"
            raise TokenizerError(
                f"entry {i} is {piece.piece!r} in the old vocabulary and {found!r} in the extended one"
            )
    encoder = _without_prefix(old)
    everything = list(range(len(before)))
    return [
        everything if piece.type == CONTROL else encoder.encode(piece.piece.replace(SPACE, " "))
        for piece in after[len(before) :]
    ]


def _without_prefix(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Make an encoder for the inside of a text, which adds no space in front."""
    parsed = parse(model)
    parsed.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=parsed.SerializeToString())
