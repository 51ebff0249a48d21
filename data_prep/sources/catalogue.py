"""Translations of programs: each gettext catalogue (`.mo`) is one document, its messages are the paragraphs."""

from __future__ import annotations

import gettext
import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import replace

from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, decode, read_whole, usable

_LANGUAGE = re.compile(r"(?:^|/)([^/]+)/LC_MESSAGES/[^/]+$")


class _Catalogue(gettext.GNUTranslations):
    """Catalogue whose messages can be listed, which the standard library's interface does not allow."""

    _catalog: dict[str | tuple[str, int], str]

    def translations(self) -> list[str]:
        """Return the translated messages in the order of the file, with all plural forms, without the header."""
        return [translation for original, translation in self._catalog.items() if original != "" and translation]


def _accepts(path: str) -> bool:
    return path.endswith(".mo")


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the catalogue's translations; `catalogue_language` in the metadata is the folder above `LC_MESSAGES`."""
    path = piece.path
    content = read_whole(path, maximum_document_bytes)
    if isinstance(content, Fault):
        yield content
        return
    translations = _translations(content, path)
    if isinstance(translations, Fault):
        yield translations
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path)

    folder = _LANGUAGE.search(path)
    metadata = {"file": os.path.basename(path), "catalogue_language": folder[1] if folder else None}
    text = "\n\n".join(translation.strip("\n") for translation in translations)
    yield usable(text, path, metadata, fault, maximum_document_bytes)


def _translations(content: bytes, path: str) -> list[str] | Fault:
    if not content:
        return Fault("empty", "no bytes", path)
    try:
        translations = _Catalogue(io.BytesIO(content)).translations()
    except UnicodeDecodeError as error:
        fault = decode(error.object, path, error.encoding)
        assert isinstance(fault, Fault)
        return replace(fault, detail=f"in a message, {fault.detail}", line=None)
    except OSError as error:  # the magic number, the version, an offset
        return Fault("damaged_file", f"not a gettext catalogue, or not a whole one: {error.args[1]}", path)
    except struct.error:
        return Fault("damaged_file", "the gettext catalogue ends within its header or a table of messages", path)
    except IndexError:  # before LookupError, its base class
        return Fault("damaged_file", "the catalogue's header lacks `charset=` or `plural=` where it is required", path)
    except LookupError as error:
        return Fault("undecodable", f"the catalogue's header names an {error}", path)
    except ValueError as error:
        return Fault("damaged_file", f"the gettext catalogue cannot be parsed: {error}", path)
    for translation in translations:
        if "\0" in translation:
            return Fault("binary", f"a NUL byte in the message {translation[:60]!r}", path)
    return translations


READER = Reader(_accepts, read)
