"""A run folder while its run is under way: what happens is written down at once, so that a kill loses no history.

    plan.json, run.json     at the start; run.json's status is "running"
    history.jsonl           a line for every decision and evaluation, the moment it is known
    checkpoints/            the newest two at least; see `keeper`
    report.html             on request; always a whole page
    the rest, manifest.json at the end; the status is the outcome then
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fallline import run_folder
from fallline.checkpoints import Checkpoints
from fallline.errors import InvalidValue, RunDamaged, RunExists, RunUnfinished
from fallline.history import History, Outcome, decision_line, evaluation_line
from fallline.interrupts import ended_by, interactive, watched
from fallline.lengths import Length
from fallline.plan import Plan
from fallline.runs import DOCUMENTS, TENSORS, Run, found_to_json, versions
from fallline.runs.keeper import Keeper, Snapshot, snapshot_of

PAGE_EVERY = 10.0
"""Seconds between two pages of a run under way."""
RUNNING = "running"
CUT_SHORT = (Outcome.Diverged, Outcome.Interrupted)
"""Outcomes of runs that did not come to their end."""
CAME_TO_AN_END = (Outcome.Finished.name, Outcome.EarlyStopped.name)
"""Outcomes with which there is nothing more to do, unless the plan has become longer."""


@dataclass(frozen=True)
class Underway:
    """What a report can show of a run that has not ended."""

    plan: Plan
    problem: Any
    history: History
    journal: list[dict[str, Any]]
    summary: Mapping[str, Any]
    found: Any
    outcome: None = None


@dataclass(frozen=True)
class Save:
    """Where a run is saved, and how often its checkpoints are made.

    Args:
        folder: absent or empty; with `resume=True`, or the run that is to go on.
        every: how often a checkpoint is made, with its unit; left out, so that they cost at most 2 % of the time, no oftener
            than every ten seconds.
        keep: checkpoints that stay, at least 2.

    >>> from fallline.lengths import epochs
    >>> Save("runs/a", every=epochs(1))
    Save(folder='runs/a', every=epochs(1), keep=2)
    """

    folder: str | Path
    every: Length | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every is not None and not isinstance(self.every, Length):
            raise InvalidValue(f"Save(every={self.every!r}): expected a length with its unit, such as epochs(1) or steps(500)")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 2:
            raise InvalidValue(f"Save(keep={self.keep!r}): expected a whole number of at least 2, so that one is left where the newest is damaged")


@dataclass
class LiveFolder:
    """A claimed run folder; made by `claim`, begun by `open`, brought to its end by `finish`.

    Attributes:
        final: the folder's name in the end.
        path: where it is written; beside `final` while that holds another run.
        save: how often checkpoints are made, and how many stay.
        report: whether there is a page.
        about: plain values that the run's summary begins with.
        earlier: run.json of the run that is to go on, or None where a new one begins.
        notes: decisions made before training.
        found: what the search for a learning rate found before training.
    """

    final: Path
    path: Path
    save: Save
    report: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, Any] | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    found: Any = None
    _held: int | None = None
    _log: int | None = None
    _run: Underway | None = None
    _paged: float = 0.0

    @classmethod
    def claim(
        cls, folder: str | Path | Save, *, replace: bool = False, resume: bool = False, report: bool = False, about: Mapping[str, Any] | None = None
    ) -> LiveFolder:
        """A folder for a run; nothing is written yet. With `resume`, the folder of a run that is there is held at once.

        Args:
            folder: absent or empty, unless `replace` or `resume`.
            replace: the run that it holds is to go once the new one is finished; until then the new one is in FOLDER.new.
            resume: the run that it holds, if it holds one, is to go on.
            report: keep a report.html.
            about: plain values for the run's summary.

        Raises:
            RunExists: it holds something and is not to be replaced, or a run that is under way.
            RunUnfinished: it is to go on, and was left by a version without checkpoints.
        """
        save = folder if isinstance(folder, Save) else Save(folder)
        final = Path(save.folder)
        if resume and final.is_dir() and any(final.iterdir()):
            only_a_run(final)
            live = cls(final, final, save, report, dict(about or {}))
            live._hold()
            try:
                live.earlier = _earlier(final)
            except BaseException:
                live.close()
                raise
            return live
        if not replace or not final.exists():
            return cls(final, run_folder.fresh(final), save, report, dict(about or {}))
        if run_folder.busy(final):
            raise RunExists(f"{final} holds a run that is under way: choose another folder, or wait for it")
        path = final.with_name(final.name + ".new")
        if path.exists():
            only_a_run(path)
            if run_folder.busy(path):
                raise RunExists(f"{path} holds a run that is under way: choose another folder, or wait for it")
            shutil.rmtree(path)
        return cls(final, path, save, report, dict(about or {}))

    # ------------------------------------------------------------------------------------------------ going on

    @property
    def ended(self) -> bool:
        """Whether the folder holds a run that came to its end."""
        return self.earlier is not None and (self.path / run_folder.MANIFEST).is_file() and self.earlier["status"] in CAME_TO_AN_END

    def plan(self) -> Plan:
        """The plan of the run that is to go on.

        Raises:
            RunDamaged: it cannot be read.
        """
        try:
            return Plan.from_json((self.path / run_folder.PLAN).read_text())
        except OSError as error:
            raise RunDamaged(f"{self.path / run_folder.PLAN} cannot be read ({error.strerror}), so its run cannot go on: restore it from a copy, or begin anew elsewhere") from None

    def snapshot(self) -> Snapshot | None:
        """The run as its newest checkpoint that verifies has it, or None where there is none. Damaged ones are said on stderr.

        Raises:
            RunDamaged: a checkpoint that is whole and not ours.
        """
        if self.earlier is None:
            return None
        store = self.store
        store.sweep()
        found = store.newest()
        for path, why in store.damaged:
            print(f"fallline: checkpoint {path} is damaged ({why}); {'an older one is used' if found else 'there is no other: the run begins anew'}", file=sys.stderr, flush=True)
        return None if found is None else snapshot_of(found)

    def keeper(self) -> Keeper:
        """What makes this run's checkpoints; once the folder is open."""
        return Keeper(self.store, self.save.every, self.notes)

    @property
    def store(self) -> Checkpoints:
        """This run's checkpoints on disk."""
        return Checkpoints(self.path / run_folder.CHECKPOINTS, self.id, self.save.keep)

    @cached_property
    def id(self) -> str:
        """The run's identity: that of the run that goes on, or a new one."""
        return uuid.uuid4().hex if self.earlier is None else self.earlier["run"]

    # ---------------------------------------------------------------------------------------------- under way

    def open(self, plan: Plan | None, problem: Any, history: History) -> None:
        """Begin: plan.json, run.json, the journal so far, and everything that `history` learns from now on.

        A stream has no plan (None) before it ends, and no page.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._hold()
        past = self.path / run_folder.HISTORY
        if self.earlier is None:
            if past.exists():
                self.close()
                raise RunExists(f"{self.path} holds a run already: choose another folder")
        else:
            (self.path / run_folder.MANIFEST).unlink(missing_ok=True)  # from here on it is under way again
        journal = [*self.notes, *history.journal]
        found = None if self.found is None else found_to_json(self.found)
        about = {
            "status": RUNNING, "run": self.id, "problem": problem.fingerprint, "summary": self.about, "notes": self.notes, "found": found,
            "versions": versions(), "started": _now(),
        }  # fmt: skip
        run_folder.put(self.path, run_folder.RUN, run_folder.document(about))
        if plan is not None:
            run_folder.put(self.path, run_folder.PLAN, run_folder.document(plan.to_json()))
        lines = (*map(decision_line, journal), *map(evaluation_line, history.evaluations))
        run_folder.put(self.path, run_folder.HISTORY, "".join(line + "\n" for line in lines).encode(), durable=False)
        self._log = os.open(past, os.O_WRONLY | os.O_APPEND)
        history.follow = self._append
        if plan is not None:
            self._run = Underway(plan, problem, history, journal, self.about, self.found)
            history.follow = self._follow
            if self.report:
                self._page()

    def _hold(self) -> None:
        if self._held is None:
            self._held = run_folder.hold(self.path)

    def finish(self, run: Run) -> Path:
        """The end: the final files, the manifest last. Returns where the run is."""
        run.history.follow = None
        run.summary, run.id = {**self.about, **run.summary}, self.id
        with watched() as late:  # a signal that comes now is honoured once the files are whole
            try:
                if self.report:
                    run.report(self.path / run_folder.REPORT)
            finally:
                run_folder.complete(self.path, *run.contents())
                self.close()
            self._move(run.outcome)
        if late.received is not None and not interactive():
            raise ended_by(late.received, run)
        return self.path

    def _move(self, outcome: Outcome) -> None:
        """To the final name; but what was cut short never takes the place of a run that was not."""
        if self.path == self.final or (outcome in CUT_SHORT and _came_to_its_end(self.final)):
            return
        with run_folder.replaced(self.final):
            os.rename(self.path, self.final)
        self.path = self.final

    def close(self) -> None:
        """Let go of the folder."""
        if self._log is not None:
            os.close(self._log)
        if self._held is not None:
            run_folder.let_go(self._held)
        self._log = self._held = None

    def _append(self, line: str) -> None:
        assert self._log is not None
        os.write(self._log, line.encode() + b"\n")  # unbuffered: a kill loses nothing that was written

    def _follow(self, line: str) -> None:
        self._append(line)
        if self.report and time.monotonic() - self._paged >= PAGE_EVERY:
            self._page()

    def _page(self) -> None:
        """A page without pictures that need a drawing program: it costs milliseconds."""
        assert self._run is not None
        self._paged = time.monotonic()
        history, steps = self._run.history, self._run.plan.steps
        made = history.steps
        last = history.evaluations[-1] if history.evaluations else {}
        scores = "".join(f", {k.replace('_', ' ')} {v:.5g}" for k, v in last.items() if k.startswith("valid_"))
        loss = f", loss {last['loss']:.5g}" if last else ""
        outcome = f"Under way when this page was written: {made:,} of {steps:,} updates ({made / steps:.0%}){loss}{scores}."
        importlib.import_module("fallline.report").page(self._run, self.path / run_folder.REPORT, outcome=outcome, rough=True, created=_now())


def only_a_run(folder: Path) -> None:
    """Refuse a folder that holds anything but a run: what is replaced must be ours.

    Raises:
        RunExists: it is no run, or has other files beside the run's own.
    """
    if not (folder / run_folder.MANIFEST).is_file() and not (folder / run_folder.RUN).is_file():
        raise RunExists(f"{folder} exists and is not a run: choose another --out; fallline does not delete what it did not write")
    known = {run_folder.MANIFEST, run_folder.REPORT, run_folder.PLAN, run_folder.RUN, run_folder.HISTORY, run_folder.CHECKPOINTS}
    if (folder / run_folder.MANIFEST).is_file():
        known |= set(run_folder.read(folder))
    else:
        known |= {*DOCUMENTS, *TENSORS, "reader.safetensors"}  # a run that went on may have left its earlier files
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in known and not (entry.name.startswith(".") and entry.name.endswith(".part")))
    if others:
        raise RunExists(f"{folder} holds files beside the run's own ({', '.join(others[:5])}): move them, or choose another --out")


def _earlier(folder: Path) -> dict[str, Any]:
    """run.json of the run that a folder holds.

    Raises:
        RunUnfinished: it was left by a version without checkpoints. RunDamaged: it cannot be read.
    """
    try:
        about = json.loads((folder / run_folder.RUN).read_text())
        status = str(about["status"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunDamaged(f"{folder / run_folder.RUN} cannot be read ({type(error).__name__}), so its run cannot go on: restore it from a copy, or begin anew elsewhere") from None
    if not isinstance(about.get("run"), str):
        raise RunUnfinished(f"{folder} holds a run of a version without checkpoints ({status}): it cannot go on; load it as it is, or begin anew in another folder")
    return about


def _came_to_its_end(folder: Path) -> bool:
    if not (folder / run_folder.MANIFEST).is_file():
        return False
    return Outcome[json.loads(run_folder.read(folder)[run_folder.RUN])["status"]] not in CUT_SHORT


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


__all__ = ["LiveFolder", "Save", "Underway", "only_a_run"]
