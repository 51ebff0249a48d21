"""What numba (0.68) does again and again while it compiles kernels, done once. The machine code is the same.

All of it concerns the time until a kernel runs for the first time, half of which it saves; with another numba, in which
these places have changed, `test_quick_compilation.py` fails.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager
from numba.core.targetconfig import ConfigStack

_UNNEEDED = {
    "WithLifting", "InlineClosureLikes", "MakeFunctionToJitFunction", "InlineInlinables", "InlineOverloads",
    "FindLiterallyCalls", "LiteralUnroll", "LiteralPropagationSubPipelinePass", "RewriteDynamicRaises",
    "NopythonRewrites",
}  # fmt: skip
"""For `with`, closures, comprehensions, inlining by numba, `literally`, raised values and expressions of whole arrays:
a sixth of the time. Code with one of them does not compile, or makes the array that such an expression would avoid."""
_REMEMBERED = ("_operator", "builtins", "numpy")
"""Modules of operators and functions whose types numba asks of all that declare any: strings, sets, dates and so on."""


class _NoEnvironments:
    """In place of numba's code generator, which would write a function's environment into its machine code."""

    def set_env(self, name: str, environment: object) -> None:
        """Nothing: compiled code reads its environment only for Python objects, which kernels have none of."""


class _PartLibrary(JITCodeLibrary):
    """The intermediate code of one function, for the kernels that it becomes part of.

    numba optimises every function together with all that it calls, and makes machine code of it (`CPUCodeLibrary`,
    `finalize`): a small one again for each function on the way up to the kernel.
    """

    codegen = _NoEnvironments()

    def get_pointer_to_function(self, name: str) -> int:
        """0, as of a function that has no machine code."""
        self._ensure_finalized()
        return 0

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """Nothing: it is optimised with the kernel."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


class KernelCompiler(CompilerBase):
    """numba's passes for compiled code without Python objects, but for those that look for what no kernel has."""

    def define_pipelines(self) -> list[Any]:
        """The one list of passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        needed = PassManager(passes.pipeline_name)
        needed.passes = [(step, what) for step, what in passes.passes if step.__name__ not in _UNNEEDED]
        needed.finalize()
        return [needed]


class PartCompiler(KernelCompiler):
    """The same for a function that only kernels call; what the passes make stays intermediate code."""

    def define_pipelines(self) -> list[Any]:
        """The one list of passes."""
        state = self.state
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().define_pipelines()


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Remember the types of operators and such functions, and let the garbage of compilation lie until the end.

    `a + b` of two numbers has the same type wherever it stands; numba asks about twenty implementations each time. Its
    objects live as long as the process, and the collector walks through all of them each time there are more.
    """
    function: Any = types.Function
    ask = function.get_call_type
    known: dict[tuple[int, Any, bool | None], Any] = {}

    def remembered(self: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws or getattr(self.typing_key, "__module__", None) not in _REMEMBERED:
            return ask(self, context, args, kws)
        flags = ConfigStack().top_or_none()
        key = (id(self), args, flags and flags.nrt)
        if key not in known:
            known[key] = (ask(self, context, args, kws), self)  # kept, so that its id stays its own
        return known[key][0]

    collects = gc.isenabled()
    function.get_call_type = remembered
    gc.disable()
    try:
        yield
    finally:
        function.get_call_type = ask
        if collects:
            gc.enable()
