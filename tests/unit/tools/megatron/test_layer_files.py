"""Layer files of Megatron-DeepSpeed, written here from the format's description: the same model, or a clear refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.checkpoint.single import load_single_process_model
from pretrain.config import ModelConfig
from tests.unit.pretrain.families.small import InMemory, build, random_tokens, small_model
from tools.megatron import from_megatron

BLOCKS = {
    "attention_norm": "input_layernorm",
    "attention.query_key_value": "self_attention.query_key_value",
    "attention.output": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.gate_up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}


def write_layers(folder: Path, model: ModelConfig, degree: int, first_block: int = 3) -> None:
    """What a fork's run of this tensor degree writes; layers without weights take numbers too."""
    folder.mkdir()
    layers: dict[int, list[dict[str, torch.Tensor]]] = {}
    heads, size, groups = model.attention_heads, model.head_size, model.key_value_heads
    for name, tensor in InMemory(model).tensors.items():
        module, part = name.rsplit(".", 1)
        parts = [tensor] * degree
        if module in ("embedding", "head"):
            padded = torch.nn.functional.pad(tensor, (0, 0, 0, -len(tensor) % (8 * degree)))
            parts = list(padded.chunk(degree))
            number = 1 if module == "embedding" else first_block + model.layers + 2
            theirs = "word_embeddings.weight" if module == "embedding" else "lm_head.weight"
        elif module in ("positions", "embedding_norm"):
            number = 1
            theirs = "position_embeddings.weight" if module == "positions" else f"word_embeddings.norm.{part}"
        elif module == "final_norm":
            number, theirs = first_block + model.layers + 1, part
        else:
            _, index, inner = module.split(".", 2)
            number, theirs = first_block + int(index), f"{BLOCKS[inner]}.{part}"
            if inner == "attention.query_key_value":
                queries, keys, values = tensor.split([heads * size, groups * size, groups * size])
                rows = []
                for group in range(groups):
                    each = heads // groups * size
                    rows += [queries[group * each : (group + 1) * each]]
                    rows += [kind[group * size : (group + 1) * size] for kind in (keys, values)]
                parts = list(torch.cat(rows).chunk(degree))
            elif inner == "mlp.up":
                parts = list(tensor.chunk(degree))
            elif inner == "mlp.gate_up":
                gate, up = (half.chunk(degree) for half in tensor.chunk(2))
                parts = [torch.cat(pair) for pair in zip(gate, up, strict=True)]
            elif inner in ("attention.output", "mlp.down") and part == "weight":
                parts = list(tensor.chunk(degree, dim=1))
        ranks = layers.setdefault(number, [{} for _ in range(degree)])
        for rank, own in zip(ranks, parts, strict=True):
            rank[theirs] = own.clone()
    for number, ranks in layers.items():
        for rank, tensors in enumerate(ranks):
            torch.save(tensors, folder / f"layer_{number:02d}-model_{rank:02d}-model_states.pt")


def model_file(folder: Path, model: ModelConfig) -> Path:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({"model": model.model_dump(mode="json"), "output": "passed over"}))
    return path


