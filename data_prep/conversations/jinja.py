"""A template in the language of transformers: `chat_template.jinja`, with the learnt parts in `{% generation %}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from data_prep.conversations.templates import Piece, Template, before_answer, pieces_of


def chat_template(template: Template, names: Mapping[str, str]) -> str:
    """Return the Jinja template that renders conversations as this template does.

    A message may have an `input` beside its `content`. With `add_generation_prompt` it ends where the model is to
    write.

    Args:
        names: text of each control token in the tokenizer, by its name in the template.
    """
    return "\n".join(_lines(template, names)) + "\n"


def _lines(template: Template, names: Mapping[str, str]) -> Iterator[str]:
    default = "none" if template.default_system is None else _quoted(template.default_system)
    yield "{%- if messages and messages[0]['role'] == 'system' -%}"
    if template.system:
        yield "{%- set system = messages[0]['content'] -%}"
        yield "{%- set turns = messages[1:] -%}"
    else:
        yield "{{- raise_exception('this template has no place for a system message') -}}"
    yield "{%- else -%}"
    yield f"{{%- set system = {default} -%}}"
    yield "{%- set turns = messages -%}"
    yield "{%- endif -%}"
    yield from _written(pieces_of(template.begin), names)
    if template.system and not template.has_system_inside:
        yield "{%- if system is not none -%}"
        yield from _written(pieces_of(template.system), names, content="system")
        yield "{%- endif -%}"
    yield "{%- for message in turns -%}"
    yield "{%- if message['role'] == 'user' -%}"
    yield from _user(template, names)
    yield "{%- elif message['role'] == 'assistant' -%}"
    yield from _written(pieces_of(template.assistant), names)
    yield "{%- else -%}"
    yield "{{- raise_exception('unknown role: ' + message['role']) -}}"
    yield "{%- endif -%}"
    yield "{%- endfor -%}"
    yield "{%- if add_generation_prompt -%}"
    yield from _written(before_answer(template), names)
    if template.end:
        yield "{%- else -%}"
        yield from _written(pieces_of(template.end), names)
    yield "{%- endif -%}"


def _user(template: Template, names: Mapping[str, str]) -> Iterator[str]:
    yield "{%- if message['input'] -%}"
    if template.user_with_input:
        yield from _written(pieces_of(template.user_with_input), names, system=template)
    else:
        content = "message['content'] + '\\n' + message['input']"
        yield from _written(pieces_of(template.user), names, content=content, system=template)
    yield "{%- else -%}"
    yield from _written(pieces_of(template.user), names, system=template)
    yield "{%- endif -%}"


def _written(
    pieces: Iterable[Piece],
    names: Mapping[str, str],
    *,
    content: str = "message['content']",
    system: Template | None = None,
) -> Iterator[str]:
    """Yield the lines that write some pieces; `content` is the expression of the turn's content."""
    was_learnt = False
    for piece in pieces:
        if piece.is_learnt != was_learnt:
            yield "{%- generation -%}" if piece.is_learnt else "{%- endgeneration -%}"
            was_learnt = piece.is_learnt
        if piece.kind == "system":
            assert system is not None
            yield "{%- if loop.first and system is not none -%}"
            yield from _written(pieces_of(system.system), names, content="system")
            yield "{%- endif -%}"
        else:
            values = {"text": _quoted(piece.value), "content": content, "input": "message['input']"}
            yield f"{{{{- {values.get(piece.kind) or _quoted(names[piece.value])} -}}}}"
    if was_learnt:
        yield "{%- endgeneration -%}"


def _quoted(text: str) -> str:
    """Return a string literal of Jinja."""
    escaped = text.encode("unicode_escape").decode("ascii").replace("'", "\\'")
    return f"'{escaped}'"
