"""Which rows train, validate and test: a pure function of the rows and the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue

LEAST = 10
"""Fewer usable rows than this cannot be split three ways."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, int64, rising."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    why: str


def split(
    usable: np.ndarray, valid: float, test: float, seed: int, *,
    strata: np.ndarray | None = None, groups: np.ndarray | None = None, times: np.ndarray | None = None,
) -> Split:  # fmt: skip
    """Split the usable rows.

    Args:
        usable: row numbers.
        valid, test: shares, each in [0, 1), together below 1; a share above 0 is at least one row (or group).
        seed: of the draw.
        strata: a label's number by row: every part gets each label's share.
        groups: a group's number by row: a group stays whole.
        times: values by row: the newest rows test, the ones before validate.

    Raises:
        InvalidValue: shares that leave nothing to train on, or too few rows or groups.
    """
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise InvalidValue(f"valid={valid!r}, test={test!r}: expected shares from 0 to 1 that leave rows to train on")
    if len(usable) < LEAST:
        raise InvalidValue(f"{len(usable)} usable rows: at least {LEAST} are needed to train, validate and test")
    draw = np.random.default_rng(seed)
    if times is not None and groups is not None:
        raise InvalidValue("split by group or by time, not by both")
    if times is not None:
        return _cut(usable[np.argsort(times[usable], kind="stable")], valid, test, "by time: the newest rows test, those before them validate")
    if groups is not None:
        return _whole(usable, groups[usable], valid, test, draw, seed)
    if strata is not None:
        return _stratified(usable, strata[usable], valid, test, draw, seed)
    return _cut(draw.permutation(usable), valid, test, f"at random, seed {seed}")


def _counts(many: int, valid: float, test: float) -> tuple[int, int]:
    """How many of `many` validate and test, to the nearest, but one at least where any are wanted."""
    return tuple(max(int(many * share + 0.5), share > 0) for share in (valid, test))  # type: ignore[return-value]


def _cut(order: np.ndarray, valid: float, test: float, why: str) -> Split:
    n = len(order)
    held, last = _counts(n, valid, test)
    return Split(np.sort(order[: n - held - last]), np.sort(order[n - held - last : n - last]), np.sort(order[n - last :]), why)


def _whole(usable: np.ndarray, keys: np.ndarray, valid: float, test: float, draw: np.random.Generator, seed: int) -> Split:
    """Every group in one part."""
    distinct, index = np.unique(keys, return_inverse=True)
    many, least = len(distinct), 1 + (valid > 0) + (test > 0)
    if many < least:
        raise InvalidValue(f"the group column has {many} distinct values: at least {least} are needed to split by it")
    parts = _cut(draw.permutation(many), valid, test, f"by group: {many} groups, each whole, seed {seed}")
    return Split(*(usable[np.isin(index, p)] for p in (parts.train, parts.valid, parts.test)), parts.why)


def _stratified(usable: np.ndarray, keys: np.ndarray, valid: float, test: float, draw: np.random.Generator, seed: int) -> Split:
    """Each label's share in every part; a label that is too rare for that trains."""
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # labels as they appear
    rows_of = np.split(usable[np.argsort(index, kind="stable")], np.cumsum(np.bincount(index))[:-1])
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in order:
        rows = draw.permutation(rows_of[label])
        many_test, many_valid = int(len(rows) * test + 0.5), int(len(rows) * valid + 0.5)
        while many_test + many_valid >= len(rows) and many_test + many_valid > 0:
            many_test, many_valid = (many_test - 1, many_valid) if many_test >= many_valid and many_test else (many_test, many_valid - 1)
        edges = len(rows) - many_valid - many_test, len(rows) - many_test
        for part, some in zip(parts, np.split(rows, edges), strict=True):
            part.append(some)
    return Split(*(np.sort(np.concatenate(p)) for p in parts), f"stratified by the target, seed {seed}")
