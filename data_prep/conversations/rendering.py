"""Conversations to segments by a template: control tokens by id, and texts, each known to be learnt or not.

The texts between two control tokens are a run. A run is encoded by itself, as Hugging Face encodes what is between two
control tokens of a rendered conversation. Where a run goes from what is read to what is learnt, or back, it is cut: the
rest is encoded without the prefix that the tokenizer puts before a text. So the prompt at generation, which ends at
such a cut or at a control token, is a prefix of the training sample. Where the tokenizer would have merged across the
cut, the tokens differ from those of the whole run; `ConversationEncoder` counts that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep.conversations.templates import Learnt, Piece, Template, before_answer, pieces_of
from data_prep.conversations.turns import ASSISTANT, INPUT, SYSTEM, USER, Turn
from data_prep.sources.reading import SetAsideError

CONTROL, START, CONTINUE = 0, 1, 2
"""Kinds of segments: a control token, the text at the beginning of a run, a text after a cut."""


class UnrenderableError(SetAsideError):
    """A template cannot write a conversation."""


class Segment(NamedTuple):
    """Part of a rendered conversation.

    Attributes:
        text: of a control token, its name.
        token: of a control token, its id; otherwise -1.
    """

    kind: int
    text: str
    token: int
    is_learnt: bool


class _Text(NamedTuple):
    """Texts and placeholders of a part that follow one another and are all learnt, or all not.

    Attributes:
        names: the placeholders, in order; texts: what is before, between and after them.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    is_learnt: bool

    def written(self, contents: Mapping[str, str]) -> str:
        if len(self.names) == 1:
            before, after = self.texts
            return before + contents[self.names[0]] + after
        written = self.texts[0]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            written += contents[name] + text
        return written


def _texts_together(pieces: Iterable[Piece]) -> tuple[Piece | _Text, ...]:
    """Return control tokens and the texts between them."""
    entries: list[Piece | _Text] = []
    for piece in pieces:
        if piece.kind == "control":
            entries.append(piece)
            continue
        before = entries[-1] if entries else None
        if isinstance(before, _Text) and before.is_learnt == piece.is_learnt:
            entries.pop()
        else:
            before = _Text(("",), (), piece.is_learnt)
        if piece.kind == "text":
            entries.append(before._replace(texts=(*before.texts[:-1], before.texts[-1] + piece.value)))
        else:
            entries.append(before._replace(texts=(*before.texts, ""), names=(*before.names, piece.kind)))
    return tuple(entries)


class Renderer:
    """A template with the ids of its control tokens.

    Args:
        control_ids: id of each of the template's control tokens, by its name in the template.
        learn: which turns are learnt, see `tokens.learn`.
    """

    def __init__(self, template: Template, control_ids: Mapping[str, int], learn: Learnt = "all_assistant") -> None:
        self.template = template
        self._control_ids = control_ids
        self._controls = {
            name: (Segment(CONTROL, name, token, False), Segment(CONTROL, name, token, True))
            for name, token in control_ids.items()
        }
        self._learn = learn
        self._parts = {
            name: _texts_together(pieces_of(getattr(template, name)))
            for name in ("begin", "system", "user", "user_with_input", "assistant", "end")
        }
        self._has_system_inside = template.has_system_inside
        self._before_answer = _texts_together(before_answer(template))
        self._system_inside = tuple(pieces_of(template.system)) if self._has_system_inside else ()

    def segments(self, turns: Sequence[Turn], *, for_generation: bool = False) -> list[Segment]:
        """Return the segments of a conversation.

        Args:
            for_generation: add what comes before an answer that the model is to write, and no end; the last turn is a
                question.

        Raises:
            UnrenderableError: there is a system turn that the template does not write, or edits have emptied a turn.
        """
        for place, turn in enumerate(turns):
            if not turn.content.strip():
                raise UnrenderableError(
                    "emptied_turn", f"nothing is left of turn {place}, of role {turn.role!r}, after redaction and cuts"
                )
        run = _Runs(self._controls, self._learn == "everything")
        run.add(self._parts["begin"], {})
        system, turns = self._system(turns)
        inside = ""
        if system is not None and self._has_system_inside:
            inside = "".join(piece.value if piece.kind == "text" else system for piece in self._system_inside)
        elif system is not None:
            run.add(self._parts["system"], {"content": system})
        last = max((place for place, turn in enumerate(turns) if turn.role == ASSISTANT), default=-1)
        for place, turn in enumerate(turns):
            following = turns[place + 1] if place + 1 < len(turns) else None
            if turn.role == USER:
                given = following.content if following is not None and following.role == INPUT else None
                self._add_user(run, turn.content, given, inside)
                inside = ""
            elif turn.role == ASSISTANT:
                run.add(
                    self._parts["assistant"],
                    {"content": turn.content},
                    is_counted=self._learn != "last_assistant" or place == last,
                )
        if for_generation:
            run.add(self._before_answer, {})
        else:
            run.add(self._parts["end"], {})
        return run.segments

    def _system(self, turns: Sequence[Turn]) -> tuple[str | None, Sequence[Turn]]:
        if not turns or turns[0].role != SYSTEM:
            return self.template.default_system, turns
        if not self._parts["system"]:
            raise UnrenderableError(
                "no_place_for_system",
                "the conversation has a system turn, and the template has no part `system` to write it; add one, or "
                "choose another template",
            )
        return turns[0].content, turns[1:]

    def _add_user(self, run: _Runs, content: str, given: str | None, system: str) -> None:
        if given is None:
            run.add(self._parts["user"], {"content": content, "system": system})
        elif self._parts["user_with_input"]:
            run.add(self._parts["user_with_input"], {"content": content, "input": given, "system": system})
        else:
            run.add(self._parts["user"], {"content": f"{content}\n{given}", "system": system})


class _Runs:
    """Segments as they are made: texts of the same kind that follow one another are one segment."""

    def __init__(self, controls: Mapping[str, tuple[Segment, Segment]], learns_everything: bool) -> None:
        self.segments: list[Segment] = []
        self._controls = controls  # of each control token, the segment that is not learnt and the one that is
        self._learns_everything = learns_everything
        self._was_learnt: bool | None = None  # of the text before, by the template; None after a control token

    def add(self, entries: Sequence[Piece | _Text], contents: Mapping[str, str], *, is_counted: bool = True) -> None:
        segments, was_learnt = self.segments, self._was_learnt
        for entry in entries:
            is_learnt = self._learns_everything or (entry.is_learnt and is_counted)
            if isinstance(entry, Piece):
                segments.append(self._controls[entry.value][is_learnt])
                was_learnt = None
                continue
            text = entry.written(contents)
            if not text:
                continue
            if was_learnt == entry.is_learnt:
                before = segments[-1]
                segments[-1] = Segment(before.kind, before.text + text, -1, before.is_learnt)
            else:
                segments.append(Segment(START if was_learnt is None else CONTINUE, text, -1, is_learnt))
            was_learnt = entry.is_learnt
        self._was_learnt = was_learnt
