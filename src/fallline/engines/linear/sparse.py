"""Kernels for CSR rows. Only the features of a row are touched; what the others missed is made up exactly.

Weights lie feature-major, [features, outputs]: one index load serves every class. Two exact forms:

- *Scaled*: without registers an untouched weight only shrinks, w' = keep*w. All weights share one factor,
  w = scale * held, so that a step touches its own features alone. Soft thresholds compose by addition: with
  debt = sum of threshold/scale since the start, held' = max(0, |held| - (debt now - debt when it was last touched)).
  What a weight has paid is kept on top of it: u = held + sign(held)*debt says both in one number, and
  held = u - clamp(u, -debt, debt) at any later time: a row costs no memory more than without thresholds.
- *Lazy*: with registers an untouched feature obeys a linear map of (w, v, a), the law at gradient zero. Each feature
  has a stamp, the step up to which it is current; the product of the maps since then is applied when it is touched.
  The maps are read off the law itself, so every linear rule is covered and none is named. Products over 1, 2, 4 ...
  steps are tabled (`lift`); only contractions are multiplied, so nothing overflows.

Columns that are seen less a base (`problems.view`), x~ = e - base: every step moves every weight, all along the same direction. A
register is held as r - C*base, and U = r.base is kept beside C; both obey the law of a coefficient, with the sum of the slopes as gradient
of C, and of the slopes times e.base as that of U. Then w.x~ = r.e - C*(e.base) - U + C*base.base costs what r.e costs.

Exactness needs a gradient that is zero on untouched features; soft thresholds compose without registers only, and a
second moment without momentum only (`engine.py` refuses the rest by name).

Column numbers and row starts come as *unsigned* integers: a signed one may count from the end in Python, and the test for
that in each of the inner loops cost 40 % of a row.
"""

from __future__ import annotations

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.dense import batch_rows, finish, gradient_point, norm_of_slopes, update_intercept
from fallline.engines.linear.scalar import (
    CLIP,
    LOOK,
    THRESHOLD,
    columns,
    fill,
    fits,
    law,
    loss_slope,
    losses_slopes,
    prefetch,
)

NEAR, FAR, STARTS = 2, 8, 16
"""Rows ahead at which the weights of a row, the row itself, and where it starts, are asked for."""
LINE = np.uint64(16)
"""Numbers of a cache line, as a step between row starts."""
BASE = 64
"""Radix of the table for constant rows; the table for varying rows, which is longer than this, has radix 2."""
LEAST, MOST = 1 << 14, 1 << 18
"""After between so many steps every soft threshold is paid: a 32nd of the features, so that paying costs little beside the steps. In
float32 a weight is exact then to a 1000th of one threshold, and to a 60th with 8 million features."""
MAPS = 9
"""Numbers of one map: w<-w, w<-v, v<-w, v<-v, a<-w, a<-v, a<-a, threshold, s<-s."""


def _paid(u, debt):
    """The weight below `u` when the thresholds so far sum up to `debt`: soft(u, debt)."""
    return u - min(max(u, -debt), debt)


paid = kernel(_paid, forceinline=True)


def _atop(w, debt):
    """A weight with what it has paid on top: `paid`'s inverse."""
    return w + (debt if w > 0 else -debt)


atop = kernel(_atop, forceinline=True)


@kernel
def fold(w, scale, debt, l1, base, moved):
    """Bring every feature up to date: its debt is paid, the base is taken off, and the factor becomes 1."""
    f, flat = w.dtype.type, w.reshape(w.size)
    due, factor = f(debt[0]), f(scale)
    if base is not None:
        for k in range(w.shape[1]):
            total = 0.0
            for j in range(w.shape[0]):
                w[j, k] -= f(moved[0, 0, k] * base[j])
                total += base[j] * w[j, k]
            moved[0, 0, k], moved[0, 1, k] = 0.0, scale * total
    for p in range(flat.size):
        flat[p] = (flat[p] if l1 is None else paid(flat[p], due)) * factor
    debt[0] = debt[1] = 0.0


