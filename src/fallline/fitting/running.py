"""The course of `fit`: data to a problem, a problem to a plan, the plan carried out, the test part looked at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fallline.batches import Batches
from fallline.errors import Diverged, InvalidValue, PlanMismatch
from fallline.evidence import account, chosen_metrics, tested
from fallline.fitting.choices import Choices
from fallline.fitting.choosing import Chosen, chosen
from fallline.fitting.problems import check_network, columns, table_problem, table_rows
from fallline.lengths import steps as steps_of
from fallline.plan import Plan
from fallline.rules import Rule
from fallline.rules.writing import Auto
from fallline.runs import Run
from fallline.runs.live import LiveFolder, Save
from fallline.schedules import Schedule
from fallline.tables import Table, TableOptions, table
from fallline.training import Validation, train


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
    lr: float | Schedule | Auto | None = None,
    weight_decay: float | Auto | None = None,
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
        lr, weight_decay: numbers in place of those that would be found, with the optimizer that is given or chosen; as in `Choices`.
        model, device: what a table is fitted with, and where; as in `Choices`.
        choices: everything else that can be chosen; it replaces the eight above.
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
    told = choices or Choices(epochs, batch_size, optimizer, model=model, device=device, steps=steps, lr=lr, weight_decay=weight_decay)
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
        data, target = columns(data, y), "target"
    made = data if isinstance(data, Table) else table(data, target=target, options=replace(options or TableOptions(), seed=(options or TableOptions(seed=told.seed)).seed))
    rows = table_rows(made, told)
    names = chosen_metrics(told.metrics, rows)
    problem, held_out, network = table_problem(made, rows, told)
    earlier = None if live is None else live.earlier
    made_up = _chosen(problem, told, options, held_out, live, folds=_row_by_row(made))
    usual = [m for m in names if m.needs != "numbers"] or ["rmse", "r2"]
    if network is not None and earlier is None:
        made_up.notes.insert(0, {"what": "model", "value": repr(network), "why": f"{problem.layout.size:,} parameters on {problem.device}"})
    if earlier is None:
        made_up.notes.insert(0, {"what": "task", "value": made.target.task, "why": made.target.why})
    about = {
        "title": f"{made.summary.name}: predicting {made.target.name!r}",
        "data": account(made),
        "features": made.encoder.features,
        "metrics": [m.name for m in names],
    }
    work = _Work(problem, made_up, about | _source_of(made_up, earlier), made.reader, live, network)
    valid = None if held_out is None else Validation(held_out, usual)
    return work.run(valid, stop, progress, lambda run: tested(run, made, names, told.seed))


def _row_by_row(made: Table) -> bool:
    """Whether the table's rows were drawn into parts one by one, so that they may be drawn into folds too."""
    return not made.summary.split.startswith(("by time", "by group"))


def _source_of(made_up: Chosen, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """Where the numbers come from, for the summary: of a run that goes on, as its beginning had it."""
    if earlier is not None:
        before = earlier["summary"]
        return {"lr_source": before.get("lr_source", "given"), "evidence": before.get("evidence", {})}
    found = made_up.found
    return {"lr_source": "given" if found is None else "find_lr" if found.rate is not None else "default", "evidence": made_up.evidence}


def _chosen(problem: Any, told: Choices, options: TableOptions | None, valid: Any, live: LiveFolder | None, folds: bool = True) -> Chosen:
    """The plan and what it rests on: those of the run that goes on, which is not searched for again, else new ones.

    Raises:
        PlanMismatch: the run in the folder was begun with other choices.
    """
    if live is None:
        return chosen(problem, told, valid, folds=folds)
    length = [told.epochs, told.steps]
    live.about |= {"choices": told.words(options), "length": length}
    if live.earlier is None:
        return chosen(problem, told, valid, folds=folds)
    before = live.earlier["summary"]
    mine, own = live.about["choices"], before.get("choices")
    if not isinstance(own, dict):
        raise PlanMismatch(f"{live.path} holds a run that fit did not make: go on with it by fl.train(problem, plan, save={str(live.path)!r}, resume=True)")
    if own != mine:
        others = "; ".join(f"{name} {own.get(name)} there, {mine[name]} here" for name in mine if own.get(name) != mine[name])
        raise PlanMismatch(f"{live.path} holds a run of other choices ({others}): give the same, or another folder")
    if told.plan is not None:
        return Chosen(told.plan)
    plan = live.plan()
    if before.get("length") != length:
        longer = {"epochs": told.epochs} if told.steps is None else {"steps": told.steps}
        plan = plan._with(steps=Plan(problem, **longer, batch_size=plan.batch_size, optimizer=plan.optimizer).steps)
    return Chosen(plan)


def _fit_problem(problem: Any, told: Choices, valid: Any, stop: Any, live: LiveFolder | None, progress: bool | None) -> Run:
    valid = getattr(problem, "valid", None) if valid is None else valid
    made_up = _chosen(problem, told, None, valid, live)
    plan = made_up.plan
    if valid is not None and plan.rows is None and not isinstance(valid, Validation):
        per_pass = problem.stream()[0]  # a plan in updates knows no epochs, and so no usual time to look
        valid = Validation(valid, every=steps_of(min(per_pass or max(1, plan.steps // 20), plan.steps)))
    about = _source_of(made_up, None if live is None else live.earlier)
    return _Work(problem, made_up, about, None, live).run(valid, stop, progress, lambda run: {})


@dataclass(frozen=True)
class _Work:
    """What `fit` has chosen; `run` trains, tests and saves it, and saves also what an error or a signal left."""

    problem: Any
    chosen: Chosen
    about: dict[str, Any]
    reader: Any
    live: LiveFolder | None
    network: Any = None

    def run(self, valid: Any, stop: Any, progress: bool | None, test: Callable[[Run], dict[str, Any]]) -> Run:
        live = self.live
        if live is not None:
            live.notes, live.found, live.about = self.chosen.notes, self.chosen.found, live.about | self.about
        try:
            run = train(self.problem, self.chosen.plan, valid=valid, stop=stop, save=live, progress=progress)
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
        run.history.journal[:0] = self.chosen.notes if self.live is None else self.live.notes
        run.reader, run.found = self.reader, self.chosen.found or run.found
        run.summary = self.about | more
        run.model = run.model if self.network is None else self.network
