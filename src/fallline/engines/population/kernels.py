"""Batches of a linear model for many runs at once: every rule, every loss, a row of numbers for each run.

Runs lie side by side: column c*K + k of the scores is output c of run k, and group g of the weights holds the columns
g*width .. (g+1)*width - 1, [features, width]. A kernel returns how many steps it made; fewer than asked means that runs
whose `bad` is set have a loss or a gradient that is not finite in the next step, of which nothing was applied to any run.
"""

from __future__ import annotations

import math

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear import lanes_math  # noqa: F401  # exp and log of Lanes
from fallline.engines.linear.lanes import lanes_at, lanes_of, put_lanes, spread
from fallline.engines.linear.scalar import (
    CLIP,
    LOGISTIC,
    LOOK,
    SOFTMAX,
    columns,
    exp,
    fits,
    law,
    loss_slope,
    target_of,
)
from fallline.engines.population.tiles import TILE, gradients, scores

FEATURES = 64
"""Features whose registers are updated while they stay in the first cache."""


def _fill_rows(row, names, varying, t):
    """Write the varying columns of step `t` into the runs' rows: row[2*k + group], group 0 of coefficients, 1 of intercepts."""
    for n in range(names.shape[0]):
        for k in range(varying.shape[3]):
            row[2 * k, names[n]] = varying[t, 0, n, k]
            row[2 * k + 1, names[n]] = varying[t, 1, n, k]


fill_rows = kernel(_fill_rows, forceinline=True)


@kernel
def spread_rows(row, registers, outputs, r):
    """The runs' rows as `law` takes them, r[group, :, column], in the weights' type."""
    f = r.dtype.type
    runs = row.shape[0] // 2
    for k in range(runs):
        for group in range(2):
            values = columns(row, 2 * k + group, f, registers)
            for c in range(outputs):
                at = c * runs + k
                r[group, 0, at], r[group, 1, at], r[group, 2, at] = values[0], values[1], values[2]
                r[group, 3, at], r[group, 4, at], r[group, 5, at] = values[3], values[4], values[5]
                r[group, 6, at], r[group, 7, at], r[group, 8, at] = values[6], values[7], values[8]
                r[group, 9, at], r[group, 10, at] = values[9], values[10]
                r[group, 11, at], r[group, 12, at] = values[11], values[12]


def _lanes_of_rows(r, group, k):
    """The rows of the runs in columns k, k+1, ... as `law` takes them."""
    n = r.shape[2]
    at = group * 13 * n + k
    return (
        lanes_at(r, at), lanes_at(r, at + n), lanes_at(r, at + 2 * n), lanes_at(r, at + 3 * n), lanes_at(r, at + 4 * n),
        lanes_at(r, at + 5 * n), lanes_at(r, at + 6 * n), lanes_at(r, at + 7 * n), lanes_at(r, at + 8 * n),
        lanes_at(r, at + 9 * n), lanes_at(r, at + 10 * n), lanes_at(r, at + 11 * n), lanes_at(r, at + 12 * n),
    )  # fmt: skip


lanes_of_rows = kernel(_lanes_of_rows, forceinline=True)


def _update(r, g, at, shrunk, w, v, s, a, l1, group):
    """The law on the coefficients of one group of columns, given its gradient, group `at` of `g`."""
    d, width, lanes = w.shape[1], w.shape[2], lanes_of(w)
    zero = spread(w, 0.0)
    for begin in range(0, d, FEATURES):
        for h in range(0, width, lanes):
            row, factor = lanes_of_rows(r, 0, group * width + h), lanes_at(shrunk, group * width + h)
            for j in range(begin, min(begin + FEATURES, d)):
                i = (group * d + j) * width + h
                vi = lanes_at(v, i) if v is not None else zero
                si = lanes_at(s, i) if s is not None else zero
                ai = lanes_at(a, i) if a is not None else zero
                gi = lanes_at(g, (at * d + j) * width + h) * factor
                wi, vi, si, ai = law(row, lanes_at(w, i), vi, si, ai, gi, v is not None, s is not None, a is not None, l1 is not None)
                put_lanes(w, i, wi)
                if v is not None:
                    put_lanes(v, i, vi)
                if s is not None:
                    put_lanes(s, i, si)
                if a is not None:
                    put_lanes(a, i, ai)


