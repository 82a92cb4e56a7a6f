"""How a table is read: what its reader may be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fallline.tables.cells import Kind
from fallline.tables.target import Task

SHARE = 0.15
"""The share of the rows that validate, and that test, unless told otherwise."""


@dataclass(frozen=True)
class TableOptions:
    """How a table is read; all by keyword.

    Args:
        drop, only: columns to leave out; or the only ones to learn from.
        types: column to "number", "category", "text" or "date", against what was inferred.
        valid, test: a share of the rows, or a file (or frame) of its own.
        group, time: a column whose groups stay whole in the split; or by which the newest rows test.
        sample_weight: a column of weights.
        class_weight: "balanced", or a mapping from label to weight.
        log_target: learn log(1 + y).
        task: "classification" or "regression", against what was inferred.
        seed: of the split.
        memory: what this process may take, such as "1GB"; a table that would not fit goes through files (see `cache`). Left
            out, most of what is free.
        cache: a folder for the encoded rows of a table that goes through files; named, the table goes there in any case.
            Left out, `.fallline-rows` where one is.
    """

    drop: Sequence[str] = ()
    only: Sequence[str] = ()
    types: Mapping[str, Kind] = field(default_factory=dict)
    valid: Any = SHARE
    test: Any = SHARE
    group: str | None = None
    time: str | None = None
    sample_weight: str | None = None
    class_weight: Any = None
    log_target: bool = False
    task: Task | None = None
    seed: int = 0
    memory: str | int | None = None
    cache: str | None = None

    def columns(self) -> tuple[str, ...]:
        """Every column that is named."""
        return (*self.drop, *self.only, *self.types, *filter(None, (self.group, self.time, self.sample_weight)))
