"""Tensors of a file by rows, beside the library's own reader; and files larger than the memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pretrain.checkpoint.tensor_file import DTYPES, TensorFile


def test_every_dtype_and_shape_is_read_as_the_library_does(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    tensors = {
        f"{name}.{'x'.join(map(str, shape))}": torch.randint(0, 2, shape).to(dtype)
        for name, dtype in DTYPES.items()
        for shape in ((), (5,), (4, 3), (3, 0, 2), (2, 3, 4))
    }
    save_file(tensors, path, metadata={"format": "pt"})
    ours = TensorFile(path)
    with safe_open(path, framework="pt") as theirs:
        assert sorted(ours.keys()) == sorted(theirs.keys())
        for name in tensors:
            found, wanted = ours.get_tensor(name), theirs.get_tensor(name)
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            assert torch.equal(found.reshape(-1).view(torch.uint8), wanted.reshape(-1).view(torch.uint8)), name
            rows = ours.get_slice(name)
            assert (rows.get_shape(), rows.get_dtype()) == (list(wanted.shape), theirs.get_slice(name).get_dtype())
            if wanted.dim():
                for chosen in (slice(1, 3), slice(2, None), slice(0, 0), slice(4, 2), slice(0, 99)):
                    assert torch.equal(rows[chosen].double(), wanted[chosen].double()), (name, chosen)


def test_a_copy_is_the_callers_own(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    opened = TensorFile(path)
    opened.get_tensor("weight").fill_(7)
    assert torch.equal(opened.get_tensor("weight"), torch.ones(3))


def test_a_file_larger_than_the_memory_is_read(tmp_path: Path) -> None:
    """A sparse one; the library's mapping of it is refused where the kernel guesses what is too much (its default)."""
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (4 * 1024)
    size = rows * 1024 * 4
    header = {"weight": {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, size]}}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        try:
            file.truncate(8 + len(head) + size)
        except OSError as error:
            pytest.skip(f"no sparse file of {size:,} bytes here: {error}")
        file.seek(-4096, os.SEEK_END)
        file.write(torch.arange(1024, dtype=torch.float32).numpy().tobytes())
    last = TensorFile(path).get_slice("weight")[rows - 2 : rows]
    assert torch.equal(last, torch.stack([torch.zeros(1024), torch.arange(1024.0)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged: .*header"),
        (b"\xff" * 64, "damaged: .*header"),
        (b"\x08\0\0\0\0\0\0\0{}      ", None),
        (b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(64), "damaged"),
    ],
    ids=["empty", "no header", "without tensors", "truncated"],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str | None) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    if message is None:
        assert TensorFile(path).keys() == []
        return
    with pytest.raises(ValueError, match=rf"some\.safetensors: {message}"):
        TensorFile(path)


def test_a_dtype_that_torch_has_not_is_named(tmp_path: Path) -> None:
    head = b'{"a":{"dtype":"U64","shape":[2],"data_offsets":[0,16]}}'.ljust(64)
    path = tmp_path / "some.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(16))
    with pytest.raises(ValueError, match=r"some\.safetensors: a: dtype U64 is not supported"):
        TensorFile(path).get_tensor("a")
