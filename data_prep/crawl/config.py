"""Settings of a crawl, see `altiplano data crawl`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from data_prep.config import InputPath, LocalPath, UrlConfig
from data_prep.languages import canonical_setting
from foundation.configuration import Settings


def _web_address(value: str) -> str:
    """Return the address of a server without its final slash."""
    if not value.startswith(("https://", "http://")):
        raise ValueError(f"{value!r}: must begin with https:// or http://")
    return value.rstrip("/")


WebAddress = Annotated[str, AfterValidator(_web_address)]


class CrawlConfig(Settings):
    """Pages of Common Crawl, or of an archive in its layout, that are fetched into a folder of web archives."""

    output: LocalPath
    """Folder for the web archives, which a source of kind `warc` then names in its `paths`."""
    snapshots: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = ()
    """Names of snapshots, such as `CC-MAIN-2024-10`; commoncrawl.org lists them."""
    sites: tuple[LocalPath, ...] = ()
    """Lists of domains and addresses whose pages are fetched, in the form of the lists of `urls`: BLOOM's pseudo-crawl
    (Laurençon et al. 2022, arXiv:2303.03915, section 2.3)."""
    domains: tuple[str, ...] = ()
    """Domains and addresses given here rather than in a list."""
    files: int | None = Field(default=None, gt=0)
    """Number of whole files of each snapshot, drawn by `seed`; in place of sites."""
    form: Literal["warc", "wet"] = "warc"
    """Form of whole files: pages, or text that Common Crawl has extracted."""
    index: Literal["server", "files"] | tuple[InputPath, ...] = "server"
    """How pages of sites are found: by questions to the index server, or in the index's files, which is faster for more
    than about a hundred sites and does not burden the server; or files of your own: lines of the index (CDXJ, JSON,
    CDX), also compressed, or Parquet with the columns of Common Crawl's table, such as the result of a query of it."""
    languages: Annotated[tuple[str, ...], AfterValidator(canonical_setting)] = ()
    """Languages of pages that are fetched, by the first language that the index names; empty: all. The index has them
    since 2018."""
    urls: UrlConfig = UrlConfig()
    """Lists of addresses that are not wanted, as in data preparation: such pages are not even fetched."""
    seed: int = 1234
    """Seed of choices: of files, and of pages within `urls.pages_per_domain`."""
    connections: int = Field(default=4, ge=1, le=64)
    """Number of requests at a time."""
    index_address: WebAddress = "https://index.commoncrawl.org"
    """Server of the index."""
    data_address: WebAddress = "https://data.commoncrawl.org"
    """Server of the archives and the files of the index."""

    @model_validator(mode="after")
    def _has_pages(self) -> CrawlConfig:
        own = isinstance(self.index, tuple)
        if own and not self.index:
            raise ValueError("index: names no file")
        if self.files is not None:
            for name in ("sites", "domains", "languages"):
                if getattr(self, name):
                    raise ValueError(f"{name}: has no effect beside files, which are fetched whole")
            if self.index != "server" or self.urls != UrlConfig():
                name = "index" if self.index != "server" else "urls"
                raise ValueError(f"{name}: has no effect beside files, which are fetched whole")
        elif self.form != "warc":
            raise ValueError(f"form: {self.form!r} has no effect without files: the index names pages only")
        elif not (self.sites or self.domains or own):
            raise ValueError("sites: missing; name sites or domains, an index of your own, or a number of files")
        if own and self.snapshots:
            raise ValueError("snapshots: has no effect beside an index of your own, which names the files")
        if not own and not self.snapshots:
            raise ValueError("snapshots: missing; name at least one, such as CC-MAIN-2024-10")
        return self
