"""What learns a stream: its columns, its labels, its model, and how good the predictions were before each row was learnt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines.linear import SafeOnline, online
from fallline.errors import (
    InvalidValue,
    TableError,
    UnknownName,
)
from fallline.history import History
from fallline.problems.losses import NAMES, Loss
from fallline.streaming.columns import Columns, chosen
from fallline.streaming.parts import Part
from fallline.streaming.tally import Tally
from fallline.tables.cells import cells
from fallline.tables.target import guess, labels
from fallline.tables.weights import weights_of

KEPT = 1_000_000
"""Rows whose losses are kept one by one."""
SPARSE = 1 << 24
"""The largest index of a svmlight stream."""


@dataclass(frozen=True)
class Asked:
    """What the flags say.

    Args:
        target, sample_weight: columns; drop, only, types: as in a table's options.
        loss, task: or None to tell them from the first rows.
        format: csv, jsonl or svmlight; or None to tell it.
        classes: the only labels that may come, or empty.
        save_every: rows between checkpoints, or None for `EVERY` seconds.
        from_here: whether a stream that is resumed begins after what was learnt.
    """

    target: str | None = None
    sample_weight: str | None = None
    drop: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    loss: str | None = None
    task: str | None = None
    format: str | None = None
    classes: tuple[str, ...] = ()
    save_every: int | None = None
    from_here: bool = False


@dataclass
class Learner:
    """What has been learnt from a stream so far."""

    asked: Asked
    columns: Columns | None
    target: str
    kind: str
    form: str
    why: str
    model: SafeOnline
    tally: Tally
    unlabelled: int = 0
    next_line: int = 1
    since: tuple[float, float] = (0.0, 0.0)

    @property
    def classifies(self) -> bool:
        return self.tally.classifies

    @property
    def plain(self) -> tuple[str, ...]:
        """Columns whose cells are numbers as such, the target among them: a stream may read them ahead."""
        names = () if self.columns is None else tuple(f.column.name for f in self.columns.plain)
        return (*names, self.target) if names and self._plain_target else names

    @property
    def _plain_target(self) -> bool:
        return self.kind == "number" and not self.form

    # ------------------------------------------------------------------------------------------------- learning

    def learn(self, part: Part, history: History, say: Callable[[dict[str, Any]], None], seconds: Callable[[], float]) -> None:
        """Predict, then learn, the rows of a part in their order.

        Raises:
            TableError: a cell or label that is none, with its line; the rows before its part are learnt.
        """
        X, entries, y, weight = self._encoded(part)
        there = np.flatnonzero(weight >= 0)
        self.unlabelled += len(weight) - len(there)
        if len(there) < len(weight):
            X, entries, y, weight = X[there], _rows_of(entries, there), y[there], weight[there]
        for a, b in self._pieces(y):
            self._learn(X[a:b], _slice(entries, a, b), y[a:b], weight[a:b], history, say, seconds)

    def _pieces(self, y: np.ndarray) -> list[tuple[int, int]]:
        """Stretches of rows, each beginning where a new class does: the model grows just before that row."""
        if not self.classifies:
            return [(0, len(y))]
        peak = np.maximum.accumulate(np.append(self.model.outputs - 1, y))
        cuts = [0, *np.flatnonzero(np.diff(peak) > 0).tolist(), len(y)]
        return [(a, b) for a, b in itertools.pairwise(cuts) if b > a]

    def _learn(self, X, entries, y, weight, history: History, say, seconds) -> None:
        if not len(y):
            return
        known = self.model.outputs
        if self.classifies:
            self.model.widen(outputs=int(y.max()) + 1)
        out = self.model.rows(np.ascontiguousarray(X), entries, y[:, None].astype(np.float64), weight)
        loss, scores = out[:, 0], out[:, 1:]
        prediction = self.predicted(scores)
        if self.classifies and self.model.outputs > known:
            prediction[0] = -1  # of a class that was not known nobody could know
        begun = self.tally.rows
        running = self.tally.add(loss, prediction, y, weight)
        if begun < KEPT:
            history.losses.append(loss.copy())
        while self.next_line <= self.tally.rows:
            say(self.line(self.next_line, running[self.next_line - begun - 1], history, seconds()))
            self.next_line *= 2

    def predicted(self, scores: np.ndarray) -> np.ndarray:
        """Class indices, numbers or rates."""
        if not self.classifies:
            return np.exp(np.minimum(scores[:, 0], 700)) if self.model.loss.name == "poisson" else scores[:, 0]
        return scores.argmax(axis=1) if self.model.loss.name == "softmax" else (scores[:, 0] > 0).astype(np.int64)

    def line(self, rows: int, sums: np.ndarray, history: History, seconds: float) -> dict[str, Any]:
        """One evaluation: means over all rows so far, and the loss since the last one."""
        weight, loss = float(sums[0]), float(sums[1])
        late = (loss - self.since[1]) / (weight - self.since[0]) if weight > self.since[0] else loss / weight if weight else 0.0
        self.since = (weight, loss)
        found = {f"valid_{name}": value for name, value in self.tally.measures(sums).items()}
        entry = {"step": rows, "epoch": 0.0, "seconds": seconds, "loss": late, **found}
        history.measured(entry)
        return entry

    # ------------------------------------------------------------------------------------------------- encoding

    def _encoded(self, part: Part) -> Any:
        """Dense and sparse features, targets (class indices or numbers), weights (-1 where the target is missing)."""
        if self.columns is None:
            source = part.source(None)
            csr = source.csr
            if csr.shape[1] > SPARSE:
                raise TableError(f"a feature's index is {csr.shape[1] - 1:,}: expected at most {SPARSE - 1:,}", file=source.name)
            self.model.widen(sparse=csr.shape[1])
            X, entries = np.empty((part.rows, 0)), (csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data.astype(np.float64))
        else:
            X, entries = self.columns.encode(part)
        weight = self._weights(part)
        y, missing = self._targets(part)
        weight[missing] = -1
        return X, entries, y, weight

    def _weights(self, part: Part) -> np.ndarray:
        name = self.asked.sample_weight
        if name is None:
            return np.ones(part.rows)
        return weights_of(part.source([name]), name)

    def _targets(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        if self.columns is not None and part.numbers is not None and self._plain_target:
            values, odd = part.numbers([self.target])
            if not odd.any():
                return self._numbers(values[0], part)
        source = part.source(None if self.columns is None else [self.target])
        found = cells(source, self.target, self.kind, self.form)  # type: ignore[arg-type]
        if found.kind == "number":
            return self._numbers(found.floats(np.arange(part.rows)), part)
        there = np.flatnonzero(~found.missing)
        return self._indices(*_coded(labels(found)[there]), there, part), found.missing

    def _numbers(self, values: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
        missing = np.isnan(values)
        if not self.classifies:
            values = values.copy()
            values[missing] = 0
            if self.model.loss.name == "poisson" and (values < 0).any():
                row = int(np.argmax(values < 0))
                raise TableError(f"the target {self.target!r} is {values[row]:g}: expected counts of at least 0 for poisson", **part.source(self._of()).where(row))
            return values, missing
        there = np.flatnonzero(~missing)
        found, first, index = np.unique(values[there], return_index=True, return_inverse=True)
        order = np.argsort(first)  # as they appear
        labels = [int(v) if float(v).is_integer() else v for v in found[order].tolist()]
        codes = np.empty(len(found), np.int64)
        codes[order] = np.arange(len(found))
        return self._indices(codes[index], list(zip(labels, first[order].tolist(), strict=True)), there, part), missing

    def _of(self) -> list[str] | None:
        return None if self.columns is None else [self.target]

    def _indices(self, codes: np.ndarray, found: list[tuple[Any, int]], there: np.ndarray, part: Part) -> np.ndarray:
        """Labels as class indices; new ones are added in the order in which they come.

        Args:
            codes, found: as of `_coded`, of the rows `there`.
        """
        known = {label: i for i, label in enumerate(self.model.classes or ())}
        fixed, places = bool(self.asked.classes), np.empty(len(found), np.int64)
        for k, (label, first) in enumerate(found):
            if label not in known:
                if fixed or (self.model.loss.name != "softmax" and len(known) == 2):
                    told = ", ".join(map(str, known))
                    hint = "add it to --classes" if fixed else "use --loss softmax"
                    raise TableError(f"the target {self.target!r} is {label!r}, which is none of the classes ({told}): {hint}", **part.source(self._of()).where(int(there[first])))
                known[label] = len(known)
                self.model.classes.append(label)  # type: ignore[union-attr]
            places[k] = known[label]
        out = np.zeros(part.rows, np.int64)
        out[there] = places[codes]
        return out


def _coded(names: np.ndarray) -> tuple[np.ndarray, list[tuple[Any, int]]]:
    """Codes of labels in the order in which they appear; each label, and where it appears first."""
    places: dict[Any, int] = {}
    codes = np.fromiter((places.setdefault(name, len(places)) for name in names.tolist()), np.int64, len(names))
    first = np.unique(codes, return_index=True)[1]
    return codes, list(zip(places, first.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------ beginning


def begun(part: Part, asked: Asked, format: str) -> Learner:
    """A learner, from the first rows of a stream."""
    source = part.source(None)
    target = asked.target or ("target" if "target" in source.names else None)
    if target is None:
        raise InvalidValue(f"which column is the target? give --target; columns: {', '.join(source.names[:20])}")
    if target not in source.names:
        raise UnknownName.among("column", target, source.names)
    found = cells(source, target, asked.types.get(target) or ("number" if asked.task == "regression" else None))  # type: ignore[arg-type]
    found = cells(source, target, "category") if found.kind in ("text", "date") else found
    if found.missing.all():
        raise TableError(f"the target {target!r} is missing in each of the first {part.rows} rows", file=source.name)
    task, why = asked.task, "given"
    if task is None and asked.loss is not None:
        task, why = ("classification" if Loss(asked.loss).classifies else "regression"), f"{asked.loss} is given"
    if task is None:
        task, why = guess(found)
        why += f" in the first {part.rows} rows"
    loss = Loss(_loss(asked.loss, task))
    if task == "regression" and found.kind != "number":
        raise TableError(f"--task regression needs numbers, and the target {target!r} is of kind {found.kind}", file=source.name)
    columns = None
    if format != "svmlight":
        apart = {target: "the target"} | ({} if asked.sample_weight is None else {asked.sample_weight: "the weight"})
        columns = chosen(part, apart, asked.drop, asked.only, {k: v for k, v in asked.types.items() if k != target})
    names = [_plain(label, found.kind) for label in asked.classes] if task == "classification" else None
    model = model_of(loss, columns, names)
    return Learner(asked, columns, target, found.kind, found.form, why, model, Tally(task == "classification"))


def _loss(name: str | None, task: str) -> str:
    if name is None:
        return "softmax" if task == "classification" else "least_squares"
    if name not in NAMES:
        raise UnknownName.among("loss", name, NAMES)
    if Loss(name).classifies != (task == "classification"):
        raise InvalidValue(f"--loss {name} is for {'classification' if Loss(name).classifies else 'regression'}, and the task is {task}")
    return name


def _plain(label: str, kind: str) -> Any:
    if kind != "number":
        return label
    value = float(label)
    return int(value) if value.is_integer() else value


def model_of(loss: Loss, columns: Columns | None, names: Any) -> SafeOnline:
    dense, sparse = (0, 1) if columns is None else (columns.dense, columns.sparse)
    made = online(loss.name, features=dense, sparse=max(sparse, 1), classes=names)
    assert isinstance(made, SafeOnline)
    return made


# ---------------------------------------------------------------------------------------------------------- rows


def _slice(entries: tuple[np.ndarray, ...], a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, columns, values = entries
    first, last = starts[a], starts[b]
    return starts[a : b + 1] - first, columns[first:last], values[first:last]


def _rows_of(entries: tuple[np.ndarray, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, columns, values = entries
    counts = np.diff(starts)[rows]
    at = np.concatenate([np.arange(starts[r], starts[r + 1]) for r in rows]) if len(rows) else np.empty(0, np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), columns[at.astype(np.int64)], values[at.astype(np.int64)]
