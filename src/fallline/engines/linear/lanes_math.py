"""Exponential and logarithms of `Lanes`, by series, to the last bits of the number type.

    e^x = 2^n e^r,  |r| <= ln(2)/2                                      8 terms in float32, 14 in float64
    log(x) = n ln(2) + 2 artanh((m-1)/(m+1)),  x = 2^n m,  m in [sqrt(1/2), sqrt(2))        5 and 11 terms
    log1p(x) = 2 artanh(x/(2+x)),  0 <= x <= 1                                              8 and 17 terms
"""

from __future__ import annotations

import math
import struct

import llvmlite.ir as ir

from fallline.engines.linear import scalar
from fallline.engines.linear.lanes import named, unary
from fallline.engines.linear.vectors import multiply_add


class _Number:
    """What the series need to know of a vector's number type."""

    def __init__(self, vector):
        single = isinstance(vector.element, ir.FloatType)
        self.vector, self.single = vector, single
        self.whole = ir.VectorType(ir.IntType(32 if single else 64), vector.count)
        self.fraction, self.bias = (23, 127) if single else (52, 1023)
        self.low, self.high = (-87.0, 88.0) if single else (-708.0, 709.0)
        self.ln2 = (0.693359375, -2.12194440e-4) if single else (6.93147180369123816490e-01, 1.90821492927058770002e-10)
        self.exp_terms, self.log_terms, self.log1p_terms = (8, 5, 8) if single else (14, 11, 17)

    def every(self, value):
        return ir.Constant(self.vector, [value] * self.vector.count)

    def whole_of(self, value):
        return ir.Constant(self.whole, [value] * self.vector.count)

    def bits(self, value):
        """The bits of a number, as a whole number."""
        single = struct.pack("<f", value) if self.single else struct.pack("<d", value)
        return int.from_bytes(single, "little")


def _series(builder, number, x, terms):
    """The polynomial with these coefficients, that of the highest power first, by Horner's rule."""
    value = number.every(terms[0])
    for term in terms[1:]:
        value = multiply_add(builder, value, x, number.every(term))
    return value


def _artanh(builder, number, s, terms):
    """artanh(s) by its odd powers."""
    odd = [1.0 / (2 * k + 1) for k in reversed(range(terms))]
    return builder.fmul(s, _series(builder, number, builder.fmul(s, s), odd))


def _exp(builder, x):
    number = _Number(x.type)
    over = builder.fcmp_ordered(">", x, number.every(number.high))
    x = named("maxnum")(builder, named("minnum")(builder, x, number.every(number.high)), number.every(number.low))
    n = named("rint")(builder, builder.fmul(x, number.every(1 / math.log(2))))
    r = x
    for part in number.ln2:
        r = multiply_add(builder, n, number.every(-part), r)
    value = _series(builder, number, r, [1 / math.factorial(k) for k in reversed(range(number.exp_terms))])
    power = builder.shl(builder.add(builder.fptosi(n, number.whole), number.whole_of(number.bias)), number.whole_of(number.fraction))
    value = builder.fmul(value, builder.bitcast(power, x.type))
    return builder.select(over, number.every(math.inf), value)


def _log(builder, x):
    number = _Number(x.type)
    half = number.whole_of(number.bits(math.sqrt(0.5)))
    bits = builder.bitcast(x, number.whole)
    n = builder.ashr(builder.sub(bits, half), number.whole_of(number.fraction))
    m = builder.bitcast(builder.sub(bits, builder.shl(n, number.whole_of(number.fraction))), x.type)
    one, n = number.every(1.0), builder.sitofp(n, x.type)
    s = builder.fdiv(builder.fsub(m, one), builder.fadd(m, one))
    value = builder.fmul(number.every(2.0), _artanh(builder, number, s, number.log_terms))
    for part in reversed(number.ln2):
        value = multiply_add(builder, n, number.every(part), value)
    return value


def _log1p(builder, x):
    number = _Number(x.type)
    s = builder.fdiv(x, builder.fadd(number.every(2.0), x))
    return builder.fmul(number.every(2.0), _artanh(builder, number, s, number.log1p_terms))


unary(scalar.exp, _exp)
unary(math.log, _log)
unary(math.log1p, _log1p)
