"""Passes over dense rows, written vector by vector.

LLVM's vectoriser unrolls for long rows, leaves one of 20 features to its scalar remainder, and never shares a load
between several sums. Here the last, partial vector of a row is read under a mask, and a tile of rows and classes stays
in registers, so that a batch costs its multiply-adds and not its loads. Each pass is one piece of LLVM code, built once
for each number type; on a processor without such vectors LLVM splits them.

Arrays are C-contiguous; a row of data is given by its number, a class by its row of the weights.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fallline.compiled import kernel
from fallline.engines.linear.vectors import (
    CLASSES,
    I64,
    WIDTH,
    Array,
    multiply_add,
    prefetch,
    splat,
    sum_of_lanes,
)

ROWS = 4
"""Rows of a tile."""


def _sweep(builder, columns, lanes, body, turns=1):
    """Emit `body(j, mask, turn)` for the vectors of a row, one or two to an iteration: each turn may keep sums of its own."""
    size = lanes * turns
    with cgutils.for_range(builder, builder.lshr(columns, I64(size.bit_length() - 1))) as loop:
        for turn in range(turns):
            body(builder.add(builder.mul(loop.index, I64(size)), I64(turn * lanes)), None, turn)
    left = builder.and_(columns, I64(lanes - 1))
    rest = builder.sub(columns, left)
    if turns == 2:
        with builder.if_then(builder.icmp_signed("!=", builder.and_(columns, I64(lanes)), I64(0))):
            body(builder.sub(rest, I64(lanes)), None, 0)
    with builder.if_then(builder.icmp_signed("!=", left, I64(0))):
        lane = ir.Constant(ir.VectorType(I64, lanes), [I64(k) for k in range(lanes)])
        body(rest, builder.icmp_signed("<", lane, splat(builder, left, lanes)), turns - 1)


def _sums(builder, vector, first, second):
    """Places of first x second vector sums, from zero; LLVM turns them into registers."""
    return [[cgutils.alloca_once(builder, vector, zfill=True) for _ in range(second)] for _ in range(first)]


def _add_product(builder, place, a, b):
    builder.store(multiply_add(builder, a, b, builder.load(place)), place)


def _scores(classes):
    """The pass of `scores_of` for the classes k .. k+classes-1."""

    @intrinsic
    def tile(typingctx, X, rows, soon, p, k, z, q):
        def codegen(context, builder, signature, args):
            x, w, out = (Array(context, builder, signature.args[n], args[n]) for n in (0, 3, 5))
            starts = [x.row(number) for number in cgutils.unpack_tuple(builder, args[1], ROWS)]
            ahead = [x.row(number) for number in cgutils.unpack_tuple(builder, args[2], 2)]
            weights = [w.row(builder.add(args[4], I64(c))) for c in range(classes)]
            sums = _sums(builder, x.vector, ROWS, classes)

            def body(j, mask, turn):
                for start in ahead:
                    prefetch(builder, x.at(builder.add(start, j)))
                held = [w.read(weight, j, mask) for weight in weights]
                for start, row in zip(starts, sums, strict=True):
                    value = x.read(start, j, mask)
                    for weight, place in zip(held, row, strict=True):
                        _add_product(builder, place, value, weight)

            _sweep(builder, x.columns, x.vector.count, body)
            for r in range(ROWS):
                first = builder.add(out.row(builder.add(args[6], I64(r))), args[4])
                for c in range(classes):
                    builder.store(sum_of_lanes(builder, builder.load(sums[r][c])), out.at(builder.add(first, I64(c))))
            return context.get_dummy_value()

        return types.void(X, rows, soon, p, types.intp, z, types.intp), codegen

    return tile


def _gradients(classes):
    """The pass of `add_gradients` for the classes k .. k+classes-1."""

    @intrinsic
    def tile(typingctx, X, rows, slopes, k, g, q):
        def codegen(context, builder, signature, args):
            x, s, out = (Array(context, builder, signature.args[n], args[n]) for n in (0, 2, 4))
            starts = [x.row(number) for number in cgutils.unpack_tuple(builder, args[1], ROWS)]
            places = [out.row(builder.add(args[3], I64(c))) for c in range(classes)]
            factors = []
            for r in range(ROWS):
                first = builder.add(s.row(builder.add(args[5], I64(r))), args[3])
                numbers = [builder.load(s.at(builder.add(first, I64(c)))) for c in range(classes)]
                factors.append([splat(builder, number, x.vector.count) for number in numbers])

            def body(j, mask, turn):
                held = [out.read(place, j, mask) for place in places]
                for start, row in zip(starts, factors, strict=True):
                    value = x.read(start, j, mask)
                    held = [multiply_add(builder, value, factor, g) for factor, g in zip(row, held, strict=True)]
                for place, g in zip(places, held, strict=True):
                    out.write(place, j, mask, g)

            _sweep(builder, x.columns, x.vector.count, body)
            return context.get_dummy_value()

        return types.void(X, rows, slopes, types.intp, g, types.intp), codegen

    return tile


scores_one, scores_many = _scores(1), _scores(CLASSES)
gradients_one, gradients_many = _gradients(1), _gradients(CLASSES)


def _scores_of(X, rows, soon, p, z, q):
    """z[q + r] = the products of row rows[r] with every class of `p`, for a tile of rows.

    The tile of rows `soon` is asked for on the way: half of it by the first classes, half by the others.
    """
    many = p.shape[0] - p.shape[0] % CLASSES
    for k in range(0, many, CLASSES):
        scores_many(X, rows, (soon[0], soon[1]) if k == 0 else (soon[2], soon[3]), p, k, z, q)
    for k in range(many, p.shape[0]):
        scores_one(X, rows, (soon[0], soon[1]) if k == 0 else (soon[2], soon[3]), p, k, z, q)


scores_of = kernel(_scores_of, forceinline=True)


def _add_gradients(X, rows, slopes, g, q):
    """Add slopes[q + r, k] * row rows[r] to g[k], for a tile of rows and every class."""
    many = g.shape[0] - g.shape[0] % CLASSES
    for k in range(0, many, CLASSES):
        gradients_many(X, rows, slopes, k, g, q)
    for k in range(many, g.shape[0]):
        gradients_one(X, rows, slopes, k, g, q)


add_gradients = kernel(_add_gradients, forceinline=True)


def _updates(classes):
    """The pass of `update_and_score_all` for the classes k .. k+classes-1."""

    @intrinsic
    def tile(typingctx, X, rows, w, keep, changes, k, z):
        def codegen(context, builder, signature, args):
            x, weights, change, out = (Array(context, builder, signature.args[n], args[n]) for n in (0, 2, 4, 6))
            now, near, soon = (x.row(i) for i in cgutils.unpack_tuple(builder, args[1], 3))
            places = [weights.row(builder.add(args[5], I64(c))) for c in range(classes)]
            keep_ = splat(builder, args[3], x.vector.count)
            factors = [splat(builder, builder.load(change.at(builder.add(args[5], I64(c)))), x.vector.count) for c in range(classes)]
            sums = _sums(builder, x.vector, 1, classes)[0]

            def body(j, mask, turn):
                prefetch(builder, x.at(builder.add(soon, j)))
                value, following = x.read(now, j, mask), x.read(near, j, mask)
                for place, factor, total in zip(places, factors, sums, strict=True):
                    weight = multiply_add(builder, keep_, weights.read(place, j, mask), builder.fmul(factor, value))
                    weights.write(place, j, mask, weight)
                    _add_product(builder, total, weight, following)

            _sweep(builder, x.columns, x.vector.count, body)
            for c, total in enumerate(sums):
                builder.store(sum_of_lanes(builder, builder.load(total)), out.at(builder.add(args[5], I64(c))))
            return context.get_dummy_value()

        return types.void(X, rows, w, keep, changes, types.intp, z), codegen

    return tile


SHARED = 5
"""Classes that share each load of a row where one row is taken at a time: their sums and factors fill sixteen registers."""
updates_one, updates_many = _updates(1), _updates(SHARED)


def _update_and_score_all(X, rows, w, keep, changes, z):
    """For every class: w[k] = keep*w[k] + changes[k]*X[i], and z[0, k] = w[k].X[l], for rows (i, l, one to ask for)."""
    many = w.shape[0] - w.shape[0] % SHARED
    for k in range(0, many, SHARED):
        updates_many(X, rows, w, keep, changes, k, z)
    for k in range(many, w.shape[0]):
        updates_one(X, rows, w, keep, changes, k, z)


update_and_score_all = kernel(_update_and_score_all, forceinline=True)


@intrinsic
def vector_lanes(typingctx, array):
    """Numbers of a vector of the array's type: a constant of the compiled kernel."""

    def codegen(context, builder, signature, args):
        return I64(WIDTH * 8 // array.dtype.bitwidth)

    return types.intp(array), codegen


@intrinsic
def update_and_score(typingctx, X, rows, soon, w, keep, change):
    """One pass over the features: w = keep*w + change*X[i], and the products w.X[l] and X[k].X[l], for rows (i, k, l).

    keep*w + (change*x) is rounded once, so that a small decay is not lost before the change is added. `w` is padded
    with zeros to whole vectors; row `soon` is asked for on the way.
    """
    number = X.dtype
    result = types.UniTuple(number, 2)

    def codegen(context, builder, signature, args):
        x, weights = Array(context, builder, X, args[0]), Array(context, builder, w, args[3])
        now, near, far = (x.row(i) for i in cgutils.unpack_tuple(builder, args[1], 3))
        keep_, change_ = (splat(builder, number, x.vector.count) for number in args[4:])
        ahead, zero = x.row(args[2]), I64(0)
        sums = _sums(builder, x.vector, 2, 2)

        def body(j, mask, turn):
            if mask is not None or turn == 0:  # a pair of vectors is a cache line
                prefetch(builder, x.at(builder.add(ahead, j if mask is None else builder.sub(x.columns, I64(1)))))
            scaled = builder.fmul(change_, x.read(now, j, mask))
            weight = multiply_add(builder, keep_, weights.read(zero, j, None), scaled)
            weights.write(zero, j, None, weight)
            value = x.read(far, j, mask)
            _add_product(builder, sums[0][turn], weight, value)
            _add_product(builder, sums[1][turn], x.read(near, j, mask), value)

        _sweep(builder, x.columns, x.vector.count, body, turns=2)
        both = [sum_of_lanes(builder, builder.fadd(builder.load(a), builder.load(b))) for a, b in sums]
        return context.make_tuple(builder, result, both)

    return result(X, types.UniTuple(types.intp, 3), types.intp, w, number, number), codegen
