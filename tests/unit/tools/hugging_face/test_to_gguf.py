"""Refusals and errors of the export to GGUF; llama.cpp itself is the judge in `tests/system/test_llama_cpp.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.train import learn
from pretrain.config import ModelConfig
from tests.unit.data_prep.conversations.tokenizers import make_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_texts
from tests.unit.pretrain.families.small import SMALL, InMemory, small_model
from tools.__main__ import main as altiplano
from tools.hugging_face import to_gguf as module
from tools.hugging_face.to_hf import to_hugging_face

YARN = SMALL["llama-yarn"]["rope_scaling"]


def model(name: str, **settings: Any) -> ModelConfig:
    return ModelConfig.model_validate(small_model(name).model_dump(exclude_unset=True) | settings)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (model("llama-longrope"), "model.rope_scaling.kind: longrope: for llama llama.cpp has linear or ntk or yarn"),
        (model("qwen3", rope_scaling=SMALL["llama-3.1"]["rope_scaling"]), "model.rope_scaling.kind: llama3: for qwen3"),
        (model("llama", rope_scaling={**YARN, "attention_factor": 1.5}), "model.rope_scaling.attention_factor: 1.5"),
        (model("llama", rope_scaling={**YARN, "rounds_edges": False}), "model.rope_scaling.rounds_edges: false"),
        (model("qwen2", attention_head_size=16), "model.attention_head_size: 16: for qwen2 llama.cpp has 8"),
        (model("gemma2"), "model.attention_scale: 0.204"),
        (model("gemma2", attention_scale=None, logit_soft_cap=None), "model.logit_soft_cap: none: for gemma2"),
        (
            model("gemma2", attention_scale=None, rope_theta=5.0),
            "model.rope_theta: 5.0: for gemma2 llama.cpp has 10000",
        ),
        (model("gemma3", attention_scale=None), "model.full_attention_every: 2: for gemma3 llama.cpp has 6"),
        (model("gpt_neox-sequential"), "model.tied_embedding: True: for gpt_neox llama.cpp has False"),
        (model("gpt3", feed_forward_size=48), "model.feed_forward_size: 48: for gpt3 llama.cpp has 128"),
        (model("palm", attention_heads=2, layers=64), "model.layers: 64: llama.cpp has less than 64 for palm"),
        (model("opt"), "model.family: llama.cpp's converter makes nothing of opt"),
        (model("baichuan"), "makes nothing of baichuan; if its positions are rotary, export it with --form llama"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_named(refused: ModelConfig, message: str) -> None:
    (found,) = module.refusals(refused)
    assert message in found


def test_the_largest_gemma_has_the_scale_of_its_release() -> None:
    sizes = {"attention_heads": 4, "attention_head_size": 16, "hidden_size": 32, "attention_scale": 8**-0.5}
    assert not module.refusals(model("gemma2", layers=46, **sizes))
    assert module.refusals(model("gemma2", layers=26, **sizes))


@pytest.mark.parametrize("name", ["llama", "llama-3.1", "llama-ntk", "mistral", "qwen2-windows", "qwen3", "olmo2"])
def test_what_llama_cpp_computes_is_not_refused(name: str) -> None:
    assert not module.refusals(small_model(name))


def test_a_file_is_for_texts_as_long_as_the_window_that_is_ignored() -> None:
    assert module.longest_text(small_model("mistral")) == 20
    assert module.longest_text(model("mistral", sliding_window=None)) == 200
    assert module.longest_text(model("mistral", sliding_window=300)) == 200
    assert module.longest_text(model("gemma3")) == 200, "whose windows llama.cpp computes"


def export(name: str, out: Path, tokenizer: Path) -> Path:
    settings: dict[str, Any] = {"end_of_document": 2, "dtype": "float32", "shard_bytes": 10**9}
    to_hugging_face(InMemory(small_model(name)), out, tokenizer=tokenizer, **settings)
    return out


def test_errors_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export("opt", tmp_path / "hf", make_tokenizer("byte_level", tmp_path / "tokenizer"))
    (tmp_path / "llama.cpp").mkdir()

    def message(given: Path) -> str:
        command = ["convert", "to-gguf", str(given), str(tmp_path / "out.gguf"), "--llama-cpp"]
        assert altiplano([*command, str(tmp_path / "llama.cpp")]) == 2
        return capsys.readouterr().err

    assert "llama.cpp/convert_hf_to_gguf.py: no such file; give a checkout of llama.cpp" in message(folder)
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text("")
    assert "llama.cpp/conversion/base.py: no such file; give a checkout of llama.cpp" in message(folder)
    (tmp_path / "llama.cpp" / "conversion").mkdir()
    (tmp_path / "llama.cpp" / "conversion" / "base.py").write_text("")
    assert "config.json: no such file; `altiplano convert to-hf` writes the folder" in message(tmp_path)
    assert "hf: model.family: llama.cpp's converter makes nothing of opt" in message(folder)
    other = export("llama", tmp_path / "llama", make_tokenizer("byte_level", tmp_path / "another"))
    assert "llama: llama.cpp's converter failed:" in message(other), "the converter is an empty file"
    (tmp_path / "out.gguf").write_text("")
    assert "out.gguf exists already" in message(folder)


def trained(kind: str, folder: Path) -> Path:
    folder.mkdir()
    settings = {"kind": kind, "vocabulary_size": 700, "reserved_entries": 4}
    learn(make_texts(1, 500), TokenizerConfig.model_validate(settings), folder)
    return folder


def test_the_converter_is_told_the_kind_of_tokenizer(tmp_path: Path) -> None:
    for kind, expected in (
        ("byte_level_bpe", ("byte_level", False, False)),
        ("sentencepiece_bpe", ("sentencepiece", True, False)),
    ):
        assert tuple(module._tokenizer(trained(kind, tmp_path / kind)).values()) == expected


def test_a_tokenizer_whose_model_lacks_something_is_refused(tmp_path: Path) -> None:
    folder = make_tokenizer("sentencepiece", tmp_path / "without")
    with pytest.raises(ValueError, match=r"tokenizer\.model: no such file; llama\.cpp encodes by its scores"):
        module._tokenizer(folder)
    more = trained("sentencepiece_bpe", tmp_path / "more")
    tokenizer = Tokenizer.from_file(str(more / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.save(str(more / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: '<\|im_start\|>' is not in tokenizer\.model"):
        module._tokenizer(more)


def test_a_tokenizer_of_another_kind_is_left_to_the_converter(tmp_path: Path) -> None:
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.ByteLevel()
    other.post_processor = processors.ByteLevel()
    other.save(str(tmp_path / "tokenizer.json"))
    assert module._tokenizer(tmp_path) == {"tokenizer": None, "space_prefix": False, "begins": None}
