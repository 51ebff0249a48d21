"""What a training process loads before its first step."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

from pretrain import quick_import
from pretrain.model import linear


def modules_after(code: str) -> set[str]:
    """Names of the modules that a new process has loaded after `code`."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    return set(printed.splitlines()[-1].split())


def test_no_process_loads_a_compiler_that_it_does_not_use() -> None:
    loaded = modules_after("import pretrain.train")
    assert "megatron.core" in loaded and "deepspeed.runtime.zero.muon.original_muon" in loaded
    assert "torch._inductor.compile_fx" not in loaded
    assert "torch._inductor.compile_fx" in modules_after("import megatron.core.tensor_parallel")


def test_nothing_that_is_used_was_meant_to_be_compiled() -> None:
    used = {
        inspect.getmodule(found) for name, found in vars(linear).items() if "megatron" in str(inspect.getmodule(found))
    }
    assert {module.__name__ for module in used if module} >= {"megatron.core.tensor_parallel.layers"}
    for module in used:
        assert module is not None
        assert "jit_fuser" not in inspect.getsource(module), module.__name__
        assert "torch.compile" not in inspect.getsource(module), module.__name__


def test_the_compiler_is_there_again_whatever_happens() -> None:
    compiler = torch.compile
    with pytest.raises(ImportError), quick_import.quick_import():

        @torch.compile
        def plain(x: int) -> int:
            return x

        @torch.compile(dynamic=True)
        def with_options(x: int) -> int:
            return x

        assert (plain(1), with_options(2)) == (1, 2)
        raise ImportError
    assert torch.compile is compiler
