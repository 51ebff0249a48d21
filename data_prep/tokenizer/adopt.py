"""Adoption of an existing tokenizer, such as that of a model whose training continues."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.config import TokenizerConfig
from data_prep.tokenizer import sentence_piece
from data_prep.tokenizer.encoding.encode import MODEL_FILE, ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes, check_that_texts_come_back
from foundation.atomic_files import sha256_file, whole_file

_FILES = sentence_piece.FILES
"""Files that a tokenizer of either kind may have."""


def source_digests(source: Path) -> dict[str, str]:
    """Return the SHA-256 of each file to be adopted, by name.

    Raises:
        TokenizerError: there is no tokenizer in the folder.
    """
    folder = source.expanduser()
    found = {name: sha256_file(folder / name) for name in _FILES if (folder / name).is_file()}
    if not {"tokenizer.json", MODEL_FILE} & set(found):
        what = "contains neither tokenizer.json nor tokenizer.model" if folder.is_dir() else "is not a folder"
        raise TokenizerError(f"tokenizer.path: {source} {what}; name the folder of a tokenizer")
    return found


def check_tokenizer(source: Path, settings: TokenizerConfig) -> None:
    """Check whether a tokenizer can be adopted, without the corpus.

    Raises:
        TokenizerError: there is no tokenizer, or it cannot be used for token files.
    """
    names = source_digests(source)
    folder = source.expanduser()
    if "tokenizer.json" not in names:
        with _said_of(folder / MODEL_FILE), tempfile.TemporaryDirectory() as made:
            sentence_piece.save_sentencepiece_bpe((folder / MODEL_FILE).read_bytes(), Path(made))
            reference = ReferenceEncoder(Path(made))
            check_that_texts_come_back(reference, TokenBytes.of(reference))
        model_vocabulary_size(settings, reference)
        return
    reference = ReferenceEncoder(folder)
    check_that_texts_come_back(reference, TokenBytes.of(reference))
    model_vocabulary_size(settings, reference)


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def adopt_tokenizer(source: Path, folder: Path) -> list[Path]:
    """Copy a tokenizer, and write `tokenizer.json` if it has only sentencepiece's `tokenizer.model`.

    Returns:
        The files in `folder`.

    Raises:
        TokenizerError: there is no tokenizer, or it cannot be used for token files.
    """
    names = source_digests(source)
    source = source.expanduser()
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if "tokenizer.json" not in names:
        with _said_of(source / MODEL_FILE):
            sentence_piece.save_sentencepiece_bpe((source / MODEL_FILE).read_bytes(), folder)
        return [folder / name for name in _FILES]
    for name in names:
        with whole_file(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    return [folder / name for name in names]


def model_vocabulary_size(settings: TokenizerConfig, encoder: ReferenceEncoder) -> int:
    """Return the vocabulary size of the model: that of the tokenizer, or a larger one if configured.

    Raises:
        TokenizerError: it is smaller than the tokenizer's.
    """
    declared = settings.model_vocabulary_size
    if declared is None:
        return encoder.vocabulary_size
    if declared < encoder.vocabulary_size:
        raise TokenizerError(
            f"tokenizer.model_vocabulary_size: {declared} is less than the {encoder.vocabulary_size} entries of "
            f"{settings.path}; tokens would have no row in the model's embedding"
        )
    return declared
