"""Control tokens that a tokenizer gets later: no id moves, texts are encoded as before, and a model gets rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.config import TokenizerConfig
from data_prep.conversations.encoding import control_names
from data_prep.conversations.templates import load_template
from data_prep.tokenizer.control_tokens import add_control_tokens
from data_prep.tokenizer.encoding.encode import MODEL_FILE, ReferenceEncoder, SentencePieceEncoder, prove_equal
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.train import learn
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tests.unit.pretrain.families.small import InMemory, small_model
from tools.__main__ import main as altiplano
from tools.starting_checkpoint import write_starting_checkpoint

CHATML = ("<|im_start|>", "<|im_end|>")
TEXTS = make_texts(0, 300)
KINDS = {
    "byte_level_bpe": {"vocabulary_size": 700, "reserved_entries": 1},
    "byte_level_bpe without reserved": {"vocabulary_size": 700, "reserved_entries": 0},
    "sentencepiece_bpe": {"vocabulary_size": 768},
    "sentencepiece_bpe with reserved": {"vocabulary_size": 768, "reserved_entries": 5},
}


@pytest.fixture(scope="module", params=KINDS)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control") / "old"
    learn(TEXTS, TokenizerConfig(kind=request.param.split()[0], **KINDS[request.param]), folder)
    return folder


def test_no_id_moves_and_texts_are_encoded_as_before(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    added = add_control_tokens(old, CHATML, new)
    before, after = ReferenceEncoder(old), ReferenceEncoder(new)
    reserved = [token for token in before.added_tokens.values() if token.content.startswith("<|reserved_")]
    assert added.appended == max(0, 2 - len(reserved))
    assert added.size == after.vocabulary_size == before.vocabulary_size + added.appended
    texts = [*TEXTS, "<|im_start|>user <|im_end|> <|reserved_0|>"]
    np.testing.assert_array_equal(after.encode(texts).tokens, before.encode(texts).tokens)
    assert control_names(load_template("chatml"), "chatml", after) == {name: name for name in CHATML}
    assert not set(added.ids.values()) & set(after.encode(texts).tokens.tolist()), "text is never a control token"
    if (new / MODEL_FILE).is_file():
        ours = SentencePieceEncoder(new, after.end_of_document, after.vocabulary_size)
        assert prove_equal(after, ours, texts)["equal"]


def test_a_model_gets_the_mean_of_all_rows(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert altiplano(["tokens", "control", str(old), str(new), *CHATML, "<|three|>", "<|four|>"]) == 0
    size = ReferenceEncoder(old).vocabulary_size
    model = ModelConfig.model_validate(small_model("llama").model_dump() | {"vocabulary_size": size})
    weights = InMemory(model)
    write_starting_checkpoint(
        tmp_path / "model", model, weights.tensor, data_digest="", origin={}, tokenizer=None, title="test"
    )
    command = ["checkpoint", "extend", *(str(path) for path in (tmp_path / "model", old, new, tmp_path / "extended"))]
    rows = ReferenceEncoder(new).vocabulary_size - size
    if rows == 0:
        assert altiplano(command) == 2
        return
    assert altiplano(command) == 0
    reader = CheckpointReader(tmp_path / "extended")
    for name in ("embedding.weight", "head.weight"):
        whole, first = reader.tensor(name), weights.tensor(name)
        torch.testing.assert_close(whole[:size], first, rtol=0, atol=0)
        torch.testing.assert_close(whole[size:], first.mean(0).expand(rows, -1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("</s>",), r"'</s>' is entry 2 of .*tokenizer.json; leave it out"),
        (("<a>", "<a>"), "'<a>' is given twice"),
        ((" ",), "a control token needs a name"),
    ],
)
def test_wrong_names_are_refused(old: Path, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        add_control_tokens(old, names, tmp_path / "new")
    with pytest.raises(TokenizerError, match="is the old tokenizer"):
        add_control_tokens(old, CHATML, old)


def test_another_tokenizer_is_no_extension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TokenizerConfig(vocabulary_size=600, reserved_entries=0)
    for name, texts in (("one", TEXTS), ("other", TEXTS[::-1][:150])):
        learn(texts, settings, tmp_path / name)
    add_control_tokens(tmp_path / "other", CHATML, tmp_path / "new")
    from data_prep.tokenizer.extend import sources_of_added

    with pytest.raises(TokenizerError, match="has another id than in"):
        sources_of_added(tmp_path / "one", tmp_path / "new")
    with pytest.raises(TokenizerError, match="has no more entries than"):
        sources_of_added(tmp_path / "one", tmp_path / "one")
