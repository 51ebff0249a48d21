"""Byte-level BPE as BLOOM's.

Entries, in this order: `<unk>` `<s>` `</s>` `<pad>`, then `<|reserved_0|>`, `<|reserved_1|>` and so on, then the 256
bytes, then an entry for each merge. `</s>` ends a document. Text is not normalised.

Source: Le Scao et al. 2022, arXiv:2211.05100, section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoding.encoded import BEGIN, END_OF_DOCUMENT, PAD, UNKNOWN, TokenizerError, reserved_names
from data_prep.tokenizer.encoding.piece_encoder import PRE_TOKENIZER_PATTERN
from foundation.atomic_files import write_json, write_text

_MINIMUM_FREQUENCY = 2

LONGEST_WORD = 256
"""Largest number of characters of a word that is passed to the trainer in one piece."""
_ENDS = r"\s.,!?…。，、।۔،(|)"
"""Characters that separate words."""
_LONG_WORD = re.compile(f"[^{_ENDS}]{{{LONGEST_WORD}}}|[{_ENDS}]{{{LONGEST_WORD}}}")

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def reserved_entries(count: int) -> tuple[str, ...]:
    """Return the control entries and `count` reserved ones, in the order of their ids."""
    return (UNKNOWN, BEGIN, END_OF_DOCUMENT, PAD, *reserved_names(count))


def train_byte_level_bpe(texts: Iterable[str], settings: TokenizerConfig, *, must_fill: bool = True) -> Tokenizer:
    """Learn the merges. The same texts give the same tokenizer, whatever the number of threads.

    Args:
        must_fill: a vocabulary that the texts cannot fill is an error; otherwise it is smaller.

    Raises:
        TokenizerError: the vocabulary is too small for the fixed entries, or cannot be filled.
    """
    reserved = reserved_entries(settings.reserved)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    always = len(reserved) + len(alphabet)
    if settings.vocabulary_size < always:
        raise TokenizerError(
            f"tokenizer.vocabulary_size {settings.vocabulary_size} is too small: {len(reserved)} control and reserved "
            f"entries and {len(alphabet)} bytes take {always}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        min_frequency=_MINIMUM_FREQUENCY,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in reserved],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_reserved(texts, reserved), trainer)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size < settings.vocabulary_size and must_fill:
        raise TokenizerError(
            f"tokenizer.vocabulary_size {settings.vocabulary_size} cannot be filled: the sample has only "
            f"{size - always} pairs that occur {_MINIMUM_FREQUENCY} times, enough for {size} entries. "
            f"Give it more text, or set tokenizer.vocabulary_size={size}"
        )
    return tokenizer


def save_byte_level_bpe(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three files that `transformers.AutoTokenizer` loads."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    special = {"unk_token": UNKNOWN, "bos_token": BEGIN, "eos_token": END_OF_DOCUMENT, "pad_token": PAD}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
        },
    )


def _without_reserved(texts: Iterable[str], reserved: tuple[str, ...]) -> Iterator[str]:
    # The trainer gives a merge that spells the name of a reserved entry (`<s>` is common in HTML) that entry's id, and
    # every such text would become a control token. Text that is divided at those names cannot lead to such a merge.
    names = re.compile("|".join(re.escape(name) for name in sorted(reserved, key=len, reverse=True)))
    for text in texts:
        for piece in names.split(text):
            yield from without_long_words(piece)


def without_long_words(text: str) -> Iterator[str]:
    """Divide a text within words of more than `LONGEST_WORD` characters.

    A trainer's time for a word grows with the square of its length, and nothing is learnt from long ones, which are
    data.
    """
    done = 0
    for match in _LONG_WORD.finditer(text):
        yield text[done : match.end()]
        done = match.end()
    if done < len(text):
        yield text[done:]
