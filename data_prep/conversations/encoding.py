"""Conversations to tokens and loss masks.

The mask is known by construction: a token counts if the segment that it comes from is learnt. The first token of a
conversation never counts, because nothing predicts it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_prep.conversations.rendering import CONTINUE, CONTROL, START, Renderer, Segment, UnrenderableError
from data_prep.conversations.splitting import shorten_question, split_rounds
from data_prep.conversations.templates import Learnt, Template, answer_ends, load_template
from data_prep.conversations.turns import Conversation
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import Encoded, Encoder, TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes

LongRound = Literal["drop", "cut_question"]

LEFT_OUT = "left_out:"
"""Beginning of the count, by reason, of conversations without tokens."""
ROUNDS_LEFT_OUT = "rounds_left_out:"


@dataclass(frozen=True)
class ChatSettings:
    """How conversations become tokens.

    Attributes:
        name: what `tokens.template` names.
        limit: most tokens of a sequence; None: no limit.
        long_round: what is done with a round that has more.
    """

    name: str
    template: Template
    learn: Learnt = "all_assistant"
    limit: int | None = None
    long_round: LongRound = "drop"


@dataclass(frozen=True)
class LeftOut:
    """A conversation, or a round of one, that is not in the token files.

    Attributes:
        row: index of the conversation in its batch.
        is_whole: whether nothing of the conversation is left.
    """

    row: int
    reason: str
    detail: str
    is_whole: bool


@dataclass(frozen=True)
class EncodedConversations:
    """Sequences of some conversations, each one or several.

    Attributes:
        tokens: concatenated, [sum of sizes]; sizes: [sequences]; mask: whether the loss counts each token, [tokens].
        rows: index of the conversation that each sequence belongs to, ascending, [sequences].
        cuts: number of places at which a run is cut, before splitting.
        merged: number of runs with a cut that have other tokens as a whole, before splitting.
        rewritten: number of conversations that the tokenizer rewrites, see `TokenBytes.rewriting`.
        questions_cut: number of rounds whose question was shortened.
    """

    tokens: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()
    cuts: int = 0
    merged: int = 0
    rewritten: int = 0
    questions_cut: int = 0


def control_names(template: Template, name: str, reference: ReferenceEncoder) -> dict[str, str]:
    """Return what each control token of a template is called in the tokenizer, by its name in the template.

    Args:
        name: what `tokens.template` names, for messages.

    Raises:
        TokenizerError: the tokenizer lacks one.
    """
    path = reference.path.parent / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    known = _control_tokens(reference)
    found = {}
    for token in template.control_tokens():
        called = _special(config, f"{token}_token") if token in ("bos", "eos") else token
        if called is None:
            raise TokenizerError(
                f"tokens.template {name}: needs {token}, and {path} names no {token}_token; name it there, or choose a "
                "template without it"
            )
        if called not in known:
            listed = ", ".join(map(repr, [*known][:12])) + (", …" if len(known) > 12 else "")
            raise TokenizerError(
                f"tokens.template {name}: the control token {called!r} is not one of {reference.path} ({listed}); "
                "choose another template, or write one of your own with a control token of this tokenizer"
            )
        found[token] = called
    return found


def end_tokens(template: Template, name: str, reference: ReferenceEncoder) -> list[int]:
    """Return the tokens that generation stops at: the end of document, and those that a template ends answers with.

    Raises:
        TokenizerError: the tokenizer lacks a control token of the template, see `control_names`.
    """
    known, names = _control_tokens(reference), control_names(template, name, reference)
    ends = (known[names[token]] for token in answer_ends(template))
    return list(dict.fromkeys([reference.end_of_document, *ends]))


def check_template(name: str, tokenizer: Path | None) -> None:
    """Check a template, and whether a tokenizer that exists has its control tokens.

    Args:
        tokenizer: folder of a tokenizer; None: it will be trained.

    Raises:
        ConfigError, TokenizerError: the template is missing or faulty, or the tokenizer lacks a control token.
    """
    template = load_template(name)
    if tokenizer is not None and (tokenizer.expanduser() / "tokenizer.json").is_file():
        control_names(template, name, ReferenceEncoder(tokenizer.expanduser()))


def _control_tokens(reference: ReferenceEncoder) -> dict[str, int]:
    return {token.content: identity for identity, token in reference.added_tokens.items() if token.special}


def padding_token(reference: ReferenceEncoder) -> int:
    """Return the token that fills packs: the tokenizer's `pad_token`, unless it ends documents, or its first entry. Its
    id has no effect, because the loss does not count it and no conversation attends to it."""
    config = json.loads((reference.path.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    name = _special(config, "pad_token")
    for identity, token in reference.added_tokens.items():
        if token.content == name and identity != reference.end_of_document:
            return identity
    return 0 if reference.end_of_document else 1


def _special(config: Mapping[str, object], name: str) -> str | None:
    token = config.get(name)
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) and value else None


class ConversationEncoder:
    """Encoder of conversations by a template.

    Args:
        encoder: the bulk encoder, which is proven equal to the reference.
        table: text of the tokens, for the proof that all texts come back.

    Raises:
        TokenizerError: the tokenizer lacks a control token of the template.
    """

    def __init__(
        self, settings: ChatSettings, reference: ReferenceEncoder, encoder: Encoder, table: TokenBytes
    ) -> None:
        self._settings = settings
        known = _control_tokens(reference)
        names = control_names(settings.template, settings.name, reference)
        ids = {token: known[called] for token, called in names.items()}
        self.renderer = Renderer(settings.template, ids, settings.learn)
        continuing = replace(table, prefix=b"", normalize=reference.continuing().normalize)
        self._encoders = {START: (encoder, table), CONTINUE: (encoder.continuing(), continuing)}

    def encode(self, conversations: Sequence[Conversation], names: Sequence[str]) -> EncodedConversations:
        """Encode conversations, split those that are too long, and leave out those that teach nothing.

        Args:
            names: of the conversations, for messages.

        Raises:
            TokenizerError: a text does not come back from its tokens.
        """
        rendered: list[list[Segment]] = []
        rows: list[int] = []
        left_out: list[LeftOut] = []
        for row, conversation in enumerate(conversations):
            try:
                rendered.append(self.renderer.segments(conversation))
                rows.append(row)
            except UnrenderableError as error:
                left_out.append(LeftOut(row, error.reason, str(error), is_whole=True))
        encoded = self.encode_segments(rendered, [names[row] for row in rows])
        encoded = replace(encoded, rows=np.array(rows, np.int64), left_out=tuple(left_out))
        if self._settings.limit is not None and (encoded.sizes > self._settings.limit).any():
            encoded = self._split(encoded, conversations, names)
        return _without_idle(encoded)

    def encode_segments(self, rendered: Sequence[Sequence[Segment]], names: Sequence[str]) -> EncodedConversations:
        """Encode rendered conversations; `rows` numbers them.

        Raises:
            TokenizerError: a text does not come back from its tokens.
        """
        flat = [segment for segments in rendered for segment in segments]
        counts = np.fromiter(map(len, rendered), np.int64, len(rendered))
        kinds = np.fromiter((segment.kind for segment in flat), np.int8, len(flat))
        sizes = np.ones(len(flat), np.int64)
        owner = np.repeat(np.arange(len(rendered)), counts)
        made: dict[int, npt.NDArray[np.uint32]] = {}
        rewritten = np.zeros(len(rendered), np.bool_)
        for kind in (START, CONTINUE):
            places = np.flatnonzero(kinds == kind)
            texts = [flat[place].text for place in places.tolist()]
            encoded = self._encoders[kind][0].encode(texts)
            rewritten[owner[places[self._rewritten(kind, encoded, texts, owner[places], names)]]] = True
            sizes[places] = encoded.sizes - 1
            made[kind] = _without_ends(encoded)
        made[CONTROL] = np.fromiter((segment.token for segment in flat if segment.kind == CONTROL), np.uint32)
        kind_of_token = np.repeat(kinds, sizes)
        tokens = np.empty(len(kind_of_token), np.uint32)
        for kind, values in made.items():
            tokens[kind_of_token == kind] = values
        learnt = np.fromiter((segment.is_learnt for segment in flat), np.bool_, len(flat))
        mask = np.repeat(learnt, sizes)
        of_conversations = np.bincount(owner, sizes, len(rendered)).astype(np.int64)
        mask[(np.cumsum(of_conversations) - of_conversations)[of_conversations > 0]] = False
        cuts, merged = self._count_merged(flat, kinds, sizes, tokens)
        rows = np.arange(len(rendered))
        return EncodedConversations(
            tokens, of_conversations, mask, rows, (), cuts, merged, int(np.count_nonzero(rewritten))
        )

    def _rewritten(
        self,
        kind: int,
        encoded: Encoded,
        texts: Sequence[str],
        owner: npt.NDArray[np.int64],
        names: Sequence[str],
    ) -> npt.NDArray[np.int64]:
        """Return which texts the tokenizer rewrites; all others come back from their tokens."""
        _, table = self._encoders[kind]
        differing = np.flatnonzero(table.inexact(encoded, texts))
        ends = np.cumsum(encoded.sizes)
        for i in differing.tolist():
            tokens = encoded.tokens[ends[i] - encoded.sizes[i] : ends[i] - 1]
            if not (table.may_differ(texts[i]) and table.is_rewritten(tokens, texts[i])):
                raise TokenizerError(
                    f"document {names[owner[i]]} does not decode to its original text: the encoder is faulty; "
                    "`--restart train-tokenizer` checks it again"
                )
        return differing

    def _count_merged(
        self,
        flat: Sequence[Segment],
        kinds: npt.NDArray[np.int8],
        sizes: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.uint32],
    ) -> tuple[int, int]:
        """Count the cuts, and the runs with a cut that have other tokens as a whole."""
        continued = np.flatnonzero(kinds == CONTINUE)
        if not len(continued):
            return 0, 0
        begins = np.flatnonzero(kinds == START)
        first = np.unique(begins[np.searchsorted(begins, continued, "right") - 1])
        stops = np.flatnonzero(kinds != CONTINUE)
        stops = np.append(stops, len(flat))
        last = stops[np.searchsorted(stops, first, "right")]
        texts = ["".join(one.text for one in flat[a:b]) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        whole = self._encoders[START][0].encode(texts)
        places = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.cumsum(whole.sizes)
        sizes_of_runs = places[last] - places[first]
        has_same_size = sizes_of_runs == whole.sizes - 1
        compared = sizes_of_runs[has_same_size]
        ours = tokens[_ranges(places[first][has_same_size], compared)]
        theirs = whole.tokens[_ranges((ends - whole.sizes)[has_same_size], compared)]
        runs = np.repeat(np.arange(len(compared)), compared)
        differing = len(np.unique(runs[ours != theirs]))
        return len(continued), int(np.count_nonzero(~has_same_size)) + differing

    def _split(
        self, encoded: EncodedConversations, conversations: Sequence[Conversation], names: Sequence[str]
    ) -> EncodedConversations:
        """Replace each conversation that is too long by parts of whole rounds."""
        limit = self._settings.limit
        assert limit is not None
        fits = encoded.sizes <= limit
        parts = [_chosen(encoded, fits)]
        left_out = list(encoded.left_out)
        for row in encoded.rows[~fits].tolist():
            name = names[row]

            def size(conversation: Conversation, name: str = name) -> int:
                return int(self.encode_segments([self.renderer.segments(conversation)], [name]).sizes[0])

            found, long_rounds = split_rounds(conversations[row], limit, size)
            questions_cut = 0
            for number, conversation in long_rounds:
                shorter = None
                if self._settings.long_round == "cut_question":
                    shorter = shorten_question(conversation, limit, size)
                if shorter is None:
                    detail = f"round {number} alone has {size(conversation):,} tokens, tokens.pack is {limit:,}"
                    left_out.append(LeftOut(row, "round_too_long", detail, is_whole=False))
                else:
                    found.append((number, shorter))
                    questions_cut += 1
            found.sort(key=lambda one: one[0])
            if not found:
                dropped = left_out.pop()
                left_out = [one for one in left_out if one.row != row]
                left_out.append(replace(dropped, is_whole=True))
                continue
            segments = [self.renderer.segments(conversation) for _, conversation in found]
            part = self.encode_segments(segments, [name] * len(found))
            # The other counts are of whole conversations.
            parts.append(
                replace(part, rows=np.full(len(found), row), cuts=0, merged=0, rewritten=0, questions_cut=questions_cut)
            )
        return replace(_joined(parts), left_out=tuple(left_out))


def _ranges(starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the indices of half-open ranges, one range after another."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - ends + sizes, sizes)


def _without_ends(encoded: Encoded) -> npt.NDArray[np.uint32]:
    """Return the tokens without the end-of-document token after each text."""
    is_text = np.ones(len(encoded.tokens), np.bool_)
    is_text[np.cumsum(encoded.sizes) - 1] = False
    return encoded.tokens[is_text]


def _chosen(encoded: EncodedConversations, chosen: npt.NDArray[np.bool_]) -> EncodedConversations:
    of_tokens = np.repeat(chosen, encoded.sizes)
    return replace(
        encoded,
        tokens=encoded.tokens[of_tokens],
        mask=encoded.mask[of_tokens],
        sizes=encoded.sizes[chosen],
        rows=encoded.rows[chosen],
    )


def _joined(parts: Iterable[EncodedConversations]) -> EncodedConversations:
    """Put sequences of the same batch together, in the order of their conversations."""
    listed = list(parts)
    sizes, rows = (np.concatenate([getattr(part, name) for part in listed]) for name in ("sizes", "rows"))
    pieces = [
        (part.tokens[stop - size : stop], part.mask[stop - size : stop])
        for part in listed
        for stop, size in zip(np.cumsum(part.sizes).tolist(), part.sizes.tolist(), strict=True)
    ]
    order = np.argsort(rows, kind="stable")
    ordered = [pieces[place] for place in order.tolist()]
    return EncodedConversations(
        np.concatenate([tokens for tokens, _ in ordered] or [np.empty(0, np.uint32)]),
        sizes[order],
        np.concatenate([mask for _, mask in ordered] or [np.empty(0, np.bool_)]),
        rows[order],
        (),
        sum(part.cuts for part in listed),
        sum(part.merged for part in listed),
        sum(part.rewritten for part in listed),
        sum(part.questions_cut for part in listed),
    )


def _without_idle(encoded: EncodedConversations) -> EncodedConversations:
    """Leave out sequences in which nothing is learnt."""
    ends = np.cumsum(encoded.sizes)
    learnt = np.concatenate([[0], np.cumsum(encoded.mask)])
    counts = learnt[ends] - learnt[ends - encoded.sizes]
    if (counts > 0).all():
        return encoded
    kept = _chosen(encoded, counts > 0)
    remaining = set(kept.rows.tolist())
    idle = [
        LeftOut(row, "nothing_learnt", "the loss counts none of its tokens", is_whole=row not in remaining)
        for row in dict.fromkeys(encoded.rows[counts == 0].tolist())
    ]
    return replace(kept, left_out=(*encoded.left_out, *idle))
