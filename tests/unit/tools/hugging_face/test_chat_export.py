"""The export of a model that was trained on conversations stops at the end of an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_prep.conversations.turns import ASSISTANT, USER, Turn, joined
from data_prep.tokenize import tokenize
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.train import train_tokenizer
from pretrain.config import ModelConfig
from pretrain.data.mixture import load_mixture
from tests.unit.data_prep.conversations.tokenizers import make_tokenizer
from tests.unit.data_prep.tokenizer.corpus import make_run
from tests.unit.pretrain.families.small import InMemory, small_model
from tools.__main__ import main as altiplano
from tools.starting_checkpoint import write_starting_checkpoint

NEW_TOKENS = 6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer("byte_level", tmp_path_factory.mktemp("tokenizer"))


def token_files(folder: Path, tokenizer: Path, template: str) -> Path:
    """Token files of some conversations; returns `mixture.yaml`."""
    texts, metadata = [], {}
    for row in range(4):
        text, turns = joined((Turn(USER, f"what is {row}?"), Turn(ASSISTANT, f"it is {row}")))
        texts.append(text)
        metadata[f"talks-00000/{row:07d}"] = json.dumps({"turns": turns})
    config, run, _ = make_run(
        folder,
        {"talks": texts},
        settings={
            "tokenizer": {"path": str(tokenizer)},
            "tokens": {"heldout_share": 0.0, "template": template, "pack": 256},
            "workers": 1,
        },
        metadata=metadata,
        more={"talks": {"kind": "conversations", "form": "messages"}},
    )
    train_tokenizer(config, run)
    tokenize(config, run)
    return run.tokens / "mixture.yaml"


def always_says(token: int, vocabulary_size: int, out: Path, tokenizer: Path) -> Path:
    """A checkpoint of a model whose next token is always this one."""
    model = ModelConfig.model_validate(small_model("llama").model_dump() | {"vocabulary_size": vocabulary_size})
    original = InMemory(model)

    def weight(name: str) -> torch.Tensor:
        tensor = original.tensor(name).clone()
        if name in ("embedding.weight", "final_norm.weight"):
            return torch.ones_like(tensor)
        if name == "head.weight":
            tensor = torch.zeros_like(tensor)
            tensor[token] = 1
        elif name.endswith(("attention.output.weight", "mlp.down.weight")):
            tensor = torch.zeros_like(tensor)
        return tensor

    origin = {"special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(out, model, weight, data_digest="none", origin=origin, tokenizer=tokenizer, title="write")
    return out


@pytest.mark.parametrize(("template", "end"), [("chatml", "<|im_end|>"), ("glm", "<eop>"), ("vicuna-1.1", "</s>")])
def test_generation_stops_where_an_answer_ends(
    tmp_path: Path, tokenizer: Path, template: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = token_files(tmp_path, tokenizer, template)
    mixture = load_mixture(path)
    ids = {token.content: identity for identity, token in ReferenceEncoder(mixture.tokenizer).added_tokens.items()}
    ends = list(dict.fromkeys([ids["</s>"], ids[end]]))
    for said, length in (*((one, 1) for one in ends), (ids["[gMASK]"], NEW_TOKENS)):
        checkpoint = always_says(said, mixture.vocabulary_size, tmp_path / f"says-{said}", mixture.tokenizer)
        out = tmp_path / f"hf-{said}"
        command = ["convert", "to-hf", str(checkpoint), str(out), "--mixture", str(path)]
        assert altiplano(command) == 0
        model, loaded = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
        stops = model.generation_config.eos_token_id
        assert (stops if isinstance(stops, list) else [stops]) == ends
        question = [{"role": "user", "content": "what is 7?"}]
        prompt = loaded.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert made[0, prompt["input_ids"].shape[1] :].tolist() == [said] * length

    # Token files that an older version wrote do not say where an answer ends.
    (path.parent / "generation_config.json").unlink()
    assert altiplano([*command[:3], str(tmp_path / "again"), *command[4:]]) == 2
    assert "generation_config.json: no such file; it names the tokens at which generation" in capsys.readouterr().err
    (path.parent / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert altiplano([*command[:3], str(tmp_path / "again"), *command[4:]]) == 2
    assert "generation_config.json: eos_token_id: 5; it must be a list of token ids" in capsys.readouterr().err
