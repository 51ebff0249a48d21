"""Distributed checkpoints of Megatron-LM without megatron-core, which judges in `tests/distributed/test_megatron.py`:
there and back bit by bit; settings from arguments; what is damaged, hostile or not computed is refused by name."""

from __future__ import annotations

import json
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint.metadata import Metadata

from pretrain.checkpoint.load import TRAINING_ONLY
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import ModelConfig
from pretrain.families.registry import FAMILIES
from tests.unit.pretrain.families.small import SMALL, InMemory, small_model
from tools.__main__ import main as altiplano
from tools.megatron.arguments import ABSENT, arguments_of, check_expressible, model_settings
from tools.megatron.from_megatron import import_megatron
from tools.megatron.to_megatron import export_distributed

COMPUTED = (
    "llama",
    "llama-tied",
    "llama-linear",
    "gpt3",
    "qwen2",
    "qwen3",
    "chatglm",
    "gpt_neox-sequential",
    "baichuan",
)
REFUSED = {
    "bloom": "positions: alibi",
    "llama-3.1": "rope_scaling: llama3",
    "llama-yarn": "rope_scaling: yarn",
    "llama-longrope": "rope_scaling: longrope",
    "llama-ntk": "rope_scaling: ntk",
    "mistral": "sliding_window: 20",
    "gemma2": "sliding_window: 20",
    "olmo2": "query_key_norm: all_heads",
    "gpt_neox": "block: parallel_two_norms",
    "opt": "activation: relu",
    "palm": "norm: layer_without_bias",
    "baichuan-alibi": "positions: alibi",
    "baichuan2": "normalised_head: True",
    "glm": "positions: learned_2d",
    "glm-deepnorm": "block: deepnorm",
}


@pytest.mark.parametrize("name", COMPUTED)
def test_there_and_back_is_the_same_bit_by_bit(name: str, tmp_path: Path) -> None:
    """The settings too; by the commands, a second time from what was imported."""
    model = small_model(name)
    before = InMemory(model)
    export_distributed(before, tmp_path / "theirs", dtype="float32")
    assert altiplano(["convert", "from-megatron", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert altiplano(["convert", "to-megatron", str(tmp_path / "ours"), str(tmp_path / "again")]) == 0
    assert altiplano(["convert", "from-megatron", str(tmp_path / "again/release"), str(tmp_path / "ours-again")]) == 0
    for folder in ("ours", "ours-again"):
        found = CheckpointReader(tmp_path / folder)
        assert ModelConfig.model_validate(found.config["model"]) == model
        assert set(found.names()) == set(before.names())
        for weight in found.names():
            assert torch.equal(found.tensor(weight), before.tensor(weight)), weight


@pytest.mark.parametrize("name", REFUSED)
def test_what_megatron_does_not_compute_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"model.{REFUSED[name]}")):
        export_distributed(InMemory(small_model(name)), tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"family": "llama", "query_key_norm": "per_head", "norm": "layer"}, "query_key_norm: per_head"),
        ({"family": "llama", "activation": "gelu_tanh"}, "activation: gelu_tanh"),
        ({"family": "llama", "biases": True, "query_key_value_biases": False}, "biases: True"),
    ],
)
def test_settings_that_megatron_has_only_with_others(changes: dict[str, Any], told: str) -> None:
    settings = small_model("llama").model_dump(mode="json") | changes
    with pytest.raises(ValueError, match=f"model.{told} is in Megatron-LM only where"):
        check_expressible(ModelConfig.model_validate(settings))


def test_every_small_model_is_computed_or_refused() -> None:
    computed = []
    for name in SMALL:
        try:
            check_expressible(small_model(name))
            computed.append(name)
        except ValueError as error:
            assert re.match(r"model\.\w+: ", str(error))
    assert sorted(computed) == sorted(COMPUTED)


MEGATRON_345M = Namespace(
    num_layers=24,
    hidden_size=1024,
    ffn_hidden_size=4096,
    num_attention_heads=16,
    kv_channels=64,
    group_query_attention=False,
    num_query_groups=1,
    max_position_embeddings=1024,
    position_embedding_type="learned_absolute",
    rotary_base=10000,
    rotary_percent=1.0,
    rotary_interleaved=False,
    rotary_seq_len_interpolation_factor=None,
    normalization="LayerNorm",
    norm_epsilon=1e-5,
    apply_layernorm_1p=False,
    swiglu=False,
    bias_gelu_fusion=True,
    add_bias_linear=True,
    untie_embeddings_and_output_weights=False,
    num_experts=None,
    padded_vocab_size=50304,
    vocab_size=None,
    tensor_model_parallel_size=8,
)
"""Arguments after `examples/gpt3` of Megatron-LM, as `parse_args` and `validate_args` leave them."""
MEGATRON_LLAMA_3 = Namespace(
    **vars(MEGATRON_345M)
    | {
        "group_query_attention": True,
        "num_query_groups": 8,
        "position_embedding_type": "rope",
        "rotary_base": 500000,
        "use_rope_scaling": True,
        "rope_scaling_factor": 32.0,
        "normalization": "RMSNorm",
        "swiglu": True,
        "add_bias_linear": False,
        "untie_embeddings_and_output_weights": True,
    }
)


