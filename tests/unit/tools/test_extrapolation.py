"""`altiplano extrapolation`: what is counted, which positions are read how, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint.single import single_process_model
from pretrain.config import ModelConfig
from tests.small_run import MODEL, write_small_run
from tests.unit.pretrain.families.small import InMemory, small_model
from tools.extrapolation import main, plan, read, variants
from tools.starting_checkpoint import write_starting_checkpoint

ENTRIES = 50


def certain(place: torch.Tensor) -> torch.Tensor:
    """Logit of the right token at a place of a window; the others have 0."""
    return 3.0 + torch.sin(place * 0.7) - 0.01 * place


def fake_model(tokens_BS: torch.Tensor) -> torch.Tensor:
    """Knows that each token is the one before plus one, as surely as its place in the window says."""
    places = torch.arange(tokens_BS.shape[1], dtype=torch.float32)
    right = torch.nn.functional.one_hot((tokens_BS + 1) % ENTRIES, ENTRIES).float()
    return right * certain(places)[None, :, None]


def loss_at(place: int) -> float:
    return math.log(1 + (ENTRIES - 1) * math.exp(-float(certain(torch.tensor(float(place))))))


@pytest.mark.parametrize(("length", "stride"), [(8, 4), (12, 4), (16, 2), (24, 1)])
def test_losses_are_those_of_the_places_that_count(length: int, stride: int) -> None:
    texts = (torch.arange(24 + 48 + 1)[None] + torch.tensor([[0], [7]])) % ENTRIES
    by_position, sliding = read(fake_model, texts, lead=24, length=length, stride=stride)
    assert by_position.tolist() == pytest.approx([loss_at(place) for place in range(length)], rel=1e-5)
    last = [loss_at(place) for place in range(length - stride, length)]
    assert sliding == pytest.approx(sum(last) / stride, rel=1e-5)


def test_every_length_and_way_counts_the_same_tokens() -> None:
    """One token that surprises anybody: its part of each mean is the same."""
    counted, lead = 48, 24
    texts = torch.arange(lead + counted + 1)[None] % ENTRIES
    for place, is_counted in ((lead, False), (lead + 1, True), (lead + counted, True)):
        changed = texts.clone()
        changed[0, place] = (changed[0, place] + 9) % ENTRIES

        def constant(tokens_BS: torch.Tensor) -> torch.Tensor:
            right = torch.nn.functional.one_hot((tokens_BS + 1) % ENTRIES, ENTRIES).float()
            return right * 4.0

        for length, stride in ((8, 8), (8, 4), (12, 3), (24, 2)):
            (by_before, before), (by_after, after) = (
                read(constant, one, lead, length, stride) for one in (texts, changed)
            )
            surprises = round((after - before) * counted / 4.0)
            # The token itself, and the one after it, which is no longer the next.
            expected = is_counted + (place < lead + counted)
            assert surprises == expected, (place, length, stride)
            assert round(float(by_after.mean() - by_before.mean()) * counted / 4.0) == expected


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_windows_of_a_real_model(name: str) -> None:
    """Loss of windows apart, beside cross-entropy of each window alone."""
    model = small_model(name)
    weights: Any = InMemory(model)
    (_, config), *_ = variants(model, 12, 1.5)
    logits = single_process_model(weights, config)
    texts = torch.randint(0, model.vocabulary_size, (2, 12 + 24 + 1), generator=torch.Generator().manual_seed(5))
    by_position, sliding = read(logits, texts, lead=12, length=12, stride=12)
    losses = [
        torch.nn.functional.cross_entropy(logits(text[None, start : start + 12])[0], text[start + 1 : start + 13])
        for text in texts
        for start in (12, 24)
    ]
    assert float(by_position.mean()) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert sliding == pytest.approx(float(by_position.mean()), rel=1e-6), "a stride of the length: the same windows"


def test_positions_are_read_as_trained_and_scaled() -> None:
    rotary, alibi = small_model("llama"), small_model("bloom")
    assert [name for name, _ in variants(rotary, 100, 1.0)] == ["rotary"]
    found = dict(variants(rotary, 400, 2.0))
    assert list(found) == ["rotary", "rotary, linear", "rotary, ntk"]
    assert all(config.maximum_positions == 400 for config in found.values())
    scalings = [found[f"rotary, {kind}"].rope_scaling for kind in ("linear", "ntk")]
    assert [(one.kind, one.factor) for one in scalings if one] == [("linear", 2.0), ("ntk", 2.0)]
    assert [name for name, _ in variants(alibi, 400, 2.0)] == ["alibi"]
    scaled = small_model("gemma3")
    assert [name for name, _ in variants(scaled, 400, 2.0)] == ["rotary"], "scaled already"


def test_linear_scaling_by_two_reads_every_second_position() -> None:
    """Positions 0, 1, 2 … at half the frequency are 0, 1/2, 1 …: tokens two apart are one apart for the model."""
    model = small_model("llama")
    tables = []
    for _, config in variants(model, 400, 2.0):
        block = single_process_model_tables(config)
        tables.append(block)
    plain, linear, ntk = tables
    assert torch.allclose(linear[0][::2][:200], plain[0][:200], atol=1e-5)
    assert torch.allclose(ntk[0][:, 0], plain[0][:, 0]) and not torch.allclose(ntk[0][:, -1], plain[0][:, -1])


def single_process_model_tables(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    from pretrain.model.positions import rotary_table

    return rotary_table(config.maximum_positions, config.rotary_size, config.rope_theta, config.rope_scaling)


def test_learnt_positions_have_an_end() -> None:
    with pytest.raises(ValueError, match="the model has learnt 200 positions and no others; 400 tokens cannot"):
        list(variants(small_model("gpt3"), 400, 2.0))


@pytest.mark.parametrize(
    ("ratios", "stride", "message"),
    [
        ([1.0, 1.3], None, "--lengths: 1.3 times 128 tokens is no whole number"),
        ([1.0, 1.0], None, "--lengths: 1, 1 has a length twice"),
        ([1.0, 1.5], 48, "--stride: 48 must divide every length: 128, 192"),
    ],
)
def test_wrong_windows(ratios: list[float], stride: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(128, ratios, stride)


def test_lengths_and_strides() -> None:
    found = plan(128, [1, 1.5, 2, 4], None)
    assert (found.lengths, found.stride, found.lead, found.counted) == ((128, 192, 256, 512), 32, 512, 1536)


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    """Two imported models of 16 positions, rotary and ALiBi."""
    found = []
    for name in ("rotary", "alibi"):
        sizes = {**MODEL, "maximum_positions": 16, "positions": name}
        model = ModelConfig.model_validate(sizes)
        weights = InMemory(model)
        origin: dict[str, Any] = {"special_tokens": {}, "generation_config": {}}
        out = tmp_path / name
        write_starting_checkpoint(
            out, model, weights.tensor, data_digest="none", origin=origin, tokenizer=None, title="write"
        )
        found.append(out)
    return found[0], found[1]


def test_alibi_beside_rotary(
    checkpoints: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotary, alibi = map(str, checkpoints)
    mixture = str(write_small_run(tmp_path).parent / "mixture.yaml")
    out = tmp_path / "out"
    out.mkdir()
    options = ["--mixture", mixture, "--lengths", "1,2", "--tokens", "64", "--out", str(out)]
    assert main([rotary, alibi, *options]) == 0
    told = capsys.readouterr().out
    assert "rotary, ntk" in told and "alibi" in told
    found = json.loads((out / "extrapolation.json").read_text())
    assert [(one["model"], one["positions"], one["length"]) for one in found["readings"]] == [
        ("rotary", "rotary", 16),
        ("rotary", "rotary", 32),
        ("rotary", "rotary, linear", 32),
        ("rotary", "rotary, ntk", 32),
        ("alibi", "alibi", 16),
        ("alibi", "alibi", 32),
    ]
    assert found["tokens"] == 64 and (out / "extrapolation.html").read_text().count("<svg") == 2
    assert main([rotary, "--lengths", "1,2"]) == 2
    assert "an imported model has no data of its own; give --mixture" in capsys.readouterr().err
    assert main([rotary, "--mixture", mixture, "--lengths", "1,8"]) == 2
    assert "tokens, and a text for these lengths needs 257" in capsys.readouterr().err
