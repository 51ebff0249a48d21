"""Hugging Face weights in, a checkpoint out, and back: the same bytes, the same logits; faults are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.families import mapping
from pretrain.families.registry import format_of
from tests.unit.pretrain.families import twin
from tests.unit.pretrain.families.small import SMALL, InMemory, build, random_tokens, small_model
from tools.__main__ import main as altiplano
from tools.hugging_face import from_hf
from tools.hugging_face import to_hf as convert
from tools.hugging_face.files import CHECKSUM_FILE
from tools.hugging_face.from_hf import from_hugging_face

CONVERTIBLE = [name for name in SMALL if name not in ("glm", "glm-deepnorm")]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    return folder


def export(checkpoint: InMemory | CheckpointReader, out: Path, tokenizer: Path, form: convert.Form = "own") -> None:
    convert.to_hugging_face(
        checkpoint, out, tokenizer=tokenizer, end_of_document=1, dtype="float32", shard_bytes=30_000, form=form
    )


def test_a_base_of_the_frequencies_that_depends_on_the_reader_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    """Without `rope_theta`, transformers 4 takes 10000 for Cohere, and transformers 5 takes 500000."""
    export(InMemory(small_model("palm")), tmp_path / "hf", tokenizer)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    for entry in ("rope_theta", "rope_parameters"):
        del config[entry]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rope_theta: missing, and versions of transformers have different"):
        from_hugging_face(tmp_path / "hf", tmp_path / "imported")


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_there_and_back_and_there_again(name: str, tmp_path: Path, tokenizer: Path) -> None:
    original = InMemory(small_model(name))
    export(original, tmp_path / "hf", tokenizer)
    from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    reader = CheckpointReader(tmp_path / "imported")
    reader.verify()
    real = format_of(small_model(name)).places(small_model(name))
    for key, weight in real.items():
        assert torch.equal(reader.tensor(key), original.tensor(key)) and reader.shape(key) == weight.shape

    export(reader, tmp_path / "again", reader.path / "tokenizer")
    written = sorted(path.name for path in (tmp_path / "hf").iterdir())
    assert sum(file_name.endswith(".safetensors") for file_name in written) > 2
    assert written == sorted(path.name for path in (tmp_path / "again").iterdir())
    for file_name in written:
        assert (tmp_path / "again" / file_name).read_bytes() == (tmp_path / "hf" / file_name).read_bytes(), file_name


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt3", "bloom", "palm", "baichuan", "baichuan2"])
def test_the_logits_are_the_same_on_both_sides(name: str, tmp_path: Path, tokenizer: Path) -> None:
    """Tied and untied, with padding rows of the vocabulary; a Baichuan in the form of LLaMA, NormHead folded in."""
    from transformers import AutoModelForCausalLM

    original = InMemory(small_model(name))
    export(original, tmp_path / "hf", tokenizer, form="llama" if name.startswith("baichuan") else "own")
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    tokens = random_tokens(small_model(name), length=40)
    with torch.no_grad():
        expected = theirs.eval()(tokens, use_cache=False).logits
    scale = float(expected.abs().max())
    if name != "baichuan2":  # with the norm folded in, it comes back as a plain LLaMA
        from_hugging_face(tmp_path / "hf", tmp_path / "imported")
        imported = load_single_process_model(tmp_path / "imported")(tokens)
        torch.testing.assert_close(imported, expected, rtol=0, atol=2e-5 * scale)
    model = small_model(name)
    with torch.no_grad():
        ours = build(model)(tokens).transpose(0, 1)[..., : model.vocabulary_size]
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("name", ["baichuan-alibi", "baichuan2"])
def test_baichuan_as_its_authors_have_it(name: str, tmp_path: Path, tokenizer: Path) -> None:
    """Read by the twin from the exported names: W_pack, and a head that is normalised when it is used."""
    export(InMemory(small_model(name)), tmp_path / "hf", tokenizer)
    stored: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "hf").glob("*.safetensors"):
        stored.update(load_file(file))
    assert stored["model.layers.1.self_attn.W_pack.weight"].shape[0] == 3 * small_model(name).hidden_size
    model = small_model(name)
    weights = {
        key: mapping.from_hugging_face(key, weight, stored.__getitem__)
        for key, weight in format_of(model).places(model).items()
    }
    tokens = random_tokens(model, length=40)
    from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    imported = load_single_process_model(tmp_path / "imported")(tokens)
    torch.testing.assert_close(imported, twin.baichuan(weights, model, tokens), rtol=1e-4, atol=1e-5)


def test_files_as_transformers_writes_them(tmp_path: Path) -> None:
    """bfloat16 and shards of its own; and GPT-2's old files, without the prefix and with masks in them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = format_of(small_model("gpt3")).hugging_face_config(
        small_model("gpt3"), dtype="bfloat16", end_of_document=1
    )
    model = GPT2LMHeadModel(GPT2Config(**settings)).bfloat16()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    from_hugging_face(tmp_path / "theirs", tmp_path / "imported")
    reader = CheckpointReader(tmp_path / "imported")
    there = model.state_dict()["transformer.h.1.attn.c_attn.weight"]
    assert torch.equal(reader.tensor("layers.1.attention.query_key_value.weight"), there.T.float())

    (tmp_path / "old").mkdir()
    bare = {key.removeprefix("transformer."): value.clone() for key, value in model.transformer.state_dict().items()}
    save_file({**bare, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, tmp_path / "old" / "model.safetensors")
    shutil.copyfile(tmp_path / "theirs" / "config.json", tmp_path / "old" / "config.json")
    from_hugging_face(tmp_path / "old", tmp_path / "imported_old")
    old = CheckpointReader(tmp_path / "imported_old")
    assert all(torch.equal(old.tensor(name), reader.tensor(name)) for name in reader.names())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"has no tensor 'transformer\.h\.1\.mlp\.c_fc\.bias'"),
        ("unknown", r"has an unknown tensor 'transformer\.h\.2\.mlp\.c_fc\.bias'"),
        ("misshapen", r"h\.1\.mlp\.c_fc\.bias: shape \(7,\), but layers\.1\.mlp\.up\.bias needs \(128,\)"),
    ],
)
def test_a_faulty_tensor_is_named(fault: str, message: str, tmp_path: Path, tokenizer: Path) -> None:
    export(InMemory(small_model("gpt3")), tmp_path / "hf", tokenizer)
    (tmp_path / "hf" / CHECKSUM_FILE).unlink()
    name = "transformer.h.1.mlp.c_fc.bias"
    for file in (tmp_path / "hf").glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            if fault == "missing":
                del tensors[name]
            elif fault == "unknown":
                tensors["transformer.h.2.mlp.c_fc.bias"] = torch.zeros(128)
            else:
                tensors[name] = torch.zeros(7)
            save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
        from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_a_damaged_file_and_foreign_settings_are_named(tmp_path: Path, tokenizer: Path) -> None:
    export(InMemory(small_model("llama")), tmp_path / "hf", tokenizer)
    file = next((tmp_path / "hf").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file.name}: missing or damaged: checksums\.json has another SHA-256"):
        from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    assert not list(tmp_path.glob("imported*"))
    config_path = tmp_path / "hf" / "config.json"
    config = json.loads(config_path.read_text())
    for change, message in (
        ({"hidden_act": "relu"}, "hidden_act: 'relu' is not supported, only 'silu'"),
        ({"model_type": "mamba"}, "model_type: 'mamba' cannot be imported; one of baichuan, bloom, chatglm"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type: 'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "original_max_position_embeddings: missing"),
    ):
        config_path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            from_hugging_face(tmp_path / "hf", tmp_path / "imported")


def test_what_has_no_counterpart_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.activation: gelu_tanh cannot be expressed as GLM in Hugging"):
        export(InMemory(small_model("glm")), tmp_path / "hf", tokenizer)
    with pytest.raises(ValueError, match=r"model\.positions: alibi cannot be expressed as transformers' LLaMA"):
        export(InMemory(small_model("baichuan-alibi")), tmp_path / "hf", tokenizer, form="llama")
    with pytest.raises(ValueError, match="the form of LLaMA is for Baichuan"):
        export(InMemory(small_model("bloom")), tmp_path / "hf", tokenizer, form="llama")


def test_special_tokens_of_an_imported_model_are_kept(tmp_path: Path, tokenizer: Path) -> None:
    """Its first token, several last ones and its ways of generating come out as they went in."""
    export(InMemory(small_model("llama")), tmp_path / "hf", tokenizer)
    theirs = {"bos_token_id": 7, "eos_token_id": [2, 9], "pad_token_id": None}
    generation = {**theirs, "temperature": 0.6, "top_p": 0.9}
    config_path = tmp_path / "hf" / "config.json"
    config_path.write_text(json.dumps({**json.loads(config_path.read_text()), **theirs}))
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(generation))
    names = {"bos_token": "b", "eos_token": "a", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(names))
    from_hugging_face(tmp_path / "hf", tmp_path / "imported")
    assert altiplano(["convert", "to-hf", str(tmp_path / "imported"), str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == generation
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: written[name] for name in theirs} == theirs
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()) == names


