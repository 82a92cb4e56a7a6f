"""Scalar pieces that every linear kernel shares: the row, the law, the losses, the prefetch.

The law is that of `fallline.rows`, written once for one coordinate. Kernels pass arrays or `None` for the
registers `v`, `s` and `a`; Numba prunes the branches of what is `None`, so the machine code holds only the
registers that a segment needs.
"""

from __future__ import annotations

import math

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fallline.compiled import kernel
from fallline.rows import INDEX

SQUARED, LOGISTIC, HUBER, HINGE, SQUARED_HINGE, POISSON, SOFTMAX, MODIFIED_HUBER, PERCEPTRON, INSENSITIVE, SQUARED_INSENSITIVE, QUANTILE = range(12)
"""Codes of the losses; `fallline.problems.losses` gives each loss its code, and a test holds the two together."""

LOOK, CLIP, THRESHOLD = INDEX["look"], INDEX["clip"], INDEX["threshold"]
_L2, _MOMENTUM, _INTAKE, _DIRECT, _THROUGH = (INDEX[c] for c in ("l2", "momentum", "intake", "direct", "through"))
_KEEP2, _INTAKE2, _UNBIAS, _EPS = (INDEX[c] for c in ("second_keep", "second_intake", "unbias", "eps"))
_SHRINK, _LR, _AVERAGE = (INDEX[c] for c in ("shrink", "lr", "average"))

NODES = 32
"""Table nodes per unit of score; a third-order Taylor step from the nearest node errs by 3e-9 of the value."""
LIMIT = 20
"""Beyond this score float32 cannot tell a sigmoid from 0 or 1 in a gradient."""


def _sigmoid_table() -> np.ndarray:
    """Columns: sigmoid and its derivatives over factorials, then softplus, at the nodes."""
    z = np.arange(-LIMIT * NODES, LIMIT * NODES + 1) / NODES
    p = 1 / (1 + np.exp(-z))
    d1 = p * (1 - p)
    d2 = d1 * (1 - 2 * p)
    d3 = d2 * (1 - 2 * p) - 2 * d1 * d1
    return np.stack([p, d1, d2 / 2, d3 / 6, np.logaddexp(0, z)], axis=1).astype(np.float32)


TABLE = _sigmoid_table()
_EDGE = np.float32(math.exp(-LIMIT))  # sigmoid and softplus at -LIMIT
_SHIFT = np.float32(1.5 * 2**23)
_FIRST = np.uint32(_SHIFT.view(np.uint32) - LIMIT * NODES)  # the bits of the first node, shifted


@intrinsic
def prefetch(typingctx, array, offset):
    """Ask for the cache line of `array`'s element at a flat `offset`, without waiting for it."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32]), "llvm.prefetch.p0"
        )
        builder.call(function, [address, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def fence(typingctx, x):
    """`x`, across which LLVM may not regroup a sum: (x + c) - c stays a rounding, and a chain stays as short as written."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        name = f"llvm.arithmetic.fence.{'f32' if isinstance(kind, ir.FloatType) else 'f64'}"
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), args)

    return x(x), codegen


def _inline(function):
    return kernel(function, forceinline=True)


# ---------------------------------------------------------------------------------------------- exp and friends


def exp(x):
    """e^x; in float32 by a polynomial that LLVM can vectorise (2 ulp)."""


@overload(exp, inline="never")
def _exp(x):
    if x == types.float32:

        def impl(x):
            f = np.float32
            over = x > f(88.0)
            x = min(max(x, f(-87.0)), f(88.0))
            n = np.floor(x * f(1.44269504) + f(0.5))
            r = x - n * f(0.693359375) + n * f(2.12194440e-4)
            p = f(1.9875691500e-4)
            p = p * r + f(1.3981999507e-3)
            p = p * r + f(8.3334519073e-3)
            p = p * r + f(4.1665795894e-2)
            p = p * r + f(1.6666665459e-1)
            p = p * r + f(5.0000001201e-1)
            p = p * r * r + r + f(1)
            p = p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
            return f(np.inf) if over else p

        return impl
    return lambda x: math.exp(x)


