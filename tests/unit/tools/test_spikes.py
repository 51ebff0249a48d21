"""The list of a run's spikes, the replay with other thresholds, and the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from data_prep import tokenize as stage_module
from data_prep.tokenize import tokenize
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.train import train_tokenizer
from foundation.configuration import load_config
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.spikes.first_look import write_skipped_samples
from pretrain.spikes.ledger import Entry, append_entries
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts
from tools.spikes import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """60 steps with a spike of 15 steps, and an abandoned branch."""
    losses = [2.0 + 0.001 * (step % 7) + (1.5 if 40 <= step < 55 else 0.0) for step in range(1, 71)]
    lines = [{"kind": "train", "step": i, "loss": loss, "gradient_norm": 0.3} for i, loss in enumerate(losses, start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    aside = [{**line, "branch": "abandoned-01", "loss": 5.0} for line in lines[20:25]]
    (tmp_path / "metrics.abandoned.jsonl").write_text("".join(json.dumps(line) + "\n" for line in aside))
    rollback = Entry(kind="rollback", step=25, onset=22, reason="high", attempt=1, to_step=20, skipped=(160, 1760))
    seen_before = Entry(kind="transient", step=24, onset=21, peak=1.5, reason="healed")
    append_entries(tmp_path / "spikes.jsonl", [seen_before, rollback])
    return tmp_path


def test_events_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("(on an abandoned branch)")
    assert "back to step 20, skipping samples [160, 1,760), attempt 1" in second


def test_replay_with_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--replay"]) == 0
    assert "transient" in capsys.readouterr().out
    assert main([str(run), "--replay", "high_steps=10"]) == 0
    assert "persistent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [("patience=3", "give SETTING=VALUE with one of"), ("high_steps=99", "high_steps: 99 of of_steps 25 can never be")],
)
def test_settings_that_there_are_not(run: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--replay", change]) == 2
    assert message in capsys.readouterr().err


def test_the_picture_shows_both_branches(run: Path) -> None:
    assert main([str(run), "--picture", str(run / "loss.svg")]) == 0
    groups = ElementTree.parse(run / "loss.svg").getroot().iter("{http://www.w3.org/2000/svg}g")
    ends = {}
    for group in groups:
        if group.get("id") in ("kept", "abandoned"):
            (path,) = group.findall("{http://www.w3.org/2000/svg}path")
            places = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path.attrib["d"])]
            ends[group.get("id")] = places[0], places[-1]
    assert ends["kept"][0] < ends["abandoned"][0] < ends["abandoned"][1] < ends["kept"][1]


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text with a tokenizer, whose only rollback skips some samples."""
    folder = tmp_path_factory.mktemp("trained")
    sources = {"books": make_texts(0, 90), "code": make_texts(1, 50)}
    settings = {"tokenizer": {"vocabulary_size": 512, "reserved_entries": 20}}
    config, data_run, _ = make_run(folder, sources, settings=settings)
    train_tokenizer(config, data_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "run_units", lambda function, units, *_: [function(unit) for unit in units])
        tokenize(config, data_run)
    training = {
        "output": str(folder / "train"),
        "model": {"vocabulary_size": 512, "hidden_size": 8, "layers": 1, "attention_heads": 2, "key_value_heads": 2},
        "data": {"mixture": str(data_run.tokens / "mixture.yaml"), "sequence_length": 48},
        "batch": {"global_batch_size": 6, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 10, "warmup_steps": 1},
    }
    training["model"] |= {"feed_forward_size": 8, "maximum_positions": 64}  # type: ignore[operator]
    (folder / "train").mkdir()
    (folder / "train" / "config.resolved.yaml").write_text(yaml.safe_dump(training))
    (folder / "train" / "metrics.jsonl").write_text("")
    append_entries(folder / "train" / "spikes.jsonl", [ROLLBACK])
    return folder / "train"


ROLLBACK = Entry(
    kind="rollback", step=7, onset=6, reason="high", samples=(30, 42), attempt=1, to_step=4, skipped=(24, 60)
)


def test_the_skipped_samples_as_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tool replaces the token ids that the run has written by text, and adds what only text can tell."""
    config = load_config(TrainConfig, trained / "config.resolved.yaml")
    reader = SampleReader(load_mixture(config.data.mixture), 48, config.seed)
    folder = trained / "spikes" / "abandoned-01"
    write_skipped_samples(reader, ROLLBACK, folder)
    before = json.loads((folder / "first_look.json").read_text())
    tokens = reader.sample(31)
    assert " ".join(map(str, tokens[-10:].tolist())) in (folder / "samples.txt").read_text()
    assert list(before) == ["samples", "skipped", "measures", "sources", "remarkable"]
    assert "mean_word_length" not in before["measures"]

    assert main([str(trained), "--samples"]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {folder / 'samples.txt'}" in printed
    after = json.loads((folder / "first_look.json").read_text())
    assert {"languages", "sources"} <= after.keys() and after["measures"].items() >= before["measures"].items()
    assert {"mean_word_length", "duplicate_5_gram_character_share", "characters_per_token"} <= after["measures"].keys()
    assert all(sentence in printed for sentence in after["remarkable"])
    text = (folder / "samples.txt").read_text()
    described = reader.describe(31)
    piece = tokens[described.parts[0].offset :][: described.parts[0].stop - described.parts[0].start]
    assert ReferenceEncoder(reader.mixture.tokenizer).decode(piece) in text
    assert text.count("\nsample ") == 36 and text.count("(suspicious)") == 12


def test_samples_that_there_are_not(run: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained), "--samples", "abandoned-07"]) == 2
    assert (
        "--samples abandoned-07: no branch of this run has that name; there are abandoned-01" in capsys.readouterr().err
    )
    assert main([str(run), "--samples"]) == 2
    assert "config.resolved.yaml: no such file" in capsys.readouterr().err
    (run / "spikes.jsonl").unlink()
    assert main([str(run), "--samples"]) == 2
    assert "spikes.jsonl has no rollback, so that no samples were skipped" in capsys.readouterr().err
    assert main([str(run), "--mixture", "elsewhere.yaml"]) == 2
    assert "--mixture elsewhere.yaml: has no effect without --samples" in capsys.readouterr().err
