"""`fit`: from data to a run with its evidence. It chooses what was not given, says why, trains, and tests once."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fallline.advice.found import Found
from fallline.advice.lr import find_lr
from fallline.advice.modules import is_module, stream_length, suggested
from fallline.batches import Batches
from fallline.errors import Diverged, InvalidValue, MissingExtra, NoLearningRate, PlanMismatch
from fallline.evidence import account, chosen_metrics, tested
from fallline.lengths import steps as steps_of
from fallline.metrics import metric
from fallline.model_spec import ModelSpec, model_spec
from fallline.plan import Plan
from fallline.problems import LinearProblem
from fallline.rules import SGD, Rule, typical_lr
from fallline.rules.writing import Auto
from fallline.runs import Run
from fallline.runs.live import LiveFolder, Save
from fallline.tables import Table, TableOptions, table
from fallline.tables.table import Part
from fallline.training import Validation, train

UPDATES = 1500
"""A batch size is chosen so that about this many updates are made, within 8 and 256 rows."""
SCHEDULE = "warmup(5%) > linear(to=0)"


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
        seed: of order, split and intervals, and of a network's first weights.
        model: which model a table gets: "linear", "mlp:256,128", "package.module:factory", a factory(features, outputs), or a module.
        device: where a network is: "cpu", "cuda", "cuda:0", "mps"; None is the CPU.
        steps: updates, in place of epochs.
    """

    epochs: float = 20
    batch_size: int | Batches | None = None
    optimizer: Rule | None = None
    schedule: str | None = SCHEDULE
    loss: str | None = None
    metrics: Sequence[str | Callable[..., float]] | None = None
    plan: Plan | None = None
    seed: int = 0
    model: Any = "linear"
    device: str | None = None
    steps: int | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model, read.

        Raises:
            InvalidValue: words that name no model, or a device for a linear one.
        """
        spec = model_spec(self.model)
        if spec.is_linear and self.device not in (None, "cpu"):
            raise InvalidValue(f"device={self.device!r} is for networks: a linear model is fitted on the CPU; leave it out, or give model='mlp:256,128'")
        return spec

    def words(self, options: TableOptions | None) -> dict[str, str]:
        """All that a run which goes on must have in common with its beginning, in words: everything but its length and its plan."""
        names = None if self.metrics is None else [metric(m).name for m in self.metrics]
        told = replace(self, metrics=names, model=str(self.spec))
        kept = {f.name: repr(getattr(told, f.name)) for f in fields(told) if f.name not in ("epochs", "steps", "plan")}
        return kept | {"options": repr(options)}


def fit(
    data: Any,
    y: Any = None,
    *,
    target: str | None = None,
    options: TableOptions | None = None,
    epochs: float = 20,
    steps: int | None = None,
    batch_size: int | Batches | None = None,
    optimizer: Rule | None = None,
    model: Any = "linear",
    device: str | None = None,
    choices: Choices | None = None,
    valid: Any = None,
    stop: Any = None,
    save: str | Path | Save | LiveFolder | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run:
    """Fit a linear model or a network to a table, or descend any problem: choose, explain, train, test.

    Args:
        data: a path, a frame, a built-in set's name, a `Table`, an array X (with y), or a problem.
        y: labels or numbers of X's rows.
        target: the column to predict, for paths and frames.
        options: how a table is read.
        epochs, steps, batch_size, optimizer: as in `Plan`; what is left out is chosen.
        model, device: what a table is fitted with, and where; as in `Choices`.
        choices: everything else that can be chosen; it replaces the six above.
        valid: held-out data of a problem, as for `train`; a table splits its own rows (`TableOptions.valid`).
        stop: judges, as for `train`.
        save: a folder for the run, with its report: both are made at the start and kept up while it is under way.
        resume: go on with the run that the folder holds, or start it; what it had chosen is not searched for again.
        progress: as for `train`.

    Returns:
        Run: `predict` takes rows as `data` had them; `summary` holds the test's metrics and every choice.

    >>> import fallline as fl
    >>> run = fl.fit("breast-cancer", progress=False)
    >>> run.summary["headline"]["value"] > 0.9
    True
    """
    told = choices or Choices(epochs, batch_size, optimizer, model=model, device=device, steps=steps)
    check_network(told.spec, told.device)
    if resume and save is None:
        raise InvalidValue("resume=True without save=: give the folder of the run that is to go on")
    live = save if save is None or isinstance(save, LiveFolder) else LiveFolder.claim(save, resume=resume, report=True)
    try:
        return _fitted(data, y, target, options, told, valid, stop, live, progress)
    finally:
        if live is not None:
            live.close()


def _fitted(
    data: Any, y: Any, target: str | None, options: TableOptions | None, told: Choices, valid: Any, stop: Any, live: LiveFolder | None, progress: bool | None
) -> Run:
    spec = told.spec
    if not isinstance(data, (str, Path, Table)) and hasattr(data, "layout") and hasattr(data, "gradient"):
        if not spec.is_linear or told.device is not None:
            raise InvalidValue("model= and device= are for tables: a problem has its model already, where it is")
        return _fit_problem(data, told, valid, stop, live, progress)
    if valid is not None:
        raise InvalidValue("valid= goes with a problem; rows of a table are held out by options=TableOptions(valid=0.15), or by a file's name there")
    if y is not None:
        data, target = _columns(data, y), "target"
    made = data if isinstance(data, Table) else table(data, target=target, options=replace(options or TableOptions(), seed=(options or TableOptions(seed=told.seed)).seed))
    rows = table_rows(made, told)
    names = chosen_metrics(told.metrics, rows)
    problem, held_out, network = table_problem(made, rows, told)
    earlier = None if live is None else live.earlier
    plan, found, notes = _chosen(problem, told, options, held_out, live)
    usual = [m for m in names if m.needs != "numbers"] or ["rmse", "r2"]
    if network is not None and earlier is None:
        notes = [{"what": "model", "value": repr(network), "why": f"{problem.layout.size:,} parameters on {problem.device}"}, *notes]
    if earlier is None:
        notes = [{"what": "task", "value": made.target.task, "why": made.target.why}, *notes]
    about = {
        "title": f"{made.summary.name}: predicting {made.target.name!r}",
        "data": account(made),
        "features": len(made.feature_names),
        "metrics": [m.name for m in names],
        "lr_source": "given" if found is None else "find_lr" if found.rate is not None else "default",
    }
    if earlier is not None:
        about["lr_source"] = earlier["summary"].get("lr_source", "given")
    work = _Work(problem, plan, found, notes, about, made.reader, live, network)
    valid = None if held_out is None else Validation(held_out, usual)
    return work.run(valid, stop, progress, lambda run: tested(run, made, names, told.seed))


def _chosen(
    problem: Any, told: Choices, options: TableOptions | None, valid: Any, live: LiveFolder | None
) -> tuple[Plan, Found | None, list[dict[str, Any]]]:
    """The plan, what was found, and the journal of choices: those of the run that goes on, else new ones.

    Raises:
        PlanMismatch: the run in the folder was begun with other choices.
    """
    if live is None:
        return planned(problem, told, valid)
    length = [told.epochs, told.steps]
    live.about |= {"choices": told.words(options), "length": length}
    if live.earlier is None:
        return planned(problem, told, valid)
    before = live.earlier["summary"]
    mine, own = live.about["choices"], before.get("choices")
    if not isinstance(own, dict):
        raise PlanMismatch(f"{live.path} holds a run that fit did not make: go on with it by fl.train(problem, plan, save={str(live.path)!r}, resume=True)")
    if own != mine:
        others = "; ".join(f"{name} {own.get(name)} there, {mine[name]} here" for name in mine if own.get(name) != mine[name])
        raise PlanMismatch(f"{live.path} holds a run of other choices ({others}): give the same, or another folder")
    if told.plan is not None:
        return told.plan, None, []
    plan = live.plan()
    if before.get("length") != length:
        longer = {"epochs": told.epochs} if told.steps is None else {"steps": told.steps}
        plan = plan._with(steps=Plan(problem, **longer, batch_size=plan.batch_size, optimizer=plan.optimizer).steps)
    return plan, None, []


def _fit_problem(problem: Any, told: Choices, valid: Any, stop: Any, live: LiveFolder | None, progress: bool | None) -> Run:
    valid = getattr(problem, "valid", None) if valid is None else valid
    plan, found, notes = _chosen(problem, told, None, valid, live)
    if valid is not None and plan.rows is None and not isinstance(valid, Validation):
        per_pass = problem.stream()[0]  # a plan in updates knows no epochs, and so no usual time to look
        valid = Validation(valid, every=steps_of(min(per_pass or max(1, plan.steps // 20), plan.steps)))
    return _Work(problem, plan, found, notes, {}, None, live).run(valid, stop, progress, lambda run: {})


def check_network(spec: ModelSpec, device: str | None) -> None:
    """Before any data are read: the device is there, and the factory can be imported.

    Raises:
        InvalidValue: it is not; MissingExtra: PyTorch is not installed.
    """
    if not spec.is_linear:
        _networks().check(spec, device)


def table_rows(made: Table, told: Choices) -> LinearProblem:
    """The training rows with the loss: what is given, else by the table's task (of two classes, a network has two scores)."""
    loss = told.loss
    if loss is None and not told.spec.is_linear and made.target.task == "classification":
        loss = "softmax"
    return made.problem(loss)


