"""Faster compilation of kernels: what numba (0.68) repeats while it compiles is done once. The machine code is the
same.

This saves half of the time until a kernel first runs. If another version of numba has changed these places,
`test_quick_compilation.py` fails.
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
"""Passes for `with`, closures, comprehensions, inlining by numba, `literally`, raised values and array expressions,
which take a sixth of the time. Without them such code does not compile, or creates the temporary array that an array
expression avoids."""
_REMEMBERED = ("_operator", "builtins", "numpy")
"""Modules of operators and functions for which numba tries all implementations: strings, sets, dates and so on."""


class _NoEnvironments:
    """Replacement for numba's code generator, which would write a function's environment into its machine code."""

    def set_env(self, name: str, environment: object) -> None:
        """Do nothing: compiled code reads its environment only for Python objects, which kernels do not use."""


class _PartLibrary(JITCodeLibrary):
    """Intermediate code of a function, for the kernels that include it.

    numba optimises every function with all its callees and generates machine code for it (`CPUCodeLibrary`,
    `finalize`), so that a small function is compiled again for each function between it and the kernel.
    """

    codegen = _NoEnvironments()

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: the function has no machine code."""
        self._ensure_finalized()
        return 0

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """Do nothing: it is optimised with the kernel."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


class KernelCompiler(CompilerBase):
    """numba's passes for nopython mode, without those for features that no kernel uses."""

    def define_pipelines(self) -> list[Any]:
        """Return the only list of passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        needed = PassManager(passes.pipeline_name)
        needed.passes = [(step, what) for step, what in passes.passes if step.__name__ not in _UNNEEDED]
        needed.finalize()
        return [needed]


class PartCompiler(KernelCompiler):
    """The same for functions that only kernels call, whose result remains intermediate code."""

    def define_pipelines(self) -> list[Any]:
        """Return the only list of passes."""
        state = self.state
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().define_pipelines()


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Cache the types of operators and such functions, and disable garbage collection during compilation.

    `a + b` of two numbers has the same type everywhere, but numba tries about twenty implementations each time. Its
    objects live as long as the process, and the collector would traverse all of them whenever there are more.
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
            known[key] = (ask(self, context, args, kws), self)  # kept, so that its id is not reused
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