def _node(z):
    """Place of the table's node nearest to `z`, |z| <= LIMIT, and the way from it to `z`.

    Adding 1.5 * 2**23 rounds to a whole number and leaves it in the low bits: 10 cycles sooner than rint and a conversion.
    """
    shifted = fence(z * np.float32(NODES) + _SHIFT)
    way = z - fence(shifted - _SHIFT) * np.float32(1 / NODES)
    return np.uint64(np.float32(shifted).view(np.uint32) - _FIRST), way


node = _inline(_node)


def sigmoid(z):
    """1/(1+e^-z); in float32 from the table: a third of the latency of an exponential and a division."""


@overload(sigmoid)
def _sigmoid(z):
    if z == types.float32:

        def table(z):
            if not abs(z) <= np.float32(LIMIT):  # also NaN: a table must never be read outside
                return np.float32(1) if z > 0 else _EDGE
            i, h = node(z)
            return fence(TABLE[i, 0] + h * TABLE[i, 1]) + fence(h * h) * fence(TABLE[i, 2] + h * TABLE[i, 3])

        return table

    def exact(z):
        e = math.exp(-abs(z))
        return 1.0 / (1.0 + e) if z >= 0 else e / (1.0 + e)

    return exact


def softplus(z):
    """log(1+e^z), stable; in float32 from the table."""


@overload(softplus)
def _softplus(z):
    if z == types.float32:

        def table(z):
            if not abs(z) <= np.float32(LIMIT):
                return z if z > 0 else _EDGE
            i, h = node(z)
            return TABLE[i, 4] + h * (TABLE[i, 0] + h * (np.float32(0.5) * TABLE[i, 1] + h * TABLE[i, 2] * np.float32(1 / 3)))

        return table

    def exact(z):
        return math.log1p(math.exp(-abs(z))) + max(z, 0.0)

    return exact


# ------------------------------------------------------------------------------------------------------ losses


def _loss_parts(code, parameter, z, y):
    """Loss of one score, and its slope as a difference (a, c) of which only `a` waits for the score.

    The loss is an integer branch, not a kernel.
    """
    one, zero, half = type(z)(1), type(z)(0), type(z)(0.5)
    if code == LOGISTIC:
        return softplus(z) - y * z, sigmoid(z), y
    if code == SQUARED:
        e = z - y
        return half * e * e, e, zero
    if code == HUBER:
        e = z - y
        if abs(e) <= parameter:
            return half * e * e, e, zero
        return parameter * (abs(e) - half * parameter), parameter if e > 0 else -parameter, zero
    if code == POISSON:
        rate = exp(z)
        return rate - y * z, rate - y, zero
    if code == QUANTILE:
        e = z - y
        slope = one - parameter if e > zero else (-parameter if e < zero else zero * e)
        return slope * e, slope, zero
    if code in (INSENSITIVE, SQUARED_INSENSITIVE):
        e = z - y
        over = abs(e) - parameter
        if over <= zero:
            return zero, zero, zero
        side = one if e > zero else -one
        if code == INSENSITIVE:
            return over, side, zero
        return over * over, (over + over) * side, zero
    side = y + y - one  # labels 0 and 1 become -1 and +1
    if code == PERCEPTRON:
        gap = -side * z
        if gap < zero:
            return zero, zero, zero
        return gap, -side, zero
    gap = one - side * z
    if gap <= zero:
        return zero, zero, zero
    if code == HINGE:
        return gap, -side, zero
    if code == MODIFIED_HUBER and gap > one + one:
        return type(z)(-4) * side * z, type(z)(-4) * side, zero
    return gap * gap, -(gap + gap) * side, zero


loss_parts = _inline(_loss_parts)


def _loss_slope(code, parameter, z, y):
    """Loss of one score and its slope with respect to the score."""
    loss, a, c = loss_parts(code, parameter, z, y)
    return loss, a - c


loss_slope = _inline(_loss_slope)


def _target_of(target, i, k, outputs):
    """The target of row `i`'s output `k`: one of several numbers, or class k against the rest where there is one label."""
    if target.shape[1] == outputs:
        return target[i, k]
    return target.dtype.type(1.0 if target[i, 0] == k else 0.0)


target_of = _inline(_target_of)


