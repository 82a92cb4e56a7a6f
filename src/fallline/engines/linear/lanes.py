"""Numbers side by side: one vector register as a Numba type, so that the scalar law runs on eight runs at once.

`law` of `scalar.py` is written for one coordinate. Given `Lanes` in place of numbers, the same source compiles to vector
code, with nothing left to the vectoriser's mood.
"""

from __future__ import annotations

import math
import operator

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from fallline.engines.linear.scalar import toward_zero
from fallline.engines.linear.vectors import I64, WIDE, Array, call, splat, suffix


class Lanes(types.Type):
    """The numbers of one vector register.

    Args:
        number: their type, float32 or float64.
    """

    def __init__(self, number: types.Type):
        self.number = number
        super().__init__(f"Lanes({number})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        number = ir.FloatType() if fe_type.number == types.float32 else ir.DoubleType()
        super().__init__(dmm, fe_type, ir.VectorType(number, WIDE * 8 // fe_type.number.bitwidth))


def binary(function, emit):
    """`function` of two Lanes, or of Lanes and a number on the right, as one instruction."""

    @intrinsic
    def run(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return emit(builder, *args)

        return a(a, b), codegen

    @overload(function)
    def both(a, b):
        if isinstance(a, Lanes) and a == b:
            return lambda a, b: run(a, b)


def unary(function, emit):
    @intrinsic
    def run(typingctx, a):
        def codegen(context, builder, signature, args):
            return emit(builder, *args)

        return a(a), codegen

    @overload(function)
    def one(a):
        if isinstance(a, Lanes):
            return lambda a: run(a)


def named(name):
    def emit(builder, *args):
        return call(builder, f"llvm.{name}.{suffix(args[0].type)}", args[0].type, list(args))

    return emit


binary(operator.add, lambda builder, a, b: builder.fadd(a, b))
binary(operator.sub, lambda builder, a, b: builder.fsub(a, b))
binary(operator.mul, lambda builder, a, b: builder.fmul(a, b))
binary(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
unary(math.sqrt, named("sqrt"))
unary(abs, named("fabs"))
binary(math.copysign, named("copysign"))
binary(max, named("maxnum"))
binary(min, named("minnum"))


def _toward_zero(builder, w, threshold):
    """sign(w) * max(|w| - threshold, 0); NaN stays NaN."""
    left = builder.fsub(named("fabs")(builder, w), threshold)
    size = builder.select(builder.fcmp_ordered("<", left, left.type(None)), left.type(None), left)
    return named("copysign")(builder, size, w)


binary(toward_zero, _toward_zero)


@intrinsic
def lanes_at(typingctx, array, offset):
    """The numbers at a flat offset of a C-contiguous array, as Lanes."""
    kind = Lanes(array.dtype)

    def codegen(context, builder, signature, args):
        return Array(context, builder, array, args[0], WIDE).read(I64(0), args[1], None)

    return kind(array, types.intp), codegen


@intrinsic
def put_lanes(typingctx, array, offset, value):
    """Write Lanes at a flat offset of a C-contiguous array."""

    def codegen(context, builder, signature, args):
        Array(context, builder, array, args[0], WIDE).write(I64(0), args[1], None, args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def spread(typingctx, like, number):
    """A number in every lane, in the type of the array or Lanes `like`."""
    kind = like if isinstance(like, Lanes) else Lanes(like.dtype)

    def codegen(context, builder, signature, args):
        one = context.cast(builder, args[1], signature.args[1], kind.number)
        return splat(builder, one, context.get_value_type(kind).count)

    return kind(like, number), codegen


@intrinsic
def lanes_of(typingctx, array):
    """Numbers of a vector of the array's type: a constant of the compiled kernel."""

    def codegen(context, builder, signature, args):
        return I64(WIDE * 8 // array.dtype.bitwidth)

    return types.intp(array), codegen
