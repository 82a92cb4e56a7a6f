"""Vectors in LLVM code: how wide they are on this machine, and the pieces that passes are written with."""

from __future__ import annotations

from contextlib import suppress

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba.core import cgutils


def _features() -> dict[str, bool]:
    with suppress(RuntimeError):  # a processor that LLVM has no list for: the narrow tile runs everywhere
        return dict(llvm.get_host_cpu_features())
    return {}


def _shape_of_tiles() -> tuple[int, int]:
    """Bytes of a vector and classes of a tile, which must fit the registers: 32 of them, or 16.

    Vectors of 64 bytes gain nothing: rows begin anywhere, and then each load crosses two cache lines.
    """
    features = _features()
    return 32 if features.get("avx") else 16, 5 if features.get("avx512vl") or features.get("neon") else 2


WIDTH, CLASSES = _shape_of_tiles()
WIDE = 64 if _features().get("avx512f") else WIDTH
"""Bytes of a vector where arrays are laid out for it, so that no load crosses a cache line."""
I64, I32 = ir.IntType(64), ir.IntType(32)


class Array:
    """An array argument inside a pass: `read` and `write` take a flat offset and a mask, or None for a whole vector."""

    def __init__(self, context, builder, kind, value, width=WIDTH):
        if kind.layout != "C":
            raise TypeError(f"{kind}: expected a C-contiguous array")
        held = context.make_array(kind)(context, builder, value)
        self.builder, self.data, self.bytes = builder, held.data, kind.dtype.bitwidth // 8
        self.columns = cgutils.unpack_tuple(builder, held.shape)[-1]
        self.vector = ir.VectorType(context.get_value_type(kind.dtype), width // self.bytes)

    def row(self, number):
        return self.builder.mul(number, self.columns)

    def at(self, offset):
        return self.builder.gep(self.data, [offset])

    def read(self, row, j, mask):
        place = self.builder.bitcast(self.at(self.builder.add(row, j)), self.vector.as_pointer())
        if mask is None:
            return self.builder.load(place, align=self.bytes)
        arguments = [place, I32(self.bytes), mask, self.vector(None)]
        return call(self.builder, f"llvm.masked.load.{suffix(self.vector)}.p0", self.vector, arguments)

    def write(self, row, j, mask, value):
        place = self.builder.bitcast(self.at(self.builder.add(row, j)), self.vector.as_pointer())
        if mask is None:
            self.builder.store(value, place, align=self.bytes)
        else:
            arguments = [value, place, I32(self.bytes), mask]
            call(self.builder, f"llvm.masked.store.{suffix(self.vector)}.p0", ir.VoidType(), arguments)


def suffix(kind):
    letter = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
    return f"v{kind.count}{letter}"


def call(builder, name, result, arguments):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def splat(builder, number, lanes):
    kind = ir.VectorType(number.type, lanes)
    nothing = ir.Constant(kind, ir.Undefined)
    zeros = ir.VectorType(I32, lanes)(None)
    return builder.shuffle_vector(builder.insert_element(nothing, number, I32(0)), nothing, zeros)


def multiply_add(builder, a, b, c):
    """a*b + c in one instruction, where the processor has it."""
    return call(builder, f"llvm.fmuladd.{suffix(a.type)}", a.type, [a, b, c])


def sum_of_lanes(builder, vector):
    kind = vector.type
    function = ir.FunctionType(kind.element, [kind.element, kind])
    name = f"llvm.vector.reduce.fadd.{suffix(kind)}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [kind.element(0.0), vector], fastmath=("reassoc",))


def prefetch(builder, place):
    byte = ir.IntType(8).as_pointer()
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [builder.bitcast(place, byte), I32(0), I32(3), I32(1)])
