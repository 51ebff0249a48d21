"""`mixture.yaml`: the token files, their content and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_prep.indexed_dataset.format import TokenFileError, bin_path, idx_path, loss_mask_path
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.withdrawn import withdrawn_path
from foundation.atomic_files import sha256_file
from foundation.configuration import ConfigError, Settings, load_config

Split = Literal["train", "heldout"]


class Checksums(Settings):
    """SHA-256 of the files of a prefix, in hexadecimal."""

    bin: str = Field(pattern="^[0-9a-f]{64}$")
    idx: str = Field(pattern="^[0-9a-f]{64}$")
    loss_mask: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the loss mask; None: every token counts in the loss."""
    withdrawn: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the list of documents that were taken out; None: none was."""


class DatasetEntry(Settings):
    """One source in `mixture.yaml`; paths are prefixes (without `.bin`), relative to the YAML file."""

    name: str = Field(min_length=1)
    path: str
    heldout: str | None
    """Prefix of the held-out part; None: nothing of this source is held out."""
    documents: int = Field(ge=1)
    """Number of documents of the `.idx`; of packed files, the packs."""
    tokens: int = Field(ge=1)
    heldout_documents: int = Field(ge=0)
    heldout_tokens: int = Field(ge=0)
    packed: int | None = Field(default=None, ge=2)
    """Tokens of a pack; None: not packed."""
    conversations: int | None = Field(default=None, ge=1)
    """Number of conversations in the packs."""
    heldout_conversations: int | None = Field(default=None, ge=0)
    weight: float = Field(gt=0)
    sha256: Checksums
    heldout_sha256: Checksums | None


class MixtureSettings(Settings):
    """Content of `mixture.yaml`."""

    version: Literal[1]
    tokenizer: str
    vocabulary_size: int = Field(ge=1)
    end_of_document: int = Field(ge=0)
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> MixtureSettings:
        if self.end_of_document >= self.vocabulary_size:
            raise ValueError(
                f"end_of_document {self.end_of_document} must be below vocabulary_size {self.vocabulary_size}"
            )
        names = [dataset.name for dataset in self.datasets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"datasets: the name {name!r} is given twice; each needs its own")
        return self


@dataclass(frozen=True)
class MixtureFile:
    """A `mixture.yaml` with its path."""

    path: Path
    settings: MixtureSettings

    @property
    def tokenizer(self) -> Path:
        return self.path.parent / self.settings.tokenizer

    @property
    def vocabulary_size(self) -> int:
        return self.settings.vocabulary_size

    @property
    def end_of_document(self) -> int:
        return self.settings.end_of_document

    @property
    def datasets(self) -> tuple[DatasetEntry, ...]:
        return self.settings.datasets

    def prefix(self, entry: DatasetEntry, split: Split) -> Path | None:
        """Path of the token files without `.bin`; None when nothing of this source is held out."""
        relative = entry.path if split == "train" else entry.heldout
        return None if relative is None else self.path.parent / relative

    def open(self, entry: DatasetEntry, split: Split) -> IndexedDataset | None:
        """Open the token files of one source, and check their counts against the mixture's.

        Raises:
            TokenFileError: the files are damaged, or their counts differ from the mixture's.
        """
        prefix = self.prefix(entry, split)
        if prefix is None:
            return None
        dataset = IndexedDataset(prefix, is_packed=entry.packed is not None)
        found = dataset.packs if entry.packed else len(dataset)
        documents, tokens = (
            (entry.documents, entry.tokens) if split == "train" else (entry.heldout_documents, entry.heldout_tokens)
        )
        if (found, dataset.token_count) != (documents, tokens):
            raise TokenFileError(
                f"{bin_path(prefix)}: {found} documents and {dataset.token_count} tokens, but {self.path} "
                f"counts {documents} and {tokens}; one of them belongs to another run of `tokenize`"
            )
        if entry.packed and tokens != documents * entry.packed + 1:
            raise TokenFileError(
                f"{bin_path(prefix)}: {documents} packs of {entry.packed} tokens and one more token make "
                f"{documents * entry.packed + 1}, but it has {tokens}: `packed` of {entry.name!r} in {self.path} is "
                "wrong"
            )
        recorded = entry.sha256 if split == "train" else entry.heldout_sha256
        for path, exists, right in (
            (loss_mask_path(prefix), dataset.has_mask_file, recorded and recorded.loss_mask),
            (withdrawn_path(prefix), dataset.withdrawn is not None, recorded and recorded.withdrawn),
        ):
            if exists != bool(right):
                faults = ("is missing", "records it"), ("exists", "does not record it")
                here, there = faults[exists]
                raise TokenFileError(f"{path}: {here}, but {self.path} {there}")
        return dataset

    def check_checksums(self) -> None:
        """Read every file in full and compare with the recorded checksums.

        Raises:
            TokenFileError: a file differs; names it.
        """
        for entry in self.datasets:
            for split, recorded in (("train", entry.sha256), ("heldout", entry.heldout_sha256)):
                prefix = self.prefix(entry, "train" if split == "train" else "heldout")
                if prefix is None or recorded is None:
                    continue
                files = [(bin_path(prefix), recorded.bin), (idx_path(prefix), recorded.idx)]
                if recorded.loss_mask:
                    files.append((loss_mask_path(prefix), recorded.loss_mask))
                if recorded.withdrawn:
                    files.append((withdrawn_path(prefix), recorded.withdrawn))
                for path, right in files:
                    found = sha256_file(path)
                    if found != right:
                        raise TokenFileError(f"{path}: SHA-256 is {found}, but {self.path} records {right}")


def load_mixture(path: Path) -> MixtureFile:
    """Read and check a `mixture.yaml`; the token files themselves are checked when they are opened.

    Raises:
        ConfigError: a setting is wrong; names line and field.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; `altiplano data tokenize` writes a mixture.yaml. Where token files have "
            "moved, give its new path: data.mixture=… for a run, --mixture for a tool"
        )
    return MixtureFile(path, load_config(MixtureSettings, path))
