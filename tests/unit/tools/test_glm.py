"""GLM's released files, in both directions: random models whose logits the judge computes from the files themselves,
part by part; the same tensors back; the rest is refused by name."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.layout import BLOCK_POSITION, COLUMNS, POSITION, SEEN_END
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel
from tests.unit.pretrain.families import released_glm
from tests.unit.pretrain.families.released_glm import HUGGING_FACE, SAT, SAT_130B, THUDM_GLM, Program
from tests.unit.pretrain.families.small import without_padding
from tools.__main__ import main as altiplano

PROGRAMS = {"glm": THUDM_GLM, "sat": SAT, "sat-130b": SAT_130B}
TOLERANCE = 2e-5
"""Largest difference relative to the largest logit, fp32: sums in another order."""
LENGTH, PREFIX, MASK = 20, 9, 4
Parts = list[dict[str, torch.Tensor]]


def random_model(program: Program, parts: int, seed: int) -> ModelConfig:
    draw = random.Random(seed)
    heads, size = parts * draw.choice([1, 2, 3]), draw.choice([4, 8])
    form = (
        {"positions": "rotary", "block": "deepnorm", "activation": "geglu", "initialisation": "deepnorm"}
        if program.is_130b
        else {"activation": "gelu_tanh" if program.gelu == "tanh" else "gelu"}
    )
    inner = 4 * heads * size if program in (HUGGING_FACE, THUDM_GLM) else parts * draw.randint(3, 30)
    return ModelConfig.model_validate(
        {
            "family": "glm",
            "vocabulary_size": parts * draw.randint(8, 60),
            "hidden_size": heads * size,
            "layers": draw.randint(1, 3),
            "attention_heads": heads,
            "key_value_heads": heads,
            "feed_forward_size": inner,
            "maximum_positions": draw.randint(LENGTH, 40),
            **form,
        }
    )


def parts_of(program: Program, model: ModelConfig, parts: int, seed: int = 0) -> Parts:
    sizes = {"layers": model.layers, "hidden": model.hidden_size, "inner": model.feed_forward_size}
    return released_glm.random_parts(
        program, parts, **sizes, vocabulary=model.vocabulary_size, positions=model.maximum_positions, seed=seed
    )


def write_parts(folder: Path, parts: Parts, step: str = "49300", **beside: Any) -> Path:
    (folder / step).mkdir(parents=True)
    for rank, tensors in enumerate(parts):
        torch.save({"module": tensors, **beside}, folder / step / f"mp_rank_{rank:02d}_model_states.pt")
    (folder / "latest").write_text(f"{step}\n")
    return folder


def read_parts(folder: Path) -> Parts:
    step = folder / (folder / "latest").read_text().strip()
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == step.name
    files = sorted(step.iterdir())
    assert [file.name for file in files] == [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(len(files))]
    return [torch.load(file, weights_only=True)["module"] for file in files]


def model_file(folder: Path, model: ModelConfig) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model.model_dump(mode="json")}))
    return folder / "model.yaml"


def import_parts(folder: Path, out: Path, model: ModelConfig) -> int:
    return altiplano(
        ["convert", "from-glm", str(folder), str(out), "--model", str(model_file(out.parent / "settings", model))]
    )


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [S, 2] and layout [1, S, 4] of a text that sees itself in both directions, and a blank in it."""
    places = torch.arange(LENGTH)
    is_blank = places >= PREFIX
    positions = torch.stack([torch.where(is_blank, MASK, places), (places - PREFIX + 1).clamp_min(0)], -1)
    layout = torch.zeros(1, LENGTH, COLUMNS, dtype=torch.int64)
    layout[..., SEEN_END] = torch.where(is_blank, places + 1, PREFIX)
    layout[..., POSITION], layout[..., BLOCK_POSITION] = positions.unbind(-1)
    return positions, layout


def our_logits(checkpoint: Path, tokens: torch.Tensor, layout: torch.Tensor) -> torch.Tensor:
    reader = CheckpointReader(checkpoint)
    config = ModelConfig.model_validate(reader.config["model"])
    model = WholeModel(config, TensorParallel(group_alone(), torch.float32)).requires_grad_(False)
    for name, parameter in model.named_global_parameters():
        without_padding(config, name, parameter.zero_()).copy_(reader.tensor(name))
    return model(tokens[None], layout)[:, 0, : config.vocabulary_size]


