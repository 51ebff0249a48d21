"""An exported checkpoint is what transformers loads; a faulty one is refused with the weight's name."""

from __future__ import annotations

import errno
import json
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from foundation.checksums import HashedFile
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.checkpoint.whole import WholeWeights
from pretrain.config import ModelConfig
from pretrain.families import llama, mapping
from pretrain.families.registry import FAMILIES
from tests.unit.data_prep.conversations.tokenizers import make_tokenizer
from tests.unit.pretrain.families.small import SMALL, InMemory, small_model
from tools import inspect_checkpoint, reshape
from tools.__main__ import main as altiplano
from tools.hugging_face import to_hf as convert
from tools.hugging_face.files import is_finite
from tools.starting_checkpoint import write_starting_checkpoint

MODEL = {
    "family": "llama",
    "vocabulary_size": 130,
    "hidden_size": 32,
    "layers": 2,
    "attention_heads": 4,
    "key_value_heads": 2,
    "feed_forward_size": 48,
    "maximum_positions": 64,
    "rope_theta": 500.0,
    "norm_epsilon": 1e-4,
}


class StandIn:
    """A checkpoint of random weights in memory."""

    step = 0

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.config = {"model": dict(MODEL)}
        self.tensors = {
            name: torch.randn(weight.shape, generator=generator) * 0.3
            for name, weight in llama.FORMAT.places(ModelConfig(**MODEL)).items()  # type: ignore[arg-type]
        }

    def names(self) -> list[str]:
        return list(self.tensors)

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def is_stored(self, name: str) -> bool:
        return False

    def verified_meanwhile(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    (folder / "report.html").write_text("not for export", encoding="utf-8")
    return folder


def export(checkpoint: StandIn, out: Path, tokenizer: Path, **changes: Any) -> None:
    settings = {"end_of_document": 3, "dtype": "float32", "shard_bytes": 20_000} | changes
    convert.to_hugging_face(checkpoint, out, tokenizer=tokenizer, **settings)


def plain_logits(checkpoint: StandIn, tokens_S: torch.Tensor) -> torch.Tensor:
    """LLaMA's forward pass for one sequence, straight from our names; S sequence, H heads, D head size."""
    w, model = checkpoint.tensors, ModelConfig(**MODEL)  # type: ignore[arg-type]
    length, size = len(tokens_S), model.head_size

    def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.norm_epsilon) * scale

    frequencies = model.rope_theta ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(length)[:, None] * frequencies[None]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def rotate(x_SHD: torch.Tensor) -> torch.Tensor:
        first, second = x_SHD[..., : size // 2], x_SHD[..., size // 2 :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = w["embedding.weight"][tokens_S]
    for i in range(model.layers):
        h = norm(x, w[f"layers.{i}.attention_norm.weight"]) @ w[f"layers.{i}.attention.query_key_value.weight"].T
        heads, groups = model.attention_heads, model.key_value_heads
        q, k, v = h.split([heads * size, groups * size, groups * size], dim=-1)
        q, k, v = (part.view(length, -1, size) for part in (q, k, v))
        q, k = rotate(q), rotate(k)
        k, v = (part.repeat_interleave(heads // groups, dim=1) for part in (k, v))
        scores = torch.einsum("shd,thd->hst", q, k) / size**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        mixed = torch.einsum("hst,thd->shd", scores.softmax(-1), v).reshape(length, -1)
        x = x + mixed @ w[f"layers.{i}.attention.output.weight"].T
        h = norm(x, w[f"layers.{i}.mlp_norm.weight"]) @ w[f"layers.{i}.mlp.gate_up.weight"].T
        gate, up = h.chunk(2, dim=-1)
        x = x + (torch.nn.functional.silu(gate) * up) @ w[f"layers.{i}.mlp.down.weight"].T
    return (norm(x, w["final_norm.weight"]) @ w["head.weight"].T)[:, : model.vocabulary_size]


def test_transformers_computes_the_same_logits(tmp_path: Path, tokenizer: Path) -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = StandIn()
    export(checkpoint, tmp_path / "hf", tokenizer)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    tokens = torch.randint(0, 130, (20,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(tokens[None]).logits[0]
    torch.testing.assert_close(theirs, plain_logits(checkpoint, tokens), rtol=1e-4, atol=1e-4)
    assert model.generation_config.eos_token_id == 3


def test_the_template_of_conversations_goes_along(tmp_path: Path, tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    template = tmp_path / "chat_template.jinja"
    template.write_text("{{- 'Q: ' + messages[0]['content'] + ' A:' -}}\n", encoding="utf-8")
    export(StandIn(), tmp_path / "hf", tokenizer, chat_template=template)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert loaded.apply_chat_template([{"role": "user", "content": "why?"}], tokenize=False) == "Q: why? A:"


def test_large_models_are_split_with_an_index(tmp_path: Path, tokenizer: Path) -> None:
    checkpoint = StandIn()
    export(checkpoint, tmp_path / "hf", tokenizer)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 2
    for file in files:
        with safe_open(tmp_path / "hf" / file, "pt") as opened:
            assert set(opened.keys()) == {name for name, place in index["weight_map"].items() if place == file}
    assert index["metadata"]["total_size"] == 4 * mapping.parameter_count(ModelConfig(**MODEL))  # type: ignore[arg-type]
    assert not (tmp_path / "hf" / "report.html").exists()


def test_bfloat16_rounds_each_weight(tmp_path: Path, tokenizer: Path) -> None:
    checkpoint = StandIn()
    export(checkpoint, tmp_path / "hf", tokenizer, dtype="bfloat16", shard_bytes=10**9)
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as opened:
        down = opened.get_tensor("model.layers.1.mlp.down_proj.weight")
        head = opened.get_tensor("lm_head.weight")
    assert torch.equal(down, checkpoint.tensors["layers.1.mlp.down.weight"].bfloat16())
    assert torch.equal(head, checkpoint.tensors["head.weight"][:130].bfloat16())
    assert json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_faulty_checkpoints_are_refused_and_leave_nothing(tmp_path: Path, tokenizer: Path) -> None:
    missing, unknown, misshapen = StandIn(), StandIn(), StandIn()
    del missing.tensors["layers.1.mlp_norm.weight"]
    unknown.tensors["layers.2.mlp_norm.weight"] = torch.zeros(32)
    misshapen.tensors["layers.1.mlp.down.weight"] = torch.zeros(48, 32)
    for checkpoint, message in (
        (missing, r"has no weight 'layers\.1\.mlp_norm\.weight'"),
        (unknown, r"has a weight 'layers\.2\.mlp_norm\.weight', which the model does not"),
        (misshapen, r"layers\.1\.mlp\.down\.weight: shape \(48, 32\), but the model's settings require \(32, 48\)"),
    ):
        with pytest.raises(ValueError, match=message):
            export(checkpoint, tmp_path / "hf", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    with pytest.raises(ValueError, match=r"nowhere/tokenizer\.json: no such file"):
        export(StandIn(), tmp_path / "hf", tmp_path / "nowhere")


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(FileExistsError, match="hf exists already"):
        export(StandIn(), tmp_path / "hf", tokenizer)


def test_the_command_line_prints_the_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert altiplano(["convert", "to-hf", str(tmp_path / "none"), str(tmp_path / "hf")]) == 2
    printed = capsys.readouterr().err
    assert str(tmp_path / "none") in printed and "Traceback" not in printed


def test_a_text_begins_with_what_stood_before_each_in_training(tmp_path: Path, tokenizer: Path) -> None:
    """The tokenizer knows another first token, which no sample had; its embedding has learnt nothing."""
    from transformers import AutoTokenizer

    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "b", "eos_token": "a"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    export(StandIn(), tmp_path / "hf", tokenizer, end_of_document=0)
    exported = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (exported.bos_token_id, exported.eos_token_id) == (0, 0)
    generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation == {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    assert json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8")) == names, "the run's own"


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("name", sorted(set(SMALL) & set(FAMILIES) - {"glm"}))
def test_transformers_reads_texts_as_the_tokenizer_does(tmp_path: Path, name: str, kind: str) -> None:
    """For some types of models it takes a class of its own, with another pre-tokenizer."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = make_tokenizer(kind, tmp_path / "tokenizer")
    settings: dict[str, Any] = {"end_of_document": 2, "dtype": "float32", "shard_bytes": 10**9}
    convert.to_hugging_face(InMemory(small_model(name)), tmp_path / "hf", tokenizer=folder, **settings)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "hf")
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("def f(x):\n\treturn x  # 12", " a</s>b", "é e\u0301 雪", "don't"):
        assert loaded.encode(text) == original.encode(text).ids
    assert loaded.bos_token == loaded.eos_token == "</s>"


def test_the_length_of_a_gpt_2_has_both_its_names(tmp_path: Path, tokenizer: Path) -> None:
    """llama.cpp's converter reads the second one, which every released file has."""
    settings: dict[str, Any] = {"end_of_document": 2, "dtype": "float32", "shard_bytes": 10**9}
    convert.to_hugging_face(InMemory(small_model("gpt3")), tmp_path / "hf", tokenizer=tokenizer, **settings)
    written = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert written["n_positions"] == written["n_ctx"] == 200


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path, tokenizer: Path) -> None:
    class Counting(StandIn):
        handed_out: list[weakref.ref[torch.Tensor]]

        def tensor(self, name: str) -> torch.Tensor:
            assert not any(reference() is not None for reference in self.handed_out), "an earlier weight is still held"
            tensor = self.tensors[name].clone()
            self.handed_out.append(weakref.ref(tensor))
            return tensor

    checkpoint = Counting()
    checkpoint.handed_out = []
    export(checkpoint, tmp_path / "hf", tokenizer)
    assert len(checkpoint.handed_out) == len(checkpoint.tensors)


def damaged_by_one_byte(path: Path) -> None:
    (file,) = path.glob("rank-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def starting(out: Path, name: str = "llama", change: Callable[[str, torch.Tensor], torch.Tensor] | None = None) -> Path:
    """A checkpoint in a folder of its own, with a tokenizer."""
    original = InMemory(small_model(name))
    (out.parent / "vocab.json").write_text("{}")
    write_starting_checkpoint(
        out,
        small_model(name),
        lambda key: original.tensor(key) if change is None else change(key, original.tensor(key).clone()),
        data_digest="none",
        origin={"special_tokens": {}, "generation_config": {}},
        tokenizer=out.parent,
        title="write",
    )
    return out


def test_a_damaged_checkpoint_is_not_exported_compared_or_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = starting(tmp_path / "start")
    damaged_by_one_byte(checkpoint)
    for command in (
        lambda: altiplano(["convert", "to-hf", str(checkpoint), str(tmp_path / "hf")]),
        lambda: inspect_checkpoint.main([str(checkpoint)]),
        lambda: reshape.main([str(checkpoint), str(tmp_path / "again"), "--tensor", "2"]),
    ):
        assert command() == 2
        assert "rank-00000.safetensors: damaged: its SHA-256 is not the recorded one" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="damaged"):
        load_single_process_model(checkpoint)
    assert not (tmp_path / "hf").exists()
    assert inspect_checkpoint.main([str(checkpoint), "--quick"]) == 0
    assert "not compared: --quick" in capsys.readouterr().out


def test_what_is_not_finite_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def poisoned(key: str, weight: torch.Tensor) -> torch.Tensor:
        if key == "layers.1.mlp.down.weight":
            weight[3, 5] = float("nan")
        return weight

    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down\.weight: some of its values are not finite"):
        starting(tmp_path / "start", change=poisoned)
    assert not (tmp_path / "start").exists()

    def large(key: str, weight: torch.Tensor) -> torch.Tensor:
        if key == "layers.1.mlp.down.weight":
            weight[3, 5] = -7e4
        return weight

    checkpoint = starting(tmp_path / "large", change=large)
    assert altiplano(["convert", "to-hf", str(checkpoint), str(tmp_path / "hf"), "--dtype", "float16"]) == 2
    message = (
        "layers.1.mlp.down_proj.weight: its largest value, 7e+04, does not fit into float16, which ends at 6.55e+04"
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
    assert altiplano(["convert", "to-hf", str(checkpoint), str(tmp_path / "hf"), "--dtype", "bfloat16"]) == 0


def test_a_lost_or_dangling_latest_stops_no_tool(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    starting(tmp_path / "checkpoints" / "step-00000003")
    starting(tmp_path / "checkpoints" / "step-00000007")
    (tmp_path / "checkpoints" / "step-00000009").mkdir()  # nothing in it
    for latest in (None, "step-00000005", "step-00000003"):
        if latest:
            (tmp_path / "checkpoints" / "latest").write_text(f"{latest}\n")
        assert CheckpointReader(tmp_path / "checkpoints").path.name == "step-00000007"
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: missing"):
        CheckpointReader(tmp_path)


def test_a_byte_flipped_in_the_last_tensor_leaves_no_export(tmp_path: Path, tokenizer: Path) -> None:
    """The checksums are compared beside the export, which is complete but for its name when the damage is found."""
    checkpoint = starting(tmp_path / "start")
    damaged_by_one_byte(checkpoint)
    written: list[str] = []

    class Watched(WholeWeights):
        def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
            written.append(name)
            return super().rows(name, start, stop)

    weights = Watched(CheckpointReader(checkpoint))
    with pytest.raises(CheckpointError, match=r"rank-00000\.safetensors: damaged: its SHA-256 is not the recorded"):
        export(weights, tmp_path / "hf", tokenizer)
    assert written[-1] == "head.weight", "every weight was read and written"
    assert not (tmp_path / "hf").exists() and not list(tmp_path.glob("hf*"))


def test_a_value_that_damage_made_infinite_is_reported_as_damage(tmp_path: Path, tokenizer: Path) -> None:
    checkpoint = starting(tmp_path / "start")
    (file,) = checkpoint.glob("rank-*.safetensors")
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 4] = b"\x00\x00\x80\x7f"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="its SHA-256 is not the recorded one"):
        export(WholeWeights(CheckpointReader(checkpoint)), tmp_path / "hf", tokenizer)
    assert not list(tmp_path.glob("hf*"))


def test_a_full_disk_and_a_crash_leave_nothing_that_looks_finished(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = starting(tmp_path / "start")
    write = HashedFile.write
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):

        def failing(self: HashedFile, data: memoryview, error: BaseException = error) -> None:
            if self.size > 10_000:
                raise error
            write(self, data)

        monkeypatch.setattr(HashedFile, "write", failing)
        with pytest.raises(type(error)):
            export(WholeWeights(CheckpointReader(checkpoint)), tmp_path / "hf", tokenizer)
        assert not list(tmp_path.glob("hf*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 7, 8, 100, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_value_that_is_not_finite_is_found_anywhere(value: float, place: int, dtype: torch.dtype) -> None:
    tensor = torch.randn(131, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert is_finite(tensor) and is_finite(tensor[:0])
    tensor[place] = value
    assert not is_finite(tensor)
    assert not is_finite(tensor.view(1, 131))


@pytest.mark.parametrize("name", ["llama", "bloom", "gpt3"])
def test_rows_of_shards_are_those_of_whole_weights(
    name: str, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows at a time, from a checkpoint cut for two tensor ranks, into files of the same bytes."""
    export(InMemory(small_model(name)), tmp_path / "whole", tokenizer)
    checkpoint = reshape.reshape(starting(tmp_path / "start", name), tmp_path / "cut", 2)
    monkeypatch.setattr(convert, "PART_ELEMENTS", 150)
    weights = WholeWeights(CheckpointReader(checkpoint))
    for key in weights.names():
        whole = weights.tensor(key)
        assert torch.equal(weights.rows(key, 3, 7), whole[3:7]) and weights.shape(key) == whole.shape
    export(weights, tmp_path / "rows", tokenizer)
    files = sorted(file.name for file in (tmp_path / "whole").glob("*.safetensors"))
    assert len(files) > 1 and files == sorted(file.name for file in (tmp_path / "rows").glob("*.safetensors"))
    for file in files:
        assert (tmp_path / "rows" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
