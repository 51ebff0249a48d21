"""Each family under tensor, pipeline and data parallelism equals itself in one process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.families.mapping import parameter_count
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "key_value_heads": 2},
    "gpt3": {"family": "gpt3"},
    # One key/value head for two tensor ranks, and a head size that is not hidden_size / attention_heads.
    "palm": {
        "family": "palm",
        "key_value_heads": 1,
        "attention_head_size": 16,
        "logit_scale": 0.2,
        "embedding_learning_rate_ratio": 4.0,
    },
    # Six heads: no power of two.
    "bloom": {"family": "bloom", "attention_heads": 6, "key_value_heads": 6, "hidden_size": 48},
    "baichuan-alibi": {"family": "baichuan", "positions": "alibi", "normalised_head": True, "maximum_z_loss": 2e-4},
    "glm": {"family": "glm", "embedding_gradient_scale": 0.1},
    "glm-deepnorm": {
        "family": "glm",
        "block": "deepnorm",
        "positions": "rotary",
        "activation": "geglu",
        "initialisation": "deepnorm",
    },
}
# Attention and block in other forms. A single key/value head for two tensor ranks, whose keys have norms.
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3": {"family": "qwen3", "key_value_heads": 1, "attention_head_size": 16},
    "olmo2": {"family": "olmo2", "key_value_heads": 1},
    "qwen2": {"family": "qwen2", "key_value_heads": 1, "sliding_window": 5, "full_attention_first": 2},
    "mistral": {"family": "mistral", "key_value_heads": 2, "sliding_window": 5},
    "gemma2": {
        "family": "gemma2",
        "key_value_heads": 1,
        "attention_head_size": 16,
        "sliding_window": 5,
        "attention_scale": 24**-0.5,
        "attention_soft_cap": 0.5,
        "logit_soft_cap": 1.0,
    },
    "gemma3": {
        "family": "gemma3",
        "key_value_heads": 1,
        "attention_head_size": 16,
        "sliding_window": 5,
        "full_attention_every": 2,
        "attention_scale": 24**-0.5,
    },
    "gpt_neox": {"family": "gpt_neox", "key_value_heads": 4},
    "opt": {"family": "opt", "key_value_heads": 4},
    "chatglm": {"family": "chatglm", "key_value_heads": 2},
}
BLANKS = {"kind": "blank_infilling", "mask_token": 1, "long_mask_token": 2, "start_token": 3, "end_token": 4}
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    # Both kinds of blanks in a batch: samples differ in how many tokens they predict.
    "glm-blanks": ("glm", {**BLANKS, "short_span_share": 0.5}),
    "glm-deepnorm-blanks": ("glm-deepnorm", {**BLANKS, "short_span_share": 0.5}),
    "bloom-prefix": ("bloom", {"kind": "prefix"}),
    # Learned positions, so that their reset shows.
    "gpt3-documents": ("gpt3", {"separate_documents": True}),
    # Windows within documents.
    "mistral-documents": ("mistral", {"separate_documents": True}),
    "gemma2-documents": ("gemma2", {"separate_documents": True}),
}
TOPOLOGIES = [
    Topology(pipe=1, data=1, tensor=2),
    Topology(pipe=2, data=2, tensor=1),
    Topology(pipe=2, data=2, tensor=2),
]
TOLERANCE = 1e-5
"""Largest relative difference of any one parameter, fp32, in the Euclidean norm: sums in another order."""


def config_of(name: str, **changes: Any) -> TrainConfig:
    family, objective = OBJECTIVES.get(name, (name, {"kind": "causal"}))
    model = {f"model__{key}": value for key, value in {**FAMILIES, **VARIANTS}[family].items()}
    # An epsilon of the gradients' size, see test_parity.
    optimizer = {"learning_rate": 1e-2, "epsilon": 1e-2, "gradient_clipping": 0.3}
    return cases.tiny_config(objective=objective, optimizer=optimizer, **{**model, **changes})


@cache
def trained(name: str, topology: Topology, fault: str = "", **changes: Any) -> dict[str, Any]:
    config = config_of(name, **changes)
    results: list[dict[str, Any]] = run_processes(topology.world_size, cases.train, config, topology, 2, fault)
    return results[0]


@pytest.mark.parametrize("name", ["gpt3", "palm", "bloom", "glm-blanks"])
def test_sequence_parallel_equals_one_process(name: str) -> None:
    """Learned positions, biases after a sum, a norm after the embedding, a tied head, keys that ranks share."""
    topology = Topology(pipe=2, data=1, tensor=2)
    held_to_one_process(name, trained(name, topology, "", parallel__sequence=True, parallel__tensor=2))


# LLaMA itself is held in test_parity.
NAMES = [name for name in [*FAMILIES, *OBJECTIVES] if name != "llama"]


@pytest.mark.parametrize("name", NAMES)
def test_equals_one_process(name: str) -> None:
    held_to_one_process(name, trained(name, TOPOLOGIES[-1]))


def test_key_value_heads_on_more_ranks_than_there_are() -> None:
    held_to_one_process("llama", trained("llama", Topology(pipe=1, data=1, tensor=4)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("topology", TOPOLOGIES[:-1], ids=str)
def test_equals_one_process_under_fewer_degrees(name: str, topology: Topology) -> None:
    held_to_one_process(name, trained(name, topology))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_equals_one_process(name: str) -> None:
    if name in ("qwen3", "olmo2"):  # its norms are sums over the tensor axis without sequence parallelism too
        held_to_one_process(name, trained(name, Topology(pipe=1, data=1, tensor=2)))
    topology = Topology(pipe=2, data=1, tensor=2)
    held_to_one_process(name, trained(name, topology, "", parallel__sequence=True, parallel__tensor=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_under_every_topology_equals_one_process(name: str) -> None:
    for topology in TOPOLOGIES:
        held_to_one_process(name, trained(name, topology))
    topology = Topology(pipe=1, data=1, tensor=2)
    for recomputation in ("selective", "full"):
        held_to_one_process(name, trained(name, topology, "", parallel__tensor=2, recomputation=recomputation))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("qwen3", "partial gradients are not summed"),
        ("olmo2", "norms of all heads see one rank's"),
        ("olmo2", "the sum's gradient is one rank's"),
    ],
)
def test_a_fault_in_the_norms_of_heads_is_seen(name: str, fault: str) -> None:
    try:
        ours = trained(name, Topology(1, 1, 2), fault)
    except RuntimeError as error:  # copies that drift apart are found while they are gathered
        assert "differs" in str(error)
        return
    assert worst_difference(ours["gradients"], trained(name, Topology(1, 1, 1))["gradients"])[0] > TOLERANCE


def held_to_one_process(name: str, ours: dict[str, Any]) -> None:
    held_to(trained(name, Topology(1, 1, 1)), ours)


def held_to(reference: dict[str, Any], ours: dict[str, Any]) -> None:
    for key in ("loss", "gradient_norm", "evaluation"):
        np.testing.assert_allclose(ours[key], reference[key], rtol=1e-6, err_msg=key)
    assert worst_difference(ours["initial"], reference["initial"])[0] == 0.0
    for key in ("gradients", "update", "weights"):
        weights = reference["weights"] if key == "update" else None
        difference, parameter = worst_difference(ours[key], reference[key], weights)
        tolerance = 10 * TOLERANCE if key == "update" else TOLERANCE
        assert difference < tolerance, f"{key} of {parameter}: {difference:.1e}"


THIRDS: dict[str, Any] = {
    "model__hidden_size": 48,
    "model__attention_heads": 6,
    "model__attention_head_size": 8,
    "model__feed_forward_size": 66,
}
"""Sizes for three tensor ranks: 250 entries are padded to 384 there, to 256 elsewhere, and a single key/value head of 8
rows lies on them in parts of 2, 3 and 3."""


@pytest.mark.parametrize(("name", "heads"), [("gpt3", 6), ("palm", 1), ("llama", 3)])
def test_degrees_that_do_not_divide_the_vocabulary(name: str, heads: int) -> None:
    sizes = {**THIRDS, "model__key_value_heads": heads}
    reference = trained(name, Topology(1, 1, 1), **sizes)
    for sequence in (False, True):
        parallel = {"parallel__tensor": 3, "parallel__sequence": sequence}
        held_to(reference, trained(name, Topology(1, 1, 3), **sizes, **parallel))


@pytest.mark.parametrize(("name", "heads"), [("gpt3", 6), ("palm", 1)])
def test_a_checkpoint_moves_between_paddings(name: str, heads: int, tmp_path: Path) -> None:
    config = config_of(name, **THIRDS, model__key_value_heads=heads)
    before = None
    for step, degree in enumerate((3, 2, 1, 3)):
        topology = Topology(1, 1, degree)
        (run, *_) = run_processes(degree, cases.train_in_parts, config, topology, str(tmp_path), step, step + 1)
        if before is not None:
            for parameter, weight in before.items():
                np.testing.assert_array_equal(run["restored"][parameter], weight, err_msg=parameter)
        before = run["weights"]


def test_the_embedding_takes_larger_steps_and_decays_as_the_others() -> None:
    config = config_of("palm")
    lost = config.optimizer.learning_rate * config.optimizer.weight_decay

    def learnt(name: str, run: dict[str, Any]) -> np.ndarray:
        """What AdamW's step was, without the decay."""
        whole: np.ndarray = run["update"][name] + run["initial"][name] * lost
        return whole

    ours = trained("palm", Topology(1, 1, 1))
    plain = trained("palm", Topology(1, 1, 1), model__embedding_learning_rate_ratio=1.0)
    for name in ("embedding.weight", "layers.1.mlp.down.weight"):
        ratio = 4.0 if name == "embedding.weight" else 1.0
        np.testing.assert_allclose(learnt(name, ours), ratio * learnt(name, plain), rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_last_stage_of_a_tied_head_alone(precision: str) -> None:
    """With a large vocabulary the last stage has only norm and head, whose weights are counted on the first stage."""
    model = {f"model__{key}": value for key, value in FAMILIES["gpt3"].items()}
    config = cases.tiny_config(precision=precision, model__vocabulary_size=20_000, **model)
    (reference, *_) = run_processes(1, cases.train, config, Topology(1, 1, 1), 2)
    (ours, *_) = run_processes(2, cases.train, config, Topology(2, 1, 1), 2)
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(ours[key], reference[key], rtol=1e-6 if precision == "fp32" else 1e-3, err_msg=key)


@pytest.mark.parametrize(
    ("fault", "topology", "broken"),
    [
        ("tied gradients are not summed", Topology(2, 1, 1), "gradients"),
        ("tied weights count on each stage", Topology(2, 1, 1), "gradient_norm"),
        ("shared heads learn from one rank", Topology(1, 1, 2), "gradients"),
    ],
)
def test_a_fault_is_seen(fault: str, topology: Topology, broken: str) -> None:
    reference = trained("palm", Topology(1, 1, 1))
    try:
        ours = trained("palm", topology, fault)
    except RuntimeError as error:  # copies that drift apart are found while they are gathered
        assert "differs" in str(error)
        return
    if broken == "gradient_norm":
        assert abs(ours[broken][0] / reference[broken][0] - 1) > TOLERANCE
    else:
        assert worst_difference(ours[broken], reference[broken])[0] > TOLERANCE


@pytest.mark.parametrize("name", ["palm", "gpt3"])
def test_tied_weights_are_stored_once_and_fit_any_topology(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    four, one = Topology(2, 1, 2), Topology(1, 1, 1)
    (first, *_) = run_processes(4, cases.train_in_parts, config, four, str(tmp_path), 0, 2)
    reader = CheckpointReader(tmp_path / "step-00000002")
    stored = sum(stop - start for file in reader.index["files"].values() for _, _, start, stop in file["fragments"])
    padding = (config.model.padded_vocabulary_size() - config.model.vocabulary_size) * config.model.hidden_size
    assert stored == parameter_count(config.model) + padding
    (second, *_) = run_processes(1, cases.train_in_parts, config, one, str(tmp_path), 2, 3)
    for parameter, weight in first["weights"].items():
        np.testing.assert_array_equal(second["restored"][parameter], weight, err_msg=parameter)


def test_the_soft_cap_of_the_logits_is_part_of_the_loss() -> None:
    """With logits between -c and c no probability is further than exp(2c) from that of a uniform guess."""
    uniform, cap, one = np.log(250), 1e-3, Topology(1, 1, 1)
    capped, plain = (trained("gemma2", one, "", model__logit_soft_cap=bound) for bound in (cap, None))
    for key in ("loss", "evaluation"):
        assert np.all(np.abs(np.array(capped[key]) - uniform) <= 2 * cap + 1e-6), key
    assert abs(plain["loss"][0] - uniform) > 3 * cap
