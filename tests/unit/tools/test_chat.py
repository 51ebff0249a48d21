"""`altiplano chat`: the prompt is that of training, an answer ends where the model ends it, and terminals and pipes."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_prep.conversations.encoding import ChatSettings, ConversationEncoder
from data_prep.conversations.templates import load_template
from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Turn
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from pretrain.checkpoint.layout import write_index
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from tests.unit.data_prep.conversations.tokenizers import make_tokenizer
from tests.unit.pretrain.families.small import InMemory, small_model
from tools.chat import Conversation
from tools.chat import main as chat
from tools.hugging_face.answers import AnsweringModel, Sampling, open_checkpoint
from tools.starting_checkpoint import write_starting_checkpoint

SAID = "y(🦙)7"
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer("byte_level", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers everything with `SAID`: each token decides alone which one follows."""
    reference = ReferenceEncoder(tokenizer)
    said = reference.continuing().encode([SAID]).tokens.tolist()  # ends with the end of document
    assert len(set(said)) == len(said) < 31
    sizes = {"vocabulary_size": reference.vocabulary_size, "maximum_positions": 128}
    model = ModelConfig.model_validate(small_model("llama").model_dump() | sizes)
    original = InMemory(model)

    def weight(name: str) -> torch.Tensor:
        tensor = torch.zeros_like(original.tensor(name))
        if name == "embedding.weight":
            tensor[:, 31] = 1  # of all tokens that are not said: they begin the answer
            for place, token in enumerate(said):
                tensor[token] = torch.eye(32)[place]
        elif name == "head.weight":
            tensor[said[0], 31] = 1
            for place, token in enumerate(said[1:]):
                tensor[token, place] = 1
        elif name.endswith("norm.weight"):
            tensor.fill_(1)
        return tensor

    out = tmp_path_factory.mktemp("checkpoint") / "says"
    origin = {"special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(out, model, weight, data_digest="none", origin=origin, tokenizer=tokenizer, title="write")
    return out


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> AnsweringModel:
    return open_checkpoint(checkpoint, tmp_path_factory.mktemp("scratch"), "vicuna-1.1")


@pytest.mark.parametrize("template", ["vicuna-1.1", "alpaca", "llama-2", "chatml"])
def test_the_prompt_is_what_stood_before_the_answer_in_training(
    checkpoint: Path, tokenizer: Path, tmp_path: Path, template: str
) -> None:
    turns = [Turn(USER, "why </s> <|im_end|>?"), Turn(ASSISTANT, "  because"), Turn(USER, "oh"), Turn(ASSISTANT, "yes")]
    if template == "llama-2":
        turns.insert(0, Turn(SYSTEM, "Be brief."))
    reference = ReferenceEncoder(tokenizer)
    settings = ChatSettings(template, load_template(template), learn="last_assistant")
    encoder = ConversationEncoder(settings, reference, reference, TokenBytes.of(reference))
    trained = encoder.encode([tuple(turns)], ["talk"])
    before = int(trained.mask.argmax())
    model = open_checkpoint(checkpoint, tmp_path, template)
    assert model.prompt(turns[:-1]) == trained.tokens[:before].tolist()


def test_an_answer_is_shown_in_whole_characters_and_ends_where_the_model_ends_it(
    model: AnsweringModel, tokenizer: Path
) -> None:
    shown: list[str] = []
    answer = model.answer([Turn(USER, "what?")], GREEDY, 0, shown.append)
    assert answer == SAID == "".join(shown)
    assert sum(bool(piece) for piece in shown) > 2, "piece by piece"
    assert not any("\ufffd" in piece for piece in shown)
    inside = len(ReferenceEncoder(tokenizer).continuing().encode(["y(🦙"]).tokens) - 2
    assert model.answer([Turn(USER, "what?")], Sampling(0, maximum_tokens=inside), 0) == "y(", "cut in a character"


def test_the_conversation_is_remembered_until_it_is_too_long(model: AnsweringModel) -> None:
    conversation = Conversation(model, Sampling(0, maximum_tokens=20))
    sizes = []
    forgotten = 0
    for question in ("one?", "two?", "three?", "four?", "five?"):
        prompt = model.prompt(conversation._turns(Turn(USER, question)))
        sizes.append(len(prompt))
        answer, count = conversation.ask(question)
        assert answer == SAID
        forgotten += count
    assert sizes[1] > sizes[0], "what was said is part of the prompt"
    assert forgotten > 0
    conversation.reset()
    assert len(model.prompt(conversation._turns(Turn(USER, "one?")))) == sizes[0]
    with pytest.raises(ValueError, match="and the model reads 128 at a time, answer included: ask a shorter question"):
        conversation.ask("long " * 200)


def test_sampling_follows_its_seed_and_temperature(checkpoint: Path, tokenizer: Path, tmp_path: Path) -> None:
    model = open_checkpoint(checkpoint, tmp_path, "alpaca")
    hot = Sampling(temperature=50.0, top_p=1.0, maximum_tokens=12)
    turns = [Turn(USER, "what?")]
    one, again, other = (model.answer(turns, hot, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert model.answer(turns, Sampling(temperature=50.0, top_p=1e-6), 3) == SAID, "only the most likely token is left"
    for wrong, message in (
        ({"temperature": -1.0}, "temperature -1.0: must be 0"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0"),
        ({"maximum_tokens": 0}, "maximum_tokens 0: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampling(**wrong)  # type: ignore[arg-type]


def program(checkpoint: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tools",
        "chat",
        str(checkpoint),
        "--template",
        "alpaca",
        "--temperature",
        "0",
        *options,
    ]


def test_a_pipe_gets_the_answer_and_nothing_else(checkpoint: Path) -> None:
    done = subprocess.run(program(checkpoint), input=b"what?\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, f"{SAID}\n"), done.stderr.decode()


def test_a_terminal_has_a_conversation(checkpoint: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(program(checkpoint), stdin=theirs, stdout=theirs, stderr=subprocess.STDOUT)
    os.close(theirs)
    seen = ""

    def until(text: str, count: int = 1) -> None:
        nonlocal seen
        while seen.count(text) < count:
            seen += os.read(ours, 4096).decode(errors="replace")

    until("> ")
    for line, expected, count in (("hello\n", SAID, 1), ("again\n", SAID, 2), ("/reset\n", "forgotten", 1)):
        os.write(ours, line.encode())
        until(expected, count)
    os.write(ours, b"/exit\n")
    assert process.wait() == 0, seen
    os.close(ours)


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n", "standard input: no question"), (b"\xff", "standard input: not UTF-8")]
)
def test_an_input_that_is_no_question_is_refused(
    checkpoint: Path,
    content: bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert chat([str(checkpoint), "--template", "alpaca"]) == 2
    assert message in capsys.readouterr().err


def test_what_cannot_answer_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat([str(checkpoint)]) == 2
    assert "not trained on conversations of ours: name its template with --template" in capsys.readouterr().err
    assert chat([str(checkpoint), "--template", "alpacca"]) == 2
    assert "alpaca" in capsys.readouterr().err
    assert chat([str(tmp_path), "--template", "alpaca"]) == 2
    capsys.readouterr()
    (tmp_path / "config.json").write_text("{}")
    assert chat([str(tmp_path)]) == 2
    assert "an export does not name its template in our form: give it with --template" in capsys.readouterr().err
    assert chat([str(tmp_path), "--template", "alpaca", "--base", str(checkpoint)]) == 2
    assert "has no effect" in capsys.readouterr().err
    index = CheckpointReader(checkpoint).index
    copied = tmp_path / "prefix"
    shutil.copytree(checkpoint, copied)
    write_index(copied, {**index, "config": {**index["config"], "objective": {"kind": "prefix"}}})
    assert chat([str(copied), "--template", "alpaca"]) == 2
    assert "trained with objective.kind prefix, where a question attends to itself in both" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        chat([str(checkpoint), "--temperature", "0", "--top-p", "0.5"])
    assert "--top-p: has no effect with --temperature 0" in capsys.readouterr().err