@pytest.mark.parametrize(
    ("given", "family", "expected"),
    [
        (
            MEGATRON_345M,
            "gpt3",
            {
                "positions": "learned",
                "norm": "layer",
                "activation": "gelu_tanh",
                "biases": True,
                "tied_embedding": True,
            },
        ),
        (
            Namespace(**vars(MEGATRON_345M) | {"bias_gelu_fusion": False, "kv_channels": 128}),
            "llama",
            {"activation": "gelu", "attention_head_size": 128, "vocabulary_size": 50304, "key_value_heads": 16},
        ),
        (
            MEGATRON_LLAMA_3,
            "llama",
            {"positions": "rotary", "rope_theta": 5e5, "key_value_heads": 8, "activation": "swiglu", "biases": False},
        ),
        (Namespace(**vars(MEGATRON_LLAMA_3) | {"qk_layernorm": True}), "qwen3", {"query_key_norm": "per_head"}),
        (Namespace(**vars(MEGATRON_LLAMA_3) | {"add_qkv_bias": True}), "qwen2", {"query_key_value_biases": True}),
        (
            Namespace(
                **vars(MEGATRON_LLAMA_3) | {"rotary_interleaved": True, "rotary_percent": 0.5, "add_qkv_bias": True}
            ),
            "chatglm",
            {"positions": "rotary_interleaved", "rotary_share": 0.5},
        ),
    ],
)
def test_settings_of_arguments(given: Namespace, family: str, expected: dict[str, Any]) -> None:
    model = ModelConfig.model_validate(model_settings(vars(given), "args"))
    assert model.family == family
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize("given", [MEGATRON_345M, MEGATRON_LLAMA_3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_setting_is_left_to_a_family(family: str, given: Namespace) -> None:
    """Of those that decide what a model computes."""
    settings = model_settings(vars(given), "args")
    expected, found = (ModelConfig.model_validate(settings | {"family": name}) for name in ("llama", family))
    for setting in set(ModelConfig.model_fields) - TRAINING_ONLY:
        assert getattr(found, setting) == getattr(expected, setting), setting


def test_llama_3s_scaling() -> None:
    model = ModelConfig.model_validate(model_settings(vars(MEGATRON_LLAMA_3), "args"))
    assert model.rope_scaling is not None
    assert model.rope_scaling.model_dump(exclude_none=True) == {
        "kind": "llama3",
        "factor": 32.0,
        "low_frequency_factor": 1.0,
        "high_frequency_factor": 4.0,
        "original_positions": 8192,
    }


@pytest.mark.parametrize("name", ABSENT)
def test_arguments_of_what_we_do_not_compute(name: str) -> None:
    with pytest.raises(ValueError, match=f"common.pt: args: {name}: 7: only .* can be computed here"):
        model_settings({**vars(MEGATRON_345M), name: 7}, "common.pt: args")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_layers": None}, "num_layers: None: must be a number above zero"),
        ({"padded_vocab_size": True}, "padded_vocab_size: True: must be a number above zero"),
        ({"position_embedding_type": "yarn"}, "position_embedding_type: 'yarn': only rope or learned_absolute"),
        ({"normalization": "L2Norm"}, "normalization: 'L2Norm': only RMSNorm or LayerNorm"),
        ({"qk_layernorm": True}, "qk_layernorm: True: with LayerNorm it cannot be computed here"),
        (
            {"position_embedding_type": "rope", "use_rope_scaling": True, "rotary_seq_len_interpolation_factor": 4},
            "rotary_seq_len_interpolation_factor: 4: cannot be computed here beside use_rope_scaling",
        ),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        model_settings({**vars(MEGATRON_345M), **changes}, "args")


def test_the_vocabulary_is_theirs_unless_it_is_given(tmp_path: Path) -> None:
    """Rows that fill their table up take part in their softmax."""
    model = small_model("llama")
    export_distributed(InMemory(model), tmp_path / "theirs", dtype="float32")
    (tmp_path / "theirs/release/altiplano.json").unlink()
    import_megatron(tmp_path / "theirs", tmp_path / "whole", None, None)
    import_megatron(tmp_path / "theirs", tmp_path / "cut", model, None)
    whole, cut = (CheckpointReader(tmp_path / name).tensor("head.weight") for name in ("whole", "cut"))
    assert whole.shape == (256, 32) and not whole[130:].any()
    assert torch.equal(whole[:130], cut) and torch.equal(cut, InMemory(model).tensor("head.weight"))


def test_their_vocabulary_may_be_filled_up_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a multiple of 128 times their tensor degree."""
    before = InMemory(small_model("llama"))
    with monkeypatch.context() as theirs:
        theirs.setattr(ModelConfig, "padded_vocabulary_size", lambda *_: 1024)
        export_distributed(before, tmp_path / "theirs", dtype="float32")
    import_megatron(tmp_path / "theirs", tmp_path / "ours", None, None)
    for name in ("embedding.weight", "head.weight"):
        assert torch.equal(CheckpointReader(tmp_path / "ours").tensor(name), before.tensor(name))


def test_half_precision(tmp_path: Path) -> None:
    before = InMemory(small_model("llama"))
    export_distributed(before, tmp_path / "theirs", dtype="bfloat16")
    import_megatron(tmp_path / "theirs", tmp_path / "ours", None, None)
    found = CheckpointReader(tmp_path / "ours")
    assert all(torch.equal(found.tensor(name), before.tensor(name).bfloat16().float()) for name in found.names())
    before.tensors["layers.1.mlp.down.weight"] = torch.full((32, 48), 7e4)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down\.weight: its largest value, 7e\+04, does not fit"):
        export_distributed(before, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_the_export_tells_what_megatron_does_not_take_from_it(tmp_path: Path, capsys: Any) -> None:
    model = small_model("qwen3")
    export_distributed(InMemory(model), tmp_path / "theirs", dtype="float32")
    import_megatron(tmp_path / "theirs", tmp_path / "ours", None, None)
    assert altiplano(["convert", "to-megatron", str(tmp_path / "ours"), str(tmp_path / "again")]) == 0
    assert "take them from a checkpoint: --norm-epsilon 1e-06 --qk-layernorm\n" in capsys.readouterr().out
    assert (tmp_path / "again" / "latest_checkpointed_iteration.txt").read_text() == "release"


class Trap:
    """A pickle that makes a file if it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export_distributed(InMemory(small_model("llama")), tmp_path / "theirs", dtype="float32")
    return tmp_path / "theirs"


def refused(exported: Path, capsys: Any, *arguments: str) -> str:
    out = exported.parent / "out"
    assert altiplano(["convert", "from-megatron", str(exported), str(out), *arguments]) == 2
    assert not out.exists()
    return str(capsys.readouterr().err)


def changed_metadata(step: Path, change: Callable[[Metadata], Any]) -> None:
    path = step / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def changed_arguments(step: Path, **changes: Any) -> None:
    content = torch.load(step / "common.pt", weights_only=False)
    content["args"] = Namespace(**vars(content["args"]) | changes)
    torch.save(content, step / "common.pt")


def other_bytes(step: Path, name: str, start: int, count: int) -> None:
    content = bytearray((step / name).read_bytes())
    content[start : start + count] = bytes(count)
    (step / name).write_bytes(content)


def move_chunk(metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata["output_layer.weight"]
    entry.chunks[0].sizes = torch.Size([255, 32])  # type: ignore[union-attr]


def renamed_file(metadata: Metadata) -> None:
    for place in metadata.storage_data.values():
        place.relative_path = "../__0_0.distcp"


def of_bytes(metadata: Metadata) -> None:
    metadata.state_dict_metadata["output_layer.weight"].properties.dtype = torch.int8  # type: ignore[union-attr]


def without(key: str) -> Callable[[Metadata], Any]:
    return lambda metadata: metadata.state_dict_metadata.pop(key)


def one_more(metadata: Metadata) -> None:
    metadata.state_dict_metadata["decoder.layers.mlp.router.weight"] = metadata.state_dict_metadata[
        "output_layer.weight"
    ]


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("no shard", lambda step: (step / "__0_0.distcp").unlink(), "release/__0_0.distcp: missing"),
    (
        "truncated",
        lambda step: (step / "__0_0.distcp").write_bytes((step / "__0_0.distcp").read_bytes()[:-100]),
        "release/__0_0.distcp: truncated: ",
    ),
    ("zeros", lambda step: other_bytes(step, "__0_0.distcp", 20_000, 60_000), ": damaged: "),
    (
        "no metadata",
        lambda step: (step / ".metadata").unlink(),
        "release/.metadata: missing; the save was not finished",
    ),
    (
        "half of the metadata",
        lambda step: (step / ".metadata").write_bytes((step / ".metadata").read_bytes()[:900]),
        "release/.metadata: damaged",
    ),
    ("other metadata", lambda step: (step / ".metadata").write_bytes(pickle.dumps([1])), "it is not the metadata of"),
    ("no format", lambda step: (step / "metadata.json").unlink(), "release/metadata.json: missing"),
    ("no JSON", lambda step: (step / "metadata.json").write_text("{"), "release/metadata.json: damaged"),
    (
        "zarr",
        lambda step: (step / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"})),
        "sharded_backend: 'zarr' is not read, only 'torch_dist'",
    ),
    ("no common", lambda step: (step / "common.pt").unlink(), "release/common.pt: missing"),
    ("no entries", lambda step: torch.save([1], step / "common.pt"), "common.pt: must contain entries by name"),
    (
        "no arguments",
        lambda step: torch.save({"iteration": 1}, step / "common.pt"),
        "common.pt: args: missing; give the model's settings with --model",
    ),
    (
        "wrong arguments",
        lambda step: torch.save({"args": 3}, step / "common.pt"),
        "args: int: must be arguments by name",
    ),
    (
        "experts",
        lambda step: changed_arguments(step, num_experts=8),
        "common.pt: args: num_experts: 8: only None or 0 can be computed here",
    ),
    (
        "wider",
        lambda step: changed_arguments(step, ffn_hidden_size=52),
        "decoder.layers.mlp.linear_fc1.weight has shape (2, 96, 32), but layers.0.mlp.gate_up.weight of the model's "
        "settings needs (2, 104, 32)",
    ),
    (
        "more layers",
        lambda step: changed_arguments(step, num_layers=3),
        "layer_norm_weight has shape (2, 32), but layers.0.attention_norm.weight of the model's settings needs (3, 32)",
    ),
    (
        "tied",
        lambda step: changed_arguments(step, untie_embeddings_and_output_weights=False),
        "a tensor 'output_layer.weight', which the model's settings do not have",
    ),
    (
        "odd heads",
        lambda step: changed_arguments(step, num_query_groups=3),
        "common.pt: args: key_value_heads: 3 must divide attention_heads 4 (by the names of our settings)",
    ),
    (
        "no norm",
        lambda step: changed_metadata(step, without("decoder.final_layernorm.weight")),
        "no tensor 'decoder.final_layernorm.weight', which final_norm.weight needs",
    ),
    (
        "one more",
        lambda step: changed_metadata(step, one_more),
        "a tensor 'decoder.layers.mlp.router.weight', which the model's settings do not have",
    ),
    (
        "a hole",
        lambda step: changed_metadata(step, move_chunk),
        "output_layer.weight: damaged: its chunks do not cover",
    ),
    ("outside", lambda step: changed_metadata(step, renamed_file), "'../__0_0.distcp': a file outside of the folder"),
    ("bytes", lambda step: changed_metadata(step, of_bytes), "output_layer.weight: dtype torch.int8 is not supported"),
    (
        "no export of ours",
        lambda step: (step / "altiplano.json").write_text("{}"),
        "release/altiplano.json: damaged: 'family'; without the file, the arguments alone are read",
    ),
    (
        "a step that is gone",
        lambda step: (step.parent / "latest_checkpointed_iteration.txt").write_text("20\n"),
        "latest_checkpointed_iteration.txt: 'iter_0000020': no such folder beside it",
    ),
]


@pytest.mark.parametrize(("change", "told"), [damage[1:] for damage in DAMAGE], ids=[damage[0] for damage in DAMAGE])
def test_damage_is_named(change: Callable[[Path], Any], told: str, exported: Path, capsys: Any) -> None:
    change(exported / "release")
    assert told in refused(exported, capsys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {},
            "no tensor 'optimizer.state.exp_avg.embedding.word_embeddings.weight': the optimizer's state was not saved",
        ),
        ({"optimizer": {"optimizer": {"param_groups": [{"lr": 1.0}]}}}, "optimizer: no number of updates"),
        ({"optimizer": None}, "optimizer: no number of updates"),
    ],
)
def test_moments_that_are_not_there(change: dict[str, Any], told: str, exported: Path, capsys: Any) -> None:
    content = torch.load(exported / "release/common.pt", weights_only=False)
    content["optimizer"] = {"optimizer": {"param_groups": [{"step": 7}], "state": {}}}
    torch.save(content | change, exported / "release/common.pt")
    assert told in refused(exported, capsys, "--moments")


def hostile_metadata(step: Path, trap: Trap) -> None:
    changed_metadata(step, lambda metadata: setattr(metadata, "planner_data", trap))


def hostile_common(step: Path, trap: Trap) -> None:
    changed_arguments(step, tokenizer=trap)


def hostile_chunk(step: Path, trap: Trap) -> None:
    torch.save(trap, step / "__0_1.distcp")
    size = (step / "__0_1.distcp").stat().st_size

    def change(metadata: Metadata) -> None:
        for index, place in metadata.storage_data.items():
            if index.fqn == "output_layer.weight":
                place.relative_path, place.offset, place.length = "__0_1.distcp", 0, size

    changed_metadata(step, change)


@pytest.mark.parametrize("spoil", [hostile_metadata, hostile_common, hostile_chunk])
def test_no_pickle_runs_code(spoil: Callable[[Path, Trap], None], exported: Path, capsys: Any) -> None:
    touched = exported.parent / "touched"
    spoil(exported / "release", Trap(touched))
    assert "damaged" in refused(exported, capsys)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rope_theta": 10000.0}, "model.rope_theta: 10000.0 in the file of --model, but "),
        ({"norm_epsilon": 1e-6}, "model.norm_epsilon: 1e-06 in the file of --model, but "),
        ({"attention_head_size": 16}, "model.attention_head_size: 16 in the file of --model, but "),
        ({"vocabulary_size": 300}, "model.vocabulary_size: 300 in the file of --model, but "),
        ({"sliding_window": 9}, "model.sliding_window: 9 is not in Megatron-LM, only None"),
    ],
)
def test_a_file_of_settings_must_agree(changes: dict[str, Any], told: str, exported: Path, capsys: Any) -> None:
    given = exported.parent / "model.yaml"
    settings = {**SMALL["llama"], **small_model("llama").model_dump(mode="json")}
    given.write_text(yaml.safe_dump({"model": settings | changes}))
    assert told in refused(exported, capsys, "--model", str(given))


