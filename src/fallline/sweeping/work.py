"""Carrying out a sweep's runs: as one program where that is possible, else on every core, one run each.

Runs of one order of rows, one batch size and one length are a `Population`. Where its problem has no program for several
runs, each run goes to a core of its own: linear models to threads (their kernels leave Python alone), everything else to
forked processes with one thread each, as PyTorch's own data loaders are; where a system cannot fork, one after another.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines.population import Population
from fallline.errors import FalllineError
from fallline.interrupts import ended_by, watched
from fallline.problems import LinearProblem
from fallline.sweeping.halving import Rung, best_of
from fallline.sweeping.jobs import Job, Ruler, SweepRun, keeps_weights, results

STRETCHES = 20
"""Parts that a group's updates are made in, so that progress shows, where one takes longer than LOOK."""
LOOK = 0.2
"""Seconds between two looks: at progress, and at whether an interrupt has come while others work."""

Report = Callable[..., None]
"""Called with runs that are over and, at a rung of successive halving, `rung=` the combinations that go on."""
Group = tuple[list[Job], Population]


@dataclass
class Work:
    """What the runs share.

    Args:
        problem: what they descend.
        ruler: how they are measured.
        start: initial weights of all, or None.
        processes: cores for runs that go one after another; None means all that this process may use.
        show: told the updates made in all, and a loss.
        total: runs of the sweep, which decides whether their weights are kept.
        choices: how the runs went, in words.
        done: updates made, those of earlier calls among them.
    """

    problem: Any
    ruler: Ruler
    start: Any
    processes: int | None
    show: Callable[[int, float], None]
    total: int
    choices: dict[str, None] = field(default_factory=dict)
    done: int = 0
    _together: dict[int, bool] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        return keeps_weights(self.problem, self.total)

    def whole(self, jobs: Sequence[Job], report: Report) -> None:
        """Every run to its end; `report` is called with results as they come."""
        apart: list[Job] = []
        for group in grouped(jobs):
            made = self._population(group)
            if not made.together and self.total > 1 and self._hands() > 1:
                apart += group
                continue
            self._note(made.choice)
            self._advance(made, made.plans[0].steps)
            report(results(group, made, self.ruler, weights=self.keeps))
        if apart:
            self._apart(apart, report)

    def halved(self, jobs: Sequence[Job], rungs: Sequence[Rung], known: Sequence[Sequence[int]], report: Report) -> None:
        """Runs by successive halving.

        Args:
            jobs: every run of the sweep.
            rungs: how far, and how many combinations.
            known: what rungs had decided before a kill: the combinations that go on.
            report: called with the runs that are over, and with what a rung decides.
        """
        kept = list(known[-1]) if known else sorted({job.cell for job in jobs})
        groups, _ = _parted([(group, self._population(group)) for group in grouped(jobs)], kept)
        for _, made in groups:
            self._note(made.choice)
        for i, rung in enumerate(rungs):
            if i < len(known):
                continue
            last = i == len(rungs) - 1
            for _, made in groups:
                self._advance(made, made.plans[0].steps if last else max(1, round(rung.share * made.plans[0].steps)))
            if not last:
                kept = [kept[k] for k in best_of(self._scores(groups, kept), rungs[i + 1].cells)]
                groups, over = _parted(groups, kept)
                report([run for group, made in over for run in results(group, made, self.ruler, stopped=True, weights=self.keeps)], rung=kept)
        report([run for group, made in groups for run in results(group, made, self.ruler, weights=self.keeps)])

    def _scores(self, groups: Sequence[Group], cells: Sequence[int]) -> np.ndarray:
        """What rungs decide by, lower is better: float64 [cells, seeds]."""
        found: dict[int, dict[int, float]] = {cell: {} for cell in cells}
        for group, made in groups:
            for job, row in zip(group, self.ruler.measure(made), strict=True):
                found[job.cell][job.seed] = self.ruler.score(row)
        return np.array([[np.mean(list(found[cell].values()))] for cell in cells])

    # ------------------------------------------------------------------------------------------- in this process

    def _population(self, group: Sequence[Job]) -> Population:
        """The runs of a group; what was measured for one of the same size serves the others."""
        made = Population(self.problem, [job.plan for job in group], start=self.start, together=self._together.get(len(group)))
        self._together[len(group)] = made.together
        return made

    def _note(self, choice: str) -> None:
        self.choices[choice] = None

    def _advance(self, made: Population, stop: int) -> None:
        """Advance a population, in stretches that are long enough to cost nothing."""
        length = max(1, -(-(stop - made.step) // STRETCHES))
        while (before := made.step) < stop:
            began = time.monotonic()
            made.advance(min(stop, before + length))
            length *= 1 if time.monotonic() - began > LOOK else STRETCHES
            self.done += (made.step - before) * len(made)
            ends = [loss[-1] for loss, at in zip(made.losses, made.stopped_at, strict=True) if at is None and len(loss)]
            self.show(self.done, float(min(ends, default=np.nan)))

    # ------------------------------------------------------------------------------------------- on several cores

    def _hands(self) -> int:
        """How many runs can go on at once."""
        cores = self.processes or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        if isinstance(self.problem, LinearProblem) or (_forks() and not _on_device(self.problem)):
            return cores
        return 1

    def _apart(self, jobs: Sequence[Job], report: Report) -> None:
        """Each run on a core of its own."""
        with self._executor(min(self._hands(), len(jobs)), jobs) as (executor, task), watched() as interrupt:
            waiting = {executor.submit(task, i): i for i in range(len(jobs))}
            while waiting and interrupt.received is None:
                ready, _ = wait(waiting, timeout=LOOK, return_when=FIRST_COMPLETED)
                for future in ready:
                    job, made = jobs[waiting.pop(future)], _result(future)
                    self.done += job.plan.steps
                    self.show(self.done, made.loss)
                    report([made])
            if interrupt.received is not None:
                raise ended_by(interrupt.received)

    @contextmanager
    def _executor(self, hands: int, jobs: Sequence[Job]) -> Iterator[tuple[Executor, Callable[[int], SweepRun]]]:
        """What runs tasks, and the task: from the number of a job to its result."""
        threads = isinstance(self.problem, LinearProblem)
        self._note(f"each run on one of {hands} threads" if threads else f"each run in one of {hands} processes, one thread each")
        before = set(multiprocessing.active_children())
        _Child.work, _Child.jobs = self, jobs
        if threads:
            executor: Executor = ThreadPoolExecutor(hands, thread_name_prefix="fallline")
        else:
            executor = ProcessPoolExecutor(hands, mp_context=multiprocessing.get_context("fork"), initializer=_one_thread)
        try:
            with warnings.catch_warnings():  # Python warns of threads; a child starts none and uses none of its parent's
                warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*", category=DeprecationWarning)
                yield executor, _child
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            _Child.work, _Child.jobs = None, ()

    def alone(self, job: Job) -> SweepRun:
        """One run by itself."""
        made = Population(self.problem, [job.plan], start=self.start, together=False)
        made.advance(job.plan.steps)
        return results([job], made, self.ruler, weights=self.keeps)[0]


class _Child:
    """What a forked process finds in its memory: nothing but numbers and results goes through a pipe."""

    work: Work | None = None
    jobs: Sequence[Job] = ()


def _result(future: Future[SweepRun]) -> SweepRun:
    try:
        return future.result()
    except BrokenProcessPool:
        raise FalllineError("a process of the sweep was killed, by the system if memory ran out: use fewer at once with processes=1") from None


def _child(i: int) -> SweepRun:
    assert _Child.work is not None
    return _Child.work.alone(_Child.jobs[i])


def _one_thread() -> None:
    """A child uses one thread: it has none of its parent's, and the cores are shared out among the children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its children
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _forks() -> bool:
    return "fork" in multiprocessing.get_all_start_methods()


def _on_device(problem: Any) -> bool:
    """Whether the problem lives on an accelerator, which a forked process cannot use."""
    device = getattr(problem, "device", None)
    return device is not None and getattr(device, "type", "cpu") != "cpu"


def _parted(groups: Sequence[Group], chosen: Sequence[int]) -> tuple[list[Group], list[Group]]:
    """The groups with the chosen combinations only, and with the others."""
    parts: tuple[list[Group], list[Group]] = [], []
    for group, made in groups:
        for stays, part in zip((True, False), parts, strict=True):
            which = [k for k, job in enumerate(group) if (job.cell in chosen) == stays]
            if which:
                part.append(([group[k] for k in which], made.keep(which) if len(which) < len(group) else made))
    return parts


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that can be one population, in their order."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        plan = job.plan
        groups.setdefault((plan.steps, repr(plan.batch_size), plan.seed), []).append(job)
    return list(groups.values())