update = kernel(_update, forceinline=True)


def _update_intercepts(r, gb, shrunk, b, has_v, has_s, has_a, has_l1):
    """The law on the intercepts; `b` holds their registers, [4, columns]."""
    n = b.shape[1]
    for k in range(0, n, lanes_of(b)):
        wi, vi, si, ai = law(
            lanes_of_rows(r, 1, k), lanes_at(b, k), lanes_at(b, n + k), lanes_at(b, 2 * n + k), lanes_at(b, 3 * n + k),
            lanes_at(gb, k) * lanes_at(shrunk, k), has_v, has_s, has_a, has_l1,
        )  # fmt: skip
        put_lanes(b, k, wi)
        put_lanes(b, n + k, vi)
        put_lanes(b, 2 * n + k, si)
        put_lanes(b, 3 * n + k, ai)


update_intercepts = kernel(_update_intercepts, forceinline=True)


def _gradient_points(row, runs, w, v, b, p, pb):
    """The points w - look*v at which gradients are taken, into `p` and `pb`."""
    f, n, d, width = w.dtype.type, b.shape[1], w.shape[1], w.shape[2]
    for column in range(n):
        k = column % runs
        look, look_b = f(row[2 * k, LOOK]), f(row[2 * k + 1, LOOK])
        group, h = column // width, column % width
        for j in range(d):
            p[group, j, h] = w[group, j, h] - look * v[group, j, h]
        pb[column] = b[0, column] - look_b * b[1, column]


gradient_points = kernel(_gradient_points, forceinline=True)


# ------------------------------------------------------------------------------------------------ losses and slopes


def _softmax_row(z, q, runs, outputs, label, weight, scale, slopes, values, sizes, held):
    """Losses of one row, into values[q, k], and slopes, for every run; `held` is room for the exponentials."""
    lanes, n = lanes_of(z), z.shape[1]
    padded = held.shape[1]
    for k in range(0, runs, lanes):
        top = lanes_at(z, q * n + k)
        for c in range(1, outputs):
            top = max(top, lanes_at(z, q * n + c * runs + k))
        total = spread(z, 0.0)
        size = abs(top)
        for c in range(outputs):
            score = lanes_at(z, q * n + c * runs + k)
            size = size + abs(score)
            each = exp(score - top)
            total = total + each
            put_lanes(held, c * padded + k, each)
        importance = spread(z, weight)
        put_lanes(values, q * padded + k, (math.log(total) + top - lanes_at(z, q * n + label * runs + k)) * importance)
        put_lanes(sizes, k, lanes_at(sizes, k) + size)
        share = importance * spread(z, scale) / total
        for c in range(outputs):
            put_lanes(held, c * padded + k, lanes_at(held, c * padded + k) * share)
    taken = spread(z, weight * scale)
    for c in range(outputs):  # rising: what a last vector writes past its own runs is written over by the next output
        for k in range(0, runs, lanes):
            slope = lanes_at(held, c * padded + k)
            put_lanes(slopes, q * n + c * runs + k, slope - taken if c == label else slope)


softmax_row = kernel(_softmax_row, forceinline=True)


def _logistic_row(z, q, runs, label, weight, scale, slopes, values, sizes):
    """Losses and slopes of one row for every run: log(1 + e^z) - y z and sigmoid(z) - y, without overflow."""
    n, padded = z.shape[1], values.shape[1]
    one, importance, shared, y = spread(z, 1.0), spread(z, weight), spread(z, weight * scale), spread(z, label)
    half, quarter = spread(z, 0.5), spread(z, 0.0)
    for k in range(0, runs, lanes_of(z)):
        score = lanes_at(z, q * n + k)
        e = exp(quarter - abs(score))
        loss = math.log1p(e) + max(score, quarter) - y * score
        part = one / (one + e)  # sigmoid(|z|); sigmoid(z) is 1/2 + sign(z) (part - 1/2)
        slope = half + math.copysign(part - half, score) - y
        put_lanes(values, q * padded + k, loss * importance)
        put_lanes(slopes, q * n + k, slope * shared)
        put_lanes(sizes, k, lanes_at(sizes, k) + abs(score))


