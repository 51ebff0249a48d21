"""Datasets of the Hugging Face hub by name, read in ranges as they are needed; nothing is downloaded as a whole.

An address is `hf://datasets/OWNER/NAME`, with `@REVISION` after the name (a branch, a tag, a commit, or
`refs/convert/parquet`, where the hub keeps every dataset as Parquet), and a path in it. When the input is frozen, the
revision is replaced by its commit, so that a dataset that changes later is still the one that was frozen.

The token for private datasets comes from `HF_TOKEN` or `hf auth login`, another server from `HF_ENDPOINT`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data_prep.sources.failures import DeniedError, NotThereError, PassingError

SCHEME = "hf"
_ADDRESS = re.compile(
    r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@(refs/(?:convert/[\w.-]+|pr/\d+)|[^/@]+))?(?:/(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 120.0
_DENIED = (401, 403)
_GONE = (404, 410, 416)


@dataclass(frozen=True)
class HubAddress:
    """Parts of an address; `path` is empty for a whole dataset."""

    repository: str
    revision: str | None
    path: str

    @classmethod
    def parse(cls, address: str) -> HubAddress:
        """Divide an address.

        Raises:
            ValueError: it has another form.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise ValueError(
                f"{address!r}: must be hf://datasets/OWNER/NAME, with @REVISION and a path if you like, such as "
                "hf://datasets/HuggingFaceFW/fineweb-edu/sample/10BT/"
            )
        return cls(found[1], found[2], found[3] or "")

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.repository}{revision}/{self.path}"


def pinned(address: str) -> str:
    """Return an address with the commit that its revision names now.

    Raises:
        NotThereError, DeniedError, PassingError: see `failures`.
    """
    parts = HubAddress.parse(address)
    if parts.revision and _COMMIT.fullmatch(parts.revision):
        return address
    info = _asked(parts, lambda: _api().repo_info(parts.repository, revision=parts.revision, repo_type="dataset"))
    return str(HubAddress(parts.repository, str(info.sha), parts.path))


def files(folder: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, size and digest of the files whose addresses begin with `folder`, at any depth.

    Raises:
        NotThereError, DeniedError, PassingError: see `failures`.
    """
    parts = HubAddress.parse(folder)

    def listed() -> list[Any]:
        tree = _api().list_repo_tree(parts.repository, recursive=True, revision=parts.revision, repo_type="dataset")
        return [entry for entry in tree if hasattr(entry, "blob_id")]  # others are folders

    for entry in sorted(_asked(parts, listed), key=lambda entry: str(entry.path)):
        if entry.path.startswith(parts.path):
            yield _described(parts, entry)


def file(address: str) -> tuple[str, int, str]:
    """Return address, size and digest of a file.

    Raises:
        NotThereError, DeniedError, PassingError: see `failures`.
    """
    parts = HubAddress.parse(address)

    def found() -> list[Any]:
        return list(_api().get_paths_info(parts.repository, [parts.path], revision=parts.revision, repo_type="dataset"))

    entries = [entry for entry in _asked(parts, found) if hasattr(entry, "blob_id")]
    if not entries:
        raise NotThereError(address)
    return _described(parts, entries[0])


def read_range(address: str, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) of a file.

    Raises:
        NotThereError, DeniedError, PassingError: see `failures`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

    parts = HubAddress.parse(address)
    url = hf_hub_url(parts.repository, parts.path, repo_type="dataset", revision=parts.revision, endpoint=_endpoint())
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}"}
    # repeated by the caller, who counts, and repeats bodies that end early too
    options: dict[str, Any] = {"headers": headers, "timeout": _TIMEOUT_SECONDS, "max_retries": 0}
    answer: Any = _asked(parts, lambda: http_backoff("GET", url, **options))
    _refuse_failure(parts, answer.status_code)
    told = answer.headers.get("Content-Range", "")
    if answer.status_code != 206 or not told.startswith(f"bytes {start}-{stop - 1}/"):
        raise PassingError(
            "WrongRange", f"status {answer.status_code} and range {told[:60]!r} for bytes {start}-{stop - 1}"
        )
    content: bytes = answer.content
    return content


def _described(parts: HubAddress, entry: Any) -> tuple[str, int, str]:
    digest = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    return str(HubAddress(parts.repository, parts.revision, entry.path)), int(entry.size), str(digest)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@lru_cache(maxsize=4)
def _api_at(endpoint: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, library_name="altiplano")


def _api() -> Any:
    return _api_at(_endpoint())


def _asked(parts: HubAddress, request: Any) -> Any:
    """Return the result of a request; its failures as those of `failures`."""
    try:
        from huggingface_hub.errors import OfflineModeIsEnabled
    except ImportError:
        raise DeniedError(
            f"{parts}: reading datasets of the hub needs huggingface_hub: pip install 'altiplano[data]'"
        ) from None
    try:
        return request()
    except OfflineModeIsEnabled as error:
        raise DeniedError(f"{parts}: HF_HUB_OFFLINE is set; unset it, or name a local folder ({error})") from None
    except Exception as error:  # of requests or of httpx, whichever this version of huggingface_hub uses
        _refuse_failure(parts, getattr(getattr(error, "response", None), "status_code", None))
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise PassingError(type(error).__name__, first) from error


def _refuse_failure(parts: HubAddress, status: int | None) -> None:
    if status in _GONE:
        raise NotThereError(str(parts))
    if status in _DENIED:
        raise DeniedError(
            f"{parts}: the hub has no such dataset, or it is private or gated; set HF_TOKEN to a token of somebody who "
            "may read it"
        )