def table_problem(made: Table, rows: LinearProblem, told: Choices) -> tuple[Any, Any, Any]:
    """What is descended, the validation rows for it, and the network (None of a linear model)."""
    held_out = _held_out(made, rows, made.valid)
    if told.spec.is_linear:
        return rows, held_out, None
    face = _networks()
    problem, network = face.network_of(rows, told.spec, on=told.device, seed=told.seed)
    return problem, None if held_out is None else face.part(problem, held_out), network


def _networks() -> Any:
    """The PyTorch face lies above; only here is it asked for, by name.

    Raises:
        MissingExtra: PyTorch is not installed.
    """
    try:
        return importlib.import_module("fallline.torch.network")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("torch", "torch", "fitting a network") from None


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
    network: Any = None

    def run(self, valid: Any, stop: Any, progress: bool | None, test: Callable[[Run], dict[str, Any]]) -> Run:
        live = self.live
        if live is not None:
            live.notes, live.found, live.about = self.notes, self.found, live.about | self.about
        try:
            run = train(self.problem, self.plan, valid=valid, stop=stop, save=live, progress=progress)
            if live is not None and live.ended:
                return run  # it was finished already
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
        run.history.journal[:0] = self.notes if self.live is None else self.live.notes
        run.reader, run.found = self.reader, self.found or run.found
        run.summary = self.about | more
        run.model = run.model if self.network is None else self.network


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
    """A part of a table as a problem of the training part's kind, or None where it has no rows."""
    if not len(part.rows):
        return None
    return problem.on(part.X, made.target.decode(part.y) if problem.loss.name == "poisson" else part.y, part.weights)


