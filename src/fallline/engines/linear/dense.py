"""Kernels for dense rows: one example at a time, and in batches.

Weights lie class-major, [outputs, features]: every class runs along the row with unit stride while the row stays
in the first cache. A kernel returns how many steps it made; fewer than asked means that the next step's loss or
gradient was not finite and that nothing of that step was applied.
"""

from __future__ import annotations

import math

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.scalar import (
    CLIP,
    LOOK,
    columns,
    fence,
    fill,
    fits,
    law,
    loss_parts,
    loss_slope,
    losses_slopes,
    prefetch,
    still,
)
from fallline.engines.linear.tiles import (
    ROWS,
    add_gradients,
    scores_of,
    update_and_score,
    update_and_score_all,
    vector_lanes,
)

AHEAD = 8
"""Rows between a prefetch and its use."""
BLOCK = 8
"""Rows of a batch that are scored, then accumulated, while they stay in the first cache: whole tiles."""


@kernel
def gram(X, target, weight, order, following, code, parameter, row, names, varying, w, b, ahead, out):
    """One example at a time, one output, rules without registers: the score of the next row by its Gram product.

    w' = keep*w - c*x  gives  w'.x' = keep*(w.x') - c*(x.x'), where neither product waits for this row's slope: the
    chain from slope to slope is the loss and one multiplication, and the pass over the features runs beside it. A
    `fence` keeps what is ready early out of that chain.
    `ahead[0]` carries the score of the first row over from the segment before (where `ahead[1]` is 1), so that a
    plan cut anywhere gives the same bits; `following` is the row of the step after the last one, or -1.
    """
    f = w.dtype.type
    steps, d, done = order.shape[0], X.shape[1], order.shape[0]
    zero, one = f(0), f(1)
    parameter, weighted, varies = f(parameter), weight.shape[0] > 0, names.shape[0] > 0
    held = np.zeros(d + vector_lanes(w), w.dtype)
    for j in range(d):
        held[j] = w[j]
    i1 = i2 = np.int64(order[0])
    score, product, dot, b0 = zero, zero, zero, b[0]  # of step t: its score; w.x[t+1]; x[t].x[t+1]
    r, rb = columns(row, 0, f, False), columns(row, 1, f, False)
    for t in range(-2, steps):
        keep, change = one, zero
        i0, i1 = i1, i2
        if t + 2 < steps:
            i2 = np.int64(order[np.uint64(t + 2)])
        elif t + 2 == steps and following >= 0:
            i2 = following
        if t < 0:
            score = product + b0
        else:
            if t == 0 and ahead[1] > 0:
                score = f(ahead[0])
            if varies:
                fill(row, names, varying, t)
                r, rb = columns(row, 0, f, False), columns(row, 1, f, False)
            loss, waits, ready = loss_parts(code, parameter, score, target[np.uint64(i0), 0])
            importance = weight[np.uint64(i0)] if weighted else one
            loss, slope = loss * importance, (waits - ready) * importance
            if not (fits(score) and fits(slope) and fits(loss)):
                done = t
                break
            out[np.uint64(t)] = loss
            keep, size = r[9], r[10] * importance
            reach = size * dot + rb[10] * importance  # what a slope of 1 takes from the next score
            b0 = rb[9] * b0
            score = fence(keep * product + fence(b0 + ready * reach)) - waits * reach
            change = fence(ready * size) - waits * size
            b0 = b0 - rb[10] * slope
        soon = np.int64(order[np.uint64(min(t + AHEAD, steps - 1))])
        product, dot = update_and_score(X, (i0, i1, i2), soon, held, keep, change)
    b[0] = b0
    for j in range(d):
        w[j] = held[j]
    if done == steps:
        ahead[0], ahead[1] = score, 1.0 if following >= 0 else 0.0
    return done


