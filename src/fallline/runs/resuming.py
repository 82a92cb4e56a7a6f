"""Going on: what a run folder holds, whether it is the run that is asked for, and where it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fallline.errors import InvalidValue, PlanMismatch, RunDamaged
from fallline.plan import Plan
from fallline.runs import Run, found_from_json, load
from fallline.runs.keeper import Snapshot
from fallline.runs.live import LiveFolder


def continued(live: LiveFolder, problem: Any, plans: tuple[tuple[int, Plan], ...]) -> Snapshot | Run | None:
    """Where the run of a folder goes on; the run itself where there is nothing more to do; None where it begins.

    Raises:
        PlanMismatch: it is of other data, or of a plan that this one does not continue; nothing was touched.
        InvalidValue: the plan ends before where the run is.
        RunDamaged: what it holds is not ours.
    """
    if live.earlier is None:
        return None
    if live.earlier.get("problem") != problem.fingerprint:
        raise PlanMismatch(f"{live.path} holds a run of other data ({_short(live.earlier.get('problem'))} there, {_short(problem.fingerprint)} here): give the data that it was begun with, or another folder")
    told = live.earlier.get("found")
    live.found = live.found or (None if told is None else found_from_json(told))
    found = live.snapshot()
    if found is None and live.ended:
        run = load(live.path)
        if _with_rate_of(plans[0][1], run.plans[0][1]) != run.plans[0][1]:
            raise RunDamaged(f"{live.path} holds a finished run and no checkpoint that verifies, so it cannot go on with another plan: choose another folder")
        return _again(live, problem)
    if found is None:
        live.notes = live.notes or list(live.earlier.get("notes", ()))
        return None
    live.notes = live.notes or found.notes
    if found.problem != problem.fingerprint:
        raise PlanMismatch(f"the newest checkpoint in {live.path} is of other data than its run: restore the folder from a copy")
    going_on = _with_plan(live, found, plans)
    return _again(live, problem) if live.ended and going_on is found else going_on


def _with_plan(live: LiveFolder, found: Snapshot, plans: tuple[tuple[int, Plan], ...]) -> Snapshot:
    """The snapshot, with another plan from now on where another is given."""
    given, last = _with_rate_of(plans[0][1], found.asked), found.plans[-1][1]
    if given in (found.asked, last) or len(plans) > 1:
        return found
    rule, before = given.optimizer, last.optimizer
    if given.rows != last.rows or type(rule) is not type(before) or rule.start() != before.start() or rule.answer() != before.answer():
        raise PlanMismatch(f"{live.path} holds a run of {before!r} over {last.rows} rows, and the plan is of {rule!r} over {given.rows}: it cannot go on with it; choose another folder")
    if given.steps < found.step:
        raise InvalidValue(f"{live.path} holds a run that has made {found.step:,} updates, and the plan has {given.steps:,}: give a longer plan, or load the run as it is")
    found.history.note("replan", found.step, f"goes on with another plan: {last.steps:,} updates -> {given.steps:,}")
    return replace(found, plans=[(step, plan) for step, plan in found.plans if step < found.step] + [(found.step, given)], asked=given)


def _with_rate_of(plan: Plan, first: Plan) -> Plan:
    """The plan with the learning rate that was found for the first one, where its own is still to be found."""
    return plan.with_lr(first.optimizer.lr) if plan.lr_is_auto else plan


def _again(live: LiveFolder, problem: Any) -> Run:
    """The finished run, as it was saved; a module holds its answer again."""
    module = problem.model if hasattr(problem.model, "state_dict") else None
    live.close()
    run = load(live.path, module)
    run.problem = problem
    if module is not None:
        settled = run.weights if run.averaged is None else run.averaged
        own = module.state_dict()
        module.load_state_dict({name: own[name].new_tensor(settled[name]).reshape(own[name].shape) for name in own})
    return run


def _short(fingerprint: Any) -> str:
    return str(fingerprint)[:8]


__all__ = ["continued"]
