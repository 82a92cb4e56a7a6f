"""Crosses: columns whose values together are one more category, "city x kind"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fallline.errors import InvalidValue
from fallline.tables.cells import cells
from fallline.tables.sources import Source, need

BETWEEN = " x "
"""What stands between the names of crossed columns, and between their values."""


def crossed(source: Source, crosses: Sequence[Sequence[str]]) -> Source:
    """A source with one more column of strings for each cross; missing where any of its cells is.

    Args:
        crosses: names of columns that are in the source; numbers are crossed as they stand there.

    Raises:
        InvalidValue: a column already has the cross's name, or the source is sparse.
    """
    for names in crosses:
        name = BETWEEN.join(names)
        if source.csr is not None:
            raise InvalidValue(f"cross={','.join(names)!r}: this table is sparse and has no columns to cross")
        if name in source.names:
            raise InvalidValue(f"cross={','.join(names)!r}: there is a column {name!r} already; rename it")
        source = replace(source, table=source.table.append_column(name, _values(source, names)))
    return source


def _values(source: Source, names: Sequence[str]) -> object:
    """The values of some columns together, as Arrow strings."""
    words, codes = np.array([""], object), np.zeros(source.rows, np.int64)
    there = np.ones(source.rows, bool)
    for k, name in enumerate(names):
        found = cells(source, name, "category")
        there &= ~found.missing
        pairs = codes * (len(found.levels) + 1) + found.values + 1  # 0 stands for a missing one
        used, codes = np.unique(pairs, return_inverse=True)
        levels = np.array(["", *found.levels], object)
        first, second = words[used // (len(found.levels) + 1)], levels[used % (len(found.levels) + 1)]
        words = second if k == 0 else first + BETWEEN + second
    pa = need("pyarrow")
    made = pa.array(words.tolist(), pa.string()).take(pa.array(codes))
    return need("pyarrow.compute").if_else(pa.array(there), made, None)
