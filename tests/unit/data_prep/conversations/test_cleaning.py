"""Cleaning rules one by one, and their counts."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import DataConfig, SourceConfig
from data_prep.conversations.cleaning import GROUPS, RULES, Cleaning
from data_prep.conversations.forms import FormError
from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Conversation, Turn
from data_prep.extract import extract, extract_stage
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.sources import reader_of

needs_markdownify = pytest.mark.skipif(
    importlib.util.find_spec("markdownify") is None, reason="an extra, `pip install .[conversations]`"
)


def talk(*contents: str) -> Conversation:
    return tuple(Turn((USER, ASSISTANT)[place % 2], content) for place, content in enumerate(contents))


def cleaned(rule: str, *contents: str) -> list[str]:
    return [turn.content for turn in Cleaning([rule])(talk(*contents))]


@needs_markdownify
def test_html_of_answers_becomes_markdown() -> None:
    answer = '<div class="x"><p>Use <code>a_b</code>:</p><ul><li>one</li><li>two &amp; three</li></ul></div>'
    assert cleaned("html", "<p>what is <b>?", answer) == ["<p>what is <b>?", "Use `a_b`:\n\n* one\n* two & three"]
    code = "<pre><div>python<span>Copy code</span><code>def f_x():\n    return 1\n</code></div></pre>"
    (_, made) = [turn.content for turn in Cleaning(["html", "page_marks"])(talk("q", code))]
    assert made == "```python\ndef f_x():\n    return 1\n```"
    assert cleaned("html", "q", "a_b < c and *d*") == ["q", "a_b < c and *d*"], "text without tags stays as it is"


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdownify", None)
    with pytest.raises(ValueError, match=r"html, which sharegpt includes, needs markdownify: pip install 'altiplano\["):
        reader_of("conversations", {"form": "sharegpt", "clean": ["sharegpt"]})


def test_marks_of_the_page() -> None:
    assert cleaned("page_marks", "1 / 2", "1 / 2\n\nYes. Copy12 chars / 3 words No.") == ["1 / 2", "Yes.  No."]
    assert cleaned("page_marks", "q", "so:\n```\npythonCopy codex = 1\n```\nend") == [
        "q", "so:\n```python\nx = 1\n```\nend",
    ]  # fmt: skip
    assert cleaned("page_marks", "q", "```\nCopy code\n```\nend") == ["q", "end"]
    kept = "  page 1 / 2 of\n\n\n\nthis  "
    assert cleaned("page_marks", "q", kept) == ["q", kept], "what has no marks is not touched"


def test_first_and_last_questions() -> None:
    assert [turn.content for turn in Cleaning(["first_question"])(talk("q", "a", "r", "b")[1:])] == ["r", "b"]
    system = (Turn(SYSTEM, "s"), *talk("q", "a", "r"))
    assert [turn.content for turn in Cleaning(["last_question"])(system)] == ["s", "q", "a"]
    with pytest.raises(FormError, match="the rule leaves no answer of it") as caught:
        cleaned("last_question", "q")
    assert caught.value.reason == "clean.last_question"


def test_an_empty_answer_ends_the_conversation() -> None:
    for empty in ("", " \n", "\u200b\x00"):
        assert cleaned("empty_answer", "q", "a", "r", empty, "s", "b") == ["q", "a"]
    with pytest.raises(FormError, match="the rule leaves no answer of it"):
        cleaned("empty_answer", "q", "", "r", "b")


@pytest.mark.parametrize(
    ("rule", "kept", "dropped"),
    [
        ("short", ("12345678", "12345678"), ("1234567", "12345678")),
        ("refused", ("Too many requests in 1 hour", "what of it?"), ("q", "Too many requests in 1 hour. Try again.")),
        ("refused", ("q", "It said: An error occurred."), ("q", '{"detail":"Too many requests, please slow down"}')),
        ("plugins", ("q", "Used cars"), ("q", "Used **Weather**")),
        ("blocked_words", ("q", "open ai"), ("who is OpenAI?", "a")),
        ("repeated_digits", ("q", "111111112"), ("q", "x 000000000")),
        ("wrong_lists", ("q", "\n1. a\n2. b\n1. c"), ("q", "\n1. a\n1. b")),
    ],
)  # fmt: skip
def test_rules_that_set_aside(rule: str, kept: tuple[str, ...], dropped: tuple[str, ...]) -> None:
    assert cleaned(rule, *kept) == list(kept)
    with pytest.raises(FormError) as caught:
        cleaned(rule, *dropped)
    assert caught.value.reason == f"clean.{rule}"


def test_rules_are_applied_in_one_order_and_counted() -> None:
    cleaning = Cleaning(["last_question", "empty_answer", "first_question"])
    assert [turn.content for turn in cleaning(talk("q", "a", "r", ""))] == ["q", "a"]
    cleaning(talk("q", "a", "r"))
    assert cleaning.changed == {"changed:empty_answer": 1, "changed:last_question": 1}
    assert set(GROUPS["sharegpt"]) < set(RULES)


def test_settings() -> None:
    with pytest.raises(ValueError, match="cleaning rule 'htlm' is unknown; did you mean 'html'"):
        SourceConfig.model_validate({"name": "a", "kind": "conversations", "form": "sharegpt", "paths": ["x"],
                                     "clean": ["htlm"]})  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "jsonl", "clean": ["short"]}, "clean: has no effect: kind is 'jsonl', not conversations"),
        ({"kind": "jsonl", "form": "alpaca"}, "form: has no effect: kind is 'jsonl'"),
        ({}, "form: missing; kind conversations needs one of alpaca, sharegpt, messages, pairs, oasst, seed_tasks"),
        ({"form": "alpaca", "question_field": "q"}, "question_field: has no effect: form is 'alpaca', not pairs"),
        ({"form": "pairs", "question_field": "q"}, "question_field: must be given together with answer_field"),
        ({"form": "pairs", "oasst_paths": "all"}, "oasst_paths: has no effect: form is 'pairs', not oasst"),
    ],
)
def test_settings_of_sources(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig.model_validate({"name": "a", "kind": "conversations", "paths": ["x"], **settings})


@pytest.mark.parametrize(
    ("tokens", "kind", "message"),
    [
        ({}, "conversations", "tokens.template: missing; source a has conversations"),
        ({"template": "alpaca"}, "jsonl", "tokens.template: has no effect: no source is of kind conversations"),
        ({"pack": 64}, "jsonl", "tokens.pack: has no effect"),
        ({"template": "alpaca", "long_round": "cut_question"}, "conversations", "tokens.long_round: has no effect"),
    ],
)
def test_settings_of_tokens(tokens: dict[str, Any], kind: str, message: str) -> None:
    form = {"form": "alpaca"} if kind == "conversations" else {}
    source = {"name": "a", "kind": kind, "paths": ["x"], **form}
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate({"output": "run", "sources": [source], "tokens": tokens})


def test_a_source_counts_and_keeps_aside_what_cleaning_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*contents: str) -> dict[str, Any]:
        roles = ("human", "gpt")
        return {"conversations": [{"from": roles[i % 2], "value": value} for i, value in enumerate(contents)]}

    records = [
        told("a question", "and an answer", "one more?"),
        told("q", "a"),
        told("a question", "1 / 2 and an answer"),
        {"conversations": [{"from": "human", "value": "x"}, {"from": "human", "value": "y"}]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    config = DataConfig.model_validate({
        "output": tmp_path / "run", "workers": 1, "tokens": {"template": "vicuna-1.1"},
        "sources": [{"name": "talks", "kind": "conversations", "form": "sharegpt", "paths": [str(tmp_path / "a.json")],
                     "clean": ["page_marks", "last_question", "short"]}],
    })  # fmt: skip
    run = RunDirectory(config.output)
    extract(config, run)
    counts = extract_stage(config, run, load_manifest(run)).records()["talks-00000"].counts
    assert {key: value for key, value in counts.items() if ":" in key} == {
        "changed:last_question": 1, "changed:page_marks": 1, "quarantine:clean.short": 1,
        "quarantine:clean.last_question": 1,
    }  # fmt: skip
    assert counts["documents"] == 2 and counts["quarantined"] == 2
    aside = [json.loads(line) for line in (run.quarantine / "talks-00000.jsonl").read_text().splitlines()]
    assert [(one["reason"], one["line"]) for one in aside] == [("clean.short", 18), ("clean.last_question", 42)]
    told_by = capsys.readouterr().out
    assert "source talks: conversations changed by cleaning: 1 by last_question, 1 by page_marks" in told_by
