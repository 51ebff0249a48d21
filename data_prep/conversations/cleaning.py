"""Cleaning of conversations: named rules, each of which changes a conversation or sets it aside.

A source names them in `clean`; they are applied in the order of the table below, whatever the order there. A change is
counted as `changed:<rule>`, and a conversation that is set aside is in the quarantine under `clean.<rule>`.

Source: FastChat (Zheng et al. 2023, arXiv:2306.05685), `fastchat/data/clean_sharegpt.py`, `optional_clean.py` and
`filter_wrong_format.py`, which made Vicuna's data; differences are named beside each rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from data_prep.conversations.forms import FormError
from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Conversation, Turn
from foundation.configuration import known_name

_TAGS_IN_CODE = re.compile(r"</?(?:div|span)\b[^>]*>", re.IGNORECASE)
"""Tags that would break the indentation and the underscores of code."""
_COPIED_CODE = re.compile(r"```[ \t]*\n?[ \t]*([\w+#.-]*?)(?:Copy code)+(.*?)\s*```", re.DOTALL)
"""A block of code as the page had it: its language, the button's label, the code."""
_PAGE_NUMBER = re.compile(r"\A\s*\d+ / \d+")
_COPY_BUTTON = re.compile(r"Copy\d+ chars / \d+ words")
_BLANK_LINES = re.compile(r"\n{3,}")
_REFUSED = re.compile(
    r"\A\s*(?:\{\"detail\":\")?(?:Too many requests in 1 hour|Too many requests, please slow down|"
    r"!?(?:Something went wrong|An error occurred)|Only one message at a time|Network error)",
    re.IGNORECASE,
)
"""Messages of the page in place of an answer."""
_PLUGIN = re.compile(r"\A\s*(?:Used \*\*|\{\"(?:api_call|plugin|recipient)\")")
_BLOCKED_WORDS = ("openai", "chatgpt")
_REPEATED_DIGITS = re.compile(r"(\d)\1{8}")
_WRONG_LIST = re.compile(r"\n1\. [^2]*\n1\. ")
_LEAST_CHARACTERS = 16

Rule = Callable[[Conversation], Conversation]


def _html(conversation: Conversation) -> Conversation:
    """HTML of answers becomes Markdown. Only of answers: a question may be about HTML."""
    return _answers(conversation, _markdown)


def _page_marks(conversation: Conversation) -> Conversation:
    """A leading "1 / 2", labels of buttons, and "Copy code" in place of the first line of a block of code."""
    return _answers(conversation, _without_marks)


def _first_question(conversation: Conversation) -> Conversation:
    """What comes before the first question is removed, except for the system turn."""
    head = conversation[:1] if conversation and conversation[0].role == SYSTEM else ()
    rest = conversation[len(head) :]
    first = next((place for place, turn in enumerate(rest) if turn.role == USER), len(rest))
    return (*head, *rest[first:])


def _empty_answer(conversation: Conversation) -> Conversation:
    """The conversation ends before the question that has an empty answer, or one without a printable character."""
    for place, turn in enumerate(conversation):
        if turn.role == ASSISTANT and not any(one.isprintable() and not one.isspace() for one in turn.content):
            question = max(i for i in range(place + 1) if conversation[i].role == USER or i == 0)
            return conversation[:question]
    return conversation


def _last_question(conversation: Conversation) -> Conversation:
    """Turns after the last answer are removed."""
    last = max((place for place, turn in enumerate(conversation) if turn.role == ASSISTANT), default=-1)
    return conversation[: last + 1]


def _short(conversation: Conversation) -> Conversation:
    if (size := sum(len(turn.content) for turn in conversation)) < _LEAST_CHARACTERS:
        raise FormError("clean.short", f"{size} characters, {_LEAST_CHARACTERS} are the least")
    return conversation


def _refused(conversation: Conversation) -> Conversation:
    """A conversation in which the page gave a message about itself in place of an answer is set aside."""
    return _without(conversation, "clean.refused", _REFUSED, only_answers=True)


def _plugins(conversation: Conversation) -> Conversation:
    return _without(conversation, "clean.plugins", _PLUGIN, only_answers=True)