@kernel
def single(X, target, weight, order, code, parameter, row, names, varying, w, v, s, a, l1, b, intercept, out):
    """One example at a time, every rule and loss: this row's update and the next row's scores in one pass.

    `w`, `v`, `s`, `a` are [outputs, features] (or None); `b` holds the same registers of the intercept, [4, outputs].
    The pipeline is filled by a step t = -1 with the row that changes nothing, so the first scores of a segment come
    from the same instructions as all others and a plan cut anywhere gives the same bits.
    """
    f = w.dtype.type
    steps, d, outputs = order.shape[0], X.shape[1], w.shape[0]
    zero = f(0)
    parameter = f(parameter)
    z, slopes, changes = np.zeros((1, outputs), w.dtype), np.zeros((1, outputs), w.dtype), np.zeros(outputs, w.dtype)
    plain = v is None and s is None and a is None and l1 is None
    i = int(order[0])
    for t in range(-1, steps):
        r, shrunk = still(f), f(1)
        if t >= 0:
            fill(row, names, varying, t)
            registers = v is not None or s is not None
            r, rb = columns(row, 0, f, registers), columns(row, 1, f, registers)
            importance = weight[i] if weight.shape[0] > 0 else f(1)
            if outputs == 1:  # kept in scalars: 50 ns a row
                loss, slope = loss_slope(code, parameter, z[0, 0], target[i, 0])
                slopes[0, 0] = slope * importance
                loss *= importance
                if not (fits(z[0, 0]) and fits(slopes[0, 0]) and fits(loss)):
                    return t
                out[t] = loss
            else:
                total = losses_slopes(code, parameter, z, 0, target, i, importance, slopes)
                out[t] = total
                for k in range(outputs):
                    total += abs(z[0, k]) + abs(slopes[0, k])
                if not fits(total):
                    return t
            if row[0, CLIP] < np.inf:
                square = 1.0 if intercept else 0.0
                for j in range(d):
                    square += X[i, j] * X[i, j]
                shrunk = f(min(1.0, row[0, CLIP] / norm_of_slopes(square, slopes)))
            if intercept:
                update_intercept(rb, slopes, 0, shrunk, b, v is not None, s is not None, a is not None, l1 is not None)
        nxt = int(order[t + 1]) if t + 1 < steps else i
        look, look_b = f(next_look(row, names, varying, t + 1, 0)), f(next_look(row, names, varying, t + 1, 1))
        soon = int(order[min(t + 3, steps - 1)])
        if plain:
            for k in range(outputs):
                changes[k] = -r[10] * slopes[0, k] * shrunk if t >= 0 else zero
            update_and_score_all(X, (np.int64(i), np.int64(nxt), np.int64(soon)), w, r[9], changes, z)
            for k in range(outputs):
                z[0, k] += b[0, k]
            i = nxt
            continue
        part = -(-d // outputs)
        for k in range(outputs):
            for q in range(k * part, min(d, (k + 1) * part), 16):  # spread: a burst would fill the line buffers
                prefetch(X, soon * d + q)
            pull = slopes[0, k] * shrunk if t >= 0 else zero
            score = zero
            for j in range(d):
                wj = w[k, j]
                vj = v[k, j] if v is not None else zero
                sj = s[k, j] if s is not None else zero
                aj = a[k, j] if a is not None else zero
                wj, vj, sj, aj = law(
                    r, wj, vj, sj, aj, pull * X[i, j], v is not None, s is not None, a is not None, l1 is not None
                )
                w[k, j] = wj
                if v is not None:
                    v[k, j] = vj
                    score += (wj - look * vj) * X[nxt, j]
                else:
                    score += wj * X[nxt, j]
                if s is not None:
                    s[k, j] = sj
                if a is not None:
                    a[k, j] = aj
            z[0, k] = score + b[0, k] - look_b * b[1, k]
        i = nxt
    return steps


def _next_look(row, names, varying, t, group):
    """The look-ahead of step `t`, which the pass before it needs; past the end, that of the last step."""
    look = row[group, LOOK]
    if t < varying.shape[0]:
        for k in range(names.shape[0]):
            if names[k] == LOOK:
                look = varying[t, group, k]
    return look


next_look = kernel(_next_look, forceinline=True)


def _norm_of_slopes(square, slopes):
    """Norm of one example's gradient over all parameters, given the sum of squares of its features (and the 1)."""
    total = 0.0
    for k in range(slopes.shape[1]):
        total += slopes[0, k] * slopes[0, k]
    return max(math.sqrt(square * total), 1e-300)


norm_of_slopes = kernel(_norm_of_slopes, forceinline=True)


def _update_intercept(r, g, q, shrunk, b, has_v, has_s, has_a, has_l1):
    """The law on the intercepts; `b` holds their registers, [4, outputs], g[q] their gradients."""
    for k in range(b.shape[1]):
        b[0, k], b[1, k], b[2, k], b[3, k] = law(
            r, b[0, k], b[1, k], b[2, k], b[3, k], g[q, k] * shrunk, has_v, has_s, has_a, has_l1
        )


update_intercept = kernel(_update_intercept, forceinline=True)


def _update(r, g, shrunk, w, v, s, a, l1):
    """The law on every coefficient, given the batch's gradient `g` [outputs, features]."""
    zero = w.dtype.type(0)
    for k in range(w.shape[0]):
        for j in range(w.shape[1]):
            vj = v[k, j] if v is not None else zero
            sj = s[k, j] if s is not None else zero
            aj = a[k, j] if a is not None else zero
            wj, vj, sj, aj = law(
                r, w[k, j], vj, sj, aj, g[k, j] * shrunk, v is not None, s is not None, a is not None, l1 is not None
            )
            w[k, j] = wj
            if v is not None:
                v[k, j] = vj
            if s is not None:
                s[k, j] = sj
            if a is not None:
                a[k, j] = aj


update = kernel(_update, forceinline=True)


def _norm(g, gb):
    """Norm of a batch's gradient over all parameters, in float64."""
    square = 0.0
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            square += g[k, j] * g[k, j]
    for k in range(gb.shape[1]):
        square += gb[0, k] * gb[0, k]
    return max(math.sqrt(square), 1e-300)


norm = kernel(_norm, forceinline=True)


def _sum_of(g, gb):
    """Sum of the sizes of a gradient's entries: finite only if each of them is. No pass of float64."""
    total = g.dtype.type(0)
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            total += abs(g[k, j])
    for k in range(gb.shape[1]):
        total += abs(gb[0, k])
    return total


sum_of = kernel(_sum_of, forceinline=True)


def _gradient_point(row, w, v, b, p, pb):
    """The point w - look*v at which a batch's gradient is taken, into `p` and `pb`."""
    look, look_b = w.dtype.type(row[0, LOOK]), w.dtype.type(row[1, LOOK])
    for k in range(w.shape[0]):
        for j in range(w.shape[1]):
            p[k, j] = w[k, j] - look * v[k, j]
    for k in range(pb.shape[0]):
        pb[k] = b[0, k] - look_b * b[1, k]


gradient_point = kernel(_gradient_point, forceinline=True)


def _finish(row, loss, g, gb, w, v, s, a, l1, b, intercept):
    """Guard, clip and apply one batch's gradient; False where loss or gradient is not finite (nothing applied)."""
    f = w.dtype.type
    if not intercept:
        gb[:] = f(0)  # the scores' slopes were summed all the same; no parameter has them, so no norm may
    clipped = row[0, CLIP] < np.inf
    length = norm(g, gb) if clipped else float(sum_of(g, gb))
    if not (fits(loss) and fits(length)):
        return False
    shrunk = f(min(1.0, row[0, CLIP] / length)) if clipped else f(1)
    registers = v is not None or s is not None
    update(columns(row, 0, f, registers), g, shrunk, w, v, s, a, l1)
    if intercept:
        update_intercept(columns(row, 1, f, registers), gb, 0, shrunk, b, v is not None, s is not None, a is not None, l1 is not None)
    return True


finish = kernel(_finish, forceinline=True)


def _tile(order, start, stop):
    """The rows of a tile from order[start] on; past `stop`, the last one again (its slope is zero then)."""
    last = stop - 1
    return (
        np.int64(order[start]),
        np.int64(order[min(start + 1, last)]),
        np.int64(order[min(start + 2, last)]),
        np.int64(order[min(start + 3, last)]),
    )


tile = kernel(_tile, forceinline=True)


def _accumulate(X, target, weight, order, code, parameter, p, pb, scale, g, gb, scores, slopes):
    """Add the gradients of these rows, times `scale`, to `g` and `gb`; returns the sum of their losses.

    Rows go in blocks: all scores of a block, then all of its gradient, so that memory is read once.
    """
    f = p.dtype.type
    rows, outputs = order.shape[0], p.shape[0]
    total, bad = 0.0, 0.0
    for start in range(0, rows, BLOCK):
        m = min(BLOCK, rows - start)
        for q in range(0, m, ROWS):
            soon = tile(order, min(start + q + ROWS, rows - 1), rows)
            scores_of(X, tile(order, start + q, start + m), soon, p, scores, q)
        for q in range(m):
            i0 = order[start + q]
            if outputs == 1:  # kept in scalars: 50 ns a row
                z0 = scores[q, 0] + pb[0]
                bad += abs(z0)
                loss, slope = loss_slope(code, parameter, z0, target[i0, 0])
                if weight.shape[0] > 0:
                    loss *= weight[i0]
                    slope *= weight[i0]
                total += loss
                slopes[q, 0] = slope * scale
                gb[0, 0] += slopes[q, 0]
                continue
            for k in range(outputs):
                scores[q, k] += pb[k]
                bad += abs(scores[q, k])
            total += losses_slopes(
                code, parameter, scores, q, target, i0, weight[i0] if weight.shape[0] > 0 else f(1), slopes
            )
            for k in range(outputs):
                slopes[q, k] *= scale
                gb[0, k] += slopes[q, k]
        for q in range(m, BLOCK):
            for k in range(outputs):
                slopes[q, k] = f(0)
        for q in range(0, m, ROWS):
            add_gradients(X, tile(order, start + q, start + m), slopes, g, q)
    return total if fits(bad) else np.nan


accumulate = kernel(_accumulate, forceinline=True)


def _batch_rows(order, bounds, t, steps):
    """Rows of step t: order[bounds[t]:bounds[t+1]]; with two bounds for many steps, the same rows at each."""
    u = t if bounds.shape[0] == steps + 1 else 0
    return order[bounds[u] : bounds[u + 1]]


batch_rows = kernel(_batch_rows, forceinline=True)


@kernel
def batch(X, target, weight, order, bounds, code, parameter, row, names, varying, w, v, s, a, l1, b, intercept, out):
    """Mini-batches, every rule and loss. Registers as in `single`."""
    f = w.dtype.type
    outputs, d = w.shape
    parameter = f(parameter)
    g, gb = np.zeros((outputs, d), w.dtype), np.zeros((1, outputs), w.dtype)
    p, pb = np.empty((outputs, d), w.dtype), np.empty(outputs, w.dtype)
    scores, slopes = np.empty((BLOCK, outputs), w.dtype), np.empty((BLOCK, outputs), w.dtype)
    for t in range(out.shape[0]):
        rows = batch_rows(order, bounds, t, out.shape[0])
        fill(row, names, varying, t)
        at, at_b = w, b[0]
        if v is not None:
            if row[0, LOOK] != 0 or row[1, LOOK] != 0:
                gradient_point(row, w, v, b, p, pb)
                at, at_b = p, pb
        g[:] = f(0)
        gb[:] = f(0)
        scale = f(1.0 / rows.shape[0])
        loss = accumulate(X, target, weight, rows, code, parameter, at, at_b, scale, g, gb, scores, slopes)
        loss /= rows.shape[0]
        if not finish(row, loss, g, gb, w, v, s, a, l1, b, intercept):
            return t
        out[t] = loss
    return out.shape[0]


@kernel
def lanes(X, target, weight, order, edges, first, last, code, parameter, p, pb, scale, g, gb, losses):
    """The gradients of lanes first..last-1 of one large batch: lane l takes order[edges[l]:edges[l+1]].

    The number of lanes is fixed by the data, never by the threads that run them, so the sum over lanes has the same
    bits on any number of threads. `g` is [lanes, outputs, features].
    """
    f = p.dtype.type
    parameter, outputs = f(parameter), p.shape[0]
    scores, slopes = np.empty((BLOCK, outputs), p.dtype), np.empty((BLOCK, outputs), p.dtype)
    for lane in range(first, last):
        g[lane] = f(0)
        gb[lane] = f(0)
        losses[lane] = accumulate(
            X, target, weight, order[edges[lane] : edges[lane + 1]], code, parameter, p, pb, f(scale), g[lane], gb[lane],
            scores, slopes,
        )


@kernel
def gather(row, losses, rows, g, gb, w, v, s, a, l1, b, intercept, out):
    """Sum the lanes into the first one, in order, and make the step; False where it is not finite."""
    for lane in range(1, g.shape[0]):
        losses[0] += losses[lane]
        for k in range(g.shape[1]):
            for j in range(g.shape[2]):
                g[0, k, j] += g[lane, k, j]
        for k in range(gb.shape[2]):
            gb[0, 0, k] += gb[lane, 0, k]
    loss = losses[0] / rows
    if not finish(row, loss, g[0], gb[0], w, v, s, a, l1, b, intercept):
        return False
    out[0] = loss
    return True