def assert_same_logits(program: Program, parts: Parts, model: ModelConfig, checkpoint: Path) -> None:
    positions, layout = sample()
    tokens = torch.randint(0, model.vocabulary_size, (LENGTH,), generator=torch.Generator().manual_seed(1))
    in_fp32 = [{name: tensor.float() for name, tensor in part.items()} for part in parts]
    expected = released_glm.logits(
        program, in_fp32, model.attention_heads, model.layers, tokens, positions, prefix=PREFIX
    )
    difference = float((our_logits(checkpoint, tokens, layout) - expected).abs().max() / expected.abs().max())
    assert difference < TOLERANCE, f"{difference:.1e}"


def assert_equal(found: Parts, expected: Sequence[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert sorted(mine) == sorted(theirs)
        for name, tensor in theirs.items():
            assert torch.equal(mine[name], tensor), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("name", PROGRAMS)
def test_there_and_back(name: str, parts: int, seed: int, tmp_path: Path) -> None:
    """Logits of the import are those of the files; the export has the same tensors, in as many files and in others."""
    program = PROGRAMS[name]
    model = random_model(program, parts, seed)
    files = parts_of(program, model, parts, seed)
    assert import_parts(write_parts(tmp_path / "theirs", files), tmp_path / "imported", model) == 0
    assert_same_logits(program, files, model, tmp_path / "imported")
    form = [] if program.is_130b else ["--form", name]
    command = ["convert", "to-glm", str(tmp_path / "imported")]
    assert altiplano([*command, str(tmp_path / "again"), "--parts", str(parts), *form]) == 0
    assert_equal(read_parts(tmp_path / "again"), files)
    if parts == 1:
        return
    assert altiplano([*command, str(tmp_path / "one"), *form]) == 0
    (whole,) = read_parts(tmp_path / "one")
    assert_same_logits(program, [whole], model, tmp_path / "imported")
    assert import_parts(tmp_path / "one", tmp_path / "from one", model) == 0
    one, other = CheckpointReader(tmp_path / "imported"), CheckpointReader(tmp_path / "from one")
    assert all(torch.equal(one.tensor(key), other.tensor(key)) for key in one.names())


def test_half_precision_and_what_training_saved_beside(tmp_path: Path) -> None:
    """As DeepSpeed and the authors' programs write it: settings, states of random numbers, tables of frequencies."""
    model = random_model(SAT_130B, 2, 5)
    files = [{name: tensor.half() for name, tensor in part.items()} for part in parts_of(SAT_130B, model, 2)]
    tables = {f"transformer.layers.{i}.attention.rotary_emb.inv_freq": torch.ones(4) for i in range(model.layers)}
    beside = {
        "iteration": 49300,
        "client_lr_scheduler": {"start_lr": 8e-5, "num_iters": 7},
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "args": argparse.Namespace(num_layers=70, fp16=True),
    }
    write_parts(tmp_path / "theirs", [{**part, **tables} for part in files], **beside)
    assert import_parts(tmp_path / "theirs", tmp_path / "imported", model) == 0
    assert_same_logits(SAT_130B, files, model, tmp_path / "imported")
    command = ["convert", "to-glm", str(tmp_path / "imported"), str(tmp_path / "again"), "--parts", "2"]
    assert altiplano([*command, "--dtype", "float16"]) == 0
    assert_equal(read_parts(tmp_path / "again"), files)


def test_copies_that_drifted_apart_are_averaged_and_reported(tmp_path: Path, capsys: Any) -> None:
    model = random_model(SAT, 2, 1)
    files = parts_of(SAT, model, 2)
    files[1]["transformer.final_layernorm.bias"] += 0.5
    assert import_parts(write_parts(tmp_path / "theirs", files), tmp_path / "imported", model) == 0
    assert "copies of 1 weights differ, those of final_norm.bias by up to 5.0e-01" in capsys.readouterr().out
    expected = files[0]["transformer.final_layernorm.bias"] + 0.25
    torch.testing.assert_close(CheckpointReader(tmp_path / "imported").tensor("final_norm.bias"), expected)


RELEASED = {
    "_name_or_path": "THUDM/glm-10b",
    "architectures": ["GLMModel"],
    "attention_dropout_prob": 0.1,
    "attention_scale": 1.0,
    "block_position_encoding": True,
    "checkpoint_activations": False,
    "embedding_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "model_type": "glm",
    "output_dropout_prob": 0.1,
    "output_predict": True,
    "parallel_output": True,
    "pool_token": "cls",
    "relative_encoding": False,
    "spell_func": "lstm",
    "spell_length": None,
    "torch_dtype": "float32",
}
"""Entries of the released `config.json` of GLM-10B but for the sizes."""


def released_config(model: ModelConfig) -> dict[str, Any]:
    return {
        **RELEASED,
        "hidden_size": model.hidden_size,
        "max_sequence_length": model.maximum_positions - 1,
        "num_attention_heads": model.attention_heads,
        "num_layers": model.layers,
        "vocab_size": model.vocabulary_size,
    }


def write_hugging_face(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text("{}")
    torch.save(OrderedDict(tensors), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("prefix", ["glm.", ""])
@pytest.mark.parametrize("seed", range(4))
def test_hugging_face_there_and_back(seed: int, prefix: str, tmp_path: Path) -> None:
    """As it was released: half precision in a pickle, with and without the prefix of the model inside."""
    model = random_model(HUGGING_FACE, 1, seed)
    (whole,) = parts_of(HUGGING_FACE, model, 1, seed)
    tensors = {name: tensor.half() for name, tensor in whole.items()}
    named = {name.replace("glm.", prefix, 1): tensor for name, tensor in tensors.items()}
    write_hugging_face(tmp_path / "theirs", named, released_config(model))
    assert altiplano(["convert", "from-hf", str(tmp_path / "theirs"), str(tmp_path / "imported")]) == 0
    assert_same_logits(HUGGING_FACE, [tensors], model, tmp_path / "imported")
    assert CheckpointReader(tmp_path / "imported").config["model"]["activation"] == "gelu"
    command = ["convert", "to-hf", str(tmp_path / "imported"), str(tmp_path / "again"), "--dtype", "float16"]
    assert altiplano(command) == 0
    assert_equal([load_file(tmp_path / "again" / "model.safetensors")], [tensors])
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    passed_over = ("_name_or_path", "checkpoint_activations", "parallel_output", "torch_dtype", "pool_token")
    released = {key: value for key, value in released_config(model).items() if not key.startswith("spell_")}
    for name, value in released.items():
        if name not in passed_over and not name.endswith("_dropout_prob"):
            assert written[name] == value, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": None, "num_hidden_layers": 40}, "num_layers: missing; a GLM-4, whose model_type is 'glm' too"),
        ({"block_position_encoding": False}, "block_position_encoding: False is not supported, only True"),
        ({"relative_encoding": True}, "relative_encoding: True is not supported, only False"),
        ({"max_sequence_length": 7}, r"position_embeddings\.weight: shape \(\d+, \d+\), but positions\.weight needs"),
        ({"num_layers": 9}, r"a glm of this config\.json has no tensor 'glm\.transformer\.layers\.\d\."),
    ],
)
def test_another_config_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model(HUGGING_FACE, 1, 0)
    (tensors,) = parts_of(HUGGING_FACE, model, 1)
    write_hugging_face(tmp_path / "theirs", tensors, {**released_config(model), **change})
    assert altiplano(["convert", "from-hf", str(tmp_path / "theirs"), str(tmp_path / "imported")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "imported").exists()


def nothing(parts: Parts) -> None: ...


def without_a_bias(parts: Parts) -> None:
    for part in parts:
        del part["transformer.layers.0.mlp.dense_4h_to_h.bias"]


def one_lacks_a_bias(parts: Parts) -> None:
    del parts[1]["transformer.layers.0.mlp.dense_4h_to_h.bias"]


def one_too_many(parts: Parts) -> None:
    for part in parts:
        part["transformer.layers.0.attention.dense.weight_scale"] = torch.ones(3)


def quantized(parts: Parts) -> None:
    for part in parts:
        name = "transformer.layers.0.attention.dense.weight"
        part[name] = part[name].to(torch.int8)


def not_finite(parts: Parts) -> None:
    parts[1]["transformer.layers.0.attention.dense.weight"][0, 0] = float("inf")


def without_the_last(parts: Parts) -> None:
    del parts[2:]


@pytest.mark.parametrize(
    ("change", "other", "message"),
    [
        (without_a_bias, {}, r"49300: a checkpoint of .* has no tensor 'transformer\.layers\.0\.mlp\.dense_4h_to_h\.b"),
        (one_lacks_a_bias, {}, r"mp_rank_01_model_states\.pt: no tensor 'transformer.*', which mp_rank_00_model_st"),
        (one_too_many, {}, r"has an unknown tensor 'transformer\.layers\.0\.attention\.dense\.weight_scale'"),
        (quantized, {}, r"mp_rank_00.*attention\.dense\.weight: dtype torch\.int8 is not supported, only float32"),
        (not_finite, {}, r"layers\.0\.attention\.output\.weight: some of its values are not finite"),
        (without_the_last, {}, r"word_embeddings\.weight: shape \(\d+, \d+\), but embedding\.weight .* in 2 files"),
        (nothing, {"vocabulary_size": 400}, r"word_embeddings\.weight: shape .*but embedding\.weight \(400, "),
        (nothing, {"attention_heads": 3, "key_value_heads": 3}, r"49300: the number of its files, 4, must divide mode"),
        (nothing, {"activation": "swiglu"}, r"model\.activation: swiglu cannot be expressed as a checkpoint of SwissA"),
        (nothing, {"rope_theta": 1e6}, r"model\.rope_theta: 1000000\.0 cannot be expressed as"),
        (nothing, {"layers": 9}, r"has no tensor 'transformer\.layers\.\d\.attention"),
    ],
)  # fmt: skip
def test_files_of_another_model_are_refused(
    change: Callable[[Parts], None], other: dict[str, Any], message: str, tmp_path: Path, capsys: Any
) -> None:
    model = random_model(SAT_130B, 4, 2)
    files = parts_of(SAT_130B, model, 4)
    change(files)
    settings = model.model_dump(mode="json")
    if "attention_heads" in other:
        settings |= {"hidden_size": 48, "feed_forward_size": 48}
    write_parts(tmp_path / "theirs", files)
    model = ModelConfig.model_validate({**settings, **other})
    assert import_parts(tmp_path / "theirs", tmp_path / "imported", model) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "imported").exists()


class Trap:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_damaged_and_missing_files_are_named(tmp_path: Path, capsys: Any) -> None:
    model = random_model(THUDM_GLM, 2, 3)

    def tried(change: Callable[[Path], Any]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_parts(folder / "theirs", parts_of(THUDM_GLM, model, 2))
        change(folder / "theirs")
        assert import_parts(folder / "theirs", folder / "imported", model) == 2
        return str(capsys.readouterr().err)

    first = Path("49300") / "mp_rank_00_model_states.pt"
    assert f"{first}: missing; there are files up to rank 1" in tried(lambda folder: (folder / first).unlink())
    assert "latest: '7': no such folder beside it" in tried(lambda folder: (folder / "latest").write_text("7"))
    assert "latest: '../x': no such folder" in tried(lambda folder: (folder / "latest").write_text("../x"))
    assert "no mp_rank_00_model_states.pt; give the folder of a step" in tried(
        lambda folder: [path.unlink() for path in (folder / "49300").iterdir()]
    )
    assert "mp_rank_00_model_states.pt: damaged" in tried(lambda folder: (folder / first).write_bytes(b"PK"))
    assert "refused" in tried(lambda folder: torch.save({"module": {}, "optimizer": Trap()}, folder / first))
    assert "no entry 'module'" in tried(lambda folder: torch.save({"model": {}}, folder / first))
    assert "module: must contain tensors by name and nothing else" in tried(
        lambda folder: torch.save({"module": {"a": 1}}, folder / first)
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("glm", ["--parts", "3"], "--parts 3: must divide model.attention_heads"),
        ("glm", ["--parts", "0"], "--parts 0: must divide model.attention_heads"),
        ("sat-130b", ["--form", "glm"], "--form glm: has no DeepNorm; GLM-130B's format is SwissArmyTransformer's"),
    ],
)
def test_an_export_that_cannot_be_is_refused(
    name: str, arguments: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    model = random_model(PROGRAMS[name], 2, 0)
    write_parts(tmp_path / "theirs", parts_of(PROGRAMS[name], model, 2))
    assert import_parts(tmp_path / "theirs", tmp_path / "imported", model) == 0
    assert altiplano(["convert", "to-glm", str(tmp_path / "imported"), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_gelu_decides_the_format(tmp_path: Path, capsys: Any) -> None:
    """THUDM/GLM's is the tanh form, that of the code in the Hugging Face repositories is not."""
    model = random_model(THUDM_GLM, 1, 0)
    write_parts(tmp_path / "theirs", parts_of(THUDM_GLM, model, 1))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    settings = ["--model", str(model_file(tmp_path / "settings", model)), "--tokenizer", str(tmp_path / "tokenizer")]
    assert altiplano(["convert", "from-glm", str(tmp_path / "theirs"), str(tmp_path / "imported"), *settings]) == 0
    assert (tmp_path / "imported" / "tokenizer" / "vocab.json").is_file()
    assert altiplano(["convert", "to-hf", str(tmp_path / "imported"), str(tmp_path / "hf")]) == 2
    assert "model.activation: gelu_tanh cannot be expressed as GLM in Hugging Face's format, which has gelu" in (
        capsys.readouterr().err
    )
