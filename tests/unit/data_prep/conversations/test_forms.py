"""Records of each form, from files of each kind: what becomes a conversation, and what is set aside and why."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from data_prep.conversations.forms import FormError, conversations_of, tree_of
from data_prep.conversations.turns import ASSISTANT, INPUT, SYSTEM, USER, Turn, disorder, joined, turns_of
from data_prep.sources import Document, Fault, FileRange, reader_of
from data_prep.sources.json_arrays import read_elements

U, A = "user", "assistant"


def turns(record: dict[str, Any], form: Any, **options: Any) -> list[list[tuple[str, str]]]:
    return [[(turn.role, turn.content) for turn in one] for one in conversations_of(record, form, **options)]


def test_alpaca() -> None:
    assert turns({"instruction": "Add.", "input": "1 2", "output": "3"}, "alpaca") == [
        [(U, "Add."), (INPUT, "1 2"), (A, "3")]
    ]
    assert turns({"instruction": "Hi", "input": "", "output": "Hello"}, "alpaca") == [[(U, "Hi"), (A, "Hello")]]
    record = {"system": "s", "history": [["q", "a"]], "instruction": "Hi", "output": "Hello"}
    assert turns(record, "alpaca") == [[(SYSTEM, "s"), (U, "q"), (A, "a"), (U, "Hi"), (A, "Hello")]]


def test_sharegpt_and_messages() -> None:
    told = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert turns({"id": "x", "conversations": told}, "sharegpt") == [[(SYSTEM, "s"), (U, "q"), (A, "a")]]
    belle = [{"from": "human", "value": "q"}, {"from": "assistant", "value": "a"}]
    assert turns({"conversations": belle}, "sharegpt") == [[(U, "q"), (A, "a")]]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert turns({"messages": messages}, "messages") == [[(U, "q"), (A, "a")]]


def test_pairs() -> None:
    for record in (
        {"inputs": "q", "targets": "a"}, {"prompt": "q", "completion": "a"}, {"input": "q", "target": "a"},
    ):  # fmt: skip
        assert turns(record, "pairs") == [[(U, "q"), (A, "a")]]
    assert turns({"frage": "q", "antwort": "a"}, "pairs", question="frage", answer="antwort") == [[(U, "q"), (A, "a")]]


def test_seed_tasks() -> None:
    record = {
        "instruction": "Add.",
        "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "nothing"}],
        "is_classification": False,
    }
    assert turns(record, "seed_tasks") == [
        [(U, "Add."), (INPUT, "1 2"), (A, "3")],
        [(U, "Add."), (A, "nothing")],
    ]


def message(name: str, parent: str | None, role: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "message_id": name, "parent_id": parent, "message_tree_id": "t", "role": role, "text": name, "rank": rank,
        "deleted": False, "lang": "en", **more,
    }  # fmt: skip


FLAT = [
    message("q", None, "prompter"),
    message("worse", "q", "assistant", 1),
    message("best", "q", "assistant", 0),
    message("gone", "q", "assistant", -1, deleted=True),
    message("more?", "best", "prompter", 0),
    message("and?", "best", "prompter", 1),
    message("yes", "more?", "assistant", 0),
]


def test_trees() -> None:
    tree = tree_of(FLAT)
    assert turns(tree, "oasst") == [[(U, "q"), (A, "best"), (U, "more?"), (A, "yes")]]
    assert turns(tree, "oasst", paths="all") == [
        [(U, "q"), (A, "best"), (U, "more?"), (A, "yes")],
        [(U, "q"), (A, "best")],  # the question after it has no answer
        [(U, "q"), (A, "worse")],
    ]
    with pytest.raises(FormError, match=r"message 'yes' answers 'more\?', which is not among the 1 messages"):
        tree_of(FLAT[-1:])


@pytest.mark.parametrize(
    ("form", "record", "reason", "detail"),
    [
        ("alpaca", {"instruction": "x"}, "missing_field", r"no `output`; its fields are `instruction`"),
        ("alpaca", {"instruction": 3, "output": "x"}, "wrong_field", r"`instruction` is 3; it must be a string"),
        ("alpaca", {"instruction": "x", "output": "y", "history": ["q"]}, "wrong_field", r"`history\[0\]` is 'q'"),
        ("sharegpt", {"conversations": [{"from": "tool", "value": ""}]}, "unknown_role",
         r"`conversations\[0\].from` is 'tool'; known are human, user, gpt, assistant, system"),
        ("messages", {"messages": [{"role": "user"}]}, "missing_field", r"no `messages\[0\].content`"),
        ("messages", {"text": "x"}, "missing_field", r"no `messages`; its fields are `text`"),
        ("pairs", {"q": "x"}, "missing_field", r"its fields are `q`; a pair has `inputs` and `targets`"),
        ("seed_tasks", {"instruction": "x", "instances": [3]}, "wrong_field", r"`instances\[0\]` is 3"),
        ("oasst", {"prompt": {"role": "x", "text": "y"}}, "unknown_role", r"known are prompter, assistant"),
    ],
)  # fmt: skip
def test_faults_of_records(form: Any, record: dict[str, Any], reason: str, detail: str) -> None:
    with pytest.raises(FormError, match=detail) as caught:
        list(conversations_of(record, form))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("roles", "fault"),
    [
        ([USER, ASSISTANT], None),
        ([SYSTEM, USER, INPUT, ASSISTANT, USER, ASSISTANT], None),
        ([USER, USER, ASSISTANT], "turn 1 is of role 'user'; after user belongs input or assistant"),
        ([ASSISTANT, USER], "turn 0 is of role 'assistant'; at the beginning belongs system or user"),
        ([USER, ASSISTANT, SYSTEM], "turn 2 is of role 'system'; after assistant belongs user"),
        ([USER], "the last turn is of role 'user', and nobody answers it"),
        ([], "there are no turns"),
    ],
)
def test_the_order_of_turns(roles: Sequence[str], fault: str | None) -> None:
    assert disorder(roles) == fault


def test_turns_are_found_again_in_the_text() -> None:
    conversation = (Turn(USER, "wer?\n\nwas?"), Turn(INPUT, "雪é"), Turn(ASSISTANT, "är 👩"))
    text, places = joined(conversation)
    assert text == "wer?\n\nwas?\n\n雪é\n\när 👩"
    ranges, roles = turns_of(json.dumps({"turns": places}), text.encode())
    assert [(role, text.encode()[start:stop].decode()) for role, (start, stop) in zip(roles, ranges, strict=True)] == [
        (turn.role, turn.content) for turn in conversation
    ]
    for wrong, message_ in (
        ([[0, 4, "user"], [3, 9, "assistant"]], r"\[3, 9\) must be half-open .* inside of \[4, 20\)"),
        ([[0, 4, "tool"]], "the role 'tool'; known are system, user, input, assistant"),
        ([[0, 99, "user"]], r"\[0, 99\) must be"),
        ([], "its metadata has no `turns`"),
    ):
        with pytest.raises(ValueError, match=message_):
            turns_of(json.dumps({"turns": wrong}), text.encode())


# ---------------------------------------------------------------------------------------------------------------------
# files

RECORDS = [{"instruction": f"q {i}", "input": "", "output": f"a {i} " + "x" * (i % 50), "n": i} for i in range(300)]
FAULTY = {"instruction": "q", "input": "", "output": ""}


def read(path: Path, options: dict[str, Any], maximum: int = 10_000) -> list[Document | Fault]:
    size = path.stat().st_size
    return list(reader_of("conversations", options).read(FileRange(str(path), 0, size, size), maximum))


def write(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("layout", ["lines", "array", "indented", "bom"])
def test_every_file_gives_the_same_documents(tmp_path: Path, suffix: str, layout: str) -> None:
    records = [*RECORDS, FAULTY]
    content = {
        "lines": "\n".join(map(json.dumps, records)),
        "array": json.dumps(records),
        "indented": " \n" + json.dumps(records, indent=2, ensure_ascii=False) + "\n",
        "bom": "\ufeff" + json.dumps(records, indent=1),
    }[layout]
    found = read(write(tmp_path / f"a.json{suffix}", content.encode()), {"form": "alpaca"})
    documents = [one for one in found if isinstance(one, Document)]
    assert [one.text for one in documents] == [f"{one['instruction']}\n\n{one['output']}" for one in RECORDS]
    assert [one.metadata["n"] for one in documents] == list(range(300))
    (fault,) = (one for one in found if isinstance(one, Fault))
    lines = {"lines": 301, "array": 1, "indented": 1 + 1 + 300 * 6 + 1, "bom": 1 + 300 * 6 + 1}
    assert (fault.reason, fault.line) == ("empty_turn", lines[layout])
    assert "turn 1, of role 'assistant', is ''" in fault.detail


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_elements_of_arrays_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("data_prep.sources.json_arrays._BLOCK_BYTES", block)
    source = random.Random(1)
    pieces = ['"', "\\", "]", "[", "}", "{", ",", "é", "\n", "x", "\\u00e9"]
    values = [
        {"a": ["".join(source.choices(pieces, k=9)), {"b": [1, [2]]}], "".join(source.choices(pieces, k=3)): None}
        for _ in range(40)
    ]
    path = write(tmp_path / "a.json", json.dumps([*values, "text", 3, [], {}], indent=1).encode())
    found = [json.loads(line.content or b"") for line in read_elements(str(path), 1000)]
    assert found == [*values, "text", 3, [], {}]
    assert [line.content for line in read_elements(str(write(tmp_path / "b.json", b" [ ] \n")), 1000)] == []


def test_large_and_damaged_arrays(tmp_path: Path) -> None:
    good = {"instruction": "q", "output": "a"}
    large = {"instruction": "q", "output": "[{" * 4000}
    path = write(tmp_path / "a.json", json.dumps([good, large, good]).encode())
    found = read(path, {"form": "alpaca"}, 1000)
    assert [getattr(one, "reason", "good") for one in found] == ["good", "too_large", "good"]
    cut = write(tmp_path / "b.json", json.dumps([good, good])[:-5].encode())
    first, damage = read(cut, {"form": "alpaca"})
    assert isinstance(first, Document) and isinstance(damage, Fault)
    assert damage.reason == "damaged_file" and "has no end; the 1 complete records before it are read" in damage.detail
    more = write(tmp_path / "c.json", (json.dumps([good]) + "{}").encode())
    assert [getattr(one, "reason", "good") for one in read(more, {"form": "alpaca"})] == ["good", "damaged_file"]
    broken = write(tmp_path / "d.json", b'[{"instruction": "q", "output": "a"}, {"instruction": nil}, 3]')
    assert [getattr(one, "reason", "good") for one in read(broken, {"form": "alpaca"})] == [
        "good", "invalid_json", "wrong_field",
    ]  # fmt: skip
    gone = write(tmp_path / "e.json.gz", b"")
    gone.write_bytes(gzip.compress(json.dumps(RECORDS).encode())[:-300])
    *documents, damage = read(gone, {"form": "alpaca"})
    assert len(documents) > 10 and isinstance(damage, Fault) and damage.reason == "damaged_file"


def test_the_wrong_form_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(RECORDS).encode())
    with pytest.raises(ValueError, match=r"a.json:1: none of the first 100 records is a conversation of the form 'm"):
        read(path, {"form": "messages"})


@pytest.mark.parametrize("layout", ["flat", "trees"])
def test_files_of_openassistant(tmp_path: Path, layout: str) -> None:
    other = [{**one, "message_tree_id": "u", "message_id": f"u{one['message_id']}",
              "parent_id": one["parent_id"] and f"u{one['parent_id']}"} for one in FLAT]  # fmt: skip
    records = [*FLAT, *other] if layout == "flat" else [tree_of(FLAT), tree_of(other)]
    path = write(tmp_path / "a.jsonl.gz", "\n".join(map(json.dumps, records)).encode())
    found = read(path, {"form": "oasst"})
    assert [one.text for one in found if isinstance(one, Document)] == ["q\n\nbest\n\nmore?\n\nyes"] * 2
    everything = read(path, {"form": "oasst", "oasst_paths": "all"})
    assert len(everything) == 6 and len({one.url for one in everything if isinstance(one, Document)}) == 6
    divide = reader_of("conversations", {"form": "oasst"}).divide
    assert len(divide(str(path), 10_000_000, 1000)) == 1, "a tree is not torn apart"


def test_lines_are_divided_and_arrays_are_not(tmp_path: Path) -> None:
    divide = reader_of("conversations", {"form": "alpaca"}).divide
    lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, RECORDS)).encode())
    array = write(tmp_path / "a.json", json.dumps(RECORDS).encode())
    size = lines.stat().st_size
    ranges = divide(str(lines), size, 4000)
    reader = reader_of("conversations", {"form": "alpaca"})
    found = [one for piece in ranges for one in reader.read(piece, 10_000)]
    assert len(ranges) > 3 and [one.metadata["n"] for one in found if isinstance(one, Document)] == list(range(300))
    assert len(divide(str(array), array.stat().st_size, 4000)) == 1
