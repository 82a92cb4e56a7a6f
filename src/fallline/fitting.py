"""`fit`: from data to a run with its evidence. It chooses what was not given, says why, trains, and tests once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fallline.advice.lr import Found, find_lr
from fallline.batches import Batches
from fallline.errors import Diverged, InvalidValue, NoLearningRate, PlanMismatch
from fallline.live import LiveFolder
from fallline.metrics import METRICS, Metric, interval, metric
from fallline.plan import Plan
from fallline.problems import LinearProblem
from fallline.rules import SGD, Rule, typical_lr
from fallline.rules.writing import Auto
from fallline.runs import Run
from fallline.tables import Table, TableOptions, table
from fallline.tables.table import Part
from fallline.training import Validation, train

UPDATES = 1500
"""A batch size is chosen so that about this many updates are made, within 8 and 256 rows."""
SCHEDULE = "warmup(5%) > linear(to=0)"
KEPT_ROWS = 20_000
"""Test predictions of at most this many rows are kept with the run, for its report."""


@dataclass(frozen=True)
class Choices:
    """What `fit` is told; what is None it chooses. All by keyword.

    Args:
        epochs: passes over the training rows.
        batch_size: rows of a batch, a `Batches`, or None.
        optimizer: a rule, whose lr may be `auto`; None chooses SGD.
        schedule: of the learning rate, where the optimizer has none of its own; None for a constant rate.
        loss: a loss's name.
        metrics: names or functions; the first is the headline.
        plan: a plan to carry out as it stands, instead of all of the above.
        seed: of order, split and intervals.
    """

    epochs: float = 20
    batch_size: int | Batches | None = None
    optimizer: Rule | None = None
    schedule: str | None = SCHEDULE
    loss: str | None = None
    metrics: Sequence[str | Callable[..., float]] | None = None
    plan: Plan | None = None
    seed: int = 0


def fit(
    data: Any,
    y: Any = None,
    *,
    target: str | None = None,
    options: TableOptions | None = None,
    epochs: float = 20,
    batch_size: int | Batches | None = None,
    optimizer: Rule | None = None,
    choices: Choices | None = None,
    valid: Any = None,
    stop: Any = None,
    save: str | Path | LiveFolder | None = None,
    progress: bool | None = None,
) -> Run:
    """Fit a linear model to a table, or descend any problem: choose, explain, train, test.

    Args:
        data: a path, a frame, a built-in set's name, a `Table`, an array X (with y), or a problem.
        y: labels or numbers of X's rows.
        target: the column to predict, for paths and frames.
        options: how a table is read.
        epochs, batch_size, optimizer: as in `Plan`; what is left out is chosen.
        choices: everything else that can be chosen; it replaces the three above.
        valid: held-out data of a problem, as for `train`; a table splits its own rows (`TableOptions.valid`).
        stop: judges, as for `train`.
        save: a folder for the run, with its report: both are made at the start and kept up while it is under way.
        progress: as for `train`.

    Returns:
        Run: `predict` takes rows as `data` had them; `summary` holds the test's metrics and every choice.

    >>> import fallline as fl
    >>> run = fl.fit("breast-cancer", progress=False)
    >>> run.summary["headline"]["value"] > 0.9
    True
    """
    told = choices or Choices(epochs=epochs, batch_size=batch_size, optimizer=optimizer)
    live = save if save is None or isinstance(save, LiveFolder) else LiveFolder.claim(save, report=True)
    if not isinstance(data, (str, Path, Table)) and hasattr(data, "layout") and hasattr(data, "gradient"):
        return _fit_problem(data, told, valid, stop, live, progress)
    if valid is not None:
        raise InvalidValue("valid= goes with a problem; rows of a table are held out by options=TableOptions(valid=0.15), or by a file's name there")
    if y is not None:
        data, target = _columns(data, y), "target"
    made = data if isinstance(data, Table) else table(data, target=target, options=replace(options or TableOptions(), seed=(options or TableOptions(seed=told.seed)).seed))
    problem = made.problem(told.loss)
    held_out = _held_out(made, problem, made.valid)
    plan, found, notes = planned(problem, told)
    names = _metrics(told.metrics, problem)
    usual = [m for m in names if m.needs != "numbers"] or ["rmse", "r2"]
    notes = [{"what": "task", "value": made.target.task, "why": made.target.why}, *notes]
    about = {
        "title": f"{made.summary.name}: predicting {made.target.name!r}",
        "data": _account(made),
        "features": len(made.feature_names),
        "metrics": [m.name for m in names],
        "lr_source": "given" if found is None else "range test" if found.rate is not None else "default",
    }
    work = _Work(problem, plan, found, notes, about, made.reader, live)
    valid = None if held_out is None else Validation(held_out, usual)
    return work.run(valid, stop, progress, lambda run: _tested(run, made, names, told.seed))


def _fit_problem(problem: Any, told: Choices, valid: Any, stop: Any, live: LiveFolder | None, progress: bool | None) -> Run:
    plan, found, notes = planned(problem, told)
    return _Work(problem, plan, found, notes, {}, None, live).run(valid, stop, progress, lambda run: {})


@dataclass(frozen=True)
class _Work:
    """What `fit` has chosen; `run` trains, tests and saves it, and saves also what an error or a signal left."""

    problem: Any
    plan: Plan
    found: Found | None
    notes: list[dict[str, Any]]
    about: dict[str, Any]
    reader: Any
    live: LiveFolder | None

    def run(self, valid: Any, stop: Any, progress: bool | None, test: Callable[[Run], dict[str, Any]]) -> Run:
        live = self.live
        if live is not None:
            live.notes, live.found, live.about = self.notes, self.found, live.about | self.about
        try:
            run = train(self.problem, self.plan, valid=valid, stop=stop, save=live, progress=progress)
        except (Diverged, KeyboardInterrupt, SystemExit) as ended:
            partial = getattr(ended, "run", None)
            if partial is not None and live is not None:
                self._dress(partial, {"headline": None, "test": None, "notes": [f"the run did not come to its end ({partial.outcome.name}): its test part was not looked at"]})
                live.finish(partial)
            raise
        self._dress(run, {})
        try:
            run.summary |= test(run)
        finally:
            if live is not None:
                live.finish(run)
        return run

    def _dress(self, run: Run, more: dict[str, Any]) -> None:
        run.history.journal[:0] = self.notes
        run.reader, run.found = self.reader, self.found or run.found
        run.summary = self.about | more


def _columns(X: Any, y: Any) -> Any:
    """X and y as the columns of one table."""
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        columns = {str(c): X[c] for c in X.columns}
    else:
        try:
            X = np.asarray(X.toarray() if hasattr(X, "toarray") else X)
        except ValueError as error:
            raise InvalidValue(f"X cannot be made an array: {error}") from None
        if X.ndim != 2:
            raise InvalidValue(f"X has {X.ndim} dimensions: expected rows x features; one feature is X.reshape(-1, 1)")
        columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    if "target" in columns:
        raise InvalidValue("X has a column called 'target': rename it, or give fit one frame and target=")
    if len(y) != len(X):
        raise InvalidValue(f"X has {len(X)} rows and y {len(y)}: expected one label for each row")
    return columns | {"target": y}


def _held_out(made: Table, problem: LinearProblem, part: Part) -> LinearProblem | None:
    if not len(part.rows):
        return None
    return problem.on(part.X, made.target.decode(part.y) if problem.loss.name == "poisson" else part.y, part.weights)


def planned(problem: Any, told: Choices) -> tuple[Plan, Found | None, list[dict[str, Any]]]:
    """The plan, what the range test found, and the journal of choices."""
    notes: list[dict[str, Any]] = []

    def note(what: str, value: Any, why: str) -> None:
        notes.append({"what": what, "value": value, "why": why})

    if told.plan is not None:
        if told.plan.rows != problem.rows and told.plan.rows is not None and problem.rows is not None:
            raise PlanMismatch(f"the plan is for {told.plan.rows:,} rows and the training part has {problem.rows:,}: use the data and split it was made for")
        note("plan", told.plan.fingerprint[:16], "given")
        return told.plan, None, notes
    if problem.rows is None:
        raise InvalidValue("the data is a stream, so its rows are not known: give choices=Choices(plan=Plan(steps=..., ...))")
    sparse = bool(getattr(problem, "sparse", False))
    size = told.batch_size
    if size is None:
        size = 1 if sparse else min(problem.rows, _batch_size(problem.rows, told.epochs))
        note("batch size", size, "sparse rows: one at a time touches only its own features" if sparse else f"about {UPDATES:,} updates, within 8 and 256 rows")
    rule = told.optimizer
    if rule is None:
        rule = SGD(weight_decay=1e-6) if sparse else SGD(momentum=0.9, weight_decay=1e-4)
        note("optimizer", f"SGD, momentum {0 if sparse else 0.9}", "plain steps are exact and fast on sparse rows" if sparse else "the textbook's starting point")
    if rule.schedule is None and isinstance(rule.lr, (Auto, int, float)) and told.schedule is not None:
        rule = replace(rule, schedule=told.schedule)
        note("schedule", str(rule.schedule), "a short warmup, then linear to zero" if told.schedule == SCHEDULE else "given")
    plan = Plan(problem, epochs=told.epochs, batch_size=size, optimizer=rule, seed=told.seed)
    if not plan.lr_is_auto:
        return plan, None, notes
    found = find_lr(problem, plan)
    try:
        note("lr", found.lr, found.verdict)
        return plan.with_lr(found), found, notes
    except NoLearningRate as none:
        low, high = typical_lr(rule)
        typical = math.sqrt(low * high)
        note("lr", typical, f"the range test gave no answer ({none.verdict}); this is the textbook's typical value")
        return plan.with_lr(typical), found, notes


def _batch_size(rows: int, epochs: float) -> int:
    return int(2 ** np.clip(np.floor(np.log2(max(rows * epochs / UPDATES, 1))), 3, 8))


def _metrics(given: Any, problem: LinearProblem) -> list[Metric]:
    if given:
        return [metric(m) for m in given]
    if problem.loss.classifies:
        usual = ["accuracy", "balanced_accuracy"] + (["log_loss"] if problem.loss.has_probabilities else [])
        if problem.loss.has_probabilities and len(problem.classes if problem.classes is not None else ()) == 2:
            usual += ["auc", "average_precision"]
        return [METRICS[m] for m in usual]
    return [METRICS[m] for m in ("rmse", "mae", "r2")]


def _tested(run: Run, made: Table, metrics: Sequence[Metric], seed: int) -> dict[str, Any]:
    """The test part, looked at once: metrics with intervals, beside the guess that needs no model."""
    part = made.test
    if not len(part.rows):
        return {"headline": None, "test": None, "notes": ["there is no test part: nothing says how well this does on new rows"]}
    model = run._model()
    truth = made.target.decode(part.y)
    guess = made.target.decode(model.predict(run.answer, part.X))
    proba = model.predict_proba(run.answer, part.X) if model.loss.has_probabilities else None
    place = {label: i for i, label in enumerate(model.classes.tolist())} if model.classes is not None else {}
    index = np.array([place.get(v, 0) for v in truth.tolist()]) if place else truth
    base, base_proba, base_name = _baseline(made, truth, proba, place)
    lines: dict[str, Any] = {}
    for m in metrics:
        if m.needs == "probabilities":
            if proba is None:
                continue
            assert base_proba is not None
            value, other, pair = m(index, proba), m(index, base_proba), interval(m, index, proba, seed=seed)
        else:
            value, other, pair = m(truth, guess), m(truth, base), interval(m, truth, guess, seed=seed)
        lines[m.name] = {"value": value, "interval": list(pair), "baseline": other}
    first = metrics[0]
    keep = len(truth) <= KEPT_ROWS
    return {
        "headline": {"metric": first.name, **lines.get(first.name, {}), "baseline_name": base_name, "better": first.better, "part": "test", "rows": len(truth)},
        "test": {
            "part": "test", "metrics": lines, "classes": None if model.classes is None else model.classes.tolist(),
            "y": truth.tolist() if keep else None, "prediction": guess.tolist() if keep else None,
            "proba": np.round(proba, 6).tolist() if keep and proba is not None else None,
        },
        "notes": [] if keep else [f"the test part has {len(truth):,} rows: its predictions are not kept with the run"],
    }  # fmt: skip


def _baseline(made: Table, truth: np.ndarray, proba: Any, place: dict[Any, int]) -> tuple[np.ndarray, Any, str]:
    """What guessing without a model gives: the majority class, its shares as probabilities, or the mean."""
    y = made.train.y
    if made.target.task == "regression":
        return np.full(len(truth), made.target.decode(y).mean()), None, "always the mean"
    values, counts = np.unique(y, return_counts=True)
    shares = np.zeros(max(len(place), 1))
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        shares[place.get(value, 0)] = count / len(y)
    major = values[np.argmax(counts)]
    return np.full(len(truth), major), None if proba is None else np.tile(shares, (len(truth), 1)), f"always {str(major)!r}"


def _account(made: Table) -> dict[str, Any]:
    """The table's summary in the report's words."""
    s = made.summary
    return {
        "source": s.name,
        "text": s.text(),
        "rows": {"rows in the table": s.rows, **{f"used to {k}": v for k, v in s.parts.items()}, **{f"not used: {k}": v for k, v in s.reported.items()}},
        "columns": [
            {"name": c.name, "type": c.kind, "treatment": c.treatment if c.used else f"set aside: {c.treatment}",
             "note": "; ".join(filter(None, (c.note, f"{c.missing:,} missing" if c.missing else "")))}
            for c in s.columns
        ],
        "reports": [f"split: {s.split}", *s.notes],
    }  # fmt: skip