logistic_row = kernel(_logistic_row, forceinline=True)


def _plain_row(code, parameter, z, q, runs, outputs, target, i, weight, scale, slopes, values, sizes):
    """Losses and slopes of data row `i` for every run, any loss but softmax."""
    zero = z.dtype.type(0)
    for k in range(runs):
        values[q, k] = zero
    for c in range(outputs):
        y = target_of(target, i, c, outputs)
        for k in range(runs):
            score = z[q, c * runs + k]
            loss, slope = loss_slope(code, parameter, score, y)
            values[q, k] += loss * weight
            slopes[q, c * runs + k] = slope * weight * scale
            sizes[k] += abs(score)


plain_row = kernel(_plain_row, forceinline=True)


@kernel
def losses(code, parameter, z, target, weight, order, start, m, scale, runs, outputs, slopes, values, sizes, held, gb, total, steep):
    """Losses and slopes of m rows for every run, from their scores.

    Slopes are multiplied by `scale`. Added to: `total` [runs] the losses, float64; `sizes` [runs] the sizes of the scores,
    finite only if each of them is; `gb` [columns] the slopes; `steep` [runs] the sizes of the slopes.
    """
    f = z.dtype.type
    n, lanes = z.shape[1], lanes_of(z)
    parameter = f(parameter)
    for q in range(m):
        i = np.int64(order[start + q])
        importance = weight[i] if weight.shape[0] > 0 else f(1)
        if code == SOFTMAX:
            softmax_row(z, q, runs, outputs, int(target[i, 0]), importance, scale, slopes, values, sizes, held)
        elif code == LOGISTIC and outputs == 1:
            logistic_row(z, q, runs, target[i, 0], importance, scale, slopes, values, sizes)
        else:
            plain_row(code, parameter, z, q, runs, outputs, target, i, importance, scale, slopes, values, sizes)
        for column in range(runs * outputs, n):
            slopes[q, column] = f(0)
        for k in range(runs):
            total[k] += values[q, k]
        for k in range(0, n, lanes):
            slope = lanes_at(slopes, q * n + k)
            put_lanes(gb, k, lanes_at(gb, k) + slope)
            put_lanes(steep, k, lanes_at(steep, k) + abs(slope))


# -------------------------------------------------------------------------------------------------------- the guard


def _clipping(row, runs):
    """Whether any run's gradient is clipped in this step."""
    for k in range(runs):
        if row[2 * k, CLIP] < np.inf:
            return True
    return False


clipping = kernel(_clipping, forceinline=True)


@kernel
def norms(row, g, gb, runs, outputs, shrunk, bad):
    """By run: whether its gradient is not finite, into `bad`; and the factor that its clipping leaves, into `shrunk`."""
    f = g.dtype.type
    width = g.shape[2]
    for k in range(runs):
        clip, square, size = row[2 * k, CLIP], 0.0, 0.0
        for c in range(outputs):
            column = c * runs + k
            group, h = column // width, column % width
            for j in range(g.shape[1]):
                square += g[group, j, h] * g[group, j, h]
                size += abs(g[group, j, h])
            square += gb[column] * gb[column]
            size += abs(gb[column])
        length = max(math.sqrt(square), 1e-300) if clip < np.inf else size
        if not fits(length):
            bad[k] = True
        factor = f(min(1.0, clip / length)) if clip < np.inf else f(1)
        for c in range(outputs):
            shrunk[c * runs + k] = factor


def _look_ahead(row, names):
    """Whether gradients are taken ahead of the weights, in any step."""
    for n in range(names.shape[0]):
        if names[n] == LOOK:
            return True
    for i in range(row.shape[0]):
        if row[i, LOOK] != 0:
            return True
    return False


look_ahead = kernel(_look_ahead, forceinline=True)


def _any(bad):
    for k in range(bad.shape[0]):
        if bad[k]:
            return True
    return False


any_bad = kernel(_any, forceinline=True)


