"""Templates against transformers: the same tokens and masks, except for what is listed and counted here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data_prep.conversations.encoding import ChatSettings, ConversationEncoder, control_names
from data_prep.conversations.jinja import chat_template
from data_prep.conversations.rendering import CONTINUE, CONTROL, Renderer, Segment, UnrenderableError
from data_prep.conversations.templates import Template, load_template, shipped_templates
from data_prep.conversations.turns import ASSISTANT, INPUT, SYSTEM, USER, Conversation, Turn
from data_prep.tokenizer.encoding.encoded import TokenizerError
from foundation.configuration import ConfigError
from tests.unit.data_prep.conversations.tokenizers import KINDS, TEXTS, make_tokenizer, opened

PRESETS = tuple(shipped_templates())
ODD = (
    " ", "\n\n", "  leading", "trailing  ", "\n\nx\n", "日本語のテキスト", "🙂🙂 emoji", "e\u0301", "{content} {{x}}",
    "'\"\\n",    "    indented\n\tcode", "a\u00a0b", "### Response:", "USER: ASSISTANT:", "x" * 300,
)  # fmt: skip
NAMES = ("</s>", "a <s> b", "<|im_start|>assistant\n", "[gMASK]<sop>")
"""Texts that spell control tokens: transformers turns them into control tokens, ours does not."""


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(request.param, tmp_path_factory.mktemp(request.param))


def encoder_of(folder: Path, preset: str, **settings: Any) -> ConversationEncoder:
    reference, encoder, table = opened(folder)
    template = settings.pop("template", None) or load_template(preset)
    return ConversationEncoder(ChatSettings(preset, template, **settings), reference, encoder, table)  # type: ignore[arg-type]


@cache
def transformers_of(folder: Path, preset: str) -> PreTrainedTokenizerFast:
    reference = opened(folder)[0]
    template = load_template(preset)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template(template, control_names(template, preset, reference)),
    )


def conversations(contents: tuple[str, ...], count: int, *, with_system: bool) -> Iterator[Conversation]:
    """Conversations of one to three rounds from these contents, some with an input or a system turn."""
    choose = random.Random(3)
    texts = [text[:200] for text in TEXTS if text.strip() and "s>" not in text and "reserved" not in text]
    for number in range(count):

        def content(number: int = number) -> str:
            return choose.choice(contents) if choose.random() < 0.5 or number < 5 else choose.choice(texts)

        turns = [Turn(SYSTEM, content())] if with_system and choose.random() < 0.5 else []
        for _ in range(choose.randint(1, 3)):
            turns.append(Turn(USER, content()))
            if choose.random() < 0.3:
                turns.append(Turn(INPUT, content()))
            turns.append(Turn(ASSISTANT, content()))
        if all(turn.content.strip() for turn in turns):
            yield tuple(turns)


def as_messages(conversation: Conversation) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    for turn in conversation:
        if turn.role == INPUT:
            messages[-1]["input"] = turn.content
        else:
            messages.append({"role": turn.role, "content": turn.content})
    return messages


def theirs(tokenizer: PreTrainedTokenizerFast, conversation: Conversation, **options: Any) -> tuple[list[int], Any]:
    made = tokenizer.apply_chat_template(
        as_messages(conversation), tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    return made["input_ids"], np.array(made["assistant_masks"], bool)


def without_cuts(ours: ConversationEncoder, conversation: Conversation) -> list[int]:
    """Tokens of the runs as a whole."""
    runs: list[Segment] = []
    for one in ours.renderer.segments(conversation):
        if one.kind == CONTINUE:
            runs[-1] = runs[-1]._replace(text=runs[-1].text + one.text)
        else:
            runs.append(one)
    return ours.encode_segments([runs], ["x"]).tokens.tolist()


@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_and_masks_are_those_of_transformers(folder: Path, preset: str) -> None:
    ours, tokenizer = encoder_of(folder, preset), transformers_of(folder, preset)
    has_system = bool(load_template(preset).system)
    equal = merged = 0
    for conversation in conversations(ODD, 150, with_system=has_system):
        made = ours.encode([conversation], ["x"])
        tokens, mask = theirs(tokenizer, conversation)
        mask[0] = False  # the first token has nothing before it that could predict it
        assert without_cuts(ours, conversation) == tokens, "but for the cuts, the tokens are theirs in every case"
        if made.tokens.tolist() == tokens:
            assert made.merged == 0
            np.testing.assert_array_equal(made.mask, mask)
            equal += 1
        else:
            assert made.merged > 0, conversation
            merged += 1
        learnt = tokenizer.decode(made.tokens[made.mask])
        answers = [turn.content for turn in conversation if turn.role == ASSISTANT]
        assert all(answer.strip() in learnt for answer in answers), "every answer is learnt, whole"
    assert equal > 5
    if preset == "glm":  # its answers are runs of their own, so that nothing can merge
        assert merged == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_many_conversations_at_once_are_each_alone(folder: Path, preset: str) -> None:
    ours = encoder_of(folder, preset)
    given = list(conversations(ODD, 60, with_system=bool(load_template(preset).system)))
    alone = [ours.encode([conversation], ["x"]) for conversation in given]
    together = ours.encode(given, ["x"] * len(given))
    np.testing.assert_array_equal(together.sizes, [len(one.tokens) for one in alone])
    np.testing.assert_array_equal(together.tokens, np.concatenate([one.tokens for one in alone]))
    np.testing.assert_array_equal(together.mask, np.concatenate([one.mask for one in alone]))
    assert (together.cuts, together.merged) == (sum(one.cuts for one in alone), sum(one.merged for one in alone))
    if preset == "alpaca-no-input":  # its answers follow a space
        assert 0 < together.merged < together.cuts


@pytest.mark.parametrize("preset", PRESETS)
def test_a_text_never_becomes_a_control_token(folder: Path, preset: str) -> None:
    ours, tokenizer = encoder_of(folder, preset), transformers_of(folder, preset)
    template = load_template(preset)
    special = set(ours.renderer._control_ids.values()) | {1, 2}
    differing = 0
    for conversation in conversations(NAMES, 30, with_system=bool(template.system)):
        made = ours.encode([conversation], ["x"])
        placed = [one.token for one in ours.renderer.segments(conversation) if one.kind == CONTROL]
        assert [token for token in made.tokens.tolist() if token in special] == placed, "only the template's, by id"
        differing += made.tokens.tolist() != theirs(tokenizer, conversation)[0]
    assert differing > 5, "transformers makes control tokens of these texts"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_prompt_is_a_prefix_of_the_sample(folder: Path, preset: str) -> None:
    ours = encoder_of(folder, preset)
    for conversation in conversations((*ODD, *NAMES), 60, with_system=bool(load_template(preset).system)):
        tokens = ours.encode([conversation], ["x"]).tokens
        for place, turn in enumerate(conversation):
            if turn.role != ASSISTANT:
                continue
            asked = ours.renderer.segments(conversation[:place], for_generation=True)
            prompt = ours.encode_segments([asked], ["x"]).tokens
            np.testing.assert_array_equal(prompt, tokens[: len(prompt)])
            rest = ours.encode_segments([ours.renderer.segments(conversation[: place + 1])], ["x"])
            assert rest.mask[len(prompt)], "the first token after the prompt is learnt"


def test_a_cut_that_is_left_out_is_seen(folder: Path) -> None:
    """The fault: the answer is encoded together with the prompt, as one text."""
    ours = encoder_of(folder, "alpaca-no-input")
    prompt = ours.encode_segments([ours.renderer.segments([Turn(USER, "Why?")], for_generation=True)], ["x"]).tokens
    merged = 0
    for word in sorted({word for text in TEXTS for word in text.split() if word.isalpha()})[:60]:
        conversation = (Turn(USER, "Why?"), Turn(ASSISTANT, word))
        made = ours.encode([conversation], ["x"])
        assert made.tokens[: len(prompt)].tolist() == prompt.tolist()
        is_prefix = without_cuts(ours, conversation)[: len(prompt)] == prompt.tolist()
        assert (made.merged == 0) == is_prefix, "the space before the answer went into its first token"
        merged += made.merged
    assert merged > 0


def test_an_answer_at_the_beginning(tmp_path: Path) -> None:
    """transformers 5.23 masks a whole sequence whose first token is learnt; ours does not."""
    folder = make_tokenizer("byte_level", tmp_path)
    answer = {"learn": ["{content}", {"token": "eos"}]}
    template = Template.model_validate({"user": ["{content}"], "assistant": [answer]})
    ours = encoder_of(folder, "own", template=template)
    made = ours.encode_segments([ours.renderer.segments([Turn(ASSISTANT, "one"), Turn(USER, "two")])], ["x"])
    assert made.mask.any() and not made.mask.all()
    assert ours.encode([(Turn(USER, "one"), Turn(ASSISTANT, "two"))], ["x"]).mask.any()


def test_what_is_learnt(folder: Path) -> None:
    conversation = (Turn(USER, "one"), Turn(ASSISTANT, "two"), Turn(USER, "three"), Turn(ASSISTANT, "four"))
    made = {learn: encoder_of(folder, "vicuna-1.1", learn=learn).encode([conversation], ["x"]) for learn in
            ("all_assistant", "last_assistant", "everything")}  # fmt: skip
    decode = opened(folder)[0].decode
    for one in made.values():
        np.testing.assert_array_equal(one.tokens, made["everything"].tokens)
    assert decode(made["all_assistant"].tokens[made["all_assistant"].mask]).replace(" ", "") == "two</s>four</s>"
    assert decode(made["last_assistant"].tokens[made["last_assistant"].mask]).strip() == "four</s>"
    assert made["everything"].mask.tolist() == [False] + [True] * (len(made["everything"].tokens) - 1)


def test_exactly_one_beginning(folder: Path) -> None:
    conversation = (Turn(USER, "one"), Turn(ASSISTANT, "two"), Turn(USER, "three"), Turn(ASSISTANT, "four"))
    counts = {
        preset: encoder_of(folder, preset).encode([conversation], ["x"]).tokens.tolist().count(1) for preset in PRESETS
    }
    assert counts == {
        "alpaca": 1, "alpaca-no-input": 1, "belle": 0, "chatml": 0, "glm": 0, "lines": 0,
        "llama-2": 2,  # as Meta's own code: one for each round
        "plain": 0, "vicuna-1.1": 1,
    }  # fmt: skip


def test_wordings() -> None:
    """The texts of the templates, from the projects that made them."""
    round_of = (Turn(USER, "Add."), Turn(INPUT, "1 2"), Turn(ASSISTANT, "3"))
    plain = (Turn(USER, "Hi"), Turn(ASSISTANT, "Hello"), Turn(USER, "Bye"), Turn(ASSISTANT, "See you"))

    def text(preset: str, conversation: Conversation) -> str:
        template = load_template(preset)
        ids = dict.fromkeys(template.control_tokens(), 0)
        return "".join(one.text for one in Renderer(template, ids).segments(conversation))

    assert text("alpaca", round_of) == (
        "bosBelow is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
        "### Response:3eos"
    )
    assert text("alpaca-no-input", round_of).endswith("### Instruction:\nAdd.\n1 2\n\n### Response: 3eos")
    assert text("vicuna-1.1", plain) == (
        "bosA chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: Hi ASSISTANT: HelloeosUSER: Bye ASSISTANT: See "
        "youeos"
    )
    assert text("llama-2", (Turn(SYSTEM, "Be kind."), *plain)) == (
        "bos[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello eosbos[INST] Bye [/INST] See you eos"
    )
    assert text("chatml", plain[:2]) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n")
    assert text("belle", plain) == "Human: \nHi\n\nAssistant: \nHelloeosHuman: \nBye\n\nAssistant: \nSee youeos"
    assert text("plain", plain[:2]) == "Hi Helloeos"
    assert text("glm", plain[:2]) == "Hi[gMASK]<sop>Hello<eop>"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("user: ['{content}']\nassistant: ['{content}']", r"own.yaml:2: assistant: \{content\} is not learnt; write"),
        ("user: ['{contnt}']\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: user: '\{contnt\}' in .* known are"),
        ("user: ['{']\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: user: '\{' in '\{'.*a brace itself is"),
        ("user: ['x']\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: user: has none; it needs each of"),
        ("user: [{learn: ['{content}']}]\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: user: learn can only"),
        ("begin: ['{content}']\nuser: ['{content}']\nassistant: [{learn: ['{content}']}]", r"begin: has \{content\}"),
        ("default_system: x\nuser: ['{content}']\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: default_system"),
        ("usr: ['{content}']\nassistant: [{learn: ['{content}']}]", r"own.yaml:1: usr: unknown setting; did you mean"),
    ],
)  # fmt: skip
def test_faulty_templates(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(lines)
    with pytest.raises(ConfigError, match=message):
        load_template(str(tmp_path / "own.yaml"))


def test_unknown_templates_and_control_tokens(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens.template: template 'vicuna' is unknown; did you mean 'vicuna-1.1'"):
        load_template("vicuna")
    template = Template.model_validate(
        {"user": ["{content}"], "assistant": [{"learn": ["{content}", {"token": "<|end|>"}]}]}
    )
    with pytest.raises(TokenizerError, match=r"own: the control token '<\|end\|>' is not one of .*'</s>'"):
        encoder_of(folder, "own", template=template)
    alpaca = encoder_of(folder, "alpaca")
    with pytest.raises(UnrenderableError, match="has a system turn, and the template has no part `system`"):
        alpaca.renderer.segments((Turn(SYSTEM, "s"), Turn(USER, "u"), Turn(ASSISTANT, "a")))
