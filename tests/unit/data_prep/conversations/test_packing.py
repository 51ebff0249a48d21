"""Packing against a slow best fit, and packed token files against what was put into them."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import gathering
from data_prep.config import DataConfig
from data_prep.conversations.packing import pack_of_each
from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Conversation, Turn, joined
from data_prep.indexed_dataset.foreign import verify
from data_prep.indexed_dataset.format import bin_path
from data_prep.indexed_dataset.origins import PADDING, Origins
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.ledger.counts import Account, Accounts, LedgerError, count_tokens
from data_prep.ledger.why import _left_out
from data_prep.run.commit_records import StaleOutputError, restart
from data_prep.run.directory import RunDirectory
from data_prep.tokenize import tokenize
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.train import train_tokenizer
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts
from tools import inspect_tokens

LENGTH = 96
SECRET = "write to x@example.org now"


def slow_best_fit(sizes: list[int], length: int) -> int:
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        room = min(fitting, default=length)
        if fitting:
            rooms.remove(room)
        rooms.append(room - size)
    return len(rooms)


@pytest.mark.parametrize("length", [2, 63, 64, 65, 512, 2048])
def test_packs_are_those_of_a_best_fit(length: int) -> None:
    random = np.random.default_rng(length)
    for count in (0, 1, 500):
        sizes = random.integers(1, length + 1, count)
        packs, number = pack_of_each(sizes, length)
        filled = np.bincount(packs, sizes, number)
        assert len(filled) == number == slow_best_fit(sizes.tolist(), length)
        assert count == 0 or (filled.max() <= length and filled.min() > 0)


def test_packs_are_full() -> None:
    """Sizes like those of Alpaca (mean 100) and of chats, from the published means."""
    random = np.random.default_rng(0)
    for mean, spread, length in ((4.4, 0.6, 512), (6.3, 0.9, 2048)):
        sizes = np.clip(random.lognormal(mean, spread, 200_000).astype(np.int64), 20, length)
        packs, number = pack_of_each(sizes, length)
        assert sizes.sum() / (number * length) > 0.995
        assert np.bincount(packs, sizes).max() <= length


def test_what_does_not_fit_is_refused() -> None:
    for sizes in ([3, 9], [0, 3]):
        with pytest.raises(ValueError, match=r"a conversation of (9|0) tokens does not fit into a pack of 8"):
            pack_of_each(np.array(sizes), 8)


# ---------------------------------------------------------------------------------------------------------------------
# packed files


def talks(count: int) -> list[Conversation]:
    texts = [text[:60] for text in make_texts(5, 4 * count) if text.strip()]
    made = []
    for i in range(count):
        question, answer, other, last = (texts[(4 * i + k) % len(texts)] for k in range(4))
        turns = [Turn(USER, f"{i} {question}"), Turn(ASSISTANT, answer)]
        if i % 3 == 0:
            turns = [Turn(SYSTEM, "be short"), *turns, Turn(USER, other), Turn(ASSISTANT, last)]
        made.append(tuple(turns))
    made[4] = (Turn(USER, SECRET), Turn(ASSISTANT, "No. " + SECRET))
    made[5] = (Turn(USER, "long"), Turn(ASSISTANT, "word " * 500))
    made[6] = (*made[6][:-1], Turn(ASSISTANT, "all of it"))
    made[8] = (Turn(USER, "why " * 300 + "is it so?"), Turn(ASSISTANT, "So it is."))
    rounds = [turn for i in range(12) for turn in (Turn(USER, f"question {i}"), Turn(ASSISTANT, f"answer number {i}"))]
    made[7] = (Turn(SYSTEM, "be kind"), *rounds)
    return made


CONVERSATIONS = talks(150)


def prepare(folder: Path, **tokens: Any) -> tuple[DataConfig, RunDirectory]:
    texts, metadata, spans = [], {}, {}
    for row, conversation in enumerate(CONVERSATIONS):
        text, turns = joined(conversation)
        identity = f"talks-{row // 40:05d}/{row % 40:07d}"
        metadata[identity] = json.dumps({"turns": turns})
        if row == 4:
            first, last = text.index("x@"), text.rindex("x@")
            spans[identity] = [("EMAIL", first, first + 13), ("EMAIL", last, last + 13)]
        if row == 6:
            start, stop, _ = turns[-1]
            cut = len(text[:start].encode())
            spans[identity] = []
            cuts = {identity: [(cut, cut + len(text[start:stop].encode()))]}
        texts.append(text)
    settings = {
        "tokenizer": {"vocabulary_size": 512, "reserved_entries": 20},
        "tokens": {"heldout_share": 0.1, "template": "vicuna-1.1", "pack": LENGTH, **tokens},
    }
    config, run, _ = make_run(
        folder,
        {"talks": texts, "books": make_texts(0, 120)},
        settings=settings,
        spans=spans,
        metadata=metadata,
        more={"talks": {"kind": "conversations", "form": "messages"}},
        cuts=cuts,
    )
    train_tokenizer(config, run)
    return config, run


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, RunDirectory]:
    template = tmp_path_factory.mktemp("template") / "short.yaml"
    template.write_text(
        "begin: [{token: bos}]\nsystem: ['{content} ']\nuser: ['USER: {content} ']\n"
        "assistant: ['ASSISTANT:', {learn: [' {content}', {token: eos}]}]\n"
    )
    config, run = prepare(tmp_path_factory.mktemp("packed"), template=str(template))
    tokenize(config, run)
    return config, run


def read_split(run: RunDirectory, name: str) -> tuple[IndexedDataset, Origins]:
    dataset = IndexedDataset(run.tokens / name, is_packed=True)
    return dataset, Origins(run.tokens / name, "talks", len(dataset))


def test_every_conversation_is_in_one_pack_or_on_the_list(packed: tuple[DataConfig, RunDirectory]) -> None:
    _, run = packed
    encoder = ReferenceEncoder(run.tokenizer)
    found: dict[int, list[str]] = {}
    for name in ("talks", "talks.heldout"):
        dataset, origins = read_split(run, name)
        assert dataset.token_count == dataset.packs * LENGTH + 1
        for i in range(len(dataset)):
            identity = origins.identity(i)
            mask = dataset.loss_mask(*dataset.document_range(i))
            if identity is None:
                assert not mask.any()
                continue
            shard, row = identity.split("/")
            found.setdefault(int(shard[-5:]) * 40 + int(row), []).append(encoder.decode(dataset.document(i)))
            assert mask.any() and not mask[0]
    left_out = [json.loads(line) for line in (run.tokens / "talks.left_out.jsonl").read_text().splitlines()]
    assert {(one["id"], one["reason"], one["whole"]) for one in left_out} == {
        ("talks-00000/0000005", "round_too_long", True),
        ("talks-00000/0000006", "emptied_turn", True),
        ("talks-00000/0000008", "round_too_long", True),
    }
    assert sorted(found) == sorted(set(range(150)) - {5, 6, 8})
    for number, texts in found.items():
        turns = CONVERSATIONS[number]
        answers = [turn.content for turn in turns if turn.role == ASSISTANT]
        if number == 4:
            answers = [answer.replace("x@example.org", "PI:EMAIL") for answer in answers]
        joined_text = "".join(texts)
        for answer in answers:
            assert f"ASSISTANT: {answer}</s>" in joined_text, "in full, and followed by its end"
        assert joined_text.count("</s>") == len(answers) + sum(turn.content.count("</s>") for turn in turns)
        assert all(text.startswith("<s>") for text in texts), "each part has its beginning"
        if turns[0].role == SYSTEM:
            assert all(text.startswith(f"<s>{turns[0].content} ") for text in texts), "and the system turn"
    assert len(found[7]) > 1, "twelve rounds do not fit into one pack, and none is lost"


def test_windows_are_packs(packed: tuple[DataConfig, RunDirectory]) -> None:
    _, run = packed
    mixture = load_mixture(run.tokens / "mixture.yaml")
    mixture.check_checksums()
    entry = next(entry for entry in mixture.datasets if entry.name == "talks")
    assert (entry.packed, entry.tokens) == (LENGTH, entry.documents * LENGTH + 1)
    dataset = mixture.open(entry, "train")
    assert dataset is not None and dataset.packs == entry.documents
    assert entry.conversations == int(np.count_nonzero(np.load(run.tokens / "talks.origins.npy") != PADDING))
    for window in range(dataset.packs):
        start, stop = window * LENGTH, (window + 1) * LENGTH
        assert start in dataset.document_starts(start, stop), "no conversation reaches over the end of a pack"
        assert not dataset.loss_mask(stop, stop + 1)[0], "the last target is the next pack's first token"
    # The ledger: what was kept is in the files or on the list.
    accounts = Accounts(by_source={name: Account(kept=kept) for name, kept in (("talks", 150), ("books", 120))})
    counted = count_tokens(run, accounts)
    assert counted is not None
    assert counted["by_source"]["talks"]["left_out"] == {"emptied_turn": 1, "round_too_long": 2}
    accounts.by_source["talks"].kept += 1
    with pytest.raises(LedgerError, match="source talks: 151 documents were kept, 150 are in its token files"):
        count_tokens(run, accounts)


def test_the_reader_of_megatron_core(packed: tuple[DataConfig, RunDirectory]) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset as Theirs

    _, run = packed
    dataset, _ = read_split(run, "talks")
    theirs = Theirs(str(run.tokens / "talks"))
    assert len(theirs) == len(dataset) and len(theirs.document_indices) == dataset.packs + 1
    for i in range(len(dataset)):
        np.testing.assert_array_equal(theirs[i], dataset.document(i))
    bounds = theirs.document_indices
    sizes = [int(theirs.sequence_lengths[a:b].sum()) for a, b in itertools.pairwise(bounds)]
    assert set(sizes[:-1]) == {LENGTH} and sizes[-1] == LENGTH + 1


def test_tokenize_prints_how_full_the_packs_are(
    tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = prepare(tmp_path)
    tokenize(config, run)
    found = re.search(r"source talks: (\d+) packs of 96 tokens are (\d+\.\d\d)% full", capsys.readouterr().out)
    assert found
    packs = tokens = content = 0
    for name in ("talks", "talks.heldout"):
        dataset, origins = read_split(run, name)
        packs += dataset.packs
        tokens += dataset.token_count
        content += sum(len(dataset.document(i)) for i in range(len(dataset)) if origins.identity(i) is not None)
    assert int(found[1]) == packs
    assert float(found[2]) == pytest.approx(100 * content / tokens, abs=0.005)
    tokenize(config, run)
    assert "% full" not in capsys.readouterr().out, "only of what was packed now"


def test_packs_are_shown_and_verified(
    packed: tuple[DataConfig, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = packed
    prefix = str(run.tokens / "talks")
    assert inspect_tokens.main([prefix, "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["wrong_pack"] == 0
    assert inspect_tokens.main([prefix]) == 0
    assert re.search(r"\d+ packs, [\d,]+ tokens of them padding \(\d\d\.\d\d% full\)", capsys.readouterr().out)
    assert inspect_tokens.main([prefix, "--convert", str(tmp_path / "copy")]) == 2
    assert "talks: is packed here, so there is nothing to convert" in capsys.readouterr().err
    reference = ReferenceEncoder(run.tokenizer)
    vocabulary = (reference.vocabulary_size, reference.end_of_document)
    packs = len(IndexedDataset(run.tokens / "talks"))
    found = verify(run.tokens / "talks", *vocabulary, packed=LENGTH + 1)
    assert found.wrong_pack == packs and not found.is_clean, "each pack has another length than this"
    (only,) = _left_out(run, "talks", "talks-00000/0000006")
    assert only["reason"] == "emptied_turn" and "nothing is left of turn" in only["detail"]


def test_same_bytes_for_any_division_of_work(
    packed: tuple[DataConfig, RunDirectory], monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    config, run = packed

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(run.tokens.iterdir()) if path.is_file()}

    first = files()
    restart(run, "tokenize")
    monkeypatch.setattr(gathering, "_GATHERED_TOKENS", 200)
    tokenize(config.model_copy(update={"workers": 1}), run)
    assert files() == first


def test_another_template_measures_nothing_anew(packed: tuple[DataConfig, RunDirectory]) -> None:
    config, run = packed
    other = config.model_copy(update={"tokens": config.tokens.model_copy(update={"template": "alpaca"})})
    with pytest.raises(StaleOutputError, match=r"chat\..* `--restart tokenize` removes the outputs of this stage"):
        tokenize(other, run)


def test_other_sources_stay_as_they_are(packed: tuple[DataConfig, RunDirectory]) -> None:
    _, run = packed
    assert not (run.tokens / "books.loss_mask").exists() and len(IndexedDataset(run.tokens / "books")) > 90
    reader = SampleReader(load_mixture(run.tokens / "mixture.yaml"), LENGTH, seed=1)
    assert not reader.is_packed and Counter(d.is_packed for d in reader.datasets) == {True: 1, False: 1}


def test_the_question_is_cut_and_the_answer_is_not(tmp_path: Path, in_process: None) -> None:
    config, run = prepare(tmp_path, long_round="cut_question", pack=200, heldout_share=0.0)
    tokenize(config, run)
    left_out = [json.loads(line) for line in (run.tokens / "talks.left_out.jsonl").read_text().splitlines()]
    assert [one["id"][-1] for one in left_out if one["reason"] == "round_too_long"] == ["5"], "its answer is too long"
    dataset, origins = read_split(run, "talks")
    (place,) = (i for i in range(len(dataset)) if origins.identity(i) == "talks-00000/0000008")
    text = ReferenceEncoder(run.tokenizer).decode(dataset.document(place))
    assert text.endswith("why why is it so? ASSISTANT: So it is.</s>") and text.startswith("<s>A chat between")
    assert 190 < len(dataset.document(place)) <= 200, "no more than necessary"


def test_without_packing_conversations_follow_one_another(tmp_path: Path, in_process: None) -> None:
    config, run = prepare(tmp_path, pack=None)
    tokenize(config, run)
    dataset = IndexedDataset(run.tokens / "talks")
    encoder = ReferenceEncoder(run.tokenizer)
    assert dataset.has_loss_mask and len(dataset) == len(dataset.sequence_sizes)
    for i in range(len(dataset)):
        learnt = encoder.decode(dataset.document(i)[dataset.loss_mask(*dataset.document_range(i))])
        assert learnt.endswith("</s>") and "ASSISTANT" not in learnt and "USER" not in learnt
    assert bin_path(run.tokens / "talks").is_file()
