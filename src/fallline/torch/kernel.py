"""The law of the row on tensors where they lie: one compiled callback that reads a table of addresses.

The law is `engines.linear.scalar.law`, the same source as the linear models'. Addresses, read anew at each update, let
tensors move (`.to()`, buckets of DDP, gradients set to None) with nothing to keep in step. A callback of one pointer is
called in half a microsecond, and by the very threads that PyTorch itself uses, through the OpenMP library it brings: a
second pool beside those would wait for their cores.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from fallline.compiled import callback, kernel
from fallline.engines.linear.scalar import CLIP, LOOK, columns, law
from fallline.pointers import float64_at, int64_at
from fallline.rows import COLUMNS

CHUNK = 32_768
"""Elements of a share of the work at most: small enough to divide between cores, large enough to hide the loop around it."""
SHARE = 4_096
"""Elements of a share at least, where there are so many: many small tensors make one."""

FIELDS = 19
PHASE, TURN, PIECES, CHUNKS, SHARES, STARTS, GROUP_OF, GROUPS, ROW, W, G, V, S, A, MODULE, SQUARES, FACTOR, GUARD, FAILED = range(FIELDS)
"""Fields of a task, int64. Addresses of tables, but for PHASE, TURN (two counters in a table), PIECES, SHARES, GROUPS, GUARD and FAILED."""
SUM, UPDATE, POINT = 1, 2, 4
"""Phases: squares of the gradients; the update; the gradient point. A lone thread may do the first two in one call."""

_WIDTH = len(COLUMNS)


@intrinsic
def _pointer(typingctx, address, like):
    """The integer `address` as a pointer to elements of the type of the array `like`."""
    kind = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, like), codegen


@intrinsic
def _take(typingctx, address):
    """Fetch and add one, atomically, at an address of an int64: the next piece is this thread's."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), codegen


def _view(table, p, start, n, like):
    return carray(_pointer(carray(int64_at(table), (p + 1,))[p] + start * like.itemsize, like), (n,))


view = kernel(_view, forceinline=True)


def _square(g, n, like):
    """Sum of squares; a sum that overflows float32 though its numbers are finite is added up again in float64."""
    total = like.dtype.type(0)
    for i in range(n):
        total += g[i] * g[i]
    if abs(total) <= 1e38:
        return float(total)
    wide = 0.0
    for i in range(n):
        wide += float(g[i]) * float(g[i])
    return wide


square = kernel(_square)


@cache
def callback_for(single: bool, has_v: bool, has_s: bool, has_a: bool, has_l1: bool) -> Any:
    """The callback `void (int64* task)` for tensors of one type and the registers that a segment's rows use."""
    dtype = np.float32 if single else np.float64

    def run(address):
        task = carray(address, (FIELDS,), np.int64)
        like = np.empty(0, dtype)
        f = like.dtype.type
        pieces, phase = task[PIECES], task[PHASE]
        shares = task[SHARES]
        chunks = carray(int64_at(task[CHUNKS]), (pieces, 3))
        starts = carray(int64_at(task[STARTS]), (shares + 1,))
        group_of = carray(int64_at(task[GROUP_OF]), (pieces,))
        given = carray(int64_at(task[G]), (pieces,))
        squares = carray(float64_at(task[SQUARES]), (pieces,))
        row = carray(float64_at(task[ROW]), (task[GROUPS], _WIDTH))
        if phase & SUM:
            while True:
                share = _take(task[TURN])
                if share >= shares:
                    break
                for c in range(starts[share], starts[share + 1]):
                    p, start, n = chunks[c, 0], chunks[c, 1], chunks[c, 2]
                    squares[c] = 0.0 if given[p] == 0 else square(view(task[G], p, start, n, like), n, like)
        if phase & UPDATE:
            factor = carray(float64_at(task[FACTOR]), (1,))[0]
            clip = row[0, CLIP]
            if task[GUARD] or clip < np.inf:
                total = 0.0
                for c in range(pieces):  # every thread for itself, in one order: the same bits on any number of them
                    total += squares[c]
                norm = np.sqrt(total) * factor
                if task[GUARD] and not norm <= 1.7e308:
                    task[FAILED] = 1
                    return
                if norm > clip:
                    factor *= clip / norm
            scale = f(factor)
            group = 0
            r = columns(row, group, f, has_v or has_s)
            while True:
                share = _take(task[TURN] + 8)
                if share >= shares:
                    break
                for c in range(starts[share], starts[share + 1]):
                    p, start, n = chunks[c, 0], chunks[c, 1], chunks[c, 2]
                    if given[p] == 0:
                        continue
                    if group_of[p] != group:
                        group = group_of[p]
                        r = columns(row, group, f, has_v or has_s)
                    w, g = view(task[W], p, start, n, like), view(task[G], p, start, n, like)
                    v = view(task[V], p, start, n, like) if has_v else w
                    s = view(task[S], p, start, n, like) if has_s else w
                    a = view(task[A], p, start, n, like) if has_a else w
                    for i in range(n):
                        vi = v[i] if has_v else f(0)
                        si = s[i] if has_s else f(0)
                        ai = a[i] if has_a else f(0)
                        wi, vi, si, ai = law(r, w[i], vi, si, ai, g[i] * scale, has_v, has_s, has_a, has_l1)
                        w[i] = wi
                        if has_v:
                            v[i] = vi
                        if has_s:
                            s[i] = si
                        if has_a:
                            a[i] = ai
        if phase & POINT:
            while True:
                share = _take(task[TURN])
                if share >= shares:
                    break
                for c in range(starts[share], starts[share + 1]):
                    p, start, n = chunks[c, 0], chunks[c, 1], chunks[c, 2]
                    look = f(row[group_of[p], LOOK])
                    w, v, y = view(task[W], p, start, n, like), view(task[V], p, start, n, like), view(task[MODULE], p, start, n, like)
                    for i in range(n):
                        y[i] = w[i] - look * v[i]

    return callback(run, types.void(types.voidptr))


def pieces(sizes: list[int]) -> np.ndarray:
    """The table of the pieces of parameters of these sizes: parameter, first element, elements; int64 [pieces, 3]."""
    rows = [(p, start, min(CHUNK, size - start)) for p, size in enumerate(sizes) for start in range(0, size, CHUNK)]
    return np.array(rows, np.int64).reshape(-1, 3)


def shares(chunks: np.ndarray) -> np.ndarray:
    """Where each share of the pieces begins, and their end: shares of SHARE to CHUNK elements, by one atomic step each."""
    sizes = chunks[:, 2].tolist()
    goal = min(max(sum(sizes) // 8, SHARE), CHUNK)
    starts, held = [0], 0
    for c, size in enumerate(sizes):
        if held and held + size > goal:
            starts.append(c)
            held = 0
        held += size
    return np.array([*starts, len(sizes)] if sizes else [0], np.int64)
