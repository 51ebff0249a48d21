"""A node that computes wrong results, or has a broken device, is named and excluded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.launch import node_check
from pretrain.launch.node_check import EXCLUDED_NODES_FILE, NodeError, check_device, exclude_nodes, is_broken_device


def test_a_sound_device_passes() -> None:
    check_device()


def test_a_wrong_product_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    diagonal = torch.diag
    monkeypatch.setattr(node_check.torch, "diag", lambda rows: diagonal(rows) + 1e-3)
    with pytest.raises(NodeError, match="n7: process 0 multiplies matrices wrongly") as error:
        check_device()
    assert error.value.nodes == ("n7",)


def test_a_broken_device_is_told_from_a_fault_of_the_program() -> None:
    assert is_broken_device(RuntimeError("CUDA error: uncorrectable ECC error encountered"))
    assert not is_broken_device(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_the_list_grows(tmp_path: Path) -> None:
    for node in ("n1", "n2"):
        exclude_nodes(tmp_path / "run", NodeError([node], "broken"))
    lines = (tmp_path / "run" / EXCLUDED_NODES_FILE).read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["n1", "n2"] and lines[0].endswith("\tbroken")
