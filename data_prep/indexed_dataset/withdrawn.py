"""Documents that were taken out of a token file: `<prefix>.withdrawn.json` beside `<prefix>.bin`.

Their tokens are overwritten with the end-of-document token, and the loss does not count them. All other tokens stay
where they are, so that the samples of a run keep their numbers and, but for these documents, their content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.indexed_dataset.format import TokenFileError
from foundation.atomic_files import NewFile, whole_file


def withdrawn_path(prefix: Path) -> Path:
    """Return `<prefix>.withdrawn.json`; the prefix may contain dots."""
    return Path(f"{prefix}.withdrawn.json")


@dataclass(frozen=True)
class WithdrawnDocument:
    """A document, or a sequence of one, that was tokens [start, stop) of the stream."""

    id: str
    start: int
    stop: int


@dataclass(frozen=True)
class Withdrawn:
    """What was taken out of a token file.

    Attributes:
        original_sha256, original_fingerprint: of the `.bin` as it was with all of its documents, see `fingerprint`.
        fingerprint: of the `.bin` as it is now.
        documents: in the order of the stream, none twice.
    """

    original_sha256: str
    original_fingerprint: str
    fingerprint: str
    documents: Sequence[WithdrawnDocument]

    @classmethod
    def read(cls, prefix: Path) -> Withdrawn | None:
        """Read the file of a prefix; None: there is none, and no document was taken out.

        Raises:
            TokenFileError: the file is damaged.
        """
        path = withdrawn_path(prefix)
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            documents = [WithdrawnDocument(**row) for row in content.pop("documents")]
            found = cls(**content, documents=documents)
            ranges = found.ranges
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TokenFileError(f"{path}: not a list of withdrawn documents ({error})") from None
        if (ranges[:, 0] >= ranges[:, 1]).any() or (ranges[1:, 0] < ranges[:-1, 1]).any() or (ranges < 0).any():
            raise TokenFileError(f"{path}: its ranges of tokens are empty, overlap or are not in order")
        return found

    @cached_property
    def ranges(self) -> npt.NDArray[np.int64]:
        """Their ranges in the stream, [documents, 2]."""
        return np.array([(one.start, one.stop) for one in self.documents], np.int64).reshape(-1, 2)

    @property
    def tokens(self) -> int:
        """Number of their tokens."""
        return int(np.diff(self.ranges).sum())

    def without(self, counted: npt.NDArray[np.bool_], start: int) -> npt.NDArray[np.bool_]:
        """Return whether the loss counts each of the tokens from `start` on, `counted`, but for these documents."""
        stop = start + len(counted)
        first, last = np.searchsorted(self.ranges[:, 1], start, "right"), np.searchsorted(self.ranges[:, 0], stop)
        if first >= last:
            return counted
        counted = counted.copy()
        for begin, end in self.ranges[first:last].tolist():
            counted[max(begin - start, 0) : end - start] = False
        return counted

    def write(self, prefix: Path, new_file: NewFile = whole_file) -> Path:
        """Write the file of a prefix atomically, a document in each line."""
        path = withdrawn_path(prefix)
        content = asdict(self)
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content.pop("documents"))
        head = json.dumps(content)[:-1]
        with new_file(path) as partial:
            partial.write_text(f'{head}, "documents": [\n{rows}\n]}}\n', encoding="utf-8")
        return path
