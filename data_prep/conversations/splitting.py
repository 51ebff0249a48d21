"""Conversations that are too long: split into parts of whole rounds, each with the system turn."""

from __future__ import annotations

from collections.abc import Callable

from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Conversation, Turn

Size = Callable[[Conversation], int]
"""Number of tokens of a conversation, rendered by the template."""
Numbered = list[tuple[int, Conversation]]
"""Parts of a conversation, each with the number of its first round."""


def rounds_of(conversation: Conversation) -> tuple[Conversation, list[Conversation]]:
    """Return the system turn, if there is one, and the rounds: a question, with its input, and the answer."""
    head = conversation[:1] if conversation and conversation[0].role == SYSTEM else ()
    rounds: list[Conversation] = []
    for turn in conversation[len(head) :]:
        if turn.role == USER:
            rounds.append(())
        rounds[-1] = (*rounds[-1], turn)
    return head, rounds


def split_rounds(conversation: Conversation, limit: int, size: Size) -> tuple[Numbered, Numbered]:
    """Split a conversation into parts of at most `limit` tokens, each with as many of the next rounds as fit.

    No round is lost: each is in one of the parts, or alone longer than `limit`.

    Returns:
        The parts, and the rounds that are longer, each with the system turn.
    """
    head, rounds = rounds_of(conversation)
    parts: Numbered = []
    long_rounds: Numbered = []
    first = 0
    while first < len(rounds):
        stop = first + 1
        part = (*head, *rounds[first])
        if size(part) > limit:
            long_rounds.append((first, part))
        else:
            while stop < len(rounds) and size((*part, *rounds[stop])) <= limit:
                part = (*part, *rounds[stop])
                stop += 1
            parts.append((first, part))
        first = stop
    return parts, long_rounds


def shorten_question(conversation: Conversation, limit: int, size: Size) -> Conversation | None:
    """Cut the question of a conversation of one round from the left, as little as makes it fit; its input and its
    answer stay whole.

    Returns:
        The shorter conversation; None if it would be too long with one character of the question.
    """
    place = next(i for i, turn in enumerate(conversation) if turn.role == USER)
    question = conversation[place].content

    def shortened(cut: int) -> Conversation:
        return (*conversation[:place], Turn(USER, question[cut:]), *conversation[place + 1 :])

    least, most = 0, len(question) - 1
    if not question[most:].strip() or size(shortened(most)) > limit:
        return None
    while least + 1 < most:
        middle = (least + most) // 2
        least, most = (least, middle) if size(shortened(middle)) <= limit else (middle, most)
    assert conversation[-1].role == ASSISTANT
    return shortened(most)
