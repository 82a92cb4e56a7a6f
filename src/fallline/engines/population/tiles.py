"""The two matrix products of a batch for many runs, tile by tile, on rows where they lie.

Weights of one group lie [features, width], width one or two vectors of runs side by side; a number of the data is spread
over a vector and multiplies the weights of that many runs at once. Nothing is gathered or packed, no sum runs across a
vector, and every run's numbers come from the same operations in the same order whichever its place: so one run's bits
depend neither on how many others there are, nor on what becomes of them.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fallline.compiled import kernel
from fallline.engines.linear.lanes import lanes_of
from fallline.engines.linear.vectors import I64, WIDE, Array, multiply_add, prefetch, splat

TILE = 6
"""Rows (or features) of a tile: with two vectors of runs, twelve sums stay in the registers."""
STRIDE = 16
"""Numbers of a data row between two prefetches: a cache line of float32."""


def _array(context, builder, signature, args, n):
    return Array(context, builder, signature.args[n], args[n], WIDE)


def _scores(rows, vectors):
    """z[q + r] = bias + the product of data row rows[r] with group `g` of the weights, for a tile of rows."""

    @intrinsic
    def tile(typingctx, X, rows_, soon, w, g, bias, z, q):
        def codegen(context, builder, signature, args):
            x, weights, offset, out = (_array(context, builder, signature, args, n) for n in (0, 3, 5, 6))
            lanes = weights.vector.count
            width = I64(vectors * lanes)
            bases = [x.at(x.row(number)) for number in cgutils.unpack_tuple(builder, args[1], rows)]
            ahead = [x.at(x.row(number)) for number in cgutils.unpack_tuple(builder, args[2], rows)]
            first = builder.mul(args[4], width)
            group = builder.mul(first, x.columns)
            sums = [[cgutils.alloca_once(builder, weights.vector) for _ in range(vectors)] for _ in range(rows)]
            for v in range(vectors):
                start = offset.read(first, I64(v * lanes), None)
                for row in sums:
                    builder.store(start, row[v])

            with cgutils.for_range(builder, x.columns) as loop:
                line = builder.icmp_signed("==", builder.and_(loop.index, I64(STRIDE - 1)), I64(0))
                with builder.if_then(line):
                    for row in ahead:
                        prefetch(builder, builder.gep(row, [loop.index]))
                place = builder.add(group, builder.mul(loop.index, width))
                held = [weights.read(place, I64(v * lanes), None) for v in range(vectors)]
                for base, row in zip(bases, sums, strict=True):
                    value = splat(builder, builder.load(builder.gep(base, [loop.index])), lanes)
                    for weight, total in zip(held, row, strict=True):
                        builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
            for r, row in enumerate(sums):
                place = builder.add(out.row(builder.add(args[7], I64(r))), first)
                for v, total in enumerate(row):
                    out.write(place, I64(v * lanes), None, builder.load(total))
            return context.get_dummy_value()

        return types.void(X, rows_, soon, w, types.intp, bias, z, types.intp), codegen

    return tile


def _gradients(features, vectors):
    """Row j + f of group `at` of `g`, for f = skip .. features-1: the sum over the rows order[start : start+m] of feature
    j + f times the slopes of group `k`; added to what is there unless `fresh`."""

    @intrinsic
    def tile(typingctx, X, order, start, m, j, skip, slopes, k, g, at, fresh):
        def codegen(context, builder, signature, args):
            x, slope, out = (_array(context, builder, signature, args, n) for n in (0, 6, 8))
            numbers = context.make_array(signature.args[1])(context, builder, args[1]).data
            lanes = out.vector.count
            width = I64(vectors * lanes)
            base = builder.mul(builder.add(builder.mul(args[9], x.columns), args[4]), width)
            places = [builder.add(base, I64(f * vectors * lanes)) for f in range(features)]
            column = builder.mul(args[7], width)
            sums = [[cgutils.alloca_once(builder, out.vector, zfill=True) for _ in range(vectors)] for _ in range(features)]
            with builder.if_then(builder.not_(args[10])):
                for place, row in zip(places, sums, strict=True):
                    for v, total in enumerate(row):
                        builder.store(out.read(place, I64(v * lanes), None), total)
            with cgutils.for_range(builder, args[3]) as loop:
                number = builder.load(builder.gep(numbers, [builder.add(args[2], loop.index)]))
                number = number if number.type == I64 else builder.sext(number, I64)
                values = builder.gep(x.data, [builder.add(x.row(number), args[4])])
                held = [slope.read(builder.add(slope.row(loop.index), column), I64(v * lanes), None) for v in range(vectors)]
                for f, row in enumerate(sums):
                    value = splat(builder, builder.load(builder.gep(values, [I64(f)])), lanes)
                    for each, total in zip(held, row, strict=True):
                        builder.store(multiply_add(builder, value, each, builder.load(total)), total)
            for f, (place, row) in enumerate(zip(places, sums, strict=True)):
                with builder.if_then(builder.icmp_signed(">=", I64(f), args[5])):
                    for v, total in enumerate(row):
                        out.write(place, I64(v * lanes), None, builder.load(total))
            return context.get_dummy_value()

        whole = types.intp
        return types.void(X, order, whole, whole, whole, whole, slopes, whole, g, whole, types.boolean), codegen

    return tile


scores_one, scores_two, row_one, row_two = _scores(TILE, 1), _scores(TILE, 2), _scores(1, 1), _scores(1, 2)
gradients_one, gradients_two, feature_one, feature_two = _gradients(TILE, 1), _gradients(TILE, 2), _gradients(1, 1), _gradients(1, 2)


def _tile_of(order, start, last):
    """The rows of a tile from order[start] on; past `last`, that one again."""
    return (
        np.int64(order[min(start, last)]),
        np.int64(order[min(start + 1, last)]),
        np.int64(order[min(start + 2, last)]),
        np.int64(order[min(start + 3, last)]),
        np.int64(order[min(start + 4, last)]),
        np.int64(order[min(start + 5, last)]),
    )


tile_of = kernel(_tile_of, forceinline=True)


@kernel
def scores(X, order, start, m, w, bias, z):
    """z[q] = bias + the products of row order[start + q] with the weights of every run, q = 0 .. m-1.

    Args:
        w: [groups, features, width]; bias: [groups * width]; z: [at least m rounded up to whole tiles, groups * width].
    """
    two, last = w.shape[2] > lanes_of(w), start + m - 1
    for g in range(w.shape[0]):
        q = 0
        while q < m:
            if m - q >= TILE // 2:  # past the end the last row again: cheaper than one row at a time
                rows = tile_of(order, start + q, last)
                soon = tile_of(order, start + q + TILE, order.shape[0] - 1) if g == 0 else rows
                if two:
                    scores_two(X, rows, soon, w, g, bias, z, q)
                else:
                    scores_one(X, rows, soon, w, g, bias, z, q)
                q += TILE
            else:
                row = (np.int64(order[start + q]),)
                soon = (np.int64(order[min(start + q + 1, order.shape[0] - 1)]),)
                if two:
                    row_two(X, row, soon, w, g, bias, z, q)
                else:
                    row_one(X, row, soon, w, g, bias, z, q)
                q += 1


@kernel
def gradients(X, order, start, m, slopes, k, g, at, fresh):
    """Group `at` of `g` = (or += where not `fresh`) X'slopes over the rows order[start : start+m], for group `k` of the runs.

    Args:
        slopes: [m, groups * width]; g: [groups, features, width].
    """
    two, d = g.shape[2] > lanes_of(g), X.shape[1]
    for j in range(0, d if d >= TILE else 0, TILE):
        first = min(j, d - TILE)  # the last tile reaches back; what was done before is skipped
        if two:
            gradients_two(X, order, start, m, first, j - first, slopes, k, g, at, fresh)
        else:
            gradients_one(X, order, start, m, first, j - first, slopes, k, g, at, fresh)
    for j in range(0 if d < TILE else d, d):
        if two:
            feature_two(X, order, start, m, j, 0, slopes, k, g, at, fresh)
        else:
            feature_one(X, order, start, m, j, 0, slopes, k, g, at, fresh)
