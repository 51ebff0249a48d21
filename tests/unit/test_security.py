"""Foreign input runs no code here, and outputs are accessible to their owner only."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from foundation.atomic_files import restrict_file_modes, write_text
from foundation.configuration import ConfigError, load_config
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.data.mixture import load_mixture
from pretrain.families.registry import format_of_type
from tools.hugging_face.from_hf import _Tensors

REPOSITORY = Path(__file__).parents[2]


class Mischief:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self._path,))


@pytest.mark.parametrize(
    "text",
    [
        "output: !!python/object/apply:os.system ['touch {trace}']",
        "output: !!python/object/new:subprocess.Popen [['touch', '{trace}']]",
        "output: !!python/name:os.system ''",
    ],
)
def test_a_configuration_runs_no_code(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "mixture.yaml"
    path.write_text(text.format(trace=trace))
    with pytest.raises(ConfigError, match=r"mixture.yaml:1: .*python/"):
        load_config(TrainConfig, path)
    with pytest.raises(ConfigError, match=r"mixture.yaml:1: .*python/"):
        load_mixture(path)
    with pytest.raises(ConfigError, match=r"command line: .*python/"):
        write_text(path, "output: out\n")
        load_config(TrainConfig, path, [text.format(trace=trace).replace(": ", "=", 1)])
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("pytorch_model.bin", r"pytorch_model.bin: damaged, or a pickle of more than tensors, which is refused"),
        ("model.pt", r"model.pt is a pickle, which can run code when it is read"),
    ],
)
def test_a_pickle_of_more_than_tensors_runs_no_code(tmp_path: Path, name: str, refusal: str) -> None:
    trace = tmp_path / "trace"
    torch.save({"weight": Mischief(trace)}, tmp_path / name)
    with pytest.raises(ValueError, match=refusal):
        _Tensors(tmp_path, format_of_type("llama"))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Mischief(trace)))  # the trap itself works
    assert trace.exists()


def test_a_pickle_in_the_place_of_a_checkpoint_file_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    file = tmp_path / "rank-00000.safetensors"
    torch.save({"weight/w/0": Mischief(trace)}, file)
    index = {
        "format": 1,
        "topology": {"tensor": 1},
        "parameters": {"w": {"shape": [1], "partition": None}},
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": "", "fragments": [["w", 0, 0, 1]]}},
    }
    (tmp_path / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors: damaged"):
        CheckpointReader(tmp_path).tensor("w")
    assert not trace.exists()


DANGEROUS = {
    "torch.load": "weights_only",
    "pickle.load": None,
    "pickle.loads": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "os.system": None,
    "eval": None,
    "exec": None,
}
"""Calls that run what they are given, and the argument that makes them harmless."""

OWN = {
    # what the same command wrote a moment before, in a temporary folder that is its user's alone
    ("data_prep/run/executors.py", "pickle.loads"),
}


def test_no_call_of_ours_runs_what_it_reads() -> None:
    found = []
    for package in ("foundation", "data_prep", "pretrain", "tools"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                named = {keyword.arg: keyword.value for keyword in node.keywords}
                name, file = ast.unparse(node.func), str(path.relative_to(REPOSITORY))
                place = f"{file}:{node.lineno}"
                if (file, name) in OWN:
                    continue
                if name in DANGEROUS and not is_true(named.get(DANGEROUS[name] or "")):
                    found.append(f"{place}: {name}")
                if is_true(named.get("shell")) or is_true(named.get("trust_remote_code")):
                    found.append(f"{place}: {ast.unparse(node)}")
    assert found == []


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_files_are_not_for_others_to_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        restrict_file_modes()
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "folder" / "file", "text")
        assert [path.stat().st_mode & 0o777 for path in sorted(tmp_path.rglob("*"))] == [0o755, 0o644]
        os.umask(0o077)
        restrict_file_modes()  # and a stricter one stays
        write_text(tmp_path / "own", "text")
        assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
