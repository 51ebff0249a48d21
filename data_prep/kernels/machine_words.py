"""LLVM intrinsics that numba does not expose: unchecked access, and operations on many bytes at once.

`data` is an array of bytes. Accesses are unchecked, except in `first_bytes`; in the checked mode of `kernel` those
outside the array raise an IndexError.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import load_item, make_array

from data_prep.kernels.kernel import CHECKED, Bytes, inlined

_I64 = ir.IntType(64)


def _row(context: Any, builder: Any, kind: Any, place: Any, size: int, purpose: str) -> Any:
    """Return the array of `place` (array and index), where `size` entries are accessed; if `CHECKED`, check that they
    are inside."""
    value, i = place
    array = make_array(kind)(context, builder, value)
    if CHECKED:
        length = builder.extract_value(array.shape, 0)
        starts_outside = builder.icmp_unsigned(">", i, length)  # as unsigned numbers, negative indices are large
        ends_outside = builder.icmp_unsigned("<", builder.sub(length, i), _I64(size))
        with builder.if_then(builder.or_(starts_outside, ends_outside), likely=False):
            message = f"{purpose} of {size} entries outside the array"
            context.call_conv.return_user_exc(builder, IndexError, (message,))
    return array


def _address(context: Any, builder: Any, kind: Any, place: Any, bits: int, purpose: str) -> Any:
    """Return a pointer to the entry at `place` (array and index), where `bits` bits are accessed."""
    array = _row(context, builder, kind, place, -(-bits // _entry_bits(kind)), purpose)
    return builder.gep(array.data, [place[1]])


def _entry_bits(kind: Any) -> int:
    return 8 if kind.dtype == numba.boolean else int(kind.dtype.bitwidth)


def _all_alike(builder: Any, number: Any, kind: Any) -> Any:
    """Return a vector with `number` in each lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)


def _generate_at(context: Any, array: Any, i: Any) -> Any:
    """Unchecked `array[i]` for i >= 0; checking the sign takes a tenth of the time of a loop over bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        place = _address(context, builder, kind, arguments, _entry_bits(kind), "load")
        return load_item(context, builder, kind, place)

    return array.dtype(array, numba.int64), generate


at: Any = intrinsic(_generate_at)


def _generate_load(context: Any, data: Any, i: Any) -> Any:
    """Load eight bytes from `data[i]` on, at any alignment, as one number; the first byte is the lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], arguments, 64, "load")
        return builder.load(builder.bitcast(place, _I64.as_pointer()), align=1)

    return numba.uint64(data, numba.int64), generate


load_eight: Any = intrinsic(_generate_load)


def _generate_equal(context: Any, data: Any, i: Any, value: Any) -> Any:
    """Return which of the 64 bytes from `data[i]` on equal `value`, as bits; the first byte is the lowest bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        place = _address(context, builder, signature.args[0], arguments[:2], 512, "load")
        block = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
        return builder.bitcast(builder.icmp_unsigned("==", block, _all_alike(builder, arguments[2], kind)), _I64)

    return numba.uint64(data, numba.int64, numba.uint8), generate


equal_of_64: Any = intrinsic(_generate_equal)


def _generate_differing(context: Any, one: Any, i: Any, other: Any, j: Any) -> Any:
    """Return which of the 32 bytes from `one[i]` on differ from those from `other[j]` on, as bits; the first byte is
    the lowest bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 32)
        blocks = []
        for k in (0, 2):
            place = _address(context, builder, signature.args[k], arguments[k : k + 2], 256, "load")
            blocks.append(builder.load(builder.bitcast(place, kind.as_pointer()), align=1))
        differing = builder.bitcast(builder.icmp_unsigned("!=", *blocks), ir.IntType(32))
        return builder.zext(differing, _I64)

    return numba.uint64(one, numba.int64, other, numba.int64), generate


differing_of_32: Any = intrinsic(_generate_differing)


