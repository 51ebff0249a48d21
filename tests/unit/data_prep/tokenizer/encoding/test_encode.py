"""The encoders against each other, and the proof that decides between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.byte_level import save_byte_level_bpe, train_byte_level_bpe
from data_prep.tokenizer.encoding.encode import (
    GigatokenEncoder,
    ReferenceEncoder,
    check_encoders,
    open_encoder,
    prove_equal,
)
from data_prep.tokenizer.encoding.encoded import Encoded, TokenizerError
from data_prep.tokenizer.encoding.piece_encoder import EXCLUDED, PRE_TOKENIZER_PATTERN, PieceEncoder, byte_letters
from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
from tests.unit.data_prep.tokenizer.corpus import make_texts

TEXTS = make_texts(0, 300)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    save_byte_level_bpe(
        train_byte_level_bpe(iter(TEXTS), TokenizerConfig(vocabulary_size=512, reserved_entries=20)), folder
    )
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    settings = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=640)
    save_sentencepiece_bpe(train_sentencepiece_bpe(TEXTS, settings), folder)
    return folder


@pytest.fixture(scope="module")
def gpt2_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the pre-tokenizer of GPT-2, which gigatoken knows."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "<pad>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace("s>", "") for text in TEXTS], trainer)
    save_byte_level_bpe(tokenizer, folder)
    return folder


def test_reference_encodes_many_as_one_by_one(ours: Path) -> None:
    encoder = ReferenceEncoder(ours)
    together = encoder.encode(TEXTS)
    assert together.tokens.dtype == np.uint32
    alone = [encoder.encode([text]).tokens for text in TEXTS]
    np.testing.assert_array_equal(together.tokens, np.concatenate(alone))
    assert together.sizes.tolist() == [len(tokens) for tokens in alone]
    ends = np.cumsum(together.sizes) - 1
    assert set(together.tokens[ends].tolist()) == {2} and np.count_nonzero(together.tokens == 2) == len(TEXTS)


def test_names_of_control_tokens_stay_text(gpt2_like: Path, ours: Path) -> None:
    gigatoken = GigatokenEncoder(gpt2_like, 2, 600)
    for encoder in (gigatoken, piece_encoder(ours), ReferenceEncoder(gpt2_like), ReferenceEncoder(ours)):
        tokens = encoder.encode(["</s> a <s>", "<pad>", "<unk>x"]).tokens
        assert np.count_nonzero(tokens < 4) == 3, encoder.name  # the three ends of documents


def test_gigatoken_is_used_where_it_is_proven(gpt2_like: Path) -> None:
    record = check_encoders(gpt2_like, lambda: TEXTS)
    assert record["used"] == GigatokenEncoder.name
    assert record["compared"][GigatokenEncoder.name]["documents"] > len(TEXTS)
    assert "pre_tokenizer.type is 'ByteLevel'" in record["compared"][PieceEncoder.name]["difference"]
    encoder = open_encoder(ReferenceEncoder(gpt2_like))
    assert isinstance(encoder, GigatokenEncoder)
    reference = ReferenceEncoder(gpt2_like).encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS).tokens, reference.tokens)
    np.testing.assert_array_equal(encoder.encode(TEXTS).sizes, reference.sizes)


def test_a_proof_for_another_tokenizer_does_not_count(
    gpt2_like: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_encoders(gpt2_like, lambda: TEXTS)
    copy = Path(shutil.copytree(gpt2_like, tmp_path / "copy"))
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (copy / "tokenizer.json").write_text(json.dumps(content))
    assert isinstance(open_encoder(ReferenceEncoder(copy)), ReferenceEncoder)
    assert "was made for other versions" in capsys.readouterr().err


def piece_encoder(folder: Path) -> PieceEncoder:
    reference = ReferenceEncoder(folder)
    return PieceEncoder(folder, reference.end_of_document, reference.vocabulary_size)


def test_ours_is_used_where_it_is_proven(ours: Path) -> None:
    record = check_encoders(ours, lambda: TEXTS)
    assert record["used"] == PieceEncoder.name and GigatokenEncoder.name not in record["compared"]
    assert isinstance(open_encoder(ReferenceEncoder(ours)), PieceEncoder)


def test_excluded_characters_are_those_of_the_pattern() -> None:
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated")
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    text = "".join(f"a{character}" for character in characters)
    alone = {piece for piece, _ in split.pre_tokenize_str(text) if len(piece) == 1} - {"a"}
    # A space begins the piece behind it.
    assert alone | {" "} == EXCLUDED


@given(st.lists(st.text(st.one_of(st.sampled_from(" .\n(é雪aa</s>"), st.characters(exclude_categories=["Cs"])))))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_encoded_as_the_reference_does(ours: Path, pieces: Path, texts: list[str]) -> None:
    for folder in (ours, pieces):
        right, found = ReferenceEncoder(folder).encode(texts), piece_encoder(folder).encode(texts)
        np.testing.assert_array_equal(found.tokens, right.tokens)
        np.testing.assert_array_equal(found.sizes, right.sizes)


def test_long_pieces_and_a_full_memory(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    words = ["".join(random.choice(list("andeltiplo"), random.integers(2, 200))) for _ in range(3000)]
    texts = [" ".join(random.choice(words, 50)) for _ in range(200)] + ["".join(words), "ab" * 5000, "lla" * 999]
    right = ReferenceEncoder(ours).encode(texts)
    monkeypatch.setattr("data_prep.tokenizer.encoding.piece_encoder.MEMORY_SETS", 16)
    monkeypatch.setattr("data_prep.tokenizer.encoding.piece_encoder.LONG_MEMORY_SLOTS", 16)
    np.testing.assert_array_equal(piece_encoder(ours).encode(texts).tokens, right.tokens)
    monkeypatch.undo()
    encoder = piece_encoder(ours)
    for _ in range(2):
        np.testing.assert_array_equal(encoder.encode(texts).tokens, right.tokens)
    assert encoder.encode([]).tokens.shape == (0,)


def test_remembered_pieces_that_differ_at_their_end(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two slots, so that each is looked for where another one stands; a NUL is like the zeros behind a piece."""
    monkeypatch.setattr("data_prep.tokenizer.encoding.piece_encoder.LONG_MEMORY_SLOTS", 2)
    random = np.random.default_rng(4)
    names = sorted(
        n for n in Tokenizer.from_file(str(ours / "tokenizer.json")).get_vocab() if n.isascii() and n.isalpha()
    )
    entries = sorted(names, key=len)[-3:]
    texts = []
    for length in range(14, 58):  # of a piece, with the space before it
        for _ in range(8):
            stem = "".join(random.choice(entries, 20))[: length - 2]
            texts.append(" ".join(["", stem + "e", stem + "s", stem + "e", stem + "\0", stem, stem + "\0\0", stem]))
    right = ReferenceEncoder(ours).encode(texts)
    np.testing.assert_array_equal(piece_encoder(ours).encode(texts).tokens, right.tokens)


