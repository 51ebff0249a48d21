"""What compiled code needs and numba has no words for: many bytes at once, as the processor reads and compares them.

`data` is an array of bytes. Nothing here looks whether it ends before the bytes that are read, but `first_bytes`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import load_item, make_array


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: kernels are compiled once for each kind of array, so that all callers hand in the same kind."""
    view = array.view()
    view.flags.writeable = False
    return view


def _generate_at(context: Any, array: Any, i: Any) -> Any:
    """`array[i]` of a place that is not negative, which is then not asked: a tenth of a loop over bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        place = builder.gep(make_array(kind)(context, builder, arguments[0]).data, [arguments[1]])
        return load_item(context, builder, kind, place)

    return array.dtype(array, numba.int64), generate


at: Any = intrinsic(_generate_at)


def _generate_load(context: Any, data: Any, i: Any) -> Any:
    """The eight bytes from `data[i]` on as one number, wherever they begin; the first is the lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(address, align=1)

    return numba.uint64(data, i), generate


load_eight: Any = intrinsic(_generate_load)


def _generate_equal(context: Any, data: Any, i: Any, value: Any) -> Any:
    """Which of the 64 bytes from `data[i]` on are `value`: the first byte is the lowest bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        kind = ir.VectorType(ir.IntType(8), 64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())
        block = builder.load(address, align=1)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[2], ir.IntType(32)(0))
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        wanted = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), all_lanes)
        return builder.bitcast(builder.icmp_unsigned("==", block, wanted), ir.IntType(64))

    return numba.uint64(data, i, numba.uint8), generate


equal_of_64: Any = intrinsic(_generate_equal)


def _generate_differing(context: Any, one: Any, i: Any, other: Any, j: Any) -> Any:
    """Which of the 32 bytes from `one[i]` on are not those from `other[j]` on: the first byte is the lowest bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 32)
        blocks = []
        for k in (0, 2):
            array = make_array(signature.args[k])(context, builder, arguments[k])
            address = builder.bitcast(builder.gep(array.data, [arguments[k + 1]]), kind.as_pointer())
            blocks.append(builder.load(address, align=1))
        differing = builder.bitcast(builder.icmp_unsigned("!=", *blocks), ir.IntType(32))
        return builder.zext(differing, ir.IntType(64))

    return numba.uint64(one, numba.int64, other, numba.int64), generate


differing_of_32: Any = intrinsic(_generate_differing)


def _generate_store(context: Any, array: Any, i: Any, eight: Any) -> Any:
    """Write eight bytes from `array[i]` on, whatever the array is of."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        builder.store(arguments[2], builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return numba.void(array, numba.int64, numba.uint64), generate


store_eight: Any = intrinsic(_generate_store)


def _generate_prefetch(context: Any, array: Any, i: Any) -> Any:
    """Bring the line of the cache that row `i` of a table begins in, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = make_array(signature.args[0])(context, builder, arguments[0])
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
    """Which of the eight numbers from `entries[i]` on are zero, or `value` in the bits of `compared`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        kind = ir.VectorType(ir.IntType(64), 8)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())
        eight = builder.load(address, align=8)

        def each(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
            all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), all_lanes)

        none = ir.Constant(kind, [0] * 8)
        differing = builder.and_(builder.xor(eight, each(arguments[2])), each(arguments[3]))
        alike = builder.or_(builder.icmp_unsigned("==", differing, none), builder.icmp_unsigned("==", eight, none))
        return builder.zext(builder.bitcast(alike, ir.IntType(8)), ir.IntType(64))

    return numba.uint64(entries, i, numba.uint64, numba.uint64), generate


empty_or_alike: Any = intrinsic(_generate_alike)


def _generate_lowest(context: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; at least one must be."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return numba.uint64(numba.uint64), generate


lowest: Any = intrinsic(_generate_lowest)


def _generate_highest(context: Any, bits: Any) -> Any:
    """The place of the highest bit that is set; at least one must be."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sub(ir.IntType(64)(63), builder.ctlz(arguments[0], ir.IntType(1)(1)))

    return numba.uint64(numba.uint64), generate


highest: Any = intrinsic(_generate_highest)


def _generate_smallest(context: Any, numbers: Any, i: Any) -> Any:
    """The smallest of the 64 numbers of 32 bits from `numbers[i]` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        number = ir.IntType(32)
        kind = ir.VectorType(number, 64)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())
        name = "llvm.vector.reduce.umin.v64i32"
        function = get_or_insert_function(builder.module, ir.FunctionType(number, [kind]), name)
        return builder.call(function, [builder.load(address, align=4)])

    return numba.uint32(numbers, numba.int64), generate


smallest_of_64: Any = intrinsic(_generate_smallest)


EACH_BYTE = np.uint64(0x0101010101010101)
"""Times a byte: eight of it."""


@numba.njit(nogil=True, cache=True, inline="always")
def first_bytes(data, start, size):  # type: ignore[no-untyped-def]
    """At most eight bytes from `data[start]` on as one number; the first is the lowest, what is missing is zero."""
    if start + 8 <= data.shape[0]:
        return load_eight(data, start) & mask_of(size)
    value = np.uint64(0)
    for i in range(size):
        value |= np.uint64(data[start + i]) << np.uint64(8 * i)
    return value


@numba.njit(nogil=True, cache=True, inline="always")
def mask_of(size):  # type: ignore[no-untyped-def]
    """All bits of the lowest `size` of eight bytes."""
    return ~np.uint64(0) >> np.uint64(64 - 8 * size) if size else np.uint64(0)


@numba.njit(nogil=True, cache=True, inline="always")
def bytes_equal(eight, byte):  # type: ignore[no-untyped-def]
    """The highest bit of each of eight bytes that is `byte`; above the lowest such, perhaps of others too."""
    others = eight ^ (EACH_BYTE * np.uint64(byte))
    return (others - EACH_BYTE) & ~others & (EACH_BYTE << np.uint64(7))
