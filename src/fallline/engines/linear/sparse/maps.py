"""What the law does to a feature that no row touches: linear maps of (w, v, a), read off the law, composed and tabled."""

from __future__ import annotations

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.scalar import (
    columns,
    fill,
    law,
)

BASE = 64
"""Radix of the table for constant rows; the table for varying rows, which is longer than this, has radix 2."""
MAPS = 9
"""Numbers of one map: w<-w, w<-v, v<-w, v<-v, a<-w, a<-v, a<-a, threshold, s<-s."""


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
