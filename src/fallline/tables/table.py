"""`table`: from a file or frame to problems, with an account of every row and every column."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fallline import problems
from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.problems import LinearProblem
from fallline.tables.builtin import NAMES, builtin
from fallline.tables.cells import Cells, Kind, cells
from fallline.tables.encoders import Encoder, fit_column, join
from fallline.tables.sources import Source, read
from fallline.tables.splits import Split, split
from fallline.tables.target import Target, Task, infer, labels

LEAK = 0.999
"""A column that tells the target this well by itself is reported as a likely leak."""


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
    """

    drop: Sequence[str] = ()
    only: Sequence[str] = ()
    types: Mapping[str, Kind] = field(default_factory=dict)
    valid: Any = 0.15
    test: Any = 0.15
    group: str | None = None
    time: str | None = None
    sample_weight: str | None = None
    class_weight: Any = None
    log_target: bool = False
    task: Task | None = None
    seed: int = 0


@dataclass(frozen=True)
class ColumnNote:
    """What became of a column: used or set aside, how and why."""

    name: str
    kind: str
    used: bool
    treatment: str
    missing: int
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """The account of a table: rows in = rows used + rows reported, and every column.

    Args:
        name: the source.
        rows: rows that came in.
        parts: rows used, by part: train, valid, test.
        reported: rows not used, by reason.
        columns: every column.
        split: how the rows were split.
        notes: what a reader should know (likely leaks, ...).
    """

    name: str
    rows: int
    parts: Mapping[str, int]
    reported: Mapping[str, int]
    columns: tuple[ColumnNote, ...]
    split: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        used, left = sum(self.parts.values()), sum(self.reported.values())
        if used + left != self.rows:
            raise TableError(f"{self.rows} rows came in, {used} are used and {left} reported: please report this table", file=self.name)

    def text(self) -> str:
        """The account as text."""
        used = sum(self.parts.values())
        lines = [f"{self.name}: {self.rows:,} rows, {used:,} used ({', '.join(f'{k} {v:,}' for k, v in self.parts.items())}; {self.split})"]
        lines += [f"  {count:,} rows not used: {why}" for why, count in self.reported.items() if count]
        kinds: dict[str, list[str]] = {}
        for c in self.columns:
            kinds.setdefault(c.treatment if c.used else "set aside: " + c.treatment, []).append(c.name)
        for what, names in kinds.items():
            shown = ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
            lines.append(f"  {what}: {shown}")
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name, "rows": self.rows, "parts": dict(self.parts), "reported": dict(self.reported), "split": self.split,
            "notes": list(self.notes), "columns": [vars(c) for c in self.columns],
        }  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Rows of one part: X float32 [rows, features] (dense or CSR), y encoded, weights or None, and their row numbers."""

    X: Any
    y: np.ndarray
    weights: np.ndarray | None
    rows: np.ndarray


@dataclass(frozen=True)
class Reader:
    """What a saved run keeps of its table: the encoder and the target. See `fallline.runs.Reader`."""

    encoder: Encoder
    target: Target

    def rows(self, data: Any) -> Any:
        """The rows of a file or frame as the model takes them."""
        return self.encoder.transform(open_source(data)[0])

    def decode(self, prediction: np.ndarray) -> np.ndarray:
        """Predictions in the user's terms."""
        return self.target.decode(prediction)

    def to_json(self) -> dict[str, Any]:
        return {"encoder": self.encoder.to_json(), "target": self.target.to_json()}

    def arrays(self) -> dict[str, np.ndarray]:
        return self.encoder.arrays()


