"""User names, where a source asks for them: what is one, and what looks like one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError, read_records
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.signals.pii.spans import redact
from data_prep.signals.pii.user_names import find_user_names
from data_prep.tokenizer.kept_documents import read_kept


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("@jane wrote it", "PI:USER wrote it"),
        ("thanks (@jane_doe), and @bob99!", "thanks (PI:USER), and PI:USER!"),
        ("a line\n@jane\n", "a line\nPI:USER\n"),
        ("by @jane.doe.", "by PI:USER."),
        ("cc:@jane,@john", "cc:PI:USER,PI:USER"),
        ("谢谢@小明明 你好", "谢谢@小明明 你好"),  # Chinese characters end a name
        ("谢谢@xiaoming你好", "谢谢PI:USER你好"),
        ("привет, @ваня!", "привет, PI:USER!"),
        ("é @jané é", "é PI:USER é"),
        ("@jo is short", "@jo is short"),
        ("jane@example.org", "jane@example.org"),  # an address, which has its own kind
        ("5 pieces @99.50 and @1000", "5 pieces @99.50 and @1000"),
        ("a@@b @ @", "a@@b @ @"),
        ("", ""),
    ],
)
def test_what_is_a_user_name(text: str, redacted: str) -> None:
    assert redact(text.encode(), find_user_names(text.encode())).decode() == redacted


def test_a_source_asks_for_them(tmp_path: Path) -> None:
    texts = ["Ask @jane_doe or jane@example.org about it.", "@property is a decorator of Python's."]
    for name, text in zip(("forum", "code"), texts, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    sources = [
        {"name": name, "kind": "jsonl", "paths": [str(tmp_path / f"{name}.jsonl")], "rules": []}
        for name in ("forum", "code")
    ]
    sources[0]["user_names"] = True
    config = DataConfig.model_validate({"output": tmp_path / "run", "sources": sources, "workers": 1})
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    kept = [document.text for name in ("forum-00000", "code-00000") for document in read_kept(run, name)]
    assert kept == ["Ask PI:USER or PI:EMAIL about it.", texts[1]]
    assert read_records(run, "measure")["forum-00000"].counts["pii:USER"] == 1
    both = tuple(source.model_copy(update={"user_names": True}) for source in config.sources)
    other = config.model_copy(update={"sources": both})
    with pytest.raises(StaleOutputError, match="user_names"):
        measure(other, run)
