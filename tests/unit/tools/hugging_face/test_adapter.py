"""Adapters are PEFT's: logits, loss, gradients, merged weights, in both directions; the rest is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.checkpoint.whole import Adapter, WholeWeights
from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.families.mapping import from_hugging_face
from pretrain.families.registry import format_of
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel
from pretrain.tuning import AdapterConfig, trained_shapes
from tests.unit.pretrain.families.small import InMemory, random_tokens, small_model, without_padding
from tools.__main__ import main as altiplano
from tools.hugging_face import adapter as module
from tools.starting_checkpoint import Beside, write_starting_checkpoint

peft = pytest.importorskip("peft", reason="the judge of adapters: pip install 'altiplano[dev]'")
transformers = pytest.importorskip("transformers")

FAMILIES = ("llama", "llama-tied", "qwen2", "bloom", "gpt3", "palm", "gemma2")
TOLERANCE = 1e-5
"""Largest difference of two logits."""


def write_pair(
    folder: Path,
    family: str,
    trainable: tuple[str, ...] = (),
    settings: AdapterConfig | None = None,
    lively: bool = True,
) -> tuple[Path, Path]:
    """A base with a tokenizer, and a checkpoint of an adapter beside it. Returns both."""
    from tokenizers import Tokenizer, models

    model = small_model(family)
    settings = settings or AdapterConfig(rank=3, alpha=6)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(tokenizer / "tokenizer.json"))
    common: dict[str, Any] = {"data_digest": "none", "tokenizer": tokenizer, "title": "test"}
    common["origin"] = {"from": str(folder / "hf"), "special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(folder / "base", model, InMemory(model).tensor, **common)
    generator = torch.Generator().manual_seed(4)

    def tensor(name: str) -> torch.Tensor:
        shape = shapes[name]
        if name.endswith(".lora.b") and not lively:
            return torch.zeros(shape)
        return (2 * torch.rand(shape, generator=generator) - 1) * (
            0.3 if name.endswith("lora.b") else shape[-1] ** -0.5
        )

    shapes = trained_shapes(model, trainable, settings)
    base = CheckpointReader(folder / "base")
    write_starting_checkpoint(folder / "tuned", model, tensor, beside=Beside(base, settings, trainable), **common)
    return folder / "base", folder / "tuned"


def model_with_adapters(path: Path) -> WholeModel:
    """The checkpoint's model with its adapters beside the weights, in training mode."""
    weights = WholeWeights(CheckpointReader(path))
    whole = WholeModel(weights.model, TensorParallel(group_alone(), torch.float32), weights.adapter_settings)
    own = weights.reader.names()
    with torch.no_grad():
        for name, parameter in whole.named_global_parameters():
            place = weights.reader if name in own else weights.base
            assert place is not None
            tensor = place.tensor(name)
            parameter.zero_()
            parameter[: len(tensor)].copy_(tensor)
            parameter.requires_grad_(name in own)
    return whole


def peft_model(folder: Path, *, trainable: bool = False) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    return peft.PeftModel.from_pretrained(base, folder / "adapter", is_trainable=trainable)


def export(folder: Path) -> None:
    assert altiplano(["convert", "to-hf", str(folder / "base"), str(folder / "hf")]) == 0
    assert altiplano(["convert", "to-hf", str(folder / "tuned"), str(folder / "merged")]) == 0
    assert altiplano(["convert", "to-hf", str(folder / "tuned"), str(folder / "adapter"), "--adapter"]) == 0


