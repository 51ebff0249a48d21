"""What numba does once instead of many times during compilation, and that no array is lost by it."""

from __future__ import annotations

import gc
import operator
from typing import Any

import numpy as np
import pytest
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.runtime import _nrt_python, rtsys

from data_prep.compile_kernels import GROUPS
from data_prep.kernels.kernel import Bytes, allocating_part, compiled, inlined, part
from data_prep.kernels.quick_compilation import _UNNEEDED, KernelCompiler, quick_compilation

TEXT = np.arange(100, dtype=np.uint8)


def fresh_kernel() -> Any:
    """A kernel and what it calls, never compiled before and not kept."""

    @inlined
    def last(data: Bytes) -> int:
        return int(data[-1])

    @part
    def tail(data: Bytes, start: int) -> int:
        return last(data[start:]) + len(data)

    @allocating_part
    def summed(data: Bytes) -> int:
        copy = np.empty(len(data), np.int64)
        for i in range(len(data)):
            copy[i] = data[i] + tail(data, i)
        return int(copy.sum())

    def outer(data: Bytes) -> int:
        return summed(data) + tail(data, 1)

    return compiled(outer, cache=False, pipeline_class=KernelCompiler)


def test_only_the_kernel_becomes_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    emitted = []
    emit = JITCodeLibrary._finalize_specific
    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", lambda self: (emitted.append(self.name), emit(self)))
    ours = fresh_kernel()
    assert ours(TEXT) == sum(range(100)) + 100 * 199 + 199
    of_ours = [name for name in emitted if "fresh_kernel" in name]
    assert len(of_ours) == 1 and of_ours[0].endswith("outer"), of_ours


def test_numba_asks_once_for_the_type_of_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ask = types.Function.get_call_type

    def counted(self: Any, context: Any, args: Any, kws: Any) -> Any:
        if self.typing_key is operator.iadd:
            asked.append(args)
        return ask(self, context, args, kws)

    monkeypatch.setattr(types.Function, "get_call_type", counted)

    def many(a: int) -> int:
        b = 1
        b += a
        b += a
        b += a
        return b

    with quick_compilation():
        assert compiled(many, cache=False)(3) == 10
    once = len(asked)
    assert once == len(set(asked)) > 0
    assert compiled(many, cache=False)(3) == 10
    assert len(asked) > 2 * once, "numba remembers by itself: quick_compilation is not needed for it"


def test_everything_is_as_before_when_it_ends_or_fails() -> None:
    ask, collects = types.Function.get_call_type, gc.isenabled()
    with pytest.raises(ZeroDivisionError), quick_compilation():
        assert not gc.isenabled() and types.Function.get_call_type is not ask
        _ = 1 // 0
    assert types.Function.get_call_type is ask and gc.isenabled() == collects


def test_the_passes_that_are_left_out_are_numbas() -> None:
    class Recording(Compiler):
        def define_pipelines(self) -> list[Any]:
            passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
            names.update(step.__name__ for step, _ in passes.passes)
            return [passes]

    names: set[str] = set()
    compiled(lambda: 1, cache=False, pipeline_class=Recording)()
    assert names > _UNNEEDED


def test_a_part_that_makes_an_array_is_refused() -> None:
    @part
    def makes(size: int) -> int:
        return len(np.empty(size, np.int64))

    for _ in range(2):  # also when a kernel has made such an array before
        with pytest.raises(Exception, match="array"), quick_compilation():
            assert compiled(lambda size: len(np.empty(size, np.int64)), cache=False)(3) == 3
            compiled(lambda size: makes(size), cache=False)(3)


@pytest.mark.parametrize("name", GROUPS)
def test_every_array_is_freed_once(name: str) -> None:
    """Parts count no references: one that only a kernel counts would be kept for ever, or freed while it is in use."""
    GROUPS[name].compile()
    _nrt_python.memsys_enable_stats()
    gc.collect()
    before = rtsys.get_allocation_stats()
    for _ in range(3):
        GROUPS[name].compile()
    gc.collect()
    after = rtsys.get_allocation_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free > 0
    assert after.alloc - before.alloc == after.free - before.free
