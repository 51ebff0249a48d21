"""Compilation of kernels, the size of their scratch arrays, and their checked mode.

Kernels are compiled when they are first called and kept in numba's cache, under a digest of all files with kernels:
numba itself compares only the file that contains a kernel, and would keep running old code of imported files.

With `ALTIPLANO_CHECKED_KERNELS=1` in the environment, every index is compared with the array's length, including those
of `machine_words`, and one outside raises an IndexError. Checked code is slower, and has its own cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from data_prep.kernels.quick_compilation import KernelCompiler, PartCompiler
from foundation.atomic_files import digest

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Points = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Shares = npt.NDArray[np.float64]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_CONFIG: Any = numba.config
_CALLED_BY_KERNELS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}
"""Options of functions that only kernels call: no wrappers for Python and C, and no machine code of the function
alone."""
_VARIABLE = "ALTIPLANO_CHECKED_KERNELS"
if os.environ.get(_VARIABLE, "") not in ("", "0", "1"):
    raise ValueError(f"{_VARIABLE}={os.environ[_VARIABLE]!r} in the environment must be 0 or 1")
CHECKED = os.environ.get(_VARIABLE) == "1"
"""Whether kernels of this process are checked."""


def _cache_folder() -> Path:
    """Return the folder of the kernels of this code: in `NUMBA_CACHE_DIR`, in `data_prep`, or in the user's cache if
    the package is not writable."""
    package = Path(__file__).parents[1]
    folder = Path(_CONFIG.CACHE_DIR or package / "__pycache__")
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK) and not _CONFIG.CACHE_DIR:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altiplano"
    sources = [(path, path.read_bytes()) for path in sorted(package.rglob("*.py"))]
    kernels = {str(path.relative_to(package)): digest(code.decode()) for path, code in sources if b"kernel" in code}
    return folder / f"kernels-{digest(kernels)[:16]}"


_CACHE = _cache_folder()


def kernel(function: _Function) -> _Function:
    """Compile a function when it is first called, once for each combination of argument types; it releases the GIL."""
    return compiled(function, no_cfunc_wrapper=True, pipeline_class=KernelCompiler)


def part(function: _Function) -> _Function:
    """Compile a function that only kernels call and that makes no arrays.

    It counts no references to those that it is given, which its caller keeps. numba refuses one that makes arrays or
    returns one that it was not given.
    """
    return compiled(function, cache=False, _nrt=False, **_CALLED_BY_KERNELS)


def allocating_part(function: _Function) -> _Function:
    """The same of a function that makes arrays."""
    return compiled(function, cache=False, _nrt=True, **_CALLED_BY_KERNELS)


def inlined(function: _Function) -> _Function:
    """The same as `part` of a small function, which becomes part of the machine code wherever it is called.

    numba's own `inline` would put its Python into each caller, which types and translates it again every time.
    """
    return compiled(function, cache=False, forceinline=True, _nrt=False, **_CALLED_BY_KERNELS)


def compiled(function: _Function, cache: bool = True, **options: Any) -> _Function:
    """Compile a function with numba, checked if this process checks its kernels."""
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = str(_CACHE)
    if CHECKED or _CONFIG.BOUNDSCHECK:  # numba's cache does not distinguish checked code
        _CONFIG.CACHE_DIR += f"-checked-{int(CHECKED)}{int(bool(_CONFIG.BOUNDSCHECK))}"
        options["boundscheck"] = True
    try:
        result: _Function = numba.njit(nogil=True, cache=cache, **options)(function)
    finally:
        _CONFIG.CACHE_DIR = before
    return result


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a read-only view: kernels are compiled for each type of array, so all callers must pass the same type."""
    view = array.view()
    view.flags.writeable = False
    return view


SLACK = 4
"""Number of entries of scratch arrays beyond one for each byte of a text."""


def scratch_size(longest: int) -> int:
    """Return the size of every scratch array of a kernel for texts of at most `longest` bytes.

    Kernels take it as `room` and allocate the arrays themselves, so that LLVM knows that they do not overlap the text.
    Only pages that are touched take memory.

    One bound is used for all arrays and holds for any bytes, valid UTF-8 or not. `decode` takes at least one byte for
    each character; words, shingle units and parts between separators each have a character of their own; so there are
    at most as many of each as bytes. White space that is stored (one joint between two parts) was read from a byte
    outside both. A line ends with a line feed or the text, so there is at most one more than bytes, and as many cuts.
    Lines that are not blank and paragraphs together, which share an array: L lines in P paragraphs have L bytes, L - 1
    line feeds between them and P - 1 blank lines, together 2L + P - 2, which is no less than L + P - 1, so there is at
    most one more than bytes. Shingles, n-grams and their positions are no more than their units. `SLACK` covers the
    additional entry, and what a rolling hash reads ahead.
    """
    return longest + SLACK


def longest_text(offsets: npt.NDArray[np.int64]) -> int:
    """Return the bytes of the longest of the texts [offsets[d], offsets[d + 1])."""
    return int(np.diff(offsets).max(initial=0))