@pytest.mark.parametrize(
    ("name", "degree", "first_block"),
    [("bloom", 1, 3), ("bloom", 2, 3), ("gpt3", 4, 3), ("llama", 2, 2), ("llama-tied", 1, 2)],
)
def test_it_is_the_same_model(name: str, degree: int, first_block: int, tmp_path: Path) -> None:
    model = small_model(name)
    write_layers(tmp_path / "step", model, degree, first_block)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    arguments = [tmp_path / "step", tmp_path / "out", "--model", model_file(tmp_path, model)]
    assert from_megatron.main([*map(str, arguments), "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    tokens = random_tokens(model, length=30)
    with torch.no_grad():
        expected = build(model)(tokens).transpose(0, 1)[..., : model.vocabulary_size]
    torch.testing.assert_close(load_single_process_model(tmp_path / "out")(tokens), expected, rtol=0, atol=0)
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()


def test_the_folder_above_a_step_names_the_newest(tmp_path: Path, capsys: Any) -> None:
    """DeepSpeed's file, beside which Megatron-DeepSpeed writes Megatron-LM's with the number alone."""
    model = small_model("bloom")
    write_layers(tmp_path / "global_step7", model, 1)
    (tmp_path / "latest").write_text("global_step7")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    arguments = [str(tmp_path), str(tmp_path / "out"), "--model", str(model_file(tmp_path, model))]
    assert from_megatron.main([*arguments, "--moments"]) == 2
    assert "--moments are read from those only" in capsys.readouterr().err
    assert from_megatron.main(arguments) == 0


def test_copies_that_drifted_apart_are_averaged_and_reported(tmp_path: Path, capsys: Any) -> None:
    model = small_model("bloom")
    write_layers(tmp_path / "step", model, 2)
    path = tmp_path / "step" / "layer_03-model_01-model_states.pt"
    tensors = torch.load(path, weights_only=True)
    tensors["input_layernorm.weight"] += 0.5
    torch.save(tensors, path)
    assert (
        from_megatron.main([str(tmp_path / "step"), str(tmp_path / "out"), "--model", str(model_file(tmp_path, model))])
        == 0
    )
    assert (
        "copies of 1 weights differ, those of layers.0.attention_norm.weight by up to 5.0e-01"
        in capsys.readouterr().out
    )


class Trap:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_faults_are_named(tmp_path: Path, capsys: Any) -> None:
    model = small_model("bloom")
    settings = model.model_dump(mode="json")
    some = "layer_04-model_00-model_states.pt"

    def tried(change: Any, **other: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        write_layers(folder / "step", model, 2)
        change(folder / "step")
        given = model_file(folder, ModelConfig.model_validate({**settings, **other}))
        assert from_megatron.main([str(folder / "step"), str(folder / "out"), "--model", str(given)]) == 2
        assert not (folder / "out").exists()
        return str(capsys.readouterr().err)

    def nothing(folder: Path) -> None: ...

    def without_a_tensor(folder: Path) -> None:
        tensors = torch.load(folder / some, weights_only=True)
        del tensors["mlp.dense_4h_to_h.bias"]
        torch.save(tensors, folder / some)

    def not_finite(folder: Path) -> None:
        tensors = torch.load(folder / some, weights_only=True)
        tensors["mlp.dense_h_to_4h.weight"][0, 0] = float("nan")
        torch.save(tensors, folder / some)

    assert f"{some}: missing" in tried(lambda folder: (folder / some).unlink())
    assert "no layer_NN-model_TT" in tried(lambda folder: [path.unlink() for path in folder.iterdir()])
    assert "damaged" in tried(lambda folder: (folder / some).write_bytes(b"PK"))
    assert "refused" in tried(lambda folder: torch.save(Trap(), folder / some))
    assert "nothing else" in tried(lambda folder: torch.save([1], folder / some))
    assert f"{some}: no tensor 'mlp.dense_4h_to_h.bias'" in tried(without_a_tensor)
    assert "layers.1.mlp.up.weight: some of its values are not finite" in tried(not_finite)
    assert "files of 4 layers, but a model of 3 blocks has 5" in tried(nothing, layers=3)
    assert "has shape (144, 32), but embedding.weight of the model's settings has (150, 32)" in tried(
        nothing, vocabulary_size=150
    )
    assert "model.tied_embedding: False, but the model in" in tried(nothing, tied_embedding=False)
    assert "model.block: parallel is not in Megatron-DeepSpeed" in tried(nothing, block="parallel")
    assert "layer 0 has a tensor 'word_embeddings.norm.bias', which" in tried(nothing, norm="rms")
    assert "self_attention.query_key_value.weight of layer 1 has shape (96, 32)" in tried(nothing, key_value_heads=2)
    assert from_megatron.main([str(tmp_path), str(tmp_path / "out"), "--model", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
