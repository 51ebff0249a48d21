"""Words of lists that say that a page is not wanted, such as obscene ones, by language.

A word or phrase of the list counts where no letter, digit or underscore precedes or follows it, in Chinese and Thai
anywhere, both in lower case: as in the code that made mC4 (tensorflow_datasets/text/c4_utils.py,
`get_badwords_filter_fn`). C4 and mC4 took the lists of LDNOOBW (List of Dirty, Naughty, Obscene, and Otherwise Bad
Words); no list comes with Altiplano.

A compiled pass finds the few documents that have the first word of an entry; only these are searched for whole entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import LETTER, NUMBER, TABLE_SIZE, character_flags, decode, lower_case
from data_prep.kernels.kernel import Bytes, Flags, Hashes, Places, Points, kernel, read_only
from data_prep.kernels.searching import place_of
from data_prep.languages import meant_for
from foundation.atomic_files import sha256_file

ANYWHERE = ("zh", "th")
"""Languages in which words are not divided, so that an entry counts anywhere."""
_UNDERSCORE = 0x5F


@kernel
def _mark_candidates(
    data: Bytes, offsets: Places, flags: Bytes, lower: Points, keys: Hashes, asked: Flags, found: Flags
) -> None:
    """Mark the documents that have a word whose hash is one of the sorted keys, of those that are asked about."""
    for d in range(offsets.shape[0] - 1):
        if not asked[d]:
            continue
        value, is_open = np.uint64(0), False
        i, end = offsets[d], offsets[d + 1]
        while i < end or is_open:
            is_word, size, point = False, 1, np.int64(0)
            if i < end:
                point, size = decode(data, i, end)
                is_word = point == _UNDERSCORE or (
                    point < flags.shape[0] and flags[point] & np.uint8(LETTER | NUMBER) != 0
                )
            if is_word:
                if not is_open:
                    value, is_open = np.uint64(0xCBF29CE484222325), True
                letter = np.uint64(lower[point]) if point < lower.shape[0] else np.uint64(point)
                value = (value ^ letter) * np.uint64(0x00000100000001B3)
            elif is_open:
                is_open = False
                if place_of(value, keys) >= 0:
                    found[d] = True
                    break
            i += size


def _hash(word: str) -> int:
    value = 0xCBF29CE484222325
    for letter in word:
        point = ord(letter)
        value = ((value ^ (int(lower_case()[point]) if point < TABLE_SIZE else point)) * 0x100000001B3) % (1 << 64)
    return value


class _List:
    """The list of a language."""

    def __init__(self, language: str, entries: Iterable[str]) -> None:
        entries = sorted({entry.lower() for entry in entries}, key=lambda entry: (-len(entry), entry))
        any_of = "|".join(map(re.escape, entries))
        self.pattern = re.compile(any_of if language in ANYWHERE else rf"(?<!\w)(?:{any_of})(?!\w)")
        first_words = [re.match(r"\w+", entry) for entry in entries]
        self.keys: npt.NDArray[np.uint64] | None = None
        """Hashes of the first words of the entries; None: every document is searched."""
        if language not in ANYWHERE and all(first_words):
            self.keys = np.unique(np.array([_hash(word[0]) for word in first_words if word], np.uint64))


class BadWords:
    """Lists by language.

    Args:
        files: a word or phrase per line, by language; `#` begins a comment.

    Raises:
        ValueError: a file cannot be read, or has no entry; names the setting.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._lists = {language: _List(language, entries_of(language, path)) for language, path in files.items()}

    def find(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], languages: Sequence[str]
    ) -> list[list[str] | None]:
        """Return the different entries in each document, sorted; None where its language has no list.

        Args:
            data: UTF-8 bytes of all documents.
            offsets: document d is bytes [offsets[d], offsets[d + 1]).
        """
        named = [meant_for(language, self._lists) for language in languages]
        found: list[list[str] | None] = [None if name is None else [] for name in named]
        for name, words in self._lists.items():
            asked = np.array([one == name for one in named], np.bool_)
            candidates = asked
            if words.keys is not None:
                candidates = np.zeros(len(named), np.bool_)
                tables = character_flags(), lower_case()
                _mark_candidates(read_only(data), read_only(offsets), *tables, read_only(words.keys), asked, candidates)
            for d in np.flatnonzero(candidates).tolist():
                text = data[offsets[d] : offsets[d + 1]].tobytes().decode().lower()
                found[d] = sorted(set(words.pattern.findall(text)))
        return found


def entries_of(language: str, path: Path) -> list[str]:
    """Read a list.

    Raises:
        ValueError: the file is missing, is not UTF-8, or has no entry.
    """
    where = f"bad_words.{language}: {path}"
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{where}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: {error}") from None
    entries = [entry for line in lines if (entry := line.partition("#")[0].strip())]
    if not entries:
        raise ValueError(f"{where}: has no entry")
    return entries


def list_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of each list, which the signals depend on."""
    for language, path in files.items():
        entries_of(language, path)
    return {language: sha256_file(path.expanduser()) for language, path in files.items()}
