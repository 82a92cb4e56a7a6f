"""`fit - --stream`: rows are read as they come, predicted, learnt, counted and kept; a stream that was cut off goes on.

What is learnt is a function of the rows alone: where chunks end, when checkpoints are made and how often it was cut off change no bit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from fallline.checkpoints import Contents
from fallline.errors import (
    CheckpointFailed,
    InvalidValue,
    RunExists,
    TableError,
)
from fallline.history import History, Outcome
from fallline.interrupts import Interrupt, Leaving, ended_by, watched
from fallline.runs.live import LiveFolder
from fallline.streaming.ending import run_of
from fallline.streaming.keeping import kept, restored
from fallline.streaming.learner import Asked, Learner, begun
from fallline.streaming.parts import Place, Stream
from fallline.tables.files.csv_head import Head

EVERY = 10.0
"""Seconds between two checkpoints, or fifty times what one takes."""


@dataclass
class Session:
    """One process's part in learning from a stream."""

    live: LiveFolder
    asked: Asked
    say: Callable[[dict[str, Any] | str], None]
    learner: Learner | None = None
    good: Place | None = None
    before: float = 0.0
    _start: float = field(default_factory=time.monotonic)
    _due: float = field(default_factory=lambda: time.monotonic() + EVERY)
    _saved: int = -1
    _seen: float = 0.0

    def seconds(self) -> float:
        return self.before + time.monotonic() - self._start

    def save(self, learner: Learner, stream: Stream, history: History) -> None:
        """Make a checkpoint; where it cannot be written, learning goes on and that is said."""
        if self._saved == learner.model.step:
            return
        began = time.monotonic()
        try:
            self.live.store.save(learner.model.step, kept(learner, stream, history, self.seconds()))
            self._saved = learner.model.step
        except CheckpointFailed as error:
            print(f"fallline: {error}", file=sys.stderr, flush=True)
            history.note("checkpoint", learner.model.step, str(error))
        took = time.monotonic() - began
        self._due = time.monotonic() + max(EVERY, 50 * took)

    def due(self, learner: Learner) -> bool:
        if self.asked.save_every is not None:
            return learner.model.step - max(self._saved, 0) >= self.asked.save_every
        return time.monotonic() >= self._due

    def alive(self, learner: Learner) -> None:
        """One line that is written over, where a person looks on."""
        if sys.stderr.isatty() and time.monotonic() - self._seen > 0.3:
            self._seen = time.monotonic()
            found = "  ".join(f"{k} {v:.4g}" for k, v in learner.tally.measures().items())
            print(f"\r{learner.tally.rows:,} rows  {found}\x1b[K\r", end="", file=sys.stderr, flush=True)


def learn(file: IO[bytes], name: str, live: LiveFolder, asked: Asked, say: Callable[[dict[str, Any] | str], None]) -> Any:
    """Learn from a stream until it ends, or a signal does; returns the run.

    Args:
        file: binary, read as its bytes arrive; name: what messages call it.
        live: a claimed folder; where it holds a stream's run, that goes on.
        asked: what the flags say.
        say: called with a line of text, or with each evaluation.

    Raises:
        TableError: a row that cannot be learnt, with its line; all rows before it are in the folder's checkpoint.
        KeyboardInterrupt, SystemExit: a signal; the run is in the folder, and `.run` of the exception.
    """
    with watched() as noted:
        try:
            run = _learn(file, name, Session(live, asked, say), noted)
        finally:
            live.close()
    if noted.received is not None:
        raise ended_by(noted.received, run)
    return run