def reader_from(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Reader:
    """The reader of a saved run."""
    return Reader(Encoder.from_parts(data["encoder"], arrays), Target.from_json(data["target"]))


@dataclass(frozen=True)
class Table:
    """A table made ready: three parts, the target, the encoder, and the account of it all. Made by `table`."""

    train: Part
    valid: Part
    test: Part
    target: Target
    encoder: Encoder
    summary: Summary

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return self.encoder.names

    @property
    def reader(self) -> Reader:
        """What predictions need of this table."""
        return Reader(self.encoder, self.target)

    def problem(self, loss: str | None = None) -> LinearProblem:
        """The training part as a problem.

        Args:
            loss: a loss's name; left out, logistic for two classes, softmax for more, least squares for numbers.
        """
        name = loss or ("least_squares" if self.target.task == "regression" else "logistic" if len(self.target.classes) == 2 else "softmax")
        makers = {
            "least_squares": problems.least_squares, "logistic": problems.logistic, "softmax": problems.softmax,
            "huber": problems.huber, "hinge": problems.hinge, "poisson": problems.poisson,
            "squared_hinge": lambda *a, **k: problems.hinge(*a, squared=True, **k),
        }  # fmt: skip
        if name not in makers:
            raise UnknownName.among("loss", name, makers)
        y = self.train.y
        if name == "poisson":
            y = self.target.decode(y)
        return makers[name](self.train.X, y, weights=self.train.weights, feature_names=self.feature_names)

    def __repr__(self) -> str:
        parts = ", ".join(f"{k}={v}" for k, v in self.summary.parts.items())
        return f"Table({self.summary.name!r}, target={self.target.name!r}, task={self.target.task!r}, {parts}, features={len(self.feature_names)})"

    def _repr_html_(self) -> str:
        cell = lambda *values: "".join(f"<td>{html.escape(str(v))}</td>" for v in values)
        body = "".join(f"<tr>{cell(c.name, c.kind, c.treatment, c.missing, c.note)}</tr>" for c in self.summary.columns)
        head = "<tr><th>column</th><th>type</th><th>treatment</th><th>missing</th><th>note</th></tr>"
        return f"<pre>{html.escape(self.summary.text())}</pre><table>{head}{body}</table>"


def table(source: Any, *, target: str | None = None, options: TableOptions | None = None) -> Table:
    """Make a table ready to learn from.

    Args:
        source: a path (CSV, Parquet, Arrow, JSON lines, .npz, svmlight), a frame, or a built-in set's name.
        target: the column to predict; built-in sets, .npz and svmlight files call it "target".
        options: how to read it.

    Raises:
        TableError: malformed content, with file and line.
        UnknownName: a column that does not exist.

    >>> table({"x": [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] * 2, "y": ["a", "b"] * 12}, target="y")
    Table('the columns', target='y', task='classification', train=16, valid=4, test=4, features=1)
    """
    given = options or TableOptions()
    data, own_test = open_source(source)
    target = target or ("target" if "target" in data.names else None)
    if target is None:
        raise InvalidValue(f"which column is the target? give target=...; columns: {', '.join(data.names[:20])}")
    for name in (target, *given.drop, *given.only, *given.types, *filter(None, (given.group, given.time, given.sample_weight))):
        if name not in data.names:
            raise UnknownName.among("column", name, data.names)
    data, parts, why = _with_files(data, given, own_test)
    wanted = cells(data, target, given.types.get(target) or ("number" if given.task == "regression" else None))
    usable = np.flatnonzero(~wanted.missing)
    weight = None if given.sample_weight is None else _weights(data, given.sample_weight)
    task = infer(wanted, given.task, False, usable).task
    rows = _split(data, wanted, task, usable, given, parts, why)
    goal = infer(wanted, given.task, given.log_target, rows.train)
    used, notes, warnings = _columns(data, target, given, wanted, goal, rows.train)
    encoder = Encoder(tuple(fit_column(c, rows.train) for c in used), 0 if data.csr is None else data.csr.shape[1])
    X = data.csr.astype(np.float32) if data.csr is not None else join([f.encode(c) for f, c in zip(encoder.columns, used, strict=True)], data.rows)
    raw = labels(wanted) if goal.task == "classification" else wanted.values
    notes = [_treated(n, encoder) for n in notes]
    weight = _class_weights(given.class_weight, raw, rows.train, weight)
    made = [Part(X[r], goal.encode(raw[r]), None if weight is None else weight[r], r) for r in (rows.train, rows.valid, rows.test)]
    summary = Summary(
        data.name, data.rows, {"train": len(rows.train), "valid": len(rows.valid), "test": len(rows.test)},
        {f"the target {target!r} is missing": data.rows - len(usable)}, tuple(notes), rows.why, tuple(warnings),
    )  # fmt: skip
    return Table(*made, goal, encoder, summary)


def open_source(source: Any) -> tuple[Source, int]:
    """A source, or a built-in set unless a file of that name exists."""
    if isinstance(source, str) and not Path(source).exists():
        if source in NAMES:
            return builtin(source)
        if not Path(source).suffix and "/" not in source:
            raise UnknownName.among("file or built-in data set", source, NAMES)
    return read(source), 0


def _with_files(data: Source, given: TableOptions, own_test: int) -> tuple[Source, dict[str, np.ndarray], str]:
    """Append validation and test tables of their own; returns which rows they are."""
    import pyarrow as pa

    parts: dict[str, np.ndarray] = {}
    words = []
    if own_test and given.test == 0.15:
        parts["test"] = np.arange(data.rows - own_test, data.rows)
        words.append("the data set's own test part")
    for part in ("valid", "test"):
        value = getattr(given, part)
        if isinstance(value, (int, float)):
            continue
        more = read(value)
        missing = next((n for n in data.names if n not in more.names), None)
        if missing is not None:
            raise UnknownName.among(f"column of {more.name}", missing, more.names)
        parts[part] = np.arange(data.rows, data.rows + more.rows)
        joined = pa.concat_tables([data.table, more.table.select(data.names)], promote_options="permissive")
        data = Source(joined, data.name, data.text, None if data.lines is None or more.lines is None else np.concatenate([data.lines, more.lines]))
        words.append(f"{part} from {more.name}")
    return data, parts, "; ".join(words)


def _split(data: Source, wanted: Cells, task: Task, usable: np.ndarray, given: TableOptions, parts: dict[str, np.ndarray], why: str) -> Split:
    fixed = {k: v[np.isin(v, usable)] for k, v in parts.items()}
    own = usable[~np.isin(usable, np.concatenate([np.empty(0, np.int64), *fixed.values()]))]
    shares = {k: 0.0 if k in fixed else float(getattr(given, k)) for k in ("valid", "test")}
    strata = wanted.values if task == "classification" and not (given.group or given.time) else None
    drawn = split(
        own, shares["valid"], shares["test"], given.seed, strata=strata,
        groups=None if given.group is None else data.values(given.group),
        times=None if given.time is None else _times(data, given.time, given.types.get(given.time)),
    )  # fmt: skip
    return Split(drawn.train, fixed.get("valid", drawn.valid), fixed.get("test", drawn.test), f"{why}; {drawn.why}" if why else drawn.why)


def _times(data: Source, name: str, kind: Kind | None) -> list[Any]:
    column = cells(data, name, kind)
    if column.missing.any():
        row = int(np.argmax(column.missing))
        raise TableError(f"the time column {name!r} is missing in row {row}", file=data.name, line=data.line(row))
    if column.kind not in ("number", "date"):
        raise InvalidValue(f"the time column {name!r} holds {column.kind} values: expected dates or numbers")
    return column.values.tolist()


def _weights(data: Source, name: str) -> np.ndarray:
    column = cells(data, name, "number")
    bad = column.missing | ~(column.values >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise TableError(f"the weight {column.values[row]} of row {row} is not a number of at least 0", file=data.name, line=data.line(row))
    return column.values


def _class_weights(given: Any, raw: np.ndarray, train: np.ndarray, weight: np.ndarray | None) -> np.ndarray | None:
    """Row weights times class weights: "balanced" gives every class the same total."""
    if given is None:
        return weight
    names, counts = np.unique(raw[train].astype(str), return_counts=True)
    if given == "balanced":
        by_name = {n: len(train) / (len(names) * c) for n, c in zip(names.tolist(), counts.tolist(), strict=True)}
    elif isinstance(given, Mapping):
        by_name = {str(k): float(v) for k, v in given.items()}
        for name in by_name:
            if name not in names:
                raise UnknownName.among("class", name, names)
    else:
        raise InvalidValue(f"class_weight={given!r}: expected 'balanced' or a mapping from label to weight")
    factors = np.array([by_name.get(str(v), 1.0) for v in raw])
    return factors if weight is None else weight * factors


def _columns(
    data: Source, target: str, given: TableOptions, wanted: Cells, goal: Target, train: np.ndarray
) -> tuple[list[Cells], list[ColumnNote], list[str]]:
    """The columns to learn from, a note on each column, and warnings."""
    used, notes, warnings = [], [], []
    apart = {target: "the target", given.group: "the group column", given.sample_weight: "the weight column"}
    for name in data.names:
        if name in apart or name in given.drop or (given.only and name not in given.only):
            why = apart.get(name) or ("dropped as asked" if name in given.drop else "not among --only")
            notes.append(ColumnNote(name, "", False, why, 0))
            continue
        column = cells(data, name, given.types.get(name))
        missing = int(column.missing.sum())
        why = "" if name in given.types or name in given.only else _set_aside(column, train)
        if why:
            notes.append(ColumnNote(name, column.kind, False, why, missing))
            continue
        if _leaks(column, wanted, goal, train):
            warnings.append(f"column {name!r} alone nearly determines the target: a leak? leave it out with --drop {name}")
        used.append(column)
        notes.append(ColumnNote(name, column.kind, True, "", missing, column.why))
    if not used and data.csr is None:
        raise TableError(f"no column is left to learn from beside the target {target!r}", file=data.name)
    return used, notes, warnings


def _treated(note: ColumnNote, encoder: Encoder) -> ColumnNote:
    found = next((c for c in encoder.columns if note.used and c.name == note.name), None)
    return note if found is None else ColumnNote(note.name, note.kind, True, found.treatment, note.missing, note.note)


def _set_aside(column: Cells, train: np.ndarray) -> str:
    """Why a column cannot help, or an empty string."""
    values = column.values[train][~column.missing[train]]
    if len(values) == 0:
        return "every value is missing"
    if column.kind == "number":
        if (values == values[0]).all() and not column.missing[train].any():
            return "constant"
        steps = np.diff(column.values[~column.missing])
        if len(steps) > 8 and (steps == 1).all():
            return "an identifier: it counts the rows"
        return ""
    distinct = len(set(values.tolist()))
    if distinct == 1 and not column.missing[train].any():
        return "constant"
    if column.kind == "category" and distinct == len(values) and len(values) > 8:
        return "an identifier: different in every row"
    return ""


def _leaks(column: Cells, wanted: Cells, goal: Target, train: np.ndarray) -> bool:
    """Whether one column alone gives the target away: by correlation, or by a level that names the class."""
    if column.kind == "number" and wanted.kind == "number" and goal.task == "regression":
        x, y = column.values[train], wanted.values[train]
        good = ~np.isnan(x)
        if good.sum() > 8 and x[good].std() > 0 and y[good].std() > 0:
            return bool(abs(np.corrcoef(x[good], y[good])[0, 1]) > LEAK)
    if goal.task == "classification" and column.kind in ("category", "number"):
        x = column.values[train].tolist()
        y = wanted.values[train].tolist()
        pairs = set(zip(x, y, strict=True))
        distinct = len(set(x))
        return len(pairs) == distinct and distinct <= max(2, len(x) // 10) and distinct >= 2
    return False
