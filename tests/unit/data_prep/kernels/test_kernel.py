"""The checked mode catches every access outside an array, and every text kernel stays inside its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
ACCESSES = """
import numpy as np
from data_prep.kernels import kernel
from data_prep.kernels.machine_words import (
    at, differing_of_32, empty_or_alike, equal_of_64, load_eight, prefetch, smallest_of_64, store_eight
)

BYTES, WORDS, NUMBERS = np.zeros(100, np.uint8), np.zeros(20, np.uint64), np.zeros(100, np.uint32)
TABLE = np.zeros((5, 8), np.uint64)

def indexed(array, i):
    array[i] = 1

def stored(array, i):
    store_eight(array, i, np.uint64(1))

# the access, the array, the last place that is inside
CASES = {
    "indexed": (indexed, BYTES, 99),
    "at": (lambda array, i: at(array, i), BYTES, 99),
    "load_eight": (lambda array, i: load_eight(array, i), BYTES, 92),
    "load_eight of numbers": (lambda array, i: load_eight(array, i), NUMBERS, 98),
    "equal_of_64": (lambda array, i: equal_of_64(array, i, np.uint8(0)), BYTES, 36),
    "differing_of_32": (lambda array, i: differing_of_32(array, 0, array, i), BYTES, 68),
    "empty_or_alike": (lambda array, i: empty_or_alike(array, i, np.uint64(0), np.uint64(0)), WORDS, 12),
    "smallest_of_64": (lambda array, i: smallest_of_64(array, i), NUMBERS, 36),
    "store_eight": (stored, BYTES, 92),
    "store_eight of numbers": (stored, NUMBERS, 98),
    "prefetch": (lambda array, i: prefetch(array, i), TABLE, 4),
}
def outcome(access, array, i):
    try:
        access(array, i)
    except IndexError:
        return "refused"
    return "done"

for name, (function, array, last) in CASES.items():
    access = kernel.compiled(function, cache=False)
    outcomes = [outcome(access, array, i) for i in (0, last, last + 1, len(array), 1 << 40, -len(array) - 1)]
    print(name, *outcomes, sep=",")
"""
"""Every kind of memory access, at indices inside and outside; run in its own process, in checked mode."""


def _run(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ALTIPLANO_CHECKED_KERNELS"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True)


def test_checked_kernels_refuse_every_access_outside_of_an_array() -> None:
    done = _run(ACCESSES, {"ALTIPLANO_CHECKED_KERNELS": "1"})
    assert done.returncode == 0, done.stderr
    lines = [line.split(",") for line in done.stdout.splitlines()]
    assert len(lines) == 11
    for name, *outcomes in lines:
        assert outcomes == ["done"] * 2 + ["refused"] * 4, name


def test_the_mode_is_on_or_off() -> None:
    done = _run("import data_prep.kernels.kernel", {"ALTIPLANO_CHECKED_KERNELS": "yes"})
    assert "ALTIPLANO_CHECKED_KERNELS='yes' in the environment must be 0 or 1" in done.stderr


REFERENCES = """
import re
import numpy as np
from data_prep.signals.roots import statistics as roots_statistics

data, offsets = np.frombuffer(b"a b", np.uint8), np.array([0, 3])
roots_statistics.measure_roots(data, offsets, np.zeros(3, np.bool_), ["en"])
code = roots_statistics._measure.inspect_llvm(roots_statistics._measure.signatures[0])
bodies = re.findall(r"^define [^\\n]*_measure_document.*?^}", code, re.M | re.S)
print(len(bodies), *re.findall(r"call void @NRT_incref\\(ptr %([^)]*)\\)", bodies[0]))
"""
"""The parameters to which `_measure_document` counts references; compiled anew, for what is cached shows no code."""


def test_roots_counts_no_references_for_each_word(tmp_path: Path) -> None:
    done = _run(REFERENCES, {"NUMBA_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    number, *counted = done.stdout.split()
    assert number == "1"
    assert set(counted) <= {"arg.setting.0", "arg.row.0"}, "all but the two are borrowed"
    assert len(counted) <= 2, "once for each document"


CACHES = """
from pathlib import Path
import numpy as np
from data_prep.dedup import near
near.band_keys(np.zeros((1, 2), np.uint32), 1, 2)
print(near._hash_bands.stats.cache_path)
"""


def test_checked_and_unchecked_code_never_share_a_cache(tmp_path: Path) -> None:
    modes = [
        {},
        {"ALTIPLANO_CHECKED_KERNELS": "1"},
        {"NUMBA_BOUNDSCHECK": "1"},
        {"ALTIPLANO_CHECKED_KERNELS": "1", "NUMBA_BOUNDSCHECK": "1"},
    ]
    without = {"ALTIPLANO_CHECKED_KERNELS": "0", "NUMBA_BOUNDSCHECK": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    paths = [_run(CACHES, without | mode).stdout.strip() for mode in modes]
    assert len(set(paths)) == len(modes)
    assert all(Path(path).is_relative_to(tmp_path) and list(Path(path).glob("*.nbc")) for path in paths)


@pytest.mark.parametrize("text", ["a" * 600 + "日" * 401, "ab " * 187 + "日" * 450])
def test_a_sample_of_a_text_that_becomes_denser_fits(text: str) -> None:
    program = (
        "from data_prep.signals.language import LanguageIdentifier, sample\n"
        f"text = {text!r}\n"
        "print(len(sample(text).encode()), LanguageIdentifier().identify(text)[0])"
    )
    done = _run(program, {"ALTIPLANO_CHECKED_KERNELS": "1"})
    assert done.returncode == 0, done.stderr
    size, _ = done.stdout.split()
    assert int(size) > len(text.encode()), "the sample is larger than the text, which is what overflowed"


COPY = """
import sys
sys.path.insert(0, sys.argv[1])
import data_prep
from data_prep.dedup import near
assert data_prep.__file__.startswith(sys.argv[1])
print(near._hash_bands.stats.cache_path)
"""


def test_a_changed_file_that_kernels_import_makes_a_new_cache(tmp_path: Path) -> None:
    """numba checks only the kernel's own file for changes, and would run stale code of the functions it calls."""
    root = Path(__file__).parents[4]
    for package in ("data_prep", "foundation"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def path() -> str:
        command = [sys.executable, "-c", COPY, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()

    before = path()
    assert before == path() and before.startswith(str(tmp_path / "data_prep" / "__pycache__" / "kernels-"))
    with open(tmp_path / "data_prep" / "kernels" / "characters.py", "a") as file:
        file.write("# changed\n")
    assert path() != before