@kernel
def batch(
    X, target, weight, order, bounds, code, parameter, reach, row, names, varying, outputs, w, v, s, a, l1, b, intercept, room, bad, out,
):  # fmt: skip
    """Mini-batches of many runs.

    Args:
        order, bounds: the batches, as in `dense.batch`.
        reach: features times the largest size of a number in X: times the slopes, no gradient is larger.
        row: float64 [2 * runs, columns of a row]; names, varying: [steps, 2, names, runs].
        w, v, s, a: [groups, features, width], or None; b: [4, columns]. l1: None or a number.
        room: rows that are scored, then accumulated, while they stay in the second cache.
        bad: [runs], set where a run must stop; out: [steps, runs] the losses before each update.
    """
    f, runs, n, lanes = w.dtype.type, bad.shape[0], b.shape[1], lanes_of(w)
    groups, d, width = w.shape
    padded = -(-runs // lanes) * lanes
    z, slopes = np.zeros((room + TILE, n), w.dtype), np.zeros((room + TILE, n), w.dtype)
    values, sizes, held = np.zeros((room, padded), w.dtype), np.zeros(padded, w.dtype), np.zeros((outputs, padded), w.dtype)
    gb, steep, shrunk, whole_step = np.zeros(n, w.dtype), np.zeros(n, w.dtype), np.ones(n, w.dtype), np.ones(n, w.dtype)
    total = np.zeros(runs)
    r = np.zeros((2, 13, n), w.dtype)
    ahead = v is not None and look_ahead(row, names)
    p, pb = np.zeros((groups if ahead else 0, d, width), w.dtype), np.zeros(n, w.dtype)
    g = np.empty((1, d, width), w.dtype)
    registers = v is not None or s is not None
    fresh, first_group = bool(groups), np.int64(0)  # of one type throughout: a literal would compile the passes again
    spread_rows(row, registers, outputs, r)
    for t in range(out.shape[0]):
        u = t if bounds.shape[0] == out.shape[0] + 1 else 0
        start, m = bounds[u], bounds[u + 1] - bounds[u]
        if names.shape[0] > 0:
            fill_rows(row, names, varying, t)
            spread_rows(row, registers, outputs, r)
        at, at_b = w, b[0]
        if v is not None:
            if ahead:
                gradient_points(row, runs, w, v, b, p, pb)
                at, at_b = p, pb
        total[:] = 0.0
        sizes[:] = f(0)
        gb[:] = f(0)
        steep[:] = f(0)
        scale = f(1.0 / m)
        kept = m > room or clipping(row, runs)  # whether gradients are kept, or used up group by group
        if kept and g.shape[0] < groups:
            g = np.empty((groups, d, width), w.dtype)
        for first in range(0, m, room):
            part = min(room, m - first)
            scores(X, order, start + first, part, at, at_b, z)
            losses(
                code, parameter, z, target, weight, order, start + first, part, scale, runs, outputs, slopes, values, sizes, held, gb, total, steep
            )  # fmt: skip
            if m > room:
                for group in range(groups):
                    gradients(X, order, start + first, part, slopes, group, g, group, first < 1)
        if not intercept:
            gb[:] = f(0)  # the slopes were summed all the same; no parameter has them, so no norm may
        for k in range(runs):
            bad[k] = not (fits(total[k] / m) and fits(sizes[k]))
            height = 0.0
            for c in range(outputs):
                height += steep[c * runs + k]
            kept |= not height * reach <= 3.0e38  # a gradient may be about to overflow: look at each number of it
        if kept:
            if g.shape[0] < groups:
                g = np.empty((groups, d, width), w.dtype)
            for group in range(groups if m <= room else 0):
                gradients(X, order, start, m, slopes, group, g, group, fresh)
            norms(row, g, gb, runs, outputs, shrunk, bad)
        if any_bad(bad):
            return t
        factor = shrunk if kept else whole_step
        for k in range(runs):
            out[t, k] = total[k] / m
        for group in range(groups):
            place = group if kept else first_group
            if not kept:
                gradients(X, order, start, m, slopes, group, g, place, fresh)
            update(r, g, place, factor, w, v, s, a, l1, group)
        if intercept:
            update_intercepts(r, gb, factor, b, v is not None, s is not None, a is not None, l1 is not None)
    return out.shape[0]
