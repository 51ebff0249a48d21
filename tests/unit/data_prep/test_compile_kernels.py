"""The kernels compiled before workers start are the ones that workers call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.byte_level import save_byte_level_bpe, train_byte_level_bpe
from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
from tests.unit.data_prep.tokenizer.corpus import make_texts

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path
from data_prep.compile_kernels import ENCODE, GROUPS
from data_prep.tokenizer.encoding import byte_pairs
from data_prep.tokenizer.encoding import pieces
from data_prep.tokenizer.encoding import token_bytes
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder

def kinds():
    modules = (byte_pairs, pieces, token_bytes)
    held = {one for module in modules for one in vars(module).values() if hasattr(one, "signatures")}
    return {(kernel.py_func.__name__, str(kind)) for kernel in held for kind in kernel.signatures}

for name in ENCODE:
    GROUPS[name].compile()
before = kinds()
assert before
for path in map(Path, sys.argv[1:]):
    reference = ReferenceEncoder(path)
    encoder = PieceEncoder(path, reference.end_of_document, reference.vocabulary_size)
    texts = ["a b. c", "x" * 5000]
    token_bytes.TokenBytes.of(reference).inexact(encoder.encode(texts), texts)
print(*(kinds() - before), sep="\\n", end="")
"""
"""Arguments: folders of tokenizers. Prints each kernel that was compiled, in a process of its own, only when called."""


def test_what_encodes_is_compiled_beforehand(tmp_path: Path) -> None:
    texts = make_texts(1, 200)
    folders = [tmp_path / "byte_level", tmp_path / "sentencepiece"]
    for folder in folders:
        folder.mkdir()
    settings = TokenizerConfig(vocabulary_size=512, reserved_entries=20)
    save_byte_level_bpe(train_byte_level_bpe(iter(texts), settings), folders[0])
    settings = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=640)
    save_sentencepiece_bpe(train_sentencepiece_bpe(texts, settings), folders[1])
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
