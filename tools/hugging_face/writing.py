"""Text of an exported model: prompts from held-out documents, and continuations of whole characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from foundation.terminal import visible
from pretrain.data.mixture import DatasetEntry, MixtureFile

PROMPT_TOKENS = 24
NEW_TOKENS = 64
_LOOKED_AT = 200
"""Documents of a source that are looked at for one that can be a prompt."""

_FOLLOWERS: dict[str, list[tuple[int, int, str]]] = {
    "": [(0x00, 0x7F, ""), (0xC2, 0xDF, "1"), (0xE0, 0xE0, "E0"), (0xE1, 0xEC, "2"), (0xED, 0xED, "ED"),
         (0xEE, 0xEF, "2"), (0xF0, 0xF0, "F0"), (0xF1, 0xF3, "3"), (0xF4, 0xF4, "F4")],
    "1": [(0x80, 0xBF, "")],
    "2": [(0x80, 0xBF, "1")],
    "3": [(0x80, 0xBF, "2")],
    "E0": [(0xA0, 0xBF, "1")],
    "ED": [(0x80, 0x9F, "1")],
    "F0": [(0x90, 0xBF, "2")],
    "F4": [(0x80, 0x8F, "2")],
}  # fmt: skip
"""States of UTF-8 between two bytes: (first byte, last byte, next state). "" is between characters, a digit is the
number of continuation bytes to come. Source: The Unicode Standard 15.0, table 3-7."""
_STATES = list(_FOLLOWERS)
_INVALID = -1


def held_out_prompts(mixture: MixtureFile, tokenizer: Any, count: int) -> list[str]:
    """The first words of held-out documents, from the sources by their weights; fewer where there are not as many.

    Args:
        tokenizer: of transformers, with the vocabulary of the mixture.
    """
    sources = {entry.name: _beginnings(mixture, entry, tokenizer) for entry in mixture.datasets if entry.heldout}
    weights = {entry.name: entry.weight for entry in mixture.datasets}
    taken = Counter[str]()
    prompts: list[str] = []
    while sources and len(prompts) < count:
        # the source whose share of the prompts lags most behind its weight (D'Hondt's method)
        name = max(sources, key=lambda source: weights[source] / (taken[source] + 1))
        prompt = next(sources[name], None)
        if prompt is None:
            del sources[name]
        elif prompt not in prompts:
            taken[name] += 1
            prompts.append(prompt)
    return prompts


def _beginnings(mixture: MixtureFile, entry: DatasetEntry, tokenizer: Any) -> Iterator[str]:
    dataset = mixture.open(entry, "heldout")
    assert dataset is not None
    for i in range(min(len(dataset), _LOOKED_AT)):
        tokens = dataset.document(i)
        if len(tokens) < PROMPT_TOKENS + NEW_TOKENS:
            continue
        decoded = str(tokenizer.decode(tokens[:PROMPT_TOKENS].tolist(), skip_special_tokens=True))
        text = whole_words(decoded.rstrip("\ufffd"))
        if sum(character.isalpha() for character in text) > len(text) // 2:
            yield visible(text)


def whole_words(text: str) -> str:
    """Without the word that the end cuts, where that leaves at least half of the text."""
    whole = re.sub(r"\S+\Z", "", text).rstrip()
    return whole if 2 * len(whole) >= len(text) else text.rstrip()


class WholeCharacters:
    """Allows only tokens whose bytes go on as valid UTF-8; a `LogitsProcessor` for one sequence.

    Args:
        texts: bytes of each entry of the vocabulary, None of those that stand for no text.
        ends: tokens that end the text; allowed between characters.
        prompt_tokens: tokens of the prompt, which ends between two characters.
    """

    def __init__(self, texts: Sequence[bytes | None], ends: Sequence[int], prompt_tokens: int) -> None:
        self._next = np.full((len(_STATES), len(texts)), _INVALID, np.int8)
        for state in range(len(_STATES)):
            for token, text in enumerate(texts):
                if text:
                    self._next[state, token] = _after(state, text)
        self._next[0, list(ends)] = 0
        self._seen, self._state = prompt_tokens, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for token in input_ids[0, self._seen :].tolist():
            self._state = int(self._next[self._state, token])
        self._seen = input_ids.shape[1]
        allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
        allowed[: self._next.shape[1]] = torch.from_numpy(self._next[self._state] != _INVALID)
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))


def _after(state: int, text: bytes) -> int:
    """State after these bytes, or `_INVALID`."""
    name = _STATES[state]
    for byte in text:
        for first, last, following in _FOLLOWERS[name]:
            if first <= byte <= last:
                name = following
                break
        else:
            return _INVALID
    return _STATES.index(name)


def generate(folder: Path, model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Continue each prompt by sampling, the same for the same seed.

    Temperature 0.4 and top-p 0.95: at the usual 0.7, models as small as the demo's misspell.
    """
    from transformers import LogitsProcessorList, set_seed

    try:
        texts: Sequence[bytes | None] | None = TokenBytes.of(ReferenceEncoder(folder)).texts
    except (TokenizerError, ValueError):  # another kind of tokenizer: its text may end or break inside a character
        texts = None
    end = model.generation_config.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    samples = []
    for i, prompt in enumerate(prompts):
        set_seed(seed + i)
        tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        length = tokens["input_ids"].shape[1]
        only_whole = [] if texts is None else [WholeCharacters(texts, ends, length)]
        out = model.generate(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            temperature=0.4,
            top_p=0.95,
            logits_processor=LogitsProcessorList(only_whole),
        )
        continuation = str(tokenizer.decode(out[0][length:], skip_special_tokens=True))
        if texts is not None:
            continuation = continuation.rstrip("\ufffd")  # the last character, cut by the limit of tokens
        samples.append({"prompt": prompt, "continuation": visible(continuation)})
    return samples
