"""Text to exported model with the README's commands, small; with bad documents among the good ones."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import yaml

COMMON_WORDS = "the of and a to in is that for it with as was on be by this are from or have model data text train"


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def sentence(source: random.Random) -> str:
    chosen = source.choices(COMMON_WORDS.split(), k=source.randint(6, 14))
    numbers = [f"word{source.randint(0, 4000)}" for _ in range(4)]
    return " ".join([*chosen, *numbers]).capitalize() + "."


def test_text_to_exported_model(tmp_path: Path) -> None:
    source = random.Random(5)
    texts = ["\n".join(sentence(source) for _ in range(source.randint(8, 30))) for _ in range(250)]
    lines = [json.dumps({"text": text, "url": f"page/{number}"}).encode() for number, text in enumerate(texts)]
    lines[10] = b'{"text": "half a line'
    lines[20] = b'{"text": "\xff\xfe not UTF-8"}'
    lines[30] = b'{"text": ""}'
    lines[40] = b'{"body": "no text"}'
    lines.append(lines[0])  # an exact copy
    (tmp_path / "pages.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    library = Path(os.__file__).parent
    data = {
        "output": str(tmp_path),
        "sources": [
            {"name": "pages", "kind": "jsonl", "paths": [str(tmp_path / "pages.jsonl")], "rules": []},
            {
                "name": "code",
                "kind": "python",
                "paths": [str(library / "json"), str(library / "asyncio")],
                "rules": ["code"],
            },
        ],
        "tokenizer": {"vocabulary_size": 1024},
        "tokens": {"heldout_share": 0.1},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    run("data_prep", "run", "--config", str(tmp_path / "data.yaml"))

    documents = json.loads((tmp_path / "ledger.json").read_text())["documents"]
    assert documents["in"] == documents["kept"] + sum(documents["by_reason"].values())
    assert documents["by_source"]["pages"]["in"] == 251
    assert documents["by_reason"]["duplicate.exact"] == 1
    assert sum(count for reason, count in documents["by_reason"].items() if reason.startswith("quarantine:")) == 4
    files = sorted((tmp_path / "quarantine").glob("pages-*"))
    set_aside = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(record["line"] for record in set_aside) == [11, 21, 31, 41]

    train = {
        "output": str(tmp_path / "train"),
        "model": {
            "vocabulary_size": 1024,
            "hidden_size": 32,
            "layers": 2,
            "attention_heads": 4,
            "key_value_heads": 2,
            "feed_forward_size": 64,
            "maximum_positions": 64,
        },
        "data": {"mixture": str(tmp_path / "tokens" / "mixture.yaml"), "sequence_length": 64},
        "batch": {"global_batch_size": 4, "micro_batch_size": 4},
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"total_steps": 8, "warmup_steps": 2},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    run("pretrain", "--config", str(tmp_path / "train.yaml"))
    checkpoints, exported = str(tmp_path / "train" / "checkpoints"), str(tmp_path / "hf")
    run("tools", "convert", "to-hf", checkpoints, exported)
    printed = run("tools", "convert", "verify", checkpoints, exported, "--samples", "2", "--prompts", "import", "the")
    assert "same next token for 100.00%" in printed
    check = json.loads((tmp_path / "exported_check.json").read_text())
    assert check["within_bound"] and check["max_abs_difference"] < 1e-4
    assert [sample["prompt"] for sample in check["samples"]] == ["import", "the"]
    run("tools", "report", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "duplicate.exact" in page and "</svg>" in page
    # Self-contained: nothing is fetched when somebody opens it.
    assert "<script src" not in page and "<link" not in page and "http" not in page.replace("http://www.w3.org", "")