def test_templates_and_added_tokens_survive_the_round_trip(tmp_path: Path, tokenizer: Path) -> None:
    """A tokenizer of vocab.json and merges.txt, with everything that transformers saves beside one."""
    export(InMemory(small_model("gpt3")), tmp_path / "hf", tokenizer)
    (tmp_path / "hf" / "tokenizer.json").unlink()
    extra = {
        "vocab.json": '{"a": 0}',
        "merges.txt": "#version: 0.2",
        "added_tokens.json": '{"<x>": 1}',
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
        "generation_config.json": '{"temperature": 0.6, "top_p": 0.9}',
    }
    for name, content in extra.items():
        (tmp_path / "hf" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "hf" / name).write_text(content)
    assert altiplano(["convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "imported")]) == 0
    assert altiplano(["convert", "to-hf", str(tmp_path / "imported"), str(tmp_path / "again")]) == 0
    for name, content in extra.items():
        if name == "generation_config.json":
            assert json.loads((tmp_path / "again" / name).read_text()) == json.loads(content)
        else:
            assert (tmp_path / "again" / name).read_text() == content, name


def test_sizes_that_do_not_fit_are_told_in_our_words(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(InMemory(small_model("llama")), tmp_path / "hf", tokenizer)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "hidden_size": 64, "num_attention_heads": 3}))
    assert altiplano(["convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "imported")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("config.json: hidden_size: 64 must be a multiple of attention_heads 3"), told


def test_a_copy_of_a_tied_head_is_compared_and_left_out(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over there some files have one; another value, or another number of rows, is refused and leaves nothing."""
    export(InMemory(small_model("llama-tied")), tmp_path / "hf", tokenizer)
    (tmp_path / "hf" / CHECKSUM_FILE).unlink()
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    embedding = next(t for file in files for name, t in load_file(file).items() if name == "model.embed_tokens.weight")
    monkeypatch.setattr(from_hf, "PART_ELEMENTS", embedding.shape[1])  # a row at a time
    other = embedding.clone()
    other[-1, -1] += 1
    for head, is_refused in ((embedding, False), (other, True), (embedding[:-1], True), (embedding.repeat(2, 1), True)):
        save_file({"lm_head.weight": head.contiguous()}, tmp_path / "hf" / "model-head.safetensors")
        if is_refused:
            with pytest.raises(ValueError, match=r"lm_head\.weight: differs from model\.embed_tokens\.weight"):
                from_hugging_face(tmp_path / "hf", tmp_path / "refused")
        else:
            from_hugging_face(tmp_path / "hf", tmp_path / "imported")
            assert torch.equal(CheckpointReader(tmp_path / "imported").tensor("embedding.weight"), embedding)
    assert not list(tmp_path.glob("refused*"))
