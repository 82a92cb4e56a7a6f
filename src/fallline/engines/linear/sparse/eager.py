"""The law on every coefficient at every step, and sums over rows."""

from __future__ import annotations

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.dense import batch_rows, finish, gradient_point
from fallline.engines.linear.scalar import (
    LOOK,
    fill,
    fits,
    losses_slopes,
)


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