def _blocked_words(conversation: Conversation) -> Conversation:
    for place, turn in enumerate(conversation):
        for word in _BLOCKED_WORDS:
            if word in turn.content.lower():
                raise FormError("clean.blocked_words", f"turn {place} has the word {word!r}")
    return conversation


def _repeated_digits(conversation: Conversation) -> Conversation:
    """Nine times the same digit, which also drops addresses of memory and large round numbers."""
    return _without(conversation, "clean.repeated_digits", _REPEATED_DIGITS)


def _wrong_lists(conversation: Conversation) -> Conversation:
    """Lists whose second item has the number 1 again."""
    return _without(conversation, "clean.wrong_lists", _WRONG_LIST)


RULES: dict[str, Rule] = {
    "html": _html,
    "page_marks": _page_marks,
    "first_question": _first_question,
    "empty_answer": _empty_answer,
    "last_question": _last_question,
    "short": _short,
    "refused": _refused,
    "plugins": _plugins,
    "blocked_words": _blocked_words,
    "repeated_digits": _repeated_digits,
    "wrong_lists": _wrong_lists,
}
"""Rules by name, in the order in which they are applied."""

GROUPS: dict[str, tuple[str, ...]] = {
    "sharegpt": (
        "html",
        "page_marks",
        "first_question",
        "empty_answer",
        "last_question",
        "short",
        "refused",
        "plugins",
    ),
}
"""Names for several rules: FastChat's for ShareGPT, without those that it leaves to choice."""


def known_cleaning(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names themselves.

    Raises:
        ValueError: there is no such rule; suggests the closest one.
    """
    for name in names:
        known_name(name, (*GROUPS, *RULES), "cleaning rule")
    return names


class Cleaning:
    """Rules of a source.

    Attributes:
        changed: number of conversations that each rule has changed.

    Raises:
        ValueError: a rule needs a library that is not installed.
    """

    def __init__(self, names: Iterable[str]) -> None:
        chosen = {rule for name in names for rule in GROUPS.get(name, (name,))}
        self._rules = [(name, rule) for name, rule in RULES.items() if name in chosen]
        self.changed: Counter[str] = Counter()
        if "html" in chosen:
            _markdown("")

    def __call__(self, conversation: Conversation) -> Conversation:
        """Return a conversation as the rules leave it.

        Raises:
            FormError: a rule sets it aside, or leaves nothing of it.
        """
        for name, rule in self._rules:
            cleaned = rule(conversation)
            if cleaned == conversation:
                continue
            if not any(turn.role == ASSISTANT for turn in cleaned):
                raise FormError(f"clean.{name}", "the rule leaves no answer of it")
            self.changed[f"changed:{name}"] += 1
            conversation = cleaned
        return conversation


def _answers(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    return tuple(Turn(turn.role, change(turn.content)) if turn.role == ASSISTANT else turn for turn in conversation)


def _markdown(text: str) -> str:
    """Return HTML as Markdown; text without a tag or an entity stays as it is."""
    try:
        from markdownify import markdownify
    except ImportError:
        raise ValueError(
            "the cleaning rule html, which sharegpt includes, needs markdownify: pip install "
            "'altiplano[conversations]', or name the other rules one by one"
        ) from None
    if not re.search(r"<[a-zA-Z/!]|&(?:#?\w+);", text):
        return text
    made: str = markdownify(_TAGS_IN_CODE.sub("", text), heading_style="ATX", escape_misc=False)
    return made.strip()


def _without_marks(text: str) -> str:
    cleaned = _COPIED_CODE.sub(_fenced, _COPY_BUTTON.sub("", _PAGE_NUMBER.sub("", text)))
    return text if cleaned == text else _BLANK_LINES.sub("\n\n", cleaned).strip()


def _fenced(match: re.Match[str]) -> str:
    language, code = match[1], match[2]
    return f"```{language}\n{code.strip(chr(10))}\n```" if code.strip() else ""


def _without(
    conversation: Conversation, reason: str, pattern: re.Pattern[str], *, only_answers: bool = False
) -> Conversation:
    for place, turn in enumerate(conversation):
        if (turn.role == ASSISTANT or not only_answers) and (match := pattern.search(turn.content)):
            raise FormError(reason, f"turn {place} has {match[0][:60]!r}")
    return conversation
