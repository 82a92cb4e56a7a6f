"""The test part, looked at once: metrics with intervals beside the guess that needs no model, and the account of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.metrics import METRICS, Metric, interval, metric
from fallline.problems import LinearProblem
from fallline.runs import Run
from fallline.tables import Table

KEPT_ROWS = 20_000
"""Test predictions of at most this many rows are kept with the run, for its report."""


def chosen_metrics(given: Any, problem: LinearProblem) -> list[Metric]:
    """The metrics that are named, else the usual ones of the table's task."""
    if given:
        return [metric(m) for m in given]
    if problem.loss.classifies:
        usual = ["accuracy", "balanced_accuracy"] + (["log_loss"] if problem.loss.has_probabilities else [])
        if problem.loss.has_probabilities and len(problem.classes if problem.classes is not None else ()) == 2:
            usual += ["auc", "average_precision"]
        return [METRICS[m] for m in usual]
    return [METRICS[m] for m in ("rmse", "mae", "r2")]


def tested(run: Run, made: Table, metrics: Sequence[Metric], seed: int) -> dict[str, Any]:
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
    counts, mean = made.baseline()
    if counts is None:
        return np.full(len(truth), mean), None, "always the mean"
    shares = np.zeros(max(len(place), 1))
    for value, count in counts.items():
        shares[place.get(value, 0)] = count / sum(counts.values())
    major = max(counts, key=lambda c: counts[c])
    return np.full(len(truth), major), None if proba is None else np.tile(shares, (len(truth), 1)), f"always {str(major)!r}"


def account(made: Table) -> dict[str, Any]:
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