def test_a_file_of_settings_stands_in_for_arguments(exported: Path) -> None:
    torch.save({"iteration": 1}, exported / "release" / "common.pt")
    model = small_model("llama")
    import_megatron(exported, exported.parent / "ours", model, None)
    assert CheckpointReader(exported.parent / "ours").config["model"] == model.model_dump(mode="json")


def test_a_folder_of_neither_kind(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    told = refused(tmp_path / "empty", capsys)
    assert "empty: no metadata.json of a distributed checkpoint" in told and "--model" in told


def test_every_module_of_both_specs_has_its_extra_state(exported: Path) -> None:
    """Keys that a model with Transformer Engine's layers asks its loader for, without which it stops."""
    metadata = pickle.loads((exported / "release" / ".metadata").read_bytes())
    modules = ("self_attention.core_attention", "self_attention.linear_qkv", "self_attention.q_layernorm")
    modules += ("self_attention.k_layernorm", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    expected = {f"decoder.layers.{module}._extra_state/shard_{i}_2" for module in modules for i in (0, 1)}
    expected.add("decoder.final_layernorm._extra_state/shard_0_1")
    assert {key for key in metadata.state_dict_metadata if "_extra_state" in key} == expected


def test_arguments_hold_what_use_checkpoint_args_takes() -> None:
    """Names that `load_args_from_checkpoint` of Megatron-LM's `checkpointing.py` sets for a dense model."""
    found = vars(arguments_of(small_model("qwen2")))
    assert {
        *("num_layers", "hidden_size", "ffn_hidden_size", "seq_length", "num_attention_heads", "num_query_groups"),
        *("group_query_attention", "kv_channels", "max_position_embeddings", "position_embedding_type"),
        *("add_position_embedding", "rotary_base", "rotary_percent", "rotary_interleaved", "add_bias_linear"),
        *("add_qkv_bias", "squared_relu", "swiglu", "untie_embeddings_and_output_weights", "apply_layernorm_1p"),
        *("normalization", "apply_query_key_layer_scaling", "attention_dropout", "hidden_dropout"),
        *("padded_vocab_size", "ckpt_format", "tensor_model_parallel_size", "pipeline_model_parallel_size"),
    } <= set(found)
    assert found["padded_vocab_size"] == 256 and found["num_query_groups"] == 2