def _losses_slopes(code, parameter, z, q, target, i, weight, slopes):
    """Loss of data row `i`, whose scores are z[q], and its slopes by output into slopes[q]; `weight` multiplies both.

    Whole arrays and an index, not z[q]: a slice made in a hot loop costs two atomic counts.
    """
    outputs = z.shape[1]
    if outputs == 1:
        loss, slope = loss_slope(code, parameter, z[q, 0], target[i, 0])
        slopes[q, 0] = slope * weight
        return float(loss * weight)
    if code == SOFTMAX:
        top = z[q, 0]
        for k in range(1, outputs):
            top = max(top, z[q, k])
        total = type(top)(0)
        for k in range(outputs):
            slopes[q, k] = exp(z[q, k] - top)
        for k in range(outputs):
            total += slopes[q, k]
        label = int(target[i, 0])
        scale = weight / total
        for k in range(outputs):
            slopes[q, k] *= scale
        slopes[q, label] -= weight
        return float((math.log(total) + top - z[q, label]) * weight)
    loss = 0.0
    for k in range(outputs):
        part, slope = loss_slope(code, parameter, z[q, k], target_of(target, i, k, outputs))
        slopes[q, k] = slope * weight
        loss += part * weight
    return loss


losses_slopes = _inline(_losses_slopes)


# ---------------------------------------------------------------------------------------------- the row, the law


def _fill(row, names, varying, t):
    """Write the varying columns of step `t` into the two groups' `row` [2, columns]."""
    for k in range(names.shape[0]):
        row[0, names[k]] = varying[t, 0, k]
        row[1, names[k]] = varying[t, 1, k]


fill = _inline(_fill)


def _columns(row, group, f, registers):
    """One group's row as scalars of type `f`, in the order that `law` takes them.

    Without `v` and `s` the law is affine in the weight and the gradient, w' = keep*w - size*g; the two factors then
    stand in the places of shrink and lr, so that a coordinate costs two multiplications instead of five.
    """
    second = row[group, _INTAKE2] > 0  # where the second moment is off, `law` divides by sqrt(0) + 1
    shrink, lr = row[group, _SHRINK], row[group, _LR]
    if not registers:
        lr *= row[group, _DIRECT]
        shrink -= lr * row[group, _L2]
    return (
        f(row[group, _L2]),
        f(row[group, _MOMENTUM]),
        f(row[group, _INTAKE]),
        f(row[group, _DIRECT]),
        f(row[group, _THROUGH]),
        f(row[group, _KEEP2]),
        f(row[group, _INTAKE2]),
        f(row[group, _UNBIAS]) if second else f(0),
        f(row[group, _EPS]) if second else f(1),
        f(shrink),
        f(lr),
        f(row[group, THRESHOLD]),
        f(row[group, _AVERAGE]),
    )


columns = _inline(_columns)


def toward_zero(w, threshold):
    """sign(w) * max(|w| - threshold, 0)."""


@overload(toward_zero, jit_options={"forceinline": True})
def _toward_zero(w, threshold):
    if isinstance(w, types.Float):

        def impl(w, threshold):
            size = max(abs(w) - threshold, type(w)(0))
            return size if w > 0 else -size

        return impl


def _law(r, w, v, s, a, g, has_v, has_s, has_a, has_l1):
    """The law of `fallline.rows` for one coordinate; the flags are constants in every caller."""
    u = g
    if has_v or has_s:
        d = g + r[0] * w
        u = r[3] * d
        if has_v:
            v = r[1] * v + r[2] * d
            u = u + r[4] * v
        if has_s:
            s = r[5] * s + r[6] * d * d
            u = u / (math.sqrt(s * r[7]) + r[8])
    w = r[9] * w - r[10] * u
    if has_l1:
        w = toward_zero(w, r[11])
    if has_a:
        a = a + r[12] * (w - a)
    return w, v, s, a


law = _inline(_law)


def _still(f):
    """The row that leaves every register as it is, bit for bit: it starts a kernel's pipeline."""
    return (f(0), f(1), f(0), f(0), f(0), f(1), f(0), f(1), f(1), f(1), f(0), f(0), f(0))


still = _inline(_still)


def _fits(x):
    """True for a finite number that is not about to overflow; NaN and infinity compare false."""
    return abs(x) <= type(x)(3.0e38)


fits = _inline(_fits)