def _learn(file: IO[bytes], name: str, session: Session, noted: Interrupt) -> Any:
    live, asked, history = session.live, session.asked, History()
    stream, store = Stream(file, name, asked.format, noted.leaving), live.store
    found = store.newest() if live.earlier is not None else None
    for path, why in store.damaged:
        print(f"fallline: checkpoint {path} is damaged ({why}); {'an older one is used' if found else 'the run begins anew'}", file=sys.stderr, flush=True)
    try:
        if found is not None:
            history = _goes_on(found.contents, stream, session)
        elif asked.from_here:
            raise InvalidValue("--from-here goes on with a run, and there is no checkpoint to go on from: leave it out")
        elif not stream.begin():
            raise TableError("no rows: the stream is empty", file=name)
        live.open(None, _Stand, history)
        _rows(stream, history, session, noted)
    except Leaving:
        pass
    learner = session.learner
    if learner is None and noted.received is not None:
        raise ended_by(noted.received)
    if learner is None:
        raise TableError("a header and no rows: expected at least one row below it", file=name)
    session.save(learner, stream, history)
    if noted.received is not None:
        return _finished(learner, history, live, Outcome.Interrupted, f"interrupted after {learner.model.step:,} rows", session)
    return _finished(learner, history, live, Outcome.Finished, f"the stream ended after {learner.model.step:,} rows", session)


def _goes_on(contents: Contents, stream: Stream, session: Session) -> History:
    learner, history, about = restored(contents, session.asked)
    session.learner, session.before, session._saved = learner, float(about["seconds"]), learner.model.step
    place, head = Place(**about["place"]), about["head"]
    start = None if head is None else Head(tuple(head["names"]), head["delimiter"], head["size"], head["line"])
    stream.header = about["header"].encode()
    if session.asked.target not in (None, learner.target):
        raise RunExists(f"the run in {session.live.path} predicts {learner.target!r}, not {session.asked.target!r}: choose another --out, or --overwrite")
    if session.asked.from_here:
        stream.onwards(place, about["format"], start, stream.header)
    else:
        stream.again(place, about["format"], start)
    session.say(f"goes on after {learner.model.step:,} rows")
    return history


class _Stand:
    """What a run folder asks of a problem."""

    fingerprint = "stream"


def _rows(stream: Stream, history: History, session: Session, noted: Interrupt) -> None:
    """Every part of the stream, until it ends or a signal came."""
    if session.learner is not None:
        stream.wanted = session.learner.plain
    try:
        for part in stream.parts():
            if session.learner is None:
                session.learner = begun(part, session.asked, str(stream.format))
                stream.wanted = session.learner.plain
                _introduced(session.learner, history, session)
            session.learner.learn(part, history, session.say, session.seconds)
            session.good = Place(stream.place.bytes, stream.place.crc, stream.place.line)
            session.alive(session.learner)
            if noted.received is not None:
                return
            if session.due(session.learner):
                session.save(session.learner, stream, history)
    except (TableError, OSError) as error:
        learner = session.learner
        if learner is not None and learner.model.step:
            stream.place = session.good or stream.place
            session.save(learner, stream, history)
            error.add_note(f"{learner.model.step:,} rows before it are learnt and kept in {session.live.path}: correct the stream, and --resume goes on")
        raise


def _introduced(learner: Learner, history: History, session: Session) -> None:
    """What was told from the first rows."""
    model = learner.model
    history.note("task", "classification" if learner.classifies else "regression", learner.why)
    history.note("loss", model.loss.name, "given" if session.asked.loss else "usual for the task")
    history.note("steps", "safe", "no learning rate: columns are standardised by what has come of them, and no row goes past its target")
    session.say(f"target {learner.target!r}: {'classification' if learner.classifies else 'regression'} ({learner.why}); loss {model.loss.name}")
    for note in () if learner.columns is None else learner.columns.notes:
        history.note("note", note, "")
        session.say(f"note: {note}")


def _finished(learner: Learner, history: History, live: LiveFolder, outcome: Outcome, reason: str, session: Session) -> Any:
    if learner.tally.rows and (not history.evaluations or history.evaluations[-1]["step"] != learner.tally.rows):
        session.say(learner.line(learner.tally.rows, learner.tally.sums, history, session.seconds()))
    if learner.unlabelled:
        history.note("note", f"{learner.unlabelled:,} rows without a target were not learnt", "")
    history.note("outcome", outcome.name, reason)
    run = run_of(learner, history, outcome, reason)
    live.report = True
    live.finish(run)
    return run
