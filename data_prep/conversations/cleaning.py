"""Cleaning of conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from data_prep.conversations.turns import Conversation


def known_cleaning(names: tuple[str, ...]) -> tuple[str, ...]:
    return names


class Cleaning:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.changed: Counter[str] = Counter()

    def __call__(self, conversation: Conversation) -> Conversation:
        return conversation