def drafted(problem: Any, told: Choices) -> tuple[Plan, list[dict[str, Any]]]:
    """The plan but for a learning rate that is to be found, and the journal of choices."""
    notes: list[dict[str, Any]] = []

    def note(what: str, value: Any, why: str) -> None:
        notes.append({"what": what, "value": value, "why": why})

    if told.plan is not None:
        if told.plan.rows != problem.rows and told.plan.rows is not None and problem.rows is not None:
            raise PlanMismatch(f"the plan is for {told.plan.rows:,} rows and the training part has {problem.rows:,}: use the data and split it was made for")
        note("plan", told.plan.fingerprint[:16], "given")
        return told.plan, notes
    stream = stream_length(problem, told.epochs, told.steps) if problem.rows is None else None
    sparse = bool(getattr(problem, "sparse", False))
    size = told.batch_size
    if stream is not None:
        if size not in (None, stream.batch):
            raise InvalidValue(f"batch_size={size!r}: the data is a stream that gives {stream.batch} rows at a time; leave batch_size out, or give the rows themselves")
        counted = f"{stream.epochs:g} passes of {stream.per_pass:,} batches" if told.steps is None else "given"
        note("length", f"{stream.steps:,} updates", f"{counted}; the data is a stream of batches, of {stream.batch} rows each")
    elif size is None:
        size = 1 if sparse else min(problem.rows, _batch_size(problem.rows, told.epochs))
        note("batch size", size, "sparse rows: one at a time touches only its own features" if sparse else f"about {UPDATES:,} updates, within 8 and 256 rows")
    rule = told.optimizer
    if rule is None and is_module(problem):
        rows, epochs = (problem.rows, _passes(problem.rows, size, told)) if stream is None else (stream.rows, stream.epochs)
        rule, reasons = suggested(problem, rows, epochs)
        note("optimizer", _named(rule), "; ".join(reasons))
        if told.schedule != SCHEDULE:
            rule = replace(rule, schedule=told.schedule)
        note("schedule", str(rule.schedule or "constant"), "of the same starting point" if told.schedule == SCHEDULE else "given")
    elif rule is None:
        rule = SGD(weight_decay=1e-6) if sparse else SGD(momentum=0.9, weight_decay=1e-4)
        note("optimizer", f"SGD, momentum {0 if sparse else 0.9}", "plain steps are exact and fast on sparse rows" if sparse else "the textbook's starting point")
    if rule.schedule is None and isinstance(rule.lr, (Auto, int, float)) and told.schedule is not None:
        rule = replace(rule, schedule=told.schedule)
        note("schedule", str(rule.schedule), "a short warmup, then linear to zero" if told.schedule == SCHEDULE else "given")
    length = {"epochs": told.epochs} if told.steps is None else {"steps": told.steps}
    plan = stream.plan(rule, told.seed) if stream is not None else Plan(problem, **length, batch_size=size, optimizer=rule, seed=told.seed)
    return plan, notes