def random_vocabulary(content: Any, random: np.random.Generator) -> Any:
    """The tokenizer with a few random merges, each of which makes an entry out of two; often the same in two ways. In
    every second one their ranks are shuffled, as no training gives them."""
    if is_sentencepiece := content["model"]["byte_fallback"]:
        entries, space = list("abc\u00e9\u2581"), "\u2581"
        names = [name for name in content["model"]["vocab"] if name.startswith("<")] + entries
    else:
        letters = byte_letters()
        entries, space = [letters[byte] for byte in dict.fromkeys("abé雪è ".encode())], "\u0120"
        names = [token["content"] for token in content["added_tokens"]] + letters
    merges: list[list[str]] = []
    for _ in range(int(random.integers(1, 60))):
        one, two = (entries[i] for i in random.integers(0, len(entries), 2))
        if len(one + two) > 9 or [one, two] in merges or (space in two and not is_sentencepiece):
            continue
        merges.append([one, two])
        if one + two not in entries:
            entries.append(one + two)
    if random.integers(2):
        random.shuffle(merges)
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys([*names, *entries]))}
    return {**content, "model": {**content["model"], "vocab": vocabulary, "merges": merges}}


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
def test_random_vocabularies(
    kind: str, ours: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also such as no training gives, where a character's bytes may be merged with what stands beside it first."""
    monkeypatch.setattr(
        "data_prep.tokenizer.encoding.piece_encoder.MEMORY_SETS", 1 << 10
    )  # 48 MB would be filled 400 times
    monkeypatch.setattr("data_prep.tokenizer.encoding.piece_encoder.LONG_MEMORY_SLOTS", 1 << 8)
    content = json.loads(((ours if kind == "byte level" else pieces) / "tokenizer.json").read_text())
    random = np.random.default_rng(8)
    characters, whole, tokens = "aaabbé雪雪èc  .", 0, 0
    shutil.copyfile(ours / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    for _ in range(400):
        tokenizer = random_vocabulary(content, random)
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        encoder = piece_encoder(tmp_path)
        texts = ["".join(random.choice(list(characters), int(random.integers(0, 90)))) for _ in range(30)]
        right, found = ReferenceEncoder(tmp_path).encode(texts), encoder.encode(texts)
        np.testing.assert_array_equal(found.tokens, right.tokens, err_msg=str(tokenizer["model"]["merges"]))
        whole += int(np.count_nonzero(encoder._spelling.characters >= 0)) - 128
        tokens += len(right.tokens)
    assert tokens > 100_000
    if kind == "byte level":
        assert whole > 40, "characters that no merge reaches into"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(normalizer={"type": "NFC"}), "normalizer is"),
        (lambda c: c["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space is True"),
        (lambda c: c["added_tokens"][3].update(special=False), "the added token '<pad>' is not special"),
        (lambda c: c["model"]["vocab"].pop("Ā"), "no token for byte 0x00"),
        (lambda c: c["model"]["merges"].append(c["model"]["merges"][7]), r"the merge \(.*\) is listed twice"),
    ],
)
def test_what_ours_cannot_do_it_refuses(ours: Path, tmp_path: Path, change: Any, message: str) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    content = json.loads((copy / "tokenizer.json").read_text())
    change(content)
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        PieceEncoder(copy, 2, 512)


