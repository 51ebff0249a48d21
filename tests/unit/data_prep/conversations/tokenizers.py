"""Tokenizers of several kinds with the control tokens of every shipped template."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.byte_level import save_byte_level_bpe, train_byte_level_bpe
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, check_encoders, open_encoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
from tests.unit.data_prep.tokenizer.corpus import make_texts

CONTROL = ("<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<eop>")
PROMPTS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\n\n### Input:\n\n### Response:\n  indented\n    more",
    "A chat between a curious user and an artificial intelligence assistant. USER: hello ASSISTANT: fine",
    "[INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] answer Human: \n\n\nAssistant: \nanswer",
]
TEXTS = [*make_texts(0, 300), *(PROMPTS * 10)]
KINDS = ("byte_level", "sentencepiece", "gpt2_like")


def make_tokenizer(kind: str, folder: Path) -> Path:
    """Train a tokenizer, add the control tokens, and prove its bulk encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "byte_level":
        settings = TokenizerConfig(vocabulary_size=700, reserved_entries=4)
        save_byte_level_bpe(train_byte_level_bpe(iter(TEXTS), settings), folder)
    elif kind == "sentencepiece":
        settings = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=800)
        save_sentencepiece_bpe(train_sentencepiece_bpe(TEXTS, settings), folder)
    else:
        save_byte_level_bpe(_gpt2_like(), folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    tokenizer.save(str(path))
    (folder / "tokenizer.model").unlink(missing_ok=True)  # which does not know the new tokens
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["bos_token"] and config["eos_token"]
    check_encoders(folder, lambda: TEXTS)
    return folder


def _gpt2_like() -> Tokenizer:
    """With GPT-2's pre-tokenizer, whose pieces depend on what follows: white space before a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "<pad>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace("s>", "") for text in TEXTS], trainer)
    return tokenizer


def opened(folder: Path) -> tuple[ReferenceEncoder, object, TokenBytes]:
    """Reference, the encoder that writes token files, and the bytes of the tokens."""
    reference = ReferenceEncoder(folder)
    return reference, open_encoder(reference), TokenBytes.of(reference)
