"""Turns of a conversation, and their places in the text of its document.

A conversation is a document like any other: its text is the contents of its turns, joined by blank lines, and its
metadata has `turns`, the range and the role of each. So everything that works on texts works on conversations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.sources.reading import characters_to_bytes

TURNS = "turns"
"""Key in the metadata of a conversation: `[[start, stop, role], …]`, half-open, in characters."""

SYSTEM, USER, INPUT, ASSISTANT = "system", "user", "input", "assistant"
ROLES = (SYSTEM, USER, INPUT, ASSISTANT)
"""Roles of turns. An input belongs to the user's turn before it: Alpaca's `input` beside its `instruction`."""

_FOLLOWERS = {
    None: (SYSTEM, USER),
    SYSTEM: (USER,),
    USER: (INPUT, ASSISTANT),
    INPUT: (ASSISTANT,),
    ASSISTANT: (USER,),
}
_JOINT = "\n\n"


@dataclass(frozen=True)
class Turn:
    """What one side says at a time."""

    role: str
    content: str


Conversation = tuple[Turn, ...]


def joined(conversation: Conversation) -> tuple[str, list[list[Any]]]:
    """Return the text of a conversation's document, and its `turns`."""
    place = 0
    turns: list[list[Any]] = []
    for turn in conversation:
        turns.append([place, place + len(turn.content), turn.role])
        place += len(turn.content) + len(_JOINT)
    return _JOINT.join(turn.content for turn in conversation), turns


def disorder(roles: Sequence[str]) -> str | None:
    """Describe what is wrong with the order of turns: at most one system turn at the beginning, then the user and the
    assistant in turn, the assistant last. None: nothing."""
    before: str | None = None
    for place, role in enumerate(roles):
        if role not in _FOLLOWERS[before]:
            expected = " or ".join(_FOLLOWERS[before])
            after = "at the beginning" if before is None else f"after {before}"
            return f"turn {place} is of role {role!r}; {after} belongs {expected}"
        before = role
    if before != ASSISTANT:
        return f"the last turn is of role {before!r}, and nobody answers it" if before else "there are no turns"
    return None


def turns_of(metadata: str, text: bytes) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the ranges of a document's turns, in bytes of its UTF-8 text, and their roles, from its JSON metadata.

    Raises:
        ValueError: there are no turns, or they overlap, leave the text or have an unknown role.
    """
    turns = json.loads(metadata).get(TURNS)
    if not turns:
        raise ValueError(f"its metadata has no `{TURNS}`")
    characters = text.decode()
    done = 0
    for start, stop, role in turns:
        if not done <= start < stop <= len(characters):
            raise ValueError(
                f"`{TURNS}` [{start}, {stop}) must be half-open in characters, in order, without overlaps, and inside "
                f"of [{done}, {len(characters)})"
            )
        if role not in ROLES:
            raise ValueError(f"`{TURNS}` has the role {role!r}; known are {', '.join(ROLES)}")
        done = stop
    return characters_to_bytes(characters, [(start, stop) for start, stop, _ in turns]), [role for *_, role in turns]