@kernel
def norms(flat, debt):
    """The sums of the squares and of the sizes of weights on which `debt` lies."""
    f = flat.dtype.type
    due, square, size = f(debt), 0.0, 0.0
    for p in range(flat.shape[0]):
        w = float(paid(flat[p], due))
        square += w * w
        size += abs(w)
    return square, size


def _ask(data, columns_, starts, order, t, flat, outputs, far):
    """Ask for what the next rows need; the weights too where they lie beyond the caches (`far`)."""
    last = order.shape[0] - 1
    prefetch(starts, order[min(t + STARTS, last)])
    soon = int(order[min(t + FAR, last)])
    for q in range(starts[soon], starts[soon + 1], LINE):
        prefetch(data, q)
        prefetch(columns_, q)
    if far:
        soon = int(order[min(t + NEAR, last)])
        for q in range(starts[soon], starts[soon + 1]):
            prefetch(flat, columns_[q] * outputs)


ask = kernel(_ask, forceinline=True)


@kernel
def scaled(
    data, columns_, starts, target, weight, order, code, parameter, row, names, varying, w, scale, debt, l1, b, intercept, far,
    base, along, length, moved, out,
):  # fmt: skip
    """One example at a time, rules without registers. The weights are `scale[0]` * `w`, [features, outputs].

    With an l1 threshold (`l1` not None) what a weight has paid lies on top of it: `paid(w, debt[0])` is the weight, in units of `w`.
    `debt[1]` counts the steps since all were even. `base`, `along` = rows.base [rows], `length` = base.base and `moved` [4, 2, outputs] are of
    columns that are seen less a base, else None; not with l1.
    """
    f = w.dtype.type
    steps, outputs = order.shape[0], w.shape[1]
    wide, even = np.uint64(outputs), min(max(w.shape[0] // 32, LEAST), MOST) if l1 is not None else MOST
    parameter = f(parameter)
    z, slopes = np.zeros((1, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    held, flat = scale[0], w.reshape(w.size)
    size, keep, varies, clips = row_size(row), row_keep(row), names.shape[0] > 0, row[0, CLIP] < np.inf
    of_intercept = columns(row, 1, f, False)
    for t in range(steps):
        if far:  # two calls: with `far` as a variable of its loop, a row took a fifth longer
            ask(data, columns_, starts, order, t, flat, wide, True)
        else:
            ask(data, columns_, starts, order, t, flat, wide, False)
        if base is not None:
            prefetch(along, order[min(t + FAR, steps - 1)])
        i = int(order[t])
        first, last = starts[i], starts[i + 1]
        if varies:
            fill(row, names, varying, t)
            size, keep, clips = row_size(row), row_keep(row), row[0, CLIP] < np.inf
            of_intercept = columns(row, 1, f, False)
        if held * keep < 1e-6 or debt[1] >= even:
            fold(w, held, debt, l1, base, moved)
            held = 1.0
        due = f(debt[0])
        slope = f(0)
        if outputs == 1:
            score = f(0)
            if base is not None:
                score = f(moved[0, 0, 0] * (length - along[i]) - moved[0, 1, 0])
            for q in range(first, last):
                u = flat[columns_[q]]
                score += (u if l1 is None else paid(u, due)) * data[q]
            score = f(held) * score + b[0, 0]
            loss, slope = loss_slope(code, parameter, score, target[i, 0])
            if weight.shape[0] > 0:
                loss *= weight[i]
                slope *= weight[i]
            slopes[0, 0] = slope
            total = abs(score) + abs(slope)
        else:
            for k in range(outputs):
                z[0, k] = f(0)
            for q in range(first, last):
                p = columns_[q] * wide
                for k in range(outputs):
                    u = flat[p + np.uint64(k)]
                    z[0, k] += (u if l1 is None else paid(u, due)) * data[q]
            for k in range(outputs):
                if base is not None:
                    z[0, k] += f(moved[0, 0, k] * (length - along[i]) - moved[0, 1, k])
                z[0, k] = f(held) * z[0, k] + b[0, k]
            loss = losses_slopes(code, parameter, z, 0, target, i, weight[i] if weight.shape[0] > 0 else f(1), slopes)
            total = f(loss)
            for k in range(outputs):
                total += abs(z[0, k]) + abs(slopes[0, k])
        if not fits(total):
            scale[0] = held
            return t
        out[t] = loss
        shrunk = f(1)
        if clips:
            square = 1.0 if intercept else 0.0
            for q in range(first, last):
                square += data[q] * data[q]
            if base is not None:
                square = max(square + length - 2 * along[i], 0.0)
            shrunk = f(min(1.0, row[0, CLIP] / norm_of_slopes(square, slopes)))
        held *= keep
        c = f(size / held) * shrunk
        if outputs == 1:
            c *= slope
            for q in range(first, last):
                p = columns_[q]
                if l1 is None:
                    flat[p] -= c * data[q]
                else:
                    flat[p] = atop(paid(flat[p], due) - c * data[q], due)
        else:
            for q in range(first, last):
                p = columns_[q] * wide
                for k in range(outputs):
                    at = p + np.uint64(k)
                    if l1 is None:
                        flat[at] -= c * data[q] * slopes[0, k]
                    else:
                        flat[at] = atop(paid(flat[at], due) - c * data[q] * slopes[0, k], due)
        if l1 is not None:
            debt[0] += row[0, THRESHOLD] / held
            debt[1] += 1.0
        if base is not None:
            for k in range(outputs):
                gone = np.float64(c) * (1.0 if outputs == 1 else slopes[0, k])
                moved[0, 0, k] -= gone
                moved[0, 1, k] -= gone * along[i]
            debt[1] += 1.0
        if intercept:
            update_intercept(of_intercept, slopes, 0, shrunk, b, False, False, False, l1 is not None)
    scale[0] = held
    return steps


def _row_size(row):
    """lr * direct of the coefficients: what a gradient is multiplied by, without registers."""
    return columns(row, 0, np.float64, False)[10]


row_size = kernel(_row_size, forceinline=True)


def _row_keep(row):
    """What an untouched weight is multiplied by, without registers."""
    return columns(row, 0, np.float64, False)[9]


row_keep = kernel(_row_keep, forceinline=True)


def _one_map(row, names, varying, t, has_v, has_s, has_a, m):
    """The map of step t at gradient zero, read off the law: the images of w = 1, of v = 1 and of a = 1."""
    f = np.float64
    fill(row, names, varying, t)
    r = columns(row, 0, f, has_v or has_s)
    m[0], m[2], _, m[4] = law(r, 1.0, 0.0, 0.0, 0.0, 0.0, has_v, has_s, has_a, False)
    m[1], m[3], _, m[5] = law(r, 0.0, 1.0, 0.0, 0.0, 0.0, has_v, has_s, has_a, False)
    m[6] = law(r, 0.0, 0.0, 0.0, 1.0, 0.0, has_v, has_s, has_a, False)[3]
    m[7] = r[11]
    m[8] = r[5] if has_s else 1.0


one_map = kernel(_one_map, forceinline=True)


def _compose(one, two, to):
    """The map that does `one`, then `two`. Soft thresholds compose as |w| -> max(0, c|w| - b)."""
    for x in range(2):  # the image of w, then of v, through both
        w, v, a = one[x], one[2 + x], one[4 + x]
        to[x] = two[0] * w + two[1] * v
        to[2 + x] = two[2] * w + two[3] * v
        to[4 + x] = two[4] * w + two[5] * v + two[6] * a
    to[6] = two[6] * one[6]
    to[7] = two[0] * one[7] + two[7]
    to[8] = two[8] * one[8]


compose = kernel(_compose, forceinline=True)


@kernel
def powers(row, names, varying, has_v, has_s, has_a, table):
    """Constant rows: `table[l, n]` is the map of n * 64^l steps, so that two products bridge most gaps."""
    one_map(row, names, varying, 0, has_v, has_s, has_a, table[0, 1])
    for level in range(table.shape[0]):
        if level > 0:
            compose(table[level - 1, BASE - 1], table[level - 1, 1], table[level, 1])
        for n in range(2, BASE):
            compose(table[level, n - 1], table[level, 1], table[level, n])


@kernel
def lift(row, names, varying, base, has_v, has_s, has_a, table):
    """Varying rows: `table[l, e]` is the map of the 2^l steps that end before step e of the block.

    Entries are indexed by their end, so a segment that begins at step `base` extends the table of the one before.
    """
    first, steps = base + 1, varying.shape[0]
    for t in range(steps):
        one_map(row, names, varying, t, has_v, has_s, has_a, table[0, first + t])
    for level in range(1, table.shape[0]):
        half = 1 << (level - 1)
        for e in range(max(first, 2 * half), first + steps):
            compose(table[level - 1, e - half], table[level - 1, e], table[level, e])


def _apply(m, j, w, v, s, a, l1):
    """One map on feature `j`."""
    f = w.dtype.type
    for k in range(w.shape[1]):
        wk = f(m[0]) * w[j, k]
        if v is not None:
            wk += f(m[1]) * v[j, k]
            if a is not None:
                a[j, k] = f(m[4]) * w[j, k] + f(m[5]) * v[j, k] + f(m[6]) * a[j, k]
            v[j, k] = f(m[2]) * w[j, k] + f(m[3]) * v[j, k]
        elif a is not None:
            a[j, k] = f(m[4]) * w[j, k] + f(m[6]) * a[j, k]
        if s is not None:
            s[j, k] *= f(m[8])
        if l1 is not None:
            size = max(abs(wk) - f(m[7]), f(0))
            wk = size if wk > 0 else -size
        w[j, k] = wk


apply = kernel(_apply, forceinline=True)


def _catch_up(table, since, now, j, w, v, s, a, l1):
    """Bring feature `j` from step `since` to step `now` (counted from the block's start) by the tabled maps."""
    gap, t, level = now - since, since, 0
    if table.shape[1] == BASE:
        while gap > 0:
            if gap % BASE:
                apply(table[level, gap % BASE], j, w, v, s, a, l1)
            gap //= BASE
            level += 1
    else:
        while gap > 0:
            if gap & 1:
                t += 1 << level
                apply(table[level, t], j, w, v, s, a, l1)
            gap >>= 1
            level += 1


catch_up = kernel(_catch_up, forceinline=True)


@kernel
def settle(table, stamps, now, w, v, s, a, l1):
    """Bring every feature to step `now` of the block."""
    for j in range(w.shape[0]):
        catch_up(table, stamps[j], now, j, w, v, s, a, l1)
        stamps[j] = now


@kernel
def lazy(
    data, columns_, starts, target, weight, order, bounds, code, parameter, row, names, varying,
    table, stamps, begin, w, v, s, a, l1, b, intercept, base, along, length, moved, out,
):  # fmt: skip
    """Batches of any size, every rule with an exact lazy form; step t is step `begin` + t of the table's block.

    `base`, `along`, `length`, `moved` as in `scaled`; neither with l1 nor with s.
    """
    f = w.dtype.type
    features, outputs = w.shape
    parameter = f(parameter)
    g, gb = np.zeros((features, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    touched, seen = np.empty(features, columns_.dtype), np.full(features, -1, np.int32)
    z, slopes = np.zeros((1, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    point, pull = np.zeros((2, outputs)), np.zeros((2, outputs))
    for t in range(out.shape[0]):
        now, count, loss, bad = begin + t, 0, 0.0, 0.0
        picked = batch_rows(order, bounds, t, out.shape[0])
        rows = picked.shape[0]
        fill(row, names, varying, t)
        look, look_b = f(row[0, LOOK]), f(row[1, LOOK])
        gb[:] = f(0)
        if base is not None:
            pull[:] = 0.0
            for k in range(outputs):
                for x in range(2):
                    point[x, k] = moved[0, x, k] - look * moved[1, x, k]
        for o in range(rows):
            i = int(picked[o])
            for k in range(outputs):
                z[0, k] = b[0, k] - look_b * b[1, k]
            for q in range(starts[i], starts[i + 1]):
                j = columns_[q]
                if stamps[j] < now:
                    catch_up(table, stamps[j], now, j, w, v, s, a, l1)
                    stamps[j] = now
                for k in range(outputs):
                    wk = w[j, k]
                    if v is not None:
                        wk -= look * v[j, k]
                    z[0, k] += wk * data[q]
            if base is not None:
                for k in range(outputs):
                    z[0, k] += f(point[0, k] * (length - along[i]) - point[1, k])
            loss += losses_slopes(code, parameter, z, 0, target, i, weight[i] if weight.shape[0] > 0 else f(1), slopes)
            for k in range(outputs):
                bad += abs(z[0, k])
                slopes[0, k] /= f(rows)
                gb[0, k] += slopes[0, k]
                if base is not None:
                    pull[0, k] += slopes[0, k]
                    pull[1, k] += slopes[0, k] * along[i]
            for q in range(starts[i], starts[i + 1]):
                j = columns_[q]
                if seen[j] != t:
                    seen[j] = t
                    touched[count] = j
                    count += 1
                for k in range(outputs):
                    g[j, k] += slopes[0, k] * data[q]
        loss /= rows
        if not intercept:
            gb[:] = f(0)
        square, total = 0.0, f(0)
        for n in range(count):
            for k in range(outputs):
                square += g[touched[n], k] * g[touched[n], k]
                total += abs(g[touched[n], k])
        if base is not None:
            for k in range(outputs):
                square += pull[0, k] * (pull[0, k] * length - 2 * pull[1, k])
            square = max(square, 0.0)
        for k in range(outputs):
            square += gb[0, k] * gb[0, k]
            total += abs(gb[0, k])
        if not (fits(loss) and fits(bad) and fits(total)):
            return t
        out[t] = loss
        shrunk = f(min(1.0, row[0, CLIP] / max(np.sqrt(square), 1e-300))) if row[0, CLIP] < np.inf else f(1)
        registers = v is not None or s is not None
        r = columns(row, 0, f, registers)
        for n in range(count):
            j = touched[n]
            stamps[j] = now + 1
            for k in range(outputs):
                vj = v[j, k] if v is not None else f(0)
                sj = s[j, k] if s is not None else f(0)
                aj = a[j, k] if a is not None else f(0)
                wj, vj, sj, aj = law(
                    r, w[j, k], vj, sj, aj, g[j, k] * shrunk, v is not None, s is not None, a is not None, l1 is not None
                )
                g[j, k] = f(0)
                w[j, k] = wj
                if v is not None:
                    v[j, k] = vj
                if s is not None:
                    s[j, k] = sj
                if a is not None:
                    a[j, k] = aj
        if base is not None:
            exact = columns(row, 0, np.float64, registers)
            for x in range(2):
                for k in range(outputs):
                    moved[0, x, k], moved[1, x, k], _, moved[3, x, k] = law(
                        exact, moved[0, x, k], moved[1, x, k], 0.0, moved[3, x, k], pull[x, k] * shrunk, v is not None, False, a is not None, False
                    )
        if intercept:
            update_intercept(
                columns(row, 1, f, registers), gb, 0, shrunk, b, v is not None, s is not None, a is not None, l1 is not None
            )
    return out.shape[0]


def _accumulate_sparse(data, columns_, starts, target, weight, order, code, parameter, p, pb, scale, g, gb, z, slopes):
    """Add the gradients of these rows, times `scale`, to `g` [features, outputs]; returns the sum of their losses."""
    outputs = p.shape[1]
    total, bad = 0.0, 0.0
    for o in range(order.shape[0]):
        i = int(order[o])
        for k in range(outputs):
            z[0, k] = pb[k]
        for q in range(starts[i], starts[i + 1]):
            for k in range(outputs):
                z[0, k] += p[columns_[q], k] * data[q]
        total += losses_slopes(
            code, parameter, z, 0, target, i, weight[i] if weight.shape[0] > 0 else p.dtype.type(1), slopes
        )
        for k in range(outputs):
            bad += abs(z[0, k])
            slopes[0, k] *= scale
            gb[0, k] += slopes[0, k]
        for q in range(starts[i], starts[i + 1]):
            for k in range(outputs):
                g[columns_[q], k] += slopes[0, k] * data[q]
    return total if fits(bad) else np.nan


accumulate_sparse = kernel(_accumulate_sparse, forceinline=True)


@kernel
def eager(
    data, columns_, starts, target, weight, order, bounds, code, parameter, row, names, varying,
    w, v, s, a, l1, b, intercept, base, out,
):  # fmt: skip
    """Batches that touch most features, or rules without a lazy form: the law on every coefficient at every step.

    `base` is what columns are seen less, float64 [features], or None.
    """
    f = w.dtype.type
    features, outputs = w.shape
    parameter = f(parameter)
    g, gb = np.zeros((features, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    p, pb = np.empty((features, outputs), w.dtype), np.empty(outputs, w.dtype)
    z, slopes = np.zeros((1, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    for t in range(out.shape[0]):
        rows = batch_rows(order, bounds, t, out.shape[0])
        fill(row, names, varying, t)
        at, at_b = w, b[0]
        if v is not None:
            if row[0, LOOK] != 0 or row[1, LOOK] != 0:
                gradient_point(row, w, v, b, p, pb)
                at, at_b = p, pb
        if base is not None:
            for k in range(outputs):
                total = 0.0
                for j in range(features):
                    total += base[j] * at[j, k]
                pb[k] = f(at_b[k] - total)
            at_b = pb
        g[:] = f(0)
        gb[:] = f(0)
        scale = f(1.0 / rows.shape[0])
        loss = accumulate_sparse(
            data, columns_, starts, target, weight, rows, code, parameter, at, at_b, scale, g, gb, z, slopes
        )
        loss /= rows.shape[0]
        if base is not None:
            for j in range(features):
                for k in range(outputs):
                    g[j, k] -= f(base[j]) * gb[0, k]
        if not finish(row, loss, g, gb, w, v, s, a, l1, b, intercept):
            return t
        out[t] = loss
    return out.shape[0]


@kernel
def sparse_lanes(
    data, columns_, starts, target, weight, order, edges, first, last, code, parameter, p, pb, scale, g, gb, losses
):
    """As `dense.lanes`, for CSR rows: `g` is [lanes, features, outputs]."""
    f = p.dtype.type
    parameter, outputs = f(parameter), p.shape[1]
    z, slopes = np.zeros((1, outputs), p.dtype), np.zeros((1, outputs), p.dtype)
    for lane in range(first, last):
        g[lane] = f(0)
        gb[lane] = f(0)
        losses[lane] = accumulate_sparse(
            data, columns_, starts, target, weight, order[edges[lane] : edges[lane + 1]], code, parameter, p, pb,
            f(scale), g[lane], gb[lane], z, slopes,
        )  # fmt: skip


@kernel
def slopes_along(data, columns_, starts, target, weight, code, parameter, w, b, sums):
    """Add the loss's slope along every weight, and every column's squares, over all rows.

    Args:
        w: weights, [features, outputs]; b: intercepts, [outputs].
        sums: float64 [features, outputs + 1]: the slopes, and the squares behind them.
    """
    f, outputs = w.dtype.type, w.shape[1]
    parameter = f(parameter)
    flat, into, wide = w.reshape(w.size), sums.reshape(sums.size), np.uint64(outputs + 1)
    z, slopes = np.zeros((1, outputs), w.dtype), np.zeros((1, outputs), w.dtype)
    for i in range(target.shape[0]):
        first, last = starts[i], starts[i + 1]
        if outputs == 1:
            score = b[0]
            for q in range(first, last):
                score += flat[columns_[q]] * data[q]
            z[0, 0] = score
        else:
            for k in range(outputs):
                z[0, k] = b[k]
            for q in range(first, last):
                for k in range(outputs):
                    z[0, k] += w[columns_[q], k] * data[q]
        losses_slopes(code, parameter, z, 0, target, i, weight[i] if weight.shape[0] > 0 else f(1), slopes)
        slope = slopes[0, 0]
        for q in range(first, last):
            p = columns_[q] * wide
            if outputs == 1:
                into[p] += slope * data[q]
            else:
                for k in range(outputs):
                    into[p + np.uint64(k)] += slopes[0, k] * data[q]
            into[p + np.uint64(outputs)] += data[q] * data[q]