def logits_differ(folder: Path) -> tuple[float, float]:
    """Largest difference of PEFT's logits to ours, with adapters beside the weights and merged."""
    theirs = peft_model(folder).eval()
    model = ModelConfig.model_validate(CheckpointReader(folder / "base").config["model"])
    tokens = random_tokens(model, 40)
    size = model.vocabulary_size
    with torch.no_grad():
        expected = theirs(tokens).logits[..., :size]
        beside = model_with_adapters(folder / "tuned")(tokens).transpose(0, 1)[..., :size]
    merged = load_single_process_model(folder / "tuned")(tokens)
    return float((beside - expected).abs().max()), float((merged - expected).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_merged_weights_are_pefts(tmp_path: Path, family: str) -> None:
    write_pair(tmp_path, family)
    export(tmp_path)
    assert max(logits_differ(tmp_path)) < TOLERANCE
    theirs = peft_model(tmp_path).merge_and_unload().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(tmp_path / "hf" / "model.safetensors")
    changed = 0
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"{name}: {float((tensor - theirs[name]).abs().max()):.1e}"
        changed += not torch.equal(tensor, base[name])
    assert changed >= 8  # four matrices of two layers at least
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == (family == "gpt3")


@pytest.mark.parametrize(
    "settings",
    [
        AdapterConfig(rank=4, alpha=6, rank_stabilised=True),
        AdapterConfig(rank=2, alpha=5, targets=("query", "value", "down")),
        AdapterConfig(rank=16, alpha=16),
    ],
    ids=["rank-stabilised", "some blocks", "as many as a side"],
)
@pytest.mark.parametrize("family", ["llama", "bloom", "gpt3"])
def test_settings_are_pefts(tmp_path: Path, family: str, settings: AdapterConfig) -> None:
    write_pair(tmp_path, family, settings=settings)
    export(tmp_path)
    assert max(logits_differ(tmp_path)) < TOLERANCE


def test_a_wrong_scale_is_seen(tmp_path: Path) -> None:
    write_pair(tmp_path, "llama")
    export(tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    assert min(logits_differ(tmp_path)) > 1e-2


@pytest.mark.parametrize("family", ["llama", "bloom", "gpt3"])
def test_loss_and_gradients_are_pefts(tmp_path: Path, family: str) -> None:
    """From the same initial weights, and a step later, when B is not zero."""
    for lively in (False, True):
        folder = tmp_path / str(lively)
        _, tuned = write_pair(folder, family, settings=AdapterConfig(rank=3, alpha=6), lively=lively)
        export(folder)
        model = small_model(family)
        tokens = random_tokens(model, 33)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        ours = model_with_adapters(tuned)
        logits = ours(inputs)[..., : model.vocabulary_size]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.T.flatten())
        loss.backward()
        theirs = peft_model(folder, trainable=True)
        expected = F.cross_entropy(theirs(inputs).logits[..., : model.vocabulary_size].flatten(0, 1), targets.flatten())
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
        assert_same_gradients(ours, theirs, WholeWeights(CheckpointReader(tuned)), lively)


def assert_same_gradients(ours: WholeModel, theirs: Any, weights: WholeWeights, lively: bool) -> None:
    gradients = {name: parameter.grad for name, parameter in ours.named_global_parameters() if parameter.requires_grad}
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    settings, compared = weights.adapter_settings, 0
    assert settings is not None
    for name, weight in format_of(weights.model).places(weights.model).items():
        adapter = weights.adapter(name)
        if adapter is None:
            continue
        layer = name.removesuffix(".weight")
        a, b = gradients[f"{layer}.lora.a"], gradients[f"{layer}.lora.b"]
        assert a is not None and b is not None
        ones = Adapter(torch.ones_like(a), torch.ones_like(b), adapter.rows, adapter.scale)
        for own, used in zip(
            module._factors(Adapter(a, b, adapter.rows, adapter.scale), weight, settings.rank),
            module._factors(ones, weight, settings.rank),
            strict=True,
        ):
            grad_a = expected[f"base_model.model.{own.module}.lora_A.default.weight"]
            grad_b = expected[f"base_model.model.{own.module}.lora_B.default.weight"]
            # Where ours are three adapters and theirs is one, the rest of their B is zero here.
            for mine, other in ((own.a, grad_a), (own.b, grad_b * used.b)):
                difference = float((mine - other).norm() / other.norm().clamp_min(1e-9))
                assert difference < 2e-6, f"{own.module}: {difference:.1e}"
            assert bool(grad_a.any()) == lively and grad_b.any()
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize(
    ("family", "trainable"),
    [
        ("llama", ("embedding", "head")),
        ("llama", ("*norm",)),
        *((family, ("embedding",)) for family in ("llama-tied", "qwen2", "bloom", "gpt3", "palm")),
    ],
)
def test_whole_modules_are_pefts(tmp_path: Path, family: str, trainable: tuple[str, ...]) -> None:
    write_pair(tmp_path, family, trainable)
    export(tmp_path)
    assert max(logits_differ(tmp_path)) < TOLERANCE
    theirs = peft_model(tmp_path).merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("family", [*FAMILIES, "baichuan"])
@pytest.mark.parametrize("stabilised", [False, True])
def test_there_and_back(tmp_path: Path, family: str, stabilised: bool) -> None:
    settings = AdapterConfig(rank=3, alpha=6, rank_stabilised=stabilised, dropout=0.05)
    base, tuned = write_pair(tmp_path, family, ("embedding",), settings)
    assert altiplano(["convert", "to-hf", str(tuned), str(tmp_path / "adapter"), "--adapter"]) == 0
    back = tmp_path / "back"
    assert altiplano(["convert", "from-hf", str(tmp_path / "adapter"), str(back), "--base", str(base)]) == 0
    one, other = CheckpointReader(back), CheckpointReader(tuned)
    assert set(one.names()) == set(other.names())
    for name in one.names():
        assert torch.equal(one.tensor(name), other.tensor(name)), name
    found = AdapterConfig.model_validate(one.config["adapter"])
    assert (found.rank, found.dropout, found.rank_stabilised) == (3, 0.05, stabilised)
    assert found.scale == pytest.approx(settings.scale, rel=1e-12)


MADE: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": ["q_proj", "v_proj", "gate_proj"]},
    "qwen2": {"target_modules": "all-linear"},
    "bloom": {"target_modules": ["query_key_value", "dense"]},
    "gpt3": {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
    "palm": {"target_modules": ["q_proj", "o_proj"]},
}


@pytest.mark.parametrize("family", MADE)
def test_an_adapter_that_peft_made(tmp_path: Path, family: str) -> None:
    base, _ = write_pair(tmp_path, family)
    assert altiplano(["convert", "to-hf", str(base), str(tmp_path / "hf")]) == 0
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    settings = peft.LoraConfig(r=4, lora_alpha=7, task_type="CAUSAL_LM", init_lora_weights=False, **MADE[family])
    torch.manual_seed(1)
    made = peft.get_peft_model(hf, settings).eval()
    made.save_pretrained(tmp_path / "made")
    out = tmp_path / "imported"
    assert altiplano(["convert", "from-hf", str(tmp_path / "made"), str(out), "--base", str(base)]) == 0
    model = small_model(family)
    tokens = random_tokens(model, 40)
    with torch.no_grad():
        expected = made(tokens).logits[..., : model.vocabulary_size]
        ours = model_with_adapters(out)(tokens).transpose(0, 1)[..., : model.vocabulary_size]
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(load_single_process_model(out)(tokens), expected, rtol=0, atol=TOLERANCE)
    with torch.no_grad(), made.disable_adapter():
        assert (made(tokens).logits - expected).abs().max() > 1e-2


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return changed


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def another_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q.format("A")], tensors[Q.format("B")] = torch.ones(2, 32), torch.ones(32, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_config(peft_type="LOHA"), "peft_type: 'LOHA' is not supported, only 'LORA'"),
        (change_config(use_dora=True), "use_dora: True is not supported, only False"),
        (change_config(bias="all"), "bias: 'all' is not supported"),
        (change_config(alpha_pattern={"q_proj": 12}), "our adapters have one"),
        (change_tensors(another_rank), "rank 2 at layers.0.attention.query_key_value: query and 3"),
        (change_tensors(lambda tensors: tensors.pop(Q.format("A"))), "q_proj.lora_B.weight: belongs to no weight"),
        (
            change_tensors(lambda tensors: [tensors.pop(Q.format(factor)) for factor in "AB"]),
            "query_key_value has adapters in some layers only",
        ),
        (
            change_tensors(lambda tensors: tensors.update({Q.format("A"): torch.ones(3, 31)})),
            r"q_proj: lora_A has shape (3, 31) and lora_B (32, 3), but the weight has 32 outputs and 32 inputs",
        ),
        (
            change_tensors(lambda tensors: tensors.update({Q.format("A"): torch.full((3, 32), math.nan)})),
            "values that are NaN or infinite",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], message: str
) -> None:
    base, tuned = write_pair(tmp_path, "llama")
    assert altiplano(["convert", "to-hf", str(tuned), str(tmp_path / "adapter"), "--adapter"]) == 0
    change(tmp_path / "adapter")
    capsys.readouterr()
    assert altiplano(["convert", "from-hf", str(tmp_path / "adapter"), str(tmp_path / "out"), "--base", str(base)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = write_pair(tmp_path / "bias", "bloom", ("*.bias",))
    out = str(tmp_path / "out")
    assert altiplano(["convert", "to-hf", str(tuned), out, "--adapter"]) == 2
    assert "which PEFT cannot express; leave --adapter out to export the merged model" in capsys.readouterr().err
    assert altiplano(["convert", "to-hf", str(base), out, "--adapter"]) == 2
    assert "has no adapter; leave --adapter out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        altiplano(["convert", "to-hf", str(tuned), out, "--adapter", "--dtype", "bfloat16"])
    assert "--dtype: has no effect with --adapter" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        altiplano(["convert", "from-hf", str(tmp_path), out, "--base", str(base)])
    assert "--base: has no effect" in capsys.readouterr().err
    assert not Path(out).exists()


def test_rows_of_the_vocabulary_are_exactly_its_own(tmp_path: Path) -> None:
    _, tuned = write_pair(tmp_path, "llama", ("embedding", "head"))
    assert altiplano(["convert", "to-hf", str(tuned), str(tmp_path / "adapter"), "--adapter"]) == 0
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    whole = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items() if "lora" not in name}
    assert {name: tuple(tensor.shape) for name, tensor in whole.items()} == {
        "model.embed_tokens.weight": (130, 32),
        "lm_head.weight": (130, 32),
    }
    model = small_model("llama")
    weight = format_of(model).places(model)["head.weight"]
    head = from_hugging_face("head.weight", weight, whole.__getitem__)
    assert torch.equal(head, CheckpointReader(tuned).tensor("head.weight"))
    assert without_padding(model, "head.weight", head).shape == (130, 32)
