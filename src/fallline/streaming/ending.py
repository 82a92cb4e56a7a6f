"""What a stream leaves: a run that predicts, reports and is listed like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.batches import Batches, InFile
from fallline.history import History, Outcome
from fallline.plan import Plan
from fallline.problems import LinearModel
from fallline.rules import SGD, auto
from fallline.runs import Run
from fallline.tables.encoders import Encoder
from fallline.tables.table import Reader
from fallline.tables.target import Target

if TYPE_CHECKING:
    from fallline.streaming.learner import Learner


def run_of(learner: Learner, history: History, outcome: Outcome, reason: str) -> Run:
    """The run. Its plan says rows in file order, one at a time, and a learning rate that is left to the library."""
    model, rows = learner.model, max(learner.model.step, 1)
    if learner.columns is None:
        encoder, coef = Encoder((), model.sparse, 0), model.sparse_coef.reshape(model.sparse, -1)
    else:
        encoder, coef = learner.columns.encoder(model), learner.columns.coef(model)
    intercept, classes = model.base.copy(), None
    if learner.classifies:
        coef, intercept, classes = _sorted(coef, intercept, model.classes or [], model.loss.name == "softmax")
    many = model.loss.name == "softmax"
    linear = LinearModel(model.loss, len(coef), len(intercept), True, classes, encoder.names)
    weights = {"coef": coef if many else coef[:, 0], "intercept": intercept if many else intercept[0]}
    target = Target(learner.target, "classification" if learner.classifies else "regression", learner.why, () if classes is None else tuple(classes.tolist()))
    plan = Plan(rows=rows, steps=rows, batch_size=Batches(1, order=InFile()), optimizer=SGD(lr=auto))
    run = Run(plan, linear, weights, None, None, history, outcome, reason, "stream", reader=Reader(encoder, target))
    head = learner.tally.headline()
    found: dict[str, Any] = {name: {"value": value} for name, value in learner.tally.measures().items() if name != "loss"}
    if head["metric"] in found:
        found[head["metric"]] |= {"interval": head["interval"], "baseline": head["baseline"]}
    run.summary = {
        "headline": head if learner.tally.rows else None, "test": {"metrics": found, "part": head["part"]}, "lr_source": "safe steps",
        "data": {"source": "a stream", "rows": {"learnt": model.step, "without a target": learner.unlabelled}, "columns": _account(learner), "reports": []},
    }  # fmt: skip
    return run


def _sorted(coef: np.ndarray, intercept: np.ndarray, names: list[Any], many: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes in their order, as every other run has them."""
    plain = names if len({isinstance(n, str) for n in names}) < 2 else [str(n) for n in names]
    order = sorted(range(len(names)), key=lambda i: plain[i])
    classes = np.array([plain[i] for i in order])
    if many:
        return coef[:, order], intercept[order], classes
    sign = -1.0 if order == [1, 0] else 1.0
    return sign * coef, sign * intercept, classes


def _account(learner: Learner) -> list[dict[str, str]]:
    if learner.columns is None:
        return []
    out = []
    for f in learner.columns.features:
        c, levels = f.column, learner.columns.levels.get(f.column.name)
        seen = "" if not levels else f"{len(levels):,} levels seen: " + ", ".join(list(levels)[:8]) + (" ..." if len(levels) > 8 else "")
        out.append({"name": c.name, "kind": c.kind, "treatment": c.treatment, "note": seen})
    return out