def planned(problem: Any, told: Choices, valid: Any = None) -> tuple[Plan, Found | None, list[dict[str, Any]]]:
    """The plan, what the search for its learning rate found, and the journal of choices."""
    plan, notes = drafted(problem, told)
    if not plan.lr_is_auto or told.plan is not None:
        return plan, None, notes
    found = find_lr(problem, plan, valid=valid.data if isinstance(valid, Validation) else valid)
    try:
        notes.append({"what": "lr", "value": found.lr, "why": found.verdict})
        return plan.with_lr(found), found, notes
    except NoLearningRate as none:
        low, high = typical_lr(plan.optimizer)
        typical = math.sqrt(low * high)
        why = f"the search gave no answer ({none.verdict}); this is the textbook's typical value"
        notes.append({"what": "lr", "value": typical, "why": why})
        return plan.with_lr(typical), found, notes


def _passes(rows: int, size: int | Batches, told: Choices) -> float:
    if told.steps is None:
        return told.epochs
    batches = size if isinstance(size, Batches) else Batches(min(size, rows))
    return told.steps / batches.steps_per_epoch(rows)


def _named(rule: Rule) -> str:
    momentum = getattr(rule, "momentum", 0)
    return type(rule).__name__ + (f", momentum {momentum:g}" if isinstance(momentum, (int, float)) and momentum else "")


def _batch_size(rows: int, epochs: float) -> int:
    return int(2 ** np.clip(np.floor(np.log2(max(rows * epochs / UPDATES, 1))), 3, 8))