def _generate_store(context: Any, array: Any, i: Any, eight: Any) -> Any:
    """Store eight bytes from `array[i]` on, whatever its type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], arguments[:2], 64, "store")
        builder.store(arguments[2], builder.bitcast(place, _I64.as_pointer()), align=1)
        return context.get_dummy_value()

    return numba.void(array, numba.int64, numba.uint64), generate


store_eight: Any = intrinsic(_generate_store)


def _generate_prefetch(context: Any, array: Any, i: Any) -> Any:
    """Prefetch the cache line at the start of row `i` of a table."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = _row(context, builder, signature.args[0], arguments, 1, "prefetch")
        stride = builder.extract_value(table.strides, 0)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(builder.bitcast(table.data, byte), [builder.mul(arguments[1], stride)])
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, soon again, data
        return context.get_dummy_value()

    return numba.void(array, numba.int64), generate


prefetch: Any = intrinsic(_generate_prefetch)


def _generate_alike(context: Any, entries: Any, i: Any, value: Any, compared: Any) -> Any:
    """Return which of the eight numbers from `entries[i]` on are zero or equal `value` in the bits of `compared`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(_I64, 8)
        place = _address(context, builder, signature.args[0], arguments[:2], 512, "load")
        eight = builder.load(builder.bitcast(place, kind.as_pointer()), align=8)
        none = ir.Constant(kind, [0] * 8)
        value, compared = (_all_alike(builder, number, kind) for number in arguments[2:])
        differing = builder.and_(builder.xor(eight, value), compared)
        alike = builder.or_(builder.icmp_unsigned("==", differing, none), builder.icmp_unsigned("==", eight, none))
        return builder.zext(builder.bitcast(alike, ir.IntType(8)), _I64)

    return numba.uint64(entries, numba.int64, numba.uint64, numba.uint64), generate


empty_or_alike: Any = intrinsic(_generate_alike)


def _generate_lowest(context: Any, bits: Any) -> Any:
    """Return the index of the lowest set bit; at least one must be set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return numba.uint64(numba.uint64), generate


lowest: Any = intrinsic(_generate_lowest)


def _generate_highest(context: Any, bits: Any) -> Any:
    """Return the index of the highest set bit; at least one must be set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sub(ir.IntType(64)(63), builder.ctlz(arguments[0], ir.IntType(1)(1)))

    return numba.uint64(numba.uint64), generate


highest: Any = intrinsic(_generate_highest)


def _generate_smallest(context: Any, numbers: Any, i: Any) -> Any:
    """Return the smallest of the 64 32-bit numbers from `numbers[i]` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.VectorType(number, 64)
        place = _address(context, builder, signature.args[0], arguments, 2048, "load")
        name = "llvm.vector.reduce.umin.v64i32"
        function = get_or_insert_function(builder.module, ir.FunctionType(number, [kind]), name)
        return builder.call(function, [builder.load(builder.bitcast(place, kind.as_pointer()), align=4)])

    return numba.uint32(numbers, numba.int64), generate


smallest_of_64: Any = intrinsic(_generate_smallest)


EACH_BYTE = np.uint64(0x0101010101010101)
"""Factor that repeats a byte eight times."""


@inlined
def first_bytes(data: Bytes, start: int, size: int) -> np.uint64:
    """Load at most eight bytes from `data[start]` on as one number; the first is the lowest, missing ones are zero."""
    if start + 8 <= data.shape[0]:
        return load_eight(data, start) & mask_of(size)
    value = np.uint64(0)
    for i in range(size):
        value |= np.uint64(data[start + i]) << np.uint64(8 * i)
    return value


@inlined
def mask_of(size: int) -> np.uint64:
    """Return all bits of the lowest `size` of eight bytes."""
    return ~np.uint64(0) >> np.uint64(64 - 8 * size) if size else np.uint64(0)


@inlined
def bytes_equal(eight: np.uint64, byte: int) -> np.uint64:
    """Return the highest bit of each of eight bytes that equals `byte`; above the lowest such byte, other bits may be
    set too."""
    others = eight ^ (EACH_BYTE * np.uint64(byte))
    return (others - EACH_BYTE) & ~others & (EACH_BYTE << np.uint64(7))
