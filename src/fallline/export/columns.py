"""A table's encoders as operators: raw columns in, the model's features out, float32 as `Column.dense` makes them.

    number      float64; NaN is missing
    date        int64, microseconds since 1970; the least int64 is missing (as NumPy's NaT is)
    category    text; "" is missing, a level that training did not see is none of them
"""

from __future__ import annotations

import numpy as np

from fallline.errors import InvalidValue
from fallline.export.graph import Graph, concatenated
from fallline.tables.columns import Column
from fallline.tables.encoders import Encoder

NAT = np.iinfo(np.int64).min
DAY = 86_400_000_000
"""Microseconds."""


def features(graph: Graph, encoder: Encoder) -> str:
    """The matrix of features, float32 [rows, features].

    Raises:
        InvalidValue: a hashed column, by name: there is no operator that hashes as it was hashed.
    """
    if encoder.sparse_width:
        return graph.cast(graph.input("X", np.float64, encoder.sparse_width), np.float32)
    hashed = [c for c in encoder.columns if c.width]
    if hashed:
        names = ", ".join(repr(c.name) for c in hashed)
        raise InvalidValue(
            f"the run cannot be exported: {names} {'is' if len(hashed) == 1 else 'are'} hashed ({hashed[0].treatment}), and ONNX has no such hash; "
            f"predict with fallline, or fit without {'it' if len(hashed) == 1 else 'them'} (--drop {','.join(c.name for c in hashed)})"
        )
    if encoder.crosses:
        names = ", ".join(repr(" x ".join(c)) for c in encoder.crosses)
        raise InvalidValue(f"the run cannot be exported: {names}: a cross of columns has no operator here; predict with fallline, or fit without --cross")
    made = {"number": _number, "date": _date, "category": _category}
    return concatenated(graph, [made[c.kind](graph, c) for c in encoder.columns])


def _number(graph: Graph, column: Column) -> str:
    raw = graph.input(column.name, np.float64, 1)
    missing = graph.node("IsNaN", raw)
    return _standardised(graph, column, raw, missing)


def _standardised(graph: Graph, column: Column, values: str, missing: str) -> str:
    """(value - mean)/scale, 0 (the mean) where missing, and the mark where there is one."""
    means, scales = column.numbers
    scaled = graph.node("Div", graph.node("Sub", values, graph.constant(means[None])), graph.constant(scales[None]))
    filled = graph.node("Where", missing, graph.constant(np.zeros((1, 1), np.float32)), graph.cast(scaled, np.float32))
    return concatenated(graph, [filled, *([graph.cast(missing, np.float32)] if column.marks_missing else [])])


def _category(graph: Graph, column: Column) -> str:
    raw = graph.input(column.name, object, 1)
    keys = ["", *column.levels]
    places = graph.node(
        "LabelEncoder", raw, domain="ai.onnx.ml", keys_strings=keys, values_int64s=[-2, *range(len(column.levels))], default_int64=-1
    )  # fmt: skip
    parts = []
    if column.levels:
        parts.append(graph.cast(graph.node("Equal", places, graph.constant(np.arange(len(column.levels))[None])), np.float32))
    if column.marks_missing:
        parts.append(graph.cast(graph.node("Equal", places, graph.constant(np.array([[-2]]))), np.float32))
    return concatenated(graph, parts)


def _date(graph: Graph, column: Column) -> str:
    """Year, month, weekday and days of a date.

    Source: days to a civil date, H. Hinnant, http://howardhinnant.github.io/date_algorithms.html, on days since 0000-03-01
    of the era 400 years before, so that every division is of positive numbers.
    """
    raw = graph.input(column.name, np.int64, 1)
    missing = graph.node("Equal", raw, graph.constant(np.array([[NAT]])))
    at = graph.node("Where", missing, graph.constant(np.array([[0]])), raw)
    whole = lambda number: graph.constant(np.array([[number]], np.int64))
    less = lambda a, b: graph.node("Sub", a, b)
    plus = lambda a, number: graph.node("Add", a, whole(number))
    over = lambda a, number: graph.node("Div", a, whole(number))  # of positive numbers: rounded down
    times = lambda a, number: graph.node("Mul", a, whole(number))
    rest = graph.node("Mod", at, whole(DAY))  # of the divisor's sign, as in Python
    days = over(less(at, rest), DAY)
    z = plus(days, 719_468 + 146_097 * ERAS)
    era = over(z, 146_097)
    doe = less(z, times(era, 146_097))
    yoe = over(less(graph.node("Add", less(doe, over(doe, 1_460)), over(doe, 36_524)), over(doe, 146_096)), 365)
    doy = less(doe, less(graph.node("Add", times(yoe, 365), over(yoe, 4)), over(yoe, 100)))
    mp = over(plus(times(doy, 5), 2), 153)
    late = graph.cast(graph.node("GreaterOrEqual", mp, whole(10)), np.int64)  # January and February: of the next year
    month = less(plus(mp, 3), times(late, 12))
    year = plus(graph.node("Add", graph.node("Add", yoe, times(era, 400)), late), -400 * ERAS)
    weekday = graph.node("Mod", plus(days, 3), whole(7))  # 1970 began with a Thursday
    since = graph.node("Div", graph.cast(at, np.float64), graph.constant(np.array([[float(DAY)]])))
    parts = [*(graph.cast(v, np.float64) for v in (year, month, weekday)), since]
    return _standardised(graph, column, concatenated(graph, parts), missing)


ERAS = 800
"""Of 400 years each, added before dividing: more than datetime64[us] goes back."""
