"""Batches of any size, rules with an exact lazy form: a feature is brought up to date when it is touched."""

from __future__ import annotations

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.dense import batch_rows, update_intercept
from fallline.engines.linear.scalar import (
    CLIP,
    LOOK,
    columns,
    fill,
    fits,
    law,
    losses_slopes,
)
from fallline.engines.linear.sparse.maps import catch_up


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
