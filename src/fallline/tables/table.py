"""`table`: from a file or frame to problems, with an account of every row and every column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline import problems
from fallline.errors import InvalidValue, UnknownName
from fallline.problems import LinearProblem
from fallline.tables.account import Summary
from fallline.tables.builtin import NAMES, builtin
from fallline.tables.cells import Cells, cells
from fallline.tables.choice import choose
from fallline.tables.columns import fit_column
from fallline.tables.crosses import crossed
from fallline.tables.encoders import Encoder
from fallline.tables.leaks import Leaks
from fallline.tables.options import TableOptions
from fallline.tables.parts import drawn, with_files
from fallline.tables.reading import read
from fallline.tables.sources import Source
from fallline.tables.target import Target, infer, labels
from fallline.tables.weights import row_weights


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
    standardize: bool = False
    """Whether its problems are standardized: the matrix's columns, sparse ones too."""

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
            "modified_huber": problems.modified_huber, "perceptron": problems.perceptron, "quantile": problems.quantile,
            "epsilon_insensitive": problems.epsilon_insensitive,
            "squared_epsilon_insensitive": lambda *a, **k: problems.epsilon_insensitive(*a, squared=True, **k),
        }  # fmt: skip
        if name not in makers:
            raise UnknownName.among("loss", name, makers)
        y = self.train.y
        if name == "poisson":
            y = self.target.decode(y)
        made = makers[name](self.train.X, y, weights=self.train.weights, feature_names=self.encoder.kept_names)
        return made.standardized() if self.standardize else made

    def baseline(self) -> tuple[dict[Any, int] | None, float]:
        """How often each class occurs in the training rows (None of numbers), and the mean of the numbers, in the user's terms."""
        if self.target.task == "regression":
            return None, float(self.target.decode(self.train.y).mean())
        values, counts = np.unique(self.train.y, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True)), 0.0

    def __repr__(self) -> str:
        parts = ", ".join(f"{k}={v}" for k, v in self.summary.parts.items())
        return f"Table({self.summary.name!r}, target={self.target.name!r}, task={self.target.task!r}, {parts}, features={self.encoder.features})"

    def _repr_html_(self) -> str:
        return self.summary.html()


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
    if not named(source):
        from fallline.tables.stored import stored_table

        stored = stored_table(source, target, given)
        if stored is not None:
            return stored
    data, own_test = open_source(source)
    target = _target(data, target)
    for name in given.columns():
        data.column(name)  # raises where there is none
    data, parts, why = with_files(data, given, own_test)
    data = crossed(data, given.crosses)
    data = data.as_text([n for n, kind in given.kinds.items() if kind != "number"])
    wanted = _wanted(data, target, given)
    usable = np.flatnonzero(~wanted.missing)
    task = infer(wanted, given.task, False, usable).task
    rows = drawn(data, wanted, task, usable, given, parts, why)
    goal = infer(wanted, given.task, given.log_target, rows.train)
    weight = row_weights(data, given, wanted, goal, rows.train)
    choice = choose(data, target, given, Leaks(wanted, goal, rows.train), rows.train)
    encoder = _encoder(data, choice.used, rows.train, given)
    raw = labels(wanted) if goal.task == "classification" else wanted.values

    def part(of: np.ndarray) -> Part:
        X = encoder.transform(data)[of] if data.csr is not None else encoder.matrix(choice.used, of)
        return Part(X, goal.encode(raw[of]), None if weight is None else weight[of], of)

    summary = Summary(
        data.name, data.rows, {"train": len(rows.train), "valid": len(rows.valid), "test": len(rows.test)},
        {f"the target {target!r} is missing": data.rows - len(usable)}, choice.treated(encoder.columns), rows.why, choice.warnings,
    )  # fmt: skip
    return Table(part(rows.train), part(rows.valid), part(rows.test), goal, encoder, summary, given.standardize)


def open_source(source: Any) -> tuple[Source, int]:
    """A source, or a built-in set unless a file of that name exists; and how many of its last rows are its own test part."""
    return (read(source), 0) if not named(source) else builtin(source)


def named(source: Any) -> bool:
    """Whether a source is the name of a built-in set."""
    if not isinstance(source, str) or Path(source).exists():
        return False
    if source in NAMES:
        return True
    if not Path(source).suffix and "/" not in source:
        raise UnknownName.among("file or built-in data set", source, NAMES)
    return False


def _target(data: Source, target: str | None) -> str:
    target = target or ("target" if "target" in data.names else None)
    if target is None:
        raise InvalidValue(f"which column is the target? give target=...; columns: {', '.join(data.names[:20])}")
    data.column(target)
    return target


def _wanted(data: Source, target: str, given: TableOptions) -> Cells:
    kind = given.kinds.get(target) or ("number" if given.task == "regression" else None)
    found = cells(data, target, kind)
    return cells(data, target, "category") if found.kind == "text" else found


def _encoder(data: Source, used: tuple[Cells, ...], train: np.ndarray, given: TableOptions) -> Encoder:
    if data.csr is None:
        return Encoder(tuple(fit_column(c, train, given.widths.get(c.name, 0)) for c in used), crosses=given.crosses)
    first = int(data.lines is not None and data.csr.nnz > 0 and data.csr.indices.min() > 0)
    return Encoder((), data.csr.shape[1] - first, first)
