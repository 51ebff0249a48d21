"""Exports run in llama.cpp: its own converter makes GGUF of them, and its tokens and logits are those of our model.

Needs the extra `llama_cpp`, and a checkout of llama.cpp that the environment variable names, see CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.train import learn
from pretrain.config import ModelConfig
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tests.unit.pretrain.families.small import SMALL, InMemory, build, without_padding
from tools.__main__ import main as altiplano
from tools.hugging_face.to_gguf import exported_model, longest_text, refusals, run_converter
from tools.hugging_face.to_hf import to_hugging_face

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is missing: pip install 'altiplano[llama_cpp]'")

VARIABLE = "ALTIPLANO_LLAMA_CPP"
if VARIABLE not in os.environ:
    pytest.skip(f"{VARIABLE} does not name a checkout of llama.cpp", allow_module_level=True)
CHECKOUT = Path(os.environ[VARIABLE])

pytestmark = pytest.mark.slow

KINDS = ("byte_level_bpe", "sentencepiece_bpe")
VOCABULARY = 700
SIZES = {
    "vocabulary_size": VOCABULARY,
    "hidden_size": 32,
    "layers": 2,
    "attention_heads": 4,
    "key_value_heads": 4,
    "feed_forward_size": 48,
    "maximum_positions": 256,
}
EXACT = 1e-4
"""Largest difference of two logits relative to the largest logit, where only the order of sums differs."""
GELU = 2e-3
"""The same where llama.cpp takes GELU from a table of float16 values, and in its tanh form for all families."""

_YARN = SMALL["llama-yarn"]["rope_scaling"]
_GEMMA2 = {**SMALL["gemma2"], "layers": 4, "attention_scale": None}
_GEMMA3 = {**SMALL["gemma3"], "layers": 7, "attention_scale": None, "full_attention_every": 6}
_NEOX = {**SMALL["gpt_neox-sequential"], "tied_embedding": False}
COMPUTED: dict[str, tuple[dict[str, Any], float]] = {
    "llama": (SMALL["llama"], EXACT),
    "llama-tied": (SMALL["llama-tied"], EXACT),
    "llama-3.1": (SMALL["llama-3.1"], EXACT),
    "llama-linear": (SMALL["llama-linear"], EXACT),
    "llama-ntk": (SMALL["llama-ntk"], EXACT),
    "llama-yarn": (SMALL["llama-yarn"], EXACT),
    "mistral": ({**SMALL["mistral"], "sliding_window": 70}, EXACT),
    "mistral-3.1": ({**SMALL["llama-3.1"], "family": "mistral", "sliding_window": None}, EXACT),
    "qwen2": (SMALL["qwen2"], EXACT),
    "qwen2-windows": ({**SMALL["qwen2-windows"], "sliding_window": 70}, EXACT),
    "qwen2-yarn": ({"family": "qwen2", "rope_scaling": _YARN}, EXACT),
    "qwen3": (SMALL["qwen3"], EXACT),
    "qwen3-yarn": ({"family": "qwen3", "rope_scaling": _YARN}, EXACT),
    "gemma2": (_GEMMA2, GELU),
    "gemma3": (_GEMMA3, GELU),
    "gemma3-yarn": ({**_GEMMA3, "rope_scaling": _YARN}, GELU),
    "olmo2": (SMALL["olmo2"], EXACT),
    "olmo2-yarn": ({"family": "olmo2", "rope_scaling": _YARN}, EXACT),
    "gpt_neox": (SMALL["gpt_neox"], GELU),
    "gpt_neox-sequential": (_NEOX, GELU),
    "gpt3": (SMALL["gpt3"], GELU),
    "bloom": (SMALL["bloom"], GELU),
    "bloom-6": ({**SMALL["bloom-6"], "vocabulary_size": VOCABULARY}, GELU),
    "palm": ({**SMALL["palm"], "attention_heads": 2}, EXACT),
    "baichuan": (SMALL["baichuan"], EXACT),
    "baichuan2": (SMALL["baichuan2"], EXACT),
    "chatglm": (SMALL["chatglm"], EXACT),
}
"""Settings that llama.cpp computes, and the bound."""

OTHERWISE: dict[str, dict[str, Any]] = {
    "llama-longrope": SMALL["llama-longrope"],
    "llama-yarn-factor": {"family": "llama", "rope_scaling": {**_YARN, "attention_factor": 1.5}},
    "llama-yarn-edges": {**SMALL["llama-yarn"], "rope_scaling": {**_YARN, "rounds_edges": False}},
    "qwen2-3.1": {**SMALL["llama-3.1"], "family": "qwen2"},
    "qwen2-wide": {**SMALL["qwen2"], "attention_head_size": 16},
    "qwen3-3.1": {**SMALL["llama-3.1"], "family": "qwen3"},
    "olmo2-3.1": {**SMALL["llama-3.1"], "family": "olmo2"},
    "gemma2-scale": SMALL["gemma2"],
    "gemma2-full": {**_GEMMA2, "layers": 3, "full_attention_every": 3},
    "gemma2-theta": {**_GEMMA2, "rope_theta": 100.0},
    "gemma2-untied": {**_GEMMA2, "tied_embedding": False},
    "gemma2-uncapped": {**_GEMMA2, "logit_soft_cap": None},
    "gemma2-uncapped-scores": {**_GEMMA2, "attention_soft_cap": None},
    "gemma2-linear": {**_GEMMA2, "rope_scaling": {"kind": "linear", "factor": 4.0}},
    "gemma3-scale": {**SMALL["gemma3"], "full_attention_every": 6},
    "gemma3-full": {**SMALL["gemma3"], "attention_scale": None},
    "gemma3-3.1": {**_GEMMA3, "rope_scaling": SMALL["llama-3.1"]["rope_scaling"]},
    "gpt_neox-theta": {**_NEOX, "rope_theta": 100.0},
    "gpt_neox-tied": {**_NEOX, "tied_embedding": True},
    "gpt3-narrow": {**SMALL["gpt3"], "feed_forward_size": 48},
    "palm-wide": SMALL["palm"],
    "palm-deep": {**SMALL["palm"], "attention_heads": 2, "layers": 64},
    "opt": SMALL["opt"],
    "glm": SMALL["glm-gelu"],
    "baichuan-alibi": SMALL["baichuan-alibi"],
    "baichuan-own": SMALL["baichuan"],
    "chatglm-wide": {**SMALL["chatglm"], "attention_head_size": 16},
}
"""Settings that are refused, because llama.cpp or its converter does something else or fails."""

NEW_TOKENS = 40
TEXTS = ["def f(x):\n\treturn x", "La Paz  está a 3640 m.", "雪снег12 345 👩‍👧…", "a"]


@dataclass
class Pair:
    """A model of ours and its export."""

    ours: Callable[[list[int]], torch.Tensor]
    folder: Path
    config: ModelConfig


@cache
def tokenizer(root: Path, kind: str) -> Path:
    folder = root / kind
    folder.mkdir()
    settings = TokenizerConfig.model_validate({"kind": kind, "vocabulary_size": VOCABULARY, "reserved_entries": 8})
    learn(make_texts(1, 2000), settings, folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llama_cpp")


def export(root: Path, out: Path, settings: dict[str, Any], kind: str, form: Any = None) -> Pair:
    """A random model whose text varies: what the layers add is larger than the embedding."""
    config = ModelConfig.model_validate(SIZES | settings)
    model, checkpoint = build(config), InMemory(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_global_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.05 if name in ("embedding.weight", "positions.weight") else 0.3))
            checkpoint.tensors[name] = without_padding(config, name, parameter.detach())
    if form is None:
        form = "llama" if config.family == "baichuan" and config.positions == "rotary" else "own"
    to_hugging_face(
        checkpoint,
        out,
        tokenizer=tokenizer(root, kind),
        end_of_document=2,
        dtype="float32",
        shard_bytes=10**9,
        form=form,
    )

    @torch.no_grad()
    def ours(tokens: list[int]) -> torch.Tensor:
        return model(torch.tensor([tokens])).transpose(0, 1)[0, :, : config.vocabulary_size]

    return Pair(ours, out, config)


def opened(path: Path) -> Any:
    """The model in llama.cpp, with keys and values in fp32."""
    settings: dict[str, Any] = {"n_ctx": SIZES["maximum_positions"], "n_batch": SIZES["maximum_positions"]}
    return llama_cpp.Llama(str(path), logits_all=True, type_k=0, type_v=0, n_threads=1, verbose=False, **settings)


def their_logits(theirs: Any, tokens: list[int]) -> np.ndarray:
    theirs.reset()
    theirs.eval(tokens)
    return np.array(theirs.scores[: len(tokens)])


def relative_difference(pair: Pair, theirs: Any, length: int) -> float:
    tokens = torch.randint(14, VOCABULARY, (length,), generator=torch.Generator().manual_seed(11)).tolist()
    ours = pair.ours(tokens).numpy()
    return float(np.abs(ours - their_logits(theirs, tokens)).max() / np.abs(ours).max())


CASES = [(name, kind) for name, (settings, _) in COMPUTED.items() for kind in KINDS if name == settings["family"]]
CASES += [(name, KINDS[i % 2]) for i, name in enumerate(COMPUTED) if name != COMPUTED[name][0]["family"]]
"""Each family with both kinds of tokenizers, each variant with one."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_llama_cpp_writes_the_same_tokens(root: Path, tmp_path: Path, name: str, kind: str) -> None:
    from transformers import AutoTokenizer

    settings, bound = COMPUTED[name]
    pair = export(root, tmp_path / "hf", settings, kind)
    command = ["convert", "to-gguf", str(pair.folder), str(tmp_path / "a.gguf"), "--llama-cpp", str(CHECKOUT)]
    assert altiplano(command) == 0
    theirs = opened(tmp_path / "a.gguf")
    length = longest_text(exported_model(pair.folder))
    assert theirs._model.n_ctx_train() == length
    difference = relative_difference(pair, theirs, min(length, 200))
    print(f"{name} {kind}: {difference:.1e}")
    assert difference < bound

    exported = AutoTokenizer.from_pretrained(pair.folder)
    written: list[int] = []
    undecided = 0
    for text in TEXTS:
        prompt = exported.encode(text)
        assert theirs.tokenize(text.encode(), special=True) == prompt, text
        tokens = greedy_text(theirs, prompt, NEW_TOKENS)
        logits = pair.ours([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        behind = logits.amax(-1) - logits.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        # Two tokens may be as near to each other as the bound is wide.
        undecided += int((behind > 0).sum())
        assert float(behind.max() / logits.abs().max()) < 2 * bound, text
        written += tokens
    assert undecided <= (0 if bound == EXACT else len(written) // 50)
    assert len(set(written)) > 5, "a model that repeats one token proves little"


def greedy_text(theirs: Any, prompt: list[int], count: int) -> list[int]:
    theirs.reset()
    theirs.eval(prompt)
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
        theirs.eval(tokens[-1:])
    return tokens


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_refused_is_computed_otherwise(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pair = export(root, tmp_path / "hf", OTHERWISE[name], "sentencepiece_bpe", "own")
    command = ["convert", "to-gguf", str(pair.folder), str(tmp_path / "a.gguf"), "--llama-cpp", str(CHECKOUT)]
    assert altiplano(command) == 2
    (refusal,) = refusals(pair.config)
    assert refusal in capsys.readouterr().err and not (tmp_path / "a.gguf").exists()
    try:
        run_converter(pair.folder, tmp_path / "a.gguf", CHECKOUT, "float32", {})
        theirs = opened(tmp_path / "a.gguf")
    except ValueError as error:
        print(f"{name}: {error}")
        return
    difference = relative_difference(pair, theirs, 200)
    print(f"{name}: {difference:.1e}")
    assert difference > 10 * GELU


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_a_window_is_ignored(root: Path, tmp_path: Path, family: str) -> None:
    """So that the file is for texts up to its length."""
    settings = {**SMALL["mistral"], "family": family, "sliding_window": 70}
    pair = export(root, tmp_path / "hf", settings, "sentencepiece_bpe")
    run_converter(pair.folder, tmp_path / "a.gguf", CHECKOUT, "float32", {})
    theirs = opened(tmp_path / "a.gguf")
    assert relative_difference(pair, theirs, 70) < EXACT
    assert relative_difference(pair, theirs, 75) > 10 * GELU


ODD = [
    "", " ", "  a  b   c ", "\r\n\t x\n\n", "é e\u0301", "👩‍👧 ok 🚀🚀", "x(y)|z.,!?…。，、।۔،w", "[a] {b} [[",
    "\u00a0\u3000\u2028a\u2029\u0085\u200b\u180e\u1680", "\x0b\x0c\x1c\x1d\x1e\x1f\x00x", "a</s>b <s>",
    "<|reserved_0|>", "▁▁ a▁b", "\ufeffbom \ud7ff\ue000\U0010ffff", "a" * 300, " " * 50, "1234567890123",
    "ไทย ខ្មែរ ａｂｃ",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_any_text_as_the_exported_tokenizer_does(root: Path, tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    pair = export(root, tmp_path / "hf", SMALL["llama"], kind)
    run_converter(pair.folder, tmp_path / "a.gguf", CHECKOUT, "float32", {})
    theirs = llama_cpp.Llama(str(tmp_path / "a.gguf"), vocab_only=True, verbose=False)
    exported = AutoTokenizer.from_pretrained(pair.folder)
    rng = random.Random(3)
    characters = "".join(ODD)
    mixed = ["".join(rng.choices(characters, k=rng.randint(1, 40))) for _ in range(2000)]
    for text in [*ODD, *mixed, *make_texts(9, 200)]:
        found = theirs.tokenize(text.encode(), special=True)
        assert found == exported.encode(text), repr(text)
        ours = exported.encode(text, split_special_tokens=True)
        assert theirs.tokenize(text.encode(), special=False) == ours, repr(text)
