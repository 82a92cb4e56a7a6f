"""One example at a time, rules without registers: all weights share one factor, and thresholds paid lie on top of them."""

from __future__ import annotations

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.dense import norm_of_slopes, update_intercept
from fallline.engines.linear.scalar import (
    CLIP,
    THRESHOLD,
    columns,
    fill,
    fits,
    loss_slope,
    losses_slopes,
    prefetch,
)

NEAR, FAR, STARTS = 2, 8, 16
"""Rows ahead at which the weights of a row, the row itself, and where it starts, are asked for."""
LINE = np.uint64(16)
"""Numbers of a cache line, as a step between row starts."""
LEAST, MOST = 1 << 14, 1 << 18
"""After between so many steps every soft threshold is paid: a 32nd of the features, so that paying costs little beside the steps. In
float32 a weight is exact then to a 1000th of one threshold, and to a 60th with 8 million features."""


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
def norms(flat, debt, base, moved):
    """The sums of the squares and of the sizes of weights on which `debt` lies, or, of columns seen less a base, `moved`."""
    f = flat.dtype.type
    due, square, size = f(debt), 0.0, 0.0
    if moved is None:
        for p in range(flat.shape[0]):
            w = float(paid(flat[p], due))
            square += w * w
            size += abs(w)
    else:
        outputs = moved.shape[2]
        for j in range(base.shape[0]):
            for k in range(outputs):
                w = flat[j * outputs + k] - moved[0, 0, k] * base[j]
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


def _row_size(row):
    """lr * direct of the coefficients: what a gradient is multiplied by, without registers."""
    return columns(row, 0, np.float64, False)[10]


row_size = kernel(_row_size, forceinline=True)


def _row_keep(row):
    """What an untouched weight is multiplied by, without registers."""
    return columns(row, 0, np.float64, False)[9]


row_keep = kernel(_row_keep, forceinline=True)


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
