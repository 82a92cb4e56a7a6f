"""A run folder while its run is under way: what happens is written down at once, so that a kill loses no history.

    plan.json, run.json     at the start; run.json's status is "running"
    history.jsonl           a line for every decision and evaluation, the moment it is known
    report.html             on request; always a whole page
    the rest, manifest.json at the end; the status is the outcome then
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fallline import run_folder
from fallline.errors import RunExists
from fallline.history import History, Outcome, decision_line
from fallline.interrupts import ended_by, interactive, watched
from fallline.plan import Plan
from fallline.runs import Run, versions

PAGE_EVERY = 10.0
"""Seconds between two pages of a run under way."""
RUNNING = "running"
CUT_SHORT = (Outcome.Diverged, Outcome.Interrupted)
"""Outcomes of runs that did not come to their end."""


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


@dataclass
class LiveFolder:
    """A claimed run folder; made by `claim`, begun by `open`, brought to its end by `finish`.

    Attributes:
        final: the folder's name in the end.
        path: where it is written; beside `final` while that holds another run.
        report: whether there is a page.
        about: plain values that the run's summary begins with.
        notes: decisions made before training.
        found: what the search for a learning rate found before training.
    """

    final: Path
    path: Path
    report: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    found: Any = None
    _held: int | None = None
    _log: int | None = None
    _run: Underway | None = None
    _paged: float = 0.0

    @classmethod
    def claim(cls, folder: str | Path, *, replace: bool = False, report: bool = False, about: Mapping[str, Any] | None = None) -> LiveFolder:
        """A folder for a run; nothing is written yet.

        Args:
            folder: absent or empty, unless `replace`.
            replace: the run that it holds is to go once the new one is finished; until then the new one is in FOLDER.new.
            report: keep a report.html.
            about: plain values for the run's summary.

        Raises:
            RunExists: it holds something and is not to be replaced, or a run that is under way.
        """
        final = Path(folder)
        if not replace or not final.exists():
            return cls(final, run_folder.fresh(final), report, dict(about or {}))
        if run_folder.busy(final):
            raise RunExists(f"{final} holds a run that is under way: choose another folder, or wait for it")
        path = final.with_name(final.name + ".new")
        if path.exists():
            only_a_run(path)
            if run_folder.busy(path):
                raise RunExists(f"{path} holds a run that is under way: choose another folder, or wait for it")
            shutil.rmtree(path)
        return cls(final, path, report, dict(about or {}))

    def open(self, plan: Plan, problem: Any, history: History) -> None:
        """Begin: plan.json, run.json, the journal so far, and everything that `history` learns from now on."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._held = run_folder.hold(self.path)
        try:
            self._log = os.open(self.path / run_folder.HISTORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except FileExistsError:
            self.close()
            raise RunExists(f"{self.path} holds a run already: choose another folder") from None
        run_folder.put(self.path, run_folder.PLAN, run_folder.document(plan.to_json()), durable=False)
        about = {"status": RUNNING, "problem": problem.fingerprint, "summary": self.about, "versions": versions(), "started": _now()}
        run_folder.put(self.path, run_folder.RUN, run_folder.document(about), durable=False)
        journal = [*self.notes, *history.journal]
        for entry in journal:
            self._append(decision_line(entry))
        self._run = Underway(plan, problem, history, journal, self.about, self.found)
        history.follow = self._follow
        if self.report:
            self._page()

    def finish(self, run: Run) -> Path:
        """The end: the final files, the manifest last. Returns where the run is."""
        run.history.follow = None
        run.summary = {**self.about, **run.summary}
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
        for descriptor in (self._log, self._held):
            if descriptor is not None:
                os.close(descriptor)
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
    known = {run_folder.MANIFEST, run_folder.REPORT, run_folder.PLAN, run_folder.RUN, run_folder.HISTORY}
    if (folder / run_folder.MANIFEST).is_file():
        known |= set(run_folder.read(folder))
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in known and not (entry.name.startswith(".") and entry.name.endswith(".part")))
    if others:
        raise RunExists(f"{folder} holds files beside the run's own ({', '.join(others[:5])}): move them, or choose another --out")


def _came_to_its_end(folder: Path) -> bool:
    if not (folder / run_folder.MANIFEST).is_file():
        return False
    return Outcome[json.loads(run_folder.read(folder)[run_folder.RUN])["status"]] not in CUT_SHORT


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


__all__ = ["LiveFolder", "Underway", "only_a_run"]
