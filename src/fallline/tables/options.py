"""How a table is read: what its reader may be told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fallline.errors import InvalidValue
from fallline.tables.cells import KINDS, Kind
from fallline.tables.target import Task

HASH = 1 << 18
"""Columns of a category that is to be hashed, where it is not said how many."""
_POWER = re.compile(r"(\d+)(?:(?:\^|\*\*)(\d+))?")
SHARE = 0.15
"""The share of the rows that validate, and that test, unless told otherwise."""


@dataclass(frozen=True)
class TableOptions:
    """How a table is read; all by keyword.

    Args:
        drop, only: columns to leave out; or the only ones to learn from.
        types: column to "number", "category", "text", "date" or "hash" (a category hashed to 2^18 columns; "hash:2^20" says how many),
            against what was inferred.
        cross: columns whose values together are one more category: [("city", "kind")]; it is called "city x kind".
        valid, test: a share of the rows, or a file (or frame) of its own.
        group, time: a column whose groups stay whole in the split; or by which the newest rows test.
        sample_weight: a column of weights.
        class_weight: "balanced", or a mapping from label to weight.
        log_target: learn log(1 + y).
        task: "classification" or "regression", against what was inferred.
        seed: of the split.
        standardize: every column of the encoded matrix at mean 0 and deviation 1, sparse ones too (of svmlight files, hashed, of text):
            they stay sparse. Numbers and dates of other tables are standardised in any case.
        memory: what this process may take, such as "1GB"; a table that would not fit goes through files (see `cache`). Left
            out, most of what is free.
        cache: a folder for the encoded rows of a table that goes through files; named, the table goes there in any case.
            Left out, `.fallline-rows` where one is.
    """

    drop: Sequence[str] = ()
    only: Sequence[str] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    cross: Sequence[Sequence[str]] = ()
    valid: Any = SHARE
    test: Any = SHARE
    group: str | None = None
    time: str | None = None
    sample_weight: str | None = None
    class_weight: Any = None
    log_target: bool = False
    task: Task | None = None
    seed: int = 0
    standardize: bool = False
    memory: str | int | None = None
    cache: str | None = None

    def columns(self) -> tuple[str, ...]:
        """Every column that is named."""
        crossed = {" x ".join(c) for c in self.crosses}
        named = (n for n in (*self.drop, *self.only, *self.types) if n not in crossed)
        return (*named, *(n for c in self.crosses for n in c), *filter(None, (self.group, self.time, self.sample_weight)))

    @property
    def crosses(self) -> tuple[tuple[str, ...], ...]:
        """The crosses, checked.

        Raises:
            InvalidValue: one of fewer than two columns, or of a column with itself.
        """
        made = tuple((c,) if isinstance(c, str) else tuple(c) for c in self.cross)
        for names in made:
            if len(set(names)) < 2 or len(set(names)) < len(names):
                raise InvalidValue(f"cross={','.join(names)!r}: expected two different columns or more, such as city,kind")
        return made

    @property
    def kinds(self) -> dict[str, Kind]:
        """Each column's kind, where it is said: a hashed one is a category."""
        return {name: _read(name, word)[0] for name, word in self.types.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Columns that a hashed category is hashed to, where that is said."""
        return {name: width for name, word in self.types.items() if (width := _read(name, word)[1])}


def _read(name: str, word: Any) -> tuple[Kind, int]:
    """A type's word as a kind and a width (0 where the cells decide)."""
    if word in KINDS:
        return word, 0
    kind, colon, many = str(word).partition(":")
    if kind == "hash":
        found = _POWER.fullmatch(many) if colon else None
        width = HASH if not colon else 0 if found is None else int(found[1]) ** int(found[2] or 1)
        if 2 <= width <= 1 << 24:
            return "category", width
    raise InvalidValue(f"type {word!r} of column {name!r}: expected {', '.join(KINDS)}, hash or hash:2^18 (2 to 2^24 columns)")
