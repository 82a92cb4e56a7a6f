"""What the commands do: flags to library values, the library's results to a screen or to JSON."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fallline import fitting, lengths, rules, run_folder, runs, tables
from fallline.batches import Batches
from fallline.errors import (
    Diverged,
    InvalidValue,
    NoLearningRate,
    PlanMismatch,
    RunExists,
    RunUnfinished,
    UnknownName,
)
from fallline.judges import EarlyStop, Rollback, SkipBroken, TimeBudget
from fallline.model_spec import model_spec
from fallline.plan import Plan
from fallline.runs.live import CAME_TO_AN_END, LiveFolder, only_a_run

OPTIMIZERS = {
    "sgd": rules.SGD, "nesterov": rules.Nesterov, "adam": rules.Adam, "adamw": rules.AdamW, "nadam": rules.NAdam,
    "rmsprop": rules.RMSProp, "adagrad": rules.AdaGrad, "schedule-free": rules.ScheduleFree,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a run goes, and what to do with what is there."""

    out: str | None
    resume: bool
    overwrite: bool


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are learnt from, and as what: --drop, --only, --type, --cross, --standardize."""

    drop: str
    only: str
    types: Sequence[str] | None
    cross: Sequence[str] | None
    standardize: bool = False

    def options(self, valid: str, seed: int) -> tables.TableOptions:
        """A table's options, with this share of the rows held out and none to test on."""
        return table_options(self.drop, self.only, self.types, valid, "0", None, None, None, None, False, None, seed, cross=self.cross, standardize=self.standardize)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _share(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def table_options(drop, only, types, valid, test, group, time, sample_weight, class_weight, log_target, task, seed, memory=None, cache=None, cross=None, standardize=False) -> tables.TableOptions:
    """The flags of a table as its options."""
    pairs = {}
    for pair in types or ():
        column, equals, kind = pair.rpartition("=")
        if not equals:
            raise InvalidValue(f"--type {pair}: expected COLUMN=text, number, category, date or hash:2^18")
        pairs[column] = kind
    return tables.TableOptions(
        drop=_list(drop), only=_list(only), types=pairs, valid=_share(valid), test=_share(test), group=group, time=time,
        sample_weight=sample_weight, class_weight=class_weight, log_target=log_target, task=task, seed=seed, memory=memory, cache=cache,
        cross=tuple(_list(names) for names in cross or ()), standardize=standardize,
    )  # fmt: skip


def rule(name: str, lr: str, momentum: float | None, nesterov: bool, weight_decay: float | None) -> rules.Rule | None:
    """The optimizer's flags as a rule; None where everything is left to be chosen."""
    if name != "auto" and name not in OPTIMIZERS:
        raise UnknownName.among("optimizer", name, ["auto", *OPTIMIZERS])
    if name == "auto":
        if lr == "auto" and momentum is None and not nesterov and weight_decay is None:
            return None
        name = "sgd"  # a rate, a momentum or a decay of one's own is of SGD unless another optimizer is named
    try:
        rate = rules.auto if lr == "auto" else float(lr)
    except ValueError:
        raise InvalidValue(f"--lr {lr}: expected a number or auto") from None
    given: dict[str, Any] = {"weight_decay": weight_decay if weight_decay is not None else 1e-4 if name == "sgd" else 0.0}
    if name in ("sgd", "nesterov"):
        given["momentum"] = 0.9 if momentum is None else momentum
    elif momentum is not None:
        raise InvalidValue(f"--momentum belongs to sgd and nesterov, not to {name}")
    if nesterov and name != "sgd":
        raise InvalidValue(f"--nesterov belongs to sgd, not to {name}")
    return OPTIMIZERS[name](rate, **given, **({"nesterov": True} if nesterov else {}))


def _size(text: str) -> int | Batches | None:
    if text == "auto":
        return None
    if text == "full":
        return Batches.full()
    try:
        return int(text)
    except ValueError:
        raise InvalidValue(f"--batch-size {text}: expected auto, full or a number of rows") from None


def choices(epochs, batch_size, rule, schedule, loss, metrics, plan, seed, model="linear", device=None) -> fitting.Choices:
    """The flags of a plan as choices."""
    spec = model_spec(model)
    if spec.kind == "factory" and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it: a factory may stand in the folder where one is
    saved = None if plan is None else Plan.from_json(_read_json(plan))
    if saved is not None and (rule is not None or batch_size != "auto" or epochs != 20 or schedule != fitting.SCHEDULE):
        raise InvalidValue("--plan carries out a saved plan as it stands: leave out --lr, --batch-size, --epochs, --schedule and the optimizer's flags, or leave out --plan")
    shape = None if schedule in ("", "constant", "none") else schedule
    told = fitting.Choices(epochs, _size(batch_size), rule, shape, loss, metrics, saved, seed, model=spec, device=device)
    fitting.check_network(told.spec, device)
    return told


def left_open(told: fitting.Choices, weight_decay: float | None) -> fitting.Choices:
    """The same with a weight decay still to be found, where none was typed: another flag of the optimizer does not settle it."""
    return replace(told, weight_decay=rules.auto) if weight_decay is None and told.optimizer is not None else told


def _read_json(path: str) -> Any:
    file = Path(path)
    try:
        return jsonlib.loads((file / run_folder.PLAN if file.is_dir() else file).read_text())
    except FileNotFoundError:
        raise InvalidValue(f"no file {str(file / run_folder.PLAN if file.is_dir() else file)!r}: expected a saved plan, or the folder of a run") from None
    except jsonlib.JSONDecodeError as error:
        raise InvalidValue(f"{path} is not JSON ({error})") from None


def judges(patience: float | None, time_limit: str | None, on_divergence: str = "stop") -> list[Any]:
    """The flags that end a run, or keep it from ending, as judges."""
    ways: dict[str, list[Any]] = {"stop": [], "rollback": [Rollback()], "skip": [SkipBroken()]}
    if on_divergence not in ways:
        raise UnknownName.among("way to meet a divergence", on_divergence, tuple(ways))
    out: list[Any] = [] if patience is None else [EarlyStop(lengths.epochs(patience))]
    out += [] if time_limit is None else [TimeBudget(time_limit)]
    return [*out, *ways[on_divergence]]


def _say(text: str, json: bool) -> None:
    if not json:
        print(text)


def _document(value: Any) -> None:
    print(jsonlib.dumps(run_folder.plain(value), indent=1))


def fit(data: str, target: str | None, options: tables.TableOptions, told: fitting.Choices, stop: list[Any], place: Place, json: bool) -> None:
    """`fallline fit`."""
    folder = Path(place.out) if place.out else _free(Path("runs"), Path(data).stem)
    taken = any(folder.iterdir()) if folder.is_dir() else folder.exists()
    goes_on = taken and place.resume and not place.overwrite
    if taken:
        only_a_run(folder)  # before anything is read or trained: what cannot be replaced is refused at once
        if goes_on and run_folder.busy(folder):
            raise RunExists(f"{run_folder.unfinished(folder)}. Choose another --out, or wait for it")
        if not place.overwrite and not goes_on and not (folder / run_folder.MANIFEST).is_file():
            raise _to_be_ended(run_folder.unfinished(folder))
    made = tables.table(data, target=target, options=options)
    asked = repr((told, [repr(judge) for judge in stop], options))
    whole = taken and not place.overwrite and (folder / run_folder.MANIFEST).is_file()
    if whole and _existing(folder, _problem(made, told).fingerprint, asked, place.resume, json):
        return
    _say(made.summary.text(), json)
    _say(f"target {made.target.name!r}: {made.target.task} ({made.target.why})", json)
    about = {"asked": asked, "command": "fallline " + shlex.join(sys.argv[1:]), "where": os.getcwd(), "created": datetime.now().isoformat(" ", "minutes")}
    live = LiveFolder.claim(folder, replace=taken and not goes_on, resume=goes_on, report=True, about=about)
    if goes_on:
        steps = run_folder.checkpointed(folder)
        _say(f"{folder} holds a run that has come to step {steps[-1]:,}" if steps else f"{folder} holds a run without a checkpoint: it begins anew", json)
    try:
        run = fitting.fit(made, choices=told, stop=stop, save=live, progress=False if json else None)
    except (Diverged, KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, Diverged) and told.optimizer is not None and isinstance(told.optimizer.lr, float):
            ended.add_note("or leave --lr auto, which finds one by trying")
        _partial(ended, live.path)
        raise
    except PlanMismatch as odd:
        if goes_on:  # the folder is what cannot be used, and has its exit code
            raise RunExists(str(odd)) from None
        raise
    page = live.path / run_folder.REPORT
    if json:
        return _document({"run": str(folder), "report": str(page), "outcome": run.outcome.name, **{k: run.summary[k] for k in ("headline", "lr_source")},
                          "metrics": (run.summary["test"] or {}).get("metrics"), "journal": run.history.journal})  # fmt: skip
    print(told_of(run.history.journal, run.summary.get("evidence", {})))
    print(f"{run.history.steps:,} updates; {run.reason}; predictions use the {run.used} weights")
    print(headline(run.summary))
    print(f"run: {folder}   report: {page}")


def told_of(journal: Sequence[dict[str, Any]], evidence: dict[str, Any]) -> str:
    """Every choice with its reason, in one screen: what, value, why, wrapped to the terminal."""
    shown = {entry["what"]: entry for entry in reversed(journal)}  # of two entries, the first tells why
    lines, width = [], min(shutil.get_terminal_size((100, 24)).columns, 120)
    for entry in reversed(shown.values()):
        what, value, why = entry["what"], entry["value"], entry["why"]
        if what in ("task", "engine", "outcome", "note"):
            continue
        value = f"{value:.4g}" if isinstance(value, float) else str(value)
        if what == "searched" and "cost" in evidence:
            value = f"{evidence['cost']['seconds']:.2g} s, {value}"
        if why.startswith(f"{what} "):
            why = why[min(i for i in (why.find(", "), why.find(": ")) if i > 0) + 2 :]  # the value again
        text = f"{value}" + (f": {why}" if why and len(why) > 20 else f" ({why})" if why else "")
        lines.append(textwrap.fill(text, width, initial_indent=f"{what:13} ", subsequent_indent=" " * 14, break_on_hyphens=False))
    return "\n".join(lines)


def _problem(made: tables.Table, told: fitting.Choices) -> Any:
    """What would be descended."""
    return fitting.table_problem(made, fitting.table_rows(made, told), told)[0]


def _partial(ended: BaseException, folder: Path) -> None:
    """Say where a run that did not come to its end has left what it has; an interrupt ends the command with 130."""
    run = getattr(ended, "run", None)
    if isinstance(ended, Diverged):
        ended.add_note(f"the run until then is in {folder}")
    elif run is not None:
        print(f"fallline: {run.reason}; the weights and the history so far are in {folder}", file=sys.stderr)
        if isinstance(ended, KeyboardInterrupt):
            sys.exit(130)


def headline(summary: dict[str, Any]) -> str:
    """The first line of every result: the test metric with its interval, beside the baseline."""
    head = summary.get("headline")
    if not head or head.get("value") is None:
        return "no test part: nothing says how well this does on new rows"
    low, high = head["interval"]
    return f"test {head['metric'].replace('_', ' ')}: {head['value']:.4g} (95 % interval {low:.4g} to {high:.4g}, {head['rows']:,} rows); {head['baseline_name']}: {head['baseline']:.4g}"


def _existing(folder: Path, fingerprint: str, asked: str, resume: bool, json: bool) -> bool:
    """An --out that holds an ended run: the same one is printed, another one is an error; False where it is to go on."""
    run = runs.load(folder)
    command = run.summary.get("command", "not made by this command")
    if run.problem_fingerprint != fingerprint:
        raise RunExists(f"{folder} holds a run of other training rows ({command}): choose another --out, or --overwrite")
    if run.summary.get("asked") != asked:
        if resume:
            return False  # perhaps it is only longer: that is seen when the choices are compared
        raise RunExists(f"{folder} holds a run of other flags ({command}): choose another --out, --resume to go on for longer, or --overwrite")
    if run.outcome.name not in CAME_TO_AN_END:
        if resume:
            return False
        raise _to_be_ended(RunUnfinished(f"{folder} holds this run, but not to its end ({run.outcome.name}: {run.reason})", step=run.history.steps))
    _say(f"{folder} holds this run, finished; --overwrite starts anew", json)
    if json:
        _document({"run": str(folder), "outcome": run.outcome.name, "headline": run.summary.get("headline")})
    else:
        print(headline(run.summary))
    return True


def _to_be_ended(found: RunUnfinished) -> RunUnfinished:
    """The same, with what to type."""
    return RunUnfinished(f"{found}. Give --resume to go on, --overwrite to start anew, or choose another --out", step=found.step, evaluation=found.evaluation)


def resume(folder: str, model: str | None) -> list[str]:
    """The words of the command that made a run, with --resume: what `fallline resume` carries out. Goes to where it was given.

    Raises:
        InvalidValue: a run that no `fallline fit` made, or one whose model is code, which has to be typed.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InvalidValue(f"no folder {folder!r}: expected the folder of a run")
    only_a_run(path)
    try:
        summary = jsonlib.loads((path / run_folder.RUN).read_text())["summary"]
        words, where = shlex.split(summary["command"])[1:], str(summary["where"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        words, where = [], ""
    if words[:1] != ["fit"]:
        raise InvalidValue(f"{folder} was not made by fallline fit: go on with fl.train(problem, plan, save={folder!r}, resume=True)")
    if not Path(where).is_dir():
        raise InvalidValue(f"the run in {folder} was made in {where}, which is not there: go to where its data are and repeat its command with --resume")
    os.chdir(where)
    return [*_words_again(folder, words, model), "--out", str(path), "--resume"]


def _words_again(folder: str, words: list[str], model: str | None) -> list[str]:
    """A command's words without those that are replaced. A folder names no code that is run: such a model has to be typed."""
    kept, rest = [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--out", "--model"):
            value = value if equals else next(rest, "")
            if name == "--model" and model is None:
                if model_spec(value).kind == "factory":
                    raise InvalidValue(f"the run in {folder} is of the model {value!r}, which is code: type it, fallline resume {folder} --model {value}")
                kept += ["--model", value]
        elif name not in ("--resume", "--overwrite", "--json"):
            kept.append(word)
    return kept if model is None else [*kept, "--model", model]


def _free(parent: Path, stem: str) -> Path:
    """runs/<stem>, or the first runs/<stem>-N that does not exist."""
    n, folder = 1, parent / stem
    while folder.exists():
        n += 1
        folder = parent / f"{stem}-{n}"
    return folder


def find_lr(data: str, target: str | None, options: tables.TableOptions, told: fitting.Choices, budget: float, plot: str | None, json: bool) -> None:
    """`fallline find-lr`."""
    made = tables.table(data, target=target, options=options)
    problem, valid, _ = fitting.table_problem(made, fitting.table_rows(made, told), told)
    from fallline.advice.lr import find_lr as search

    plan = fitting.drafted(problem, told)
    found = search(problem, plan, valid=valid, budget=budget)
    if plot is not None:
        found.plot().save(plot)
    if json:
        _document(runs.found_to_json(found))
    else:
        from fallline.report import line_chart

        curve, shown = found.curve, np.isfinite(found.curve.smooth)
        print(line_chart(curve.smooth[shown], x=curve.lr[shown], log_x=True, mark=found.rate))
        print("loss against the learning rate (log axis)")
        print(found.verdict)
        for rung in found.rungs:
            scores = "  ".join(f"{lr:.2g}: {score:.4g}" for lr, score in zip(rung.lr, rung.score, strict=True))
            print(f"held-out loss after {rung.steps:,} updates at each rate  {scores}")
        print(f"cost: {found.cost:,} updates of {type(plan.optimizer).__name__} with batches of {plan.batch_size.size or 'all'} rows")
    if found.rate is None:
        raise NoLearningRate(found.verdict)
    _say(f"lr {found.rate:.4g}", json)


def plan(rows: int, epochs: float, batch_size: str, rule: rules.Rule | None, schedule: str, seed: int, out: str | None, json: bool) -> None:
    """`fallline plan`."""
    chosen = rule or rules.SGD(rules.auto, 0.9)
    if schedule not in ("", "constant", "none"):
        chosen = replace(chosen, schedule=schedule)
    made = Plan(rows=rows, epochs=epochs, batch_size=_size(batch_size), optimizer=chosen, seed=seed)
    if out is not None:
        Path(out).write_text(jsonlib.dumps(made.to_json(), indent=1) + "\n")
    if json:
        return _document(made.to_json())
    print(made.explain())
    if not made.lr_is_auto:
        from fallline.report import line_chart

        at = np.unique(np.linspace(0, made.steps - 1, 400).astype(np.int64))
        print(line_chart(made.lr_at(at), x=at))
        print("learning rate against the update")


def predict(folder: str, data: str, out: str, id: str | None, proba: bool, model: str | None, json: bool) -> None:
    """`fallline predict`."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for a factory; its name is checked before anything is imported
    run = runs.load(folder, model)
    rows = tables.predict_file(run, data, out, id=id, proba=proba)
    if json:
        return _document({"rows": rows, "file": out, "weights": run.used})
    print(f"{rows:,} rows predicted with the {run.used} weights: {out}")


def export(folder: str, file: str, json: bool) -> None:
    """`fallline export`."""
    checked = runs.load(folder).export(file)
    if json:
        return _document({"file": file, "rows": checked.rows, "difference": checked.difference})
    print(f"{file}: {checked}")


def report(folders: Sequence[str], json: bool) -> None:
    """`fallline report`."""
    pages = []
    for folder in folders:
        pages.append(str(runs.load(folder).report(Path(folder) / run_folder.REPORT)))
        _say(pages[-1], json)
    if json:
        _document({"reports": pages})
