"""Forms in which conversations are published, and how a record of each becomes conversations.

    alpaca      instruction, input (may be ""), output; also system, history: [[question, answer], …]
    sharegpt    conversations: [{from: human|gpt|system, value}]; also the roles user and assistant, as BELLE has them
    messages    messages: [{role: system|user|assistant, content}]
    pairs       inputs and targets (xP3), prompt and completion, input and target (BELLE), or other fields
    oasst       prompt: {text, role: prompter|assistant, rank, replies: […]}, a tree of OpenAssistant
    seed_tasks  instruction, instances: [{input, output}], of Self-Instruct

Sources: Taori et al. 2023, stanford_alpaca, `alpaca_data.json`; FastChat, `data/`; Muennighoff et al. 2022,
arXiv:2211.01786 (xP3); BELLE, `train/README_FT.md`; Köpf et al. 2023, arXiv:2304.07327 (OASST1); Wang et al. 2022,
arXiv:2212.10560 (Self-Instruct).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from data_prep.conversations.turns import ASSISTANT, INPUT, SYSTEM, USER, Conversation, Turn
from data_prep.sources.reading import SetAsideError

Form = Literal["alpaca", "sharegpt", "messages", "pairs", "oasst", "seed_tasks"]
Paths = Literal["best", "all"]
Record = Mapping[str, Any]

_SHAREGPT_ROLES = {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": SYSTEM}
_MESSAGE_ROLES = {role: role for role in (SYSTEM, USER, ASSISTANT)}
_OASST_ROLES = {"prompter": USER, "assistant": ASSISTANT}
PAIRS = (("inputs", "targets"), ("prompt", "completion"), ("input", "target"))
"""Fields of a question and its answer, in the order in which they are looked for."""


class FormError(SetAsideError):
    """A record is not of its form."""


def conversations_of(
    record: Record, form: Form, question: str | None = None, answer: str | None = None, paths: Paths = "best"
) -> Iterator[Conversation]:
    """Yield the conversations of a record: one, or several of a seed task or a tree.

    Args:
        question, answer: fields of a pair; None: one of `PAIRS`.
        paths: conversations of a tree, `best`: the best ranked message at each step; `all`: one for each leaf.

    Raises:
        FormError: a field is missing, is not text, or has an unknown role.
    """
    if form == "pairs":
        yield _pair(record, question, answer)
    elif form == "oasst":
        yield from _tree(record, paths)
    else:
        yield from _FORMS[form](record)


def _alpaca(record: Record) -> Iterator[Conversation]:
    turns = []
    if record.get("system"):
        turns.append(Turn(SYSTEM, _text(record, "system")))
    history = record.get("history") or []
    for place, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)):
            raise FormError("wrong_field", f"`history[{place}]` is {_shown(pair)}; it must be [question, answer]")
        turns += [Turn(USER, pair[0]), Turn(ASSISTANT, pair[1])]
    turns.append(Turn(USER, _text(record, "instruction")))
    if record.get("input"):
        turns.append(Turn(INPUT, _text(record, "input")))
    turns.append(Turn(ASSISTANT, _text(record, "output")))
    yield tuple(turns)


def _sharegpt(record: Record) -> Iterator[Conversation]:
    yield _listed(record, "conversations", "from", "value", _SHAREGPT_ROLES)


def _messages(record: Record) -> Iterator[Conversation]:
    yield _listed(record, "messages", "role", "content", _MESSAGE_ROLES)


def _pair(record: Record, question: str | None, answer: str | None) -> Conversation:
    if question is None or answer is None:
        fields = next((pair for pair in PAIRS if all(name in record for name in pair)), None)
        if fields is None:
            known = "; ".join(" and ".join(f"`{name}`" for name in pair) for pair in PAIRS)
            raise FormError(
                "missing_field",
                f"its fields are {_names(record)}; a pair has {known}, or those that the source names in `fields`",
            )
        question, answer = fields
    return Turn(USER, _text(record, question)), Turn(ASSISTANT, _text(record, answer))


def _seed_task(record: Record) -> Iterator[Conversation]:
    instruction = _text(record, "instruction")
    for place, instance in enumerate(_list(record, "instances")):
        if not isinstance(instance, dict):
            raise FormError("wrong_field", f"`instances[{place}]` is {_shown(instance)}; it must be an object")
        given = _text(instance, "input", f"instances[{place}].")
        turns = [Turn(USER, instruction), *([Turn(INPUT, given)] if given else [])]
        yield (*turns, Turn(ASSISTANT, _text(instance, "output", f"instances[{place}].")))


def _tree(record: Record, paths: Paths) -> Iterator[Conversation]:
    root = record.get("prompt")
    if not isinstance(root, dict):
        raise FormError("missing_field", f"`prompt` is {_shown(root)}; a tree of OpenAssistant has its first message")
    pending: list[tuple[dict[str, Any], Conversation]] = [(root, ())]
    found: set[Conversation] = set()
    while pending:
        message, before = pending.pop()
        role = _role(message.get("role"), _OASST_ROLES, f"message {message.get('message_id')!r}: `role`")
        path = (*before, Turn(role, _text(message, "text")))
        replies = [one for one in message.get("replies") or [] if not one.get("deleted")]
        # The best rank is 0; a message without a rank comes after those with one.
        replies.sort(key=lambda one: (one.get("rank") is None, one.get("rank") or 0))
        if paths == "best":
            replies = replies[:1]
        if not replies:
            answered = path if role == ASSISTANT else before  # several questions without an answer may follow one
            if answered not in found:
                yield answered
            found.add(answered)
        pending += [(one, path) for one in reversed(replies)]


def tree_of(messages: Sequence[Record]) -> Record:
    """Return the tree of the flat messages of OpenAssistant that have the same `message_tree_id`.

    Raises:
        FormError: the first message is missing, or a message answers one that is not there.
    """
    nodes = {message.get("message_id"): {**message, "replies": []} for message in messages}
    root = None
    for node in nodes.values():
        parent = node.get("parent_id")
        if parent is None:
            root = node
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            raise FormError(
                "scattered_tree",
                f"message {node.get('message_id')!r} answers {parent!r}, which is not among the {len(nodes)} messages "
                "of its tree before and after it; sort the file by `message_tree_id`",
            )
    if root is None:
        raise FormError("scattered_tree", f"none of the {len(nodes)} messages of this tree is its first")
    return {"message_tree_id": root.get("message_tree_id"), "lang": root.get("lang"), "prompt": root}


def _listed(record: Record, field: str, role: str, content: str, roles: Mapping[str, str]) -> Conversation:
    turns = []
    for place, message in enumerate(_list(record, field)):
        where = f"{field}[{place}]."
        if not isinstance(message, dict):
            raise FormError("wrong_field", f"`{where[:-1]}` is {_shown(message)}; it must be an object")
        known = _role(message.get(role), roles, f"`{where}{role}`")
        turns.append(Turn(known, _text(message, content, where)))
    return tuple(turns)


def _role(given: object, roles: Mapping[str, str], where: str) -> str:
    if not isinstance(given, str) or given not in roles:
        raise FormError("unknown_role", f"{where} is {_shown(given)}; known are {', '.join(roles)}")
    return roles[given]


def _text(record: Record, name: str, where: str = "") -> str:
    if name not in record:
        raise FormError("missing_field", f"no `{where}{name}`; its fields are {_names(record)}")
    value = record[name]
    if not isinstance(value, str):
        raise FormError("wrong_field", f"`{where}{name}` is {_shown(value)}; it must be a string")
    return value


def _list(record: Record, name: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list):
        what = f"`{name}` is {_shown(value)}" if name in record else f"no `{name}`"
        raise FormError("missing_field", f"{what}; its fields are {_names(record)}")
    return value


def _names(record: Record) -> str:
    return ", ".join(f"`{name}`" for name in record) or "(none)"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


_FORMS: dict[str, Callable[[Record], Iterator[Conversation]]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "seed_tasks": _seed_task,
}
FIELDS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "pairs": tuple(name for pair in PAIRS for name in pair),
    "oasst": ("prompt",),
    "seed_tasks": ("instruction", "instances"),
}
"""Fields that become turns, by form; the others are metadata."""
