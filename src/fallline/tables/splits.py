"""Which rows train, validate and test: a pure function of the rows and the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def split(usable: np.ndarray, valid: float, test: float, seed: int, *, strata: Any = None, groups: Any = None, times: Any = None) -> Split:
    """Split the usable rows.

    Args:
        usable: row numbers.
        valid, test: shares, each in [0, 1), together below 1.
        seed: of the draw.
        strata: labels by row: every part gets each label's share.
        groups: keys by row: a group stays whole.
        times: values by row: the newest rows test, the ones before validate.

    Raises:
        InvalidValue: shares that leave nothing to train on, or too few rows.
    """
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise InvalidValue(f"valid={valid!r}, test={test!r}: expected shares from 0 to 1 that leave rows to train on")
    n = len(usable)
    if n < LEAST:
        raise InvalidValue(f"{n} usable rows: at least {LEAST} are needed to train, validate and test")
    if times is not None:
        order = usable[np.argsort(np.array([times[i] for i in usable]), kind="stable")]
        why = "by time: the newest rows test, those before them validate"
        return _cut(order, valid, test, why)
    draw = np.random.default_rng(seed)
    if groups is not None:
        keys = [groups[i] for i in usable]
        distinct = list(dict.fromkeys(keys))
        if len(distinct) < 3:
            raise InvalidValue(f"the group column has {len(distinct)} distinct values: at least 3 are needed to split by it")
        rank = {distinct[j]: place for place, j in enumerate(draw.permutation(len(distinct)))}
        share = np.array([(rank[k] + 0.5) / len(distinct) for k in keys])
        return Split(
            usable[share < 1 - valid - test], usable[(share >= 1 - valid - test) & (share < 1 - test)], usable[share >= 1 - test],
            f"by group: {len(distinct)} groups, each whole, seed {seed}",
        )  # fmt: skip
    if strata is None:
        return _cut(draw.permutation(usable), valid, test, f"at random, seed {seed}")
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in dict.fromkeys(strata[i] for i in usable):
        rows = draw.permutation(usable[[strata[i] == label for i in usable]])
        many_test, many_valid = int(len(rows) * test + 0.5), int(len(rows) * valid + 0.5)
        while many_test + many_valid >= len(rows) and many_test + many_valid > 0:  # each label trains at least once
            many_test, many_valid = (many_test - 1, many_valid) if many_test >= many_valid and many_test else (many_test, many_valid - 1)
        edges = len(rows) - many_valid - many_test, len(rows) - many_test
        for part, some in zip(parts, np.split(rows, edges), strict=True):
            part.append(some)
    train, held, last = (np.sort(np.concatenate(p)) for p in parts)
    return Split(train, held, last, f"stratified by the target, seed {seed}")


def _cut(order: np.ndarray, valid: float, test: float, why: str) -> Split:
    n = len(order)
    last, held = int(n * test + 0.5), int(n * valid + 0.5)
    return Split(np.sort(order[: n - held - last]), np.sort(order[n - held - last : n - last]), np.sort(order[n - last :]), why)