class OneTokenOff:
    """An encoder that is right except for one text."""

    name = "one off"

    def __init__(self, right: ReferenceEncoder, text: str) -> None:
        self.right, self.text = right, text
        self.end_of_document, self.vocabulary_size = right.end_of_document, right.vocabulary_size

    def encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.right.encode(texts)
        if self.text in texts:
            place = int(encoded.sizes[: texts.index(self.text)].sum())
            encoded.tokens[place] ^= 1
        return encoded


def test_a_single_wrong_token_is_found(ours: Path) -> None:
    reference = ReferenceEncoder(ours)
    assert prove_equal(reference, reference, TEXTS)["equal"]
    wrong = prove_equal(reference, OneTokenOff(reference, TEXTS[217]), TEXTS)
    assert not wrong["equal"]
    assert wrong["difference"].startswith("at token 0 of a text that begins") and TEXTS[217][:10] in wrong["difference"]


def test_without_a_proof_the_reference_encodes(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    (copy / "encoder_check.json").unlink(missing_ok=True)
    assert isinstance(open_encoder(ReferenceEncoder(copy)), ReferenceEncoder)


def test_a_tokenizer_without_end_of_document(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    with pytest.raises(TokenizerError, match="no eos_token; token files need an end-of-document token"):
        ReferenceEncoder(copy)
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    with pytest.raises(TokenizerError, match=r"'<\|endoftext\|>' is not in the vocabulary"):
        ReferenceEncoder(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file; .* train-tokenizer"):
        ReferenceEncoder(copy)
