"""Crawls against a local archive: the same files from each form of the index, whatever goes wrong on the way."""

from __future__ import annotations

import email.utils
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import DataConfig
from data_prep.crawl import download, fetch, plan, polite_client
from data_prep.crawl.captures import Capture
from data_prep.crawl.config import CrawlConfig
from data_prep.crawl.fetch import crawl, requests_of
from data_prep.crawl.plan import freeze_plan
from data_prep.crawl.polite_client import CrawlError, PoliteClient
from data_prep.run.inputs import find_inputs
from data_prep.sources import Document, reader_of
from data_prep.sources.ranges import FileRange
from foundation.configuration import ConfigError
from tests.unit.data_prep.crawl.archive import INDEXES, LINES_PER_BLOCK, ROBOTS, SNAPSHOT, WARC, Archive
from tests.unit.data_prep.sources.object_server import Answer
from tools.crawl import main

SITES = ["a.example", "b.example/blog", "192.0.2.7"]
WANTED = 20


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Archive, str]]:
    """An archive with pages that are wanted, pages of neighbours in the order of the index, and captures that are no
    pages."""
    monkeypatch.setattr(polite_client, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(polite_client, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(plan, "_PART_CAPTURES", 6)
    monkeypatch.setattr(fetch, "_GAP_BYTES", 100)
    monkeypatch.setattr(download, "RANGE_BYTES", 700)
    monkeypatch.delenv("http_proxy", raising=False)
    one = Archive()
    for i in range(9):
        one.add(f"https://www.a.example/{i}", warc=i % 3)
        one.add(f"https://a.example-foo.example/{i}", warc=(i + 1) % 3)
        one.add(f"https://elsewhere.example/{i}", warc=i % 2)
    for i in range(5):
        one.add(f"http://deep.a.example/{i}", warc=i % 2)
        one.add(f"http://b.example/blog/{i}", warc=i % 2)
        one.add(f"http://b.example/blogger/{i}", warc=i % 2)
        one.add(f"http://b.example/about/{i}", warc=i % 3)
    one.add("http://a.example:8080/port", warc=2)
    # not wanted, although of a wanted site
    one.add("http://a.example/moved", status="301")
    one.add("http://a.example/picture", **{"mime-detected": "image/png"})
    one.add("http://a.example/robots.txt", file=ROBOTS)
    one.finish()
    with one.running() as host:
        yield one, f"http://{host}"


def config_of(address: str, output: Path, **values: Any) -> CrawlConfig:
    usual: dict[str, Any] = {"snapshots": [SNAPSHOT], "domains": SITES, "connections": 3}
    return CrawlConfig.model_validate(
        {"output": output, "index_address": address, "data_address": f"{address}/", **usual, **values}
    )


def documents(folder: Path) -> dict[str, str]:
    """Texts by address, as a source of kind `warc` reads the folder."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.warc.gz")):
        for result in reader_of("warc").read(FileRange(str(path), 0, (n := path.stat().st_size), n), 10**6):
            assert isinstance(result, Document), result
            found[result.url] = result.text
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.warc.gz"))}


def test_every_form_of_the_index_names_the_same_pages(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    told = crawl(config_of(address, tmp_path / "server"))
    assert told["planned"] == told["fetched"] == WANTED and told["left_out"] == {}
    assert told["left_out_by_the_plan"] == {"no_page": 1, "other_type": 1, "status_301": 1}
    texts = documents(tmp_path / "server")
    assert len(texts) == WANTED and "long enough" in texts["http://b.example/blog/3"]
    assert not any("blogger" in url or "foo" in url or "elsewhere" in url for url in texts)
    assert len(list((tmp_path / "server").glob("*.warc.gz"))) > 1
    own = {
        "index.cdxj.gz": gzip.compress("".join(map(one.as_cdxj, one.lines)).encode()),
        "index.jsonl": one.as_json(),
        "index.parquet": one.as_table(),
    }
    for name, content in own.items():
        (tmp_path / name).write_bytes(content)
    forms: list[tuple[str, dict[str, Any]]] = [("files", {"index": "files"})]
    forms += [(name, {"index": [str(tmp_path / name)], "snapshots": []}) for name in own]
    for name, values in forms:
        assert crawl(config_of(address, tmp_path / f"of-{name}", **values)) == told, name
        assert bytes_of(tmp_path / f"of-{name}") == bytes_of(tmp_path / "server"), name
    # a classic index has neither detected types nor languages
    (tmp_path / "index.cdx").write_bytes(one.as_cdx())
    crawl(config_of(address, tmp_path / "classic", index=[str(tmp_path / "index.cdx")], snapshots=[]))
    assert documents(tmp_path / "classic").keys() - texts.keys() == {"http://a.example/picture"}


def test_few_blocks_of_the_index_are_fetched(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    crawl(config_of(address, tmp_path / "out", index="files", domains=["b.example/blog"]))
    assert sum(path.endswith("cdx-00000.gz") for path, _ in one.asked) < len(one.lines) / LINES_PER_BLOCK / 2


def test_an_index_of_your_own_without_sites_is_fetched_whole(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    (tmp_path / "index.jsonl").write_bytes(one.as_json() + b'{"url": "http://x.example/"}\nnonsense\n')
    told = crawl(config_of(address, tmp_path / "out", index=[str(tmp_path / "index.jsonl")], snapshots=[], domains=[]))
    assert told["left_out_by_the_plan"].pop("bad_index_line") == 2
    assert told["planned"] + sum(told["left_out_by_the_plan"].values()) == len(one.lines)


Fault = Any


@pytest.mark.parametrize("fault", ["503", "reset", "truncated"])
@pytest.mark.parametrize(
    "values", [{}, {"index": "files"}, {"files": 2, "domains": []}], ids=["server", "files", "whole"]
)
def test_passing_faults_change_nothing(
    archive: tuple[Archive, str], tmp_path: Path, fault: str, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one, address = archive
    told = crawl(config_of(address, tmp_path / "calm", **values))
    one.fault = lambda number: fault if number % 3 == 0 else None
    assert crawl(config_of(address, tmp_path / "storm", **values)) == told
    assert bytes_of(tmp_path / "storm") == bytes_of(tmp_path / "calm") != {}
    assert one.counts[fault] > 2 and "repeated requests" in capsys.readouterr().out


def ranges_only(change: Any) -> Any:
    """A change of every answer that has a range of a web archive, the first time that it is asked for."""
    seen: set[str] = set()

    def changed(number: int, request: Any, answer: Answer) -> Answer:
        key = request.path + request.headers.get("Range", "")
        if "/warc/" not in request.path or key in seen:
            return answer
        seen.add(key)
        return change(answer)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: (206, {**answer[1], "Content-Range": "bytes 5-9/1000"}, answer[2]),
        lambda answer: (206, {**answer[1], "Content-Range": "none"}, answer[2]),
        lambda answer: (206, answer[1], answer[2][:-3]),
        lambda answer: (206, answer[1], b"\0" * len(answer[2])),
        lambda answer: (206, answer[1], answer[2][:50] + b"\xff" * 9 + answer[2][59:]),
        lambda answer: (429, {"Retry-After": "0"}, b""),
        lambda answer: (500, {}, b"oops"),
    ],
    ids=["other range", "no range", "short", "zeros", "damaged", "429", "500"],
)
def test_a_wrong_range_is_asked_for_again(archive: tuple[Archive, str], tmp_path: Path, change: Any) -> None:
    one, address = archive
    told = crawl(config_of(address, tmp_path / "calm"))
    one.change = ranges_only(change)
    assert crawl(config_of(address, tmp_path / "storm")) == told
    assert bytes_of(tmp_path / "storm") == bytes_of(tmp_path / "calm")


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: (206, {**answer[1], "Content-Range": "bytes 5-9/1000"}, b"wrong"),
        lambda answer: (206, {**answer[1], "Content-Range": "none"}, b"wrong"),
        lambda answer: (206, answer[1], answer[2][:-3]),
    ],
    ids=["other range", "no range", "short"],
)
def test_a_wrong_range_of_a_whole_file_is_asked_for_again(
    archive: tuple[Archive, str], tmp_path: Path, change: Any
) -> None:
    one, address = archive
    values = {"files": 2, "domains": [], "connections": 1}
    told = crawl(config_of(address, tmp_path / "calm", **values))
    one.change = ranges_only(change)
    assert crawl(config_of(address, tmp_path / "storm", **values)) == told
    assert bytes_of(tmp_path / "storm") == bytes_of(tmp_path / "calm")


def test_what_cannot_be_fetched_is_left_out_with_its_reason(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    damaged = bytearray(one.files[WARC.format(0)])
    of_deep = [line[2] for line in one.lines if line[2]["url"] == "http://deep.a.example/0"]
    place = int(of_deep[0]["offset"])
    damaged[place + 40 : place + 50] = b"\xff" * 10
    one.files[WARC.format(0)] = bytes(damaged)
    del one.files[WARC.format(2)]
    for line in one.lines:
        if line[2]["url"] == "http://b.example/blog/1":
            line[2]["url"] = "http://b.example/blog/other"
        if line[2]["url"] == "http://b.example/blog/3":
            line[2]["length"] = str(int(line[2]["length"]) - 5)
        if line[2]["url"] == "http://b.example/blog/2":
            line[2]["length"] = str(int(line[2]["length"]) + 5)
        if line[2]["url"] == "http://deep.a.example/1":
            line[2]["offset"] = str(10**9)
        if line[2]["url"] == "http://deep.a.example/3":
            line[2]["length"] = str(10**6)
    told = crawl(config_of(address, tmp_path / "out"))
    assert told["left_out"] == {
        "beyond_the_file": 1,
        "damaged_record": 3,
        "not_there": 5,  # 4 of the file that is gone, and one whose place is behind the end
        "other_record": 1,
    }
    assert told["fetched"] == WANTED - 10 == len(documents(tmp_path / "out"))
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("part-*.json")]
    listed = {entry["url"]: entry for record in records for entry in record["left_out"]}
    assert listed["http://b.example/blog/other"]["detail"] == "the record there is of 'http://b.example/blog/1'"
    assert listed["http://deep.a.example/1"]["reason"] == "not_there" and len(listed) == 10


def test_a_server_that_does_not_know_ranges(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    one.change = lambda number, request, answer: (
        (200, {}, one.files[request.path.lstrip("/")]) if "/warc/" in request.path else answer
    )
    with pytest.raises(CrawlError, match=r"warc\.gz: the server answers a request for a range with the whole file"):
        crawl(config_of(address, tmp_path / "out"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, {}, b""), r"refused \(status 403\); the server may have blocked this machine"),
        ((503, {}, b""), r"cannot be read, 10 times in a row: status 503; run again later"),
        ((503, {"Retry-After": "7200"}, b""), r"the server asks to come back in 7,200 seconds; run again then"),
        ((418, {}, b""), r"unexpected answer \(status 418\)"),
    ],
)
def test_a_server_that_refuses_ends_the_crawl_and_loses_nothing(
    archive: tuple[Archive, str], tmp_path: Path, answer: Answer, message: str
) -> None:
    one, address = archive
    config = config_of(address, tmp_path / "out", connections=1)
    whole = crawl(config_of(address, tmp_path / "whole"))
    first = WARC.format(1)
    one.change = lambda number, request, usual: answer if request.path.lstrip("/") == first else usual
    with pytest.raises(CrawlError, match=message):
        crawl(config)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.warc.gz")}
    assert stamps and not (tmp_path / "out" / "complete.json").exists()
    source = {"name": "web", "kind": "warc", "paths": [str(tmp_path / "out")]}
    data = DataConfig.model_validate({"output": tmp_path / "run", "sources": [source]})
    with pytest.raises(ValueError, match=r"its crawl is not complete; run the same `altiplano data crawl` again"):
        find_inputs(data.sources[0], 1)
    one.change, one.asked = (lambda number, request, usual: usual), []
    assert crawl(config) == whole
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert not any("-index" in path for path, _ in one.asked)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert len(find_inputs(data.sources[0], 1).files) == len(bytes_of(tmp_path / "out"))


def test_a_pause_that_the_server_asks_for_is_made_by_all_connections(
    archive: tuple[Archive, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, address = archive
    slept: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(polite_client.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(polite_client.time, "sleep", sleep)
    one.fault = lambda number: "503" if number == 0 else None
    original = one.answer
    one.change = lambda number, request, answer: (
        (503, {"Retry-After": ("7", email.utils.formatdate(time.time() + 30, usegmt=True))[number]}, b"")
        if number < 2
        else answer
    )
    assert original
    client = PoliteClient(2)
    one.fault = lambda number: None
    content, size, _ = client.get_range(f"{address}/{WARC.format(0)}", 0, 10)
    assert content == one.files[WARC.format(0)][:10] and size == len(one.files[WARC.format(0)])
    waits = [seconds for seconds in slept if seconds > 0.1]
    assert waits[0] == pytest.approx(7, abs=0.1) and waits[1] == pytest.approx(30, abs=2)
    assert client.repeated == {"status 503": 2}
    assert client._not_before >= now[0] - 2, "all connections waited"


def test_whole_files_of_a_snapshot(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    config = config_of(address, tmp_path / "out", files=2, domains=[], connections=1)
    told = crawl(config)
    assert told["planned"] == told["fetched"] == 2
    found = bytes_of(tmp_path / "out")
    assert len(found) == 2 and set(found.values()) < {one.files[WARC.format(k)] for k in range(3)}
    # killed after some ranges: they are used
    other = config_of(address, tmp_path / "other", files=2, domains=[], connections=1)
    one.change = lambda number, request, answer: (
        (403, {}, b"") if request.headers.get("Range", "").startswith("bytes=2100-") else answer
    )
    with pytest.raises(CrawlError, match="refused"):
        crawl(other)
    kept = list((tmp_path / "other").glob("*.ranges/0*"))
    assert len(kept) == 3 and not list((tmp_path / "other").glob("*.warc.gz"))
    one.change, one.asked = (lambda number, request, answer: answer), []
    assert crawl(other) == told and bytes_of(tmp_path / "other") == found
    assert not any(asked.startswith("bytes=700-") for _, asked in one.asked[:3]), (
        "ranges that are there are not fetched"
    )
    assert not list((tmp_path / "other").glob("*.ranges"))


def test_a_file_that_changes_while_it_is_fetched(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive

    def changed(number: int, request: Any, answer: Answer) -> Answer:
        if request.headers.get("Range", "").startswith("bytes=700-"):
            return answer[0], {**answer[1], "ETag": '"other"'}, answer[2]
        return answer

    one.change = changed
    with pytest.raises(CrawlError, match="changed while it was fetched; run again"):
        crawl(config_of(address, tmp_path / "out", files=1, domains=[]))


KILLED = """
import sys
from tests.unit.data_prep.crawl.test_crawl import config_of
from data_prep.crawl import fetch, plan
plan._PART_CAPTURES, fetch._GAP_BYTES = 6, 100
from pathlib import Path
fetch.crawl(config_of(sys.argv[1], Path(sys.argv[2])))
"""


def test_killed_at_any_moment_a_crawl_goes_on(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    whole = crawl(config_of(address, tmp_path / "whole"))
    out = tmp_path / "out"
    kills = 0
    for wanted in (3, 12, 15, 17, 19):
        started: list[subprocess.Popen[bytes]] = []
        last = len(one.asked) + wanted

        def kill(number: int, request: Any, answer: Answer, last: int = last, started: list[Any] = started) -> Answer:
            if number >= last:
                started[0].send_signal(signal.SIGKILL)
            return answer

        one.change = kill
        started.append(subprocess.Popen([sys.executable, "-c", KILLED, address, str(out)], env={**os.environ}))
        kills += started[0].wait() == -signal.SIGKILL
    one.change = lambda number, request, answer: answer
    assert crawl(config_of(address, out)) == whole and kills >= 2
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_rules_on_addresses_are_applied_before_anything_is_fetched(
    archive: tuple[Archive, str], tmp_path: Path
) -> None:
    _, address = archive
    (tmp_path / "ut1" / "adult").mkdir(parents=True)
    (tmp_path / "ut1" / "adult" / "domains").write_text("deep.a.example\n")
    (tmp_path / "words").write_text("elsewhere\n")
    (tmp_path / "sites").write_text("example   # all of it\n")
    urls = {"block": [tmp_path / "ut1"], "words": tmp_path / "words", "pages_per_domain": 4}
    values = {"sites": [tmp_path / "sites"], "domains": [], "urls": urls}
    told = crawl(config_of(address, tmp_path / "out", **values))
    reasons = told["left_out_by_the_plan"]
    assert reasons["urls.blocked"] == 5 and reasons["urls.words"] == 9
    fetched = list(documents(tmp_path / "out"))
    # a.example, a.example-foo.example (of example-foo.example) and b.example
    assert len(fetched) == told["fetched"] == 12
    assert reasons["urls.pages_per_domain"] == (9 + 1 - 4) + (9 - 4) + (15 - 4)
    again = crawl(config_of(address, tmp_path / "again", **{**values, "index": "files"}))
    assert again == told and list(documents(tmp_path / "again")) == fetched


def test_languages_of_the_index(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    for line in one.lines:
        if line[2]["url"] == "http://deep.a.example/2":
            line[2]["languages"] = "zho,eng"
        if line[2]["url"] == "http://deep.a.example/3":
            del line[2]["languages"]
    told = crawl(config_of(address, tmp_path / "out", languages=["en"]))
    reasons = told["left_out_by_the_plan"]
    assert (reasons["other_language"], reasons["no_language"], told["fetched"]) == (1, 1, WANTED - 2)
    assert crawl(config_of(address, tmp_path / "zh", languages=["zh"]))["fetched"] == 1


def test_the_same_page_of_two_snapshots_is_fetched_once(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    (tmp_path / "index.jsonl").write_bytes(one.as_json())
    moved = one.as_json().replace(b"/segments/1/", b"/segments/2/")
    (tmp_path / "later.jsonl").write_bytes(one.as_json() + moved)
    index = [str(tmp_path / "index.jsonl"), str(tmp_path / "later.jsonl")]
    told = crawl(config_of(address, tmp_path / "out", index=index, snapshots=[]))
    reasons = told["left_out_by_the_plan"]
    assert (told["fetched"], reasons["named_twice"], reasons["same_page_and_content"]) == (WANTED, WANTED, WANTED)


def test_another_crawl_needs_another_folder(archive: tuple[Archive, str], tmp_path: Path) -> None:
    _, address = archive
    (tmp_path / "sites").write_text("a.example\n")
    values = {"sites": [tmp_path / "sites"], "domains": []}
    crawl(config_of(address, tmp_path / "out", **values))
    crawl(config_of(address, tmp_path / "out", connections=1, **values))  # changes nothing
    with pytest.raises(ValueError, match=r"the setting languages is \['en'\], this folder's crawl was begun with \[\]"):
        crawl(config_of(address, tmp_path / "out", languages=["en"], **values))
    (tmp_path / "sites").write_text("b.example\n")
    with pytest.raises(ValueError, match=r"the setting sites is .*; restore it, or choose another output"):
        crawl(config_of(address, tmp_path / "out", **values))


def test_a_part_that_is_lost_is_fetched_again(archive: tuple[Archive, str], tmp_path: Path) -> None:
    _, address = archive
    config = config_of(address, tmp_path / "out")
    told = crawl(config)
    files = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "part-00001.warc.gz").unlink()
    (tmp_path / "out" / "part-00002.warc.gz").write_bytes(b"cut")
    assert crawl(config) == told and bytes_of(tmp_path / "out") == files


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"domains": ["nowhere.example"]}, "nothing to fetch: the index has no such page"),
        ({"snapshots": [SNAPSHOT, "CC-MAIN-1999-01"]}, "snapshots: CC-MAIN-1999-01: "),
        ({"snapshots": ["CC-MAIN-1999-01"], "index": "files"}, "is this the name of a snapshot?"),
        ({"snapshots": ["CC-MAIN-1999-01"], "files": 1, "domains": []}, "is this the name of a snapshot?"),
        ({"domains": ["two words"]}, "domains: 'two words' is no domain and no address"),
        ({"index": ["nowhere.cdx"], "snapshots": []}, "index: nowhere.cdx: no such file"),
    ],
)
def test_what_is_not_there(archive: tuple[Archive, str], tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        crawl(config_of(archive[1], tmp_path / "out", **values))
    assert message in str(error.value)


def test_a_damaged_index_of_your_own(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(one.as_json())[:-20])
    (tmp_path / "cut.parquet").write_bytes(one.as_table()[:-20])
    (tmp_path / "two.parquet").write_bytes(one.as_table().replace(b"warc_filename", b"ward_filename"))
    for name, message in (
        ("cut.jsonl.gz", "damaged .*; an index must be whole"),
        ("cut.parquet", "cannot be read"),
        ("two.parquet", "no column warc_filename; it must have those of Common Crawl's table"),
    ):
        with pytest.raises(ValueError, match=rf"index: .*{name}: {message}"):
            crawl(config_of(address, tmp_path / f"out-{name}", index=[str(tmp_path / name)], snapshots=[]))


def test_a_damaged_block_of_the_index_is_counted(archive: tuple[Archive, str], tmp_path: Path) -> None:
    one, address = archive
    content = bytearray(one.files[f"{INDEXES}/cdx-00000.gz"])
    content[30:40] = b"\xff" * 10
    one.files[f"{INDEXES}/cdx-00000.gz"] = bytes(content)
    told = crawl(config_of(address, tmp_path / "out", index="files", domains=["example"]))
    assert told["left_out_by_the_plan"]["bad_index_line"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"domains": []}, "sites: missing; name sites or domains, an index of your own, or a number of files"),
        ({"files": 1}, "domains: has no effect beside files"),
        ({"form": "wet"}, "form: 'wet' has no effect without files"),
        ({"snapshots": []}, "snapshots: missing; name at least one, such as CC-MAIN-2024-10"),
        ({"index": ["a.cdx"]}, "snapshots: has no effect beside an index of your own"),
        ({"files": 1, "domains": [], "index": "files"}, "index: has no effect beside files"),
        ({"data_address": "ftp://host"}, "'ftp://host': must begin with https:// or http://"),
        ({"snapshots": ["a/b"]}, "String should match pattern"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        config_of("http://127.0.0.1:1", tmp_path, **values)
    assert message in str(error.value)


def test_requests_are_of_neighbours_and_not_too_large() -> None:
    def at(file: str, offset: int, length: int) -> Capture:
        return Capture("http://a.example/", file, offset, length)

    near = [at("a", 0, 10), at("a", 10, 5), at("a", 1000, 5)]
    far = [at("a", 10**6, 5 << 20), at("a", 10**6 + (5 << 20), 5 << 20), at("b", 10**6, 1)]
    overlapping = [at("c", 0, 100), at("c", 50, 100)]
    assert list(requests_of([*near, *far, *overlapping])) == [near, *([one] for one in [*far, *overlapping])]


def test_the_command(archive: tuple[Archive, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, address = archive
    (tmp_path / "sites.txt").write_text("a.example\n")
    (tmp_path / "crawl.yaml").write_text(
        f"output: {tmp_path}/out\nsnapshots: [{SNAPSHOT}]\nsites: [{tmp_path}/sites.txt]\n"
        f"index_address: {address}\ndata_address: {address}\n"
    )
    assert main(["--config", str(tmp_path / "crawl.yaml")]) == 0
    told = capsys.readouterr().out
    assert "fetched" in told and "not asked for: status_301" in told and "for a source of kind warc" in told
    assert main(["--config", str(tmp_path / "crawl.yaml")]) == 0
    assert "already complete" in capsys.readouterr().out
    assert main(["--config", str(tmp_path / "crawl.yaml"), "seed=5"]) == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(ConfigError):
        from foundation.configuration import load_config

        load_config(CrawlConfig, tmp_path / "crawl.yaml", ["sites=[]"])


def test_the_plan_is_the_same_when_it_is_loaded(archive: tuple[Archive, str], tmp_path: Path) -> None:
    _, address = archive
    config = config_of(address, tmp_path / "out")
    made, loaded = freeze_plan(config, PoliteClient(1)), freeze_plan(config, PoliteClient(1))
    assert loaded == made or (loaded.digest, loaded.parts) == (made.digest, made.parts)
    assert [loaded.part(k) for k in range(loaded.parts)] == [made.part(k) for k in range(made.parts)]
    (tmp_path / "out" / "plan.parquet").write_bytes(gzip.compress(b"x"))
    with pytest.raises((ValueError, OSError)):
        freeze_plan(config, PoliteClient(1))
