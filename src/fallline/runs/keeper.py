"""A run under way as a checkpoint: what it holds, when it is made, and back.

    about.json            plans, step, seconds, how the best was chosen, the numerics it was made with
    history.json          the journal and the evaluations
    state.safetensors     the engine's state, verbatim
    history.safetensors   the loss of every update, the path, what was undone
    best.safetensors      the best weights so far
    good-K.safetensors    states to go back to, where a judge may ask for one (and their best weights)
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.checkpoints import Checkpoint, Checkpoints, Contents
from fallline.errors import CheckpointFailed, RunDamaged
from fallline.history import History, Packed
from fallline.lengths import Clock, Length
from fallline.plan import Plan
from fallline.retreat import GoodStates, Moment
from fallline.runs import versions

FIRST = 10.0
"""Seconds before the first checkpoint, and between two at least."""
SHARE = 0.02
"""Share of a run's time that checkpoints may take."""


@dataclass
class Snapshot:
    """A run at one update, whole.

    Attributes:
        moment: the engine's state and the best so far.
        plans: the journal of plans until now.
        asked: the plan that was asked for; what was carried out may have come to differ from it by a judge's doing.
        history: all that happened.
        good: the states to go back to, or None.
        seconds: how long the run has taken.
        replans: how often its plan was replaced.
        problem: the data's fingerprint.
        numerics: what decides about bits: versions, device, threads.
        notes: decisions made before training, which stand before the journal.
    """

    moment: Moment
    plans: list[tuple[int, Plan]]
    asked: Plan
    history: History
    good: GoodStates | None
    seconds: float
    replans: int
    problem: str
    numerics: dict[str, Any] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.moment.step

    def contents(self) -> Contents:
        """What a checkpoint holds."""
        arrays: dict[str, dict[str, np.ndarray]] = {"history.safetensors": _past(self.history)}
        moments = {"state": self.moment} | {f"good-{i}": m for i, m in enumerate(self.good.kept if self.good else [])}
        about: dict[str, Any] = {
            "plans": [[step, plan.to_json()] for step, plan in self.plans], "asked": self.asked.to_json(),
            "seconds": self.seconds, "replans": self.replans, "problem": self.problem, "numerics": self.numerics, "notes": self.notes,
            "good": None if self.good is None else {"every": self.good.every, "opening": self.good.opening, "lowest": self.good.lowest, "kept": len(self.good.kept)},
            "moments": {},
        }  # fmt: skip
        weights: dict[int, str] = {}
        for name, moment in moments.items():
            arrays[f"{name}.safetensors"] = moment.packed.arrays
            best = None
            if moment.best is not None:
                score, best_weights, step = moment.best
                file = weights.setdefault(id(best_weights), f"best-{len(weights)}.safetensors")
                arrays[file] = best_weights
                best = {"score": score, "step": step, "file": file}
            about["moments"][name] = {"step": moment.step, "values": moment.packed.values, "best": best}
        finite = ("state.safetensors", *(n for n in arrays if n.startswith("good-")))
        return Contents({"about.json": about, "history.json": {"journal": self.history.journal, "evaluations": self.history.evaluations}}, arrays, finite)


def snapshot_of(found: Checkpoint) -> Snapshot:
    """The run that a verified checkpoint holds.

    Raises:
        RunDamaged: it verifies, and does not hold a run as fallline writes it: from a stranger, or another version.
    """
    try:
        return _snapshot(found.contents)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunDamaged(f"{found.path} does not hold a run as this fallline writes it ({type(error).__name__}: {str(error)[:120]})") from None


def _snapshot(contents: Contents) -> Snapshot:
    about, written, past = contents.documents["about.json"], contents.documents["history.json"], contents.arrays["history.safetensors"]
    history = History([np.array(past["loss"])], [_numbers(e) for e in written["evaluations"]], [dict(e) for e in written["journal"]])
    history.path = np.array(past["path"]) if "path" in past else None
    parts = sorted(((*map(int, name.split(".")[1:]), losses) for name, losses in past.items() if name.startswith("undone.")), key=lambda part: part[0])
    history.undone = [(step, np.array(losses)) for _, step, losses in parts]
    kept = about["good"]
    good = None
    if kept is not None:
        good = GoodStates(int(kept["every"]), int(kept["opening"]), [_moment(contents, f"good-{i}") for i in range(int(kept["kept"]))], float(kept["lowest"]))
    return Snapshot(
        _moment(contents, "state"), [(int(step), Plan.from_json(plan)) for step, plan in about["plans"]], Plan.from_json(about["asked"]), history, good,
        float(about["seconds"]), int(about["replans"]), str(about["problem"]), dict(about["numerics"]), list(about["notes"]),
    )  # fmt: skip


def _moment(contents: Contents, name: str) -> Moment:
    told, best = contents.documents["about.json"]["moments"][name], None
    if told["best"] is not None:
        best = (float(told["best"]["score"]), dict(contents.arrays[told["best"]["file"]]), int(told["best"]["step"]))
    return Moment(Packed(int(told["step"]), dict(contents.arrays[f"{name}.safetensors"]), dict(told["values"])), best)


def _past(history: History) -> dict[str, np.ndarray]:
    out = {"loss": history.since(0)} | {f"undone.{i}.{step}": losses for i, (step, losses) in enumerate(history.undone)}
    return out if history.path is None else out | {"path": history.path}


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as it was: JSON has no NaN and no infinities, so those stand as their names."""
    return {k: float(v) if isinstance(v, str) else v for k, v in entry.items()}


@dataclass
class Keeper:
    """When a run's checkpoints are made, and the making of them.

    Law: the next one is due `FIRST` seconds after the last, or 1/SHARE times as long as the last took to write, flush and
    verify, whichever is longer; so they cost at most SHARE of the run. Where `every` is given, at its multiples instead.

    Args:
        store: the checkpoints on disk.
        every: how often, with its unit, or None.
        notes: decisions made before training.

    Attributes:
        cost: seconds that they have taken.
        saved: the update of the last one; the start needs none.
    """

    store: Checkpoints
    every: Length | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    cost: float = 0.0
    saved: int = 0
    _due: float = field(default_factory=lambda: time.monotonic() + FIRST)

    def following(self, step: int, clock: Clock) -> int | None:
        """The first update after `step` at which one is due by `every`; None where time decides."""
        if self.every is None:
            return None
        count = max(1, self.every.in_steps(clock))
        return (step // count + 1) * count

    def due(self, step: int, clock: Clock) -> bool:
        """Whether one is due after `step` updates."""
        if self.every is not None:
            return step % max(1, self.every.in_steps(clock)) == 0
        return time.monotonic() >= self._due

    def save(self, snapshot: Snapshot) -> None:
        """Make one. Where it cannot be written, training goes on, and that is said on stderr and in the journal."""
        if self.saved == snapshot.step:
            return
        began, snapshot.notes = time.monotonic(), self.notes
        try:
            self.store.save(snapshot.step, snapshot.contents())
            self.saved = snapshot.step
        except CheckpointFailed as error:
            print(f"fallline: {error}", file=sys.stderr, flush=True)
            snapshot.history.note("checkpoint", snapshot.step, str(error))
        took = time.monotonic() - began
        self.cost += took
        self._due = time.monotonic() + max(FIRST, took / SHARE)


def numerics(engine: Any) -> dict[str, Any]:
    """What decides about the bits of a run: where two runs agree in all of it, the same plan gives the same bits."""
    own = versions()
    out = {"engine": engine.name, "machine": platform.machine(), "fallline": own["fallline"], "numpy": own["numpy"]}
    if engine.name != "reference":
        from fallline import compiled

        out |= {"numba": own["numba"], "processor": compiled.processor(), "kernels": compiled.digest()}
    return out | getattr(engine, "numerics", dict)()


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two runs' numerics, in words; empty where nothing does.

    >>> differing({"torch": "2.13.0", "threads": 2}, {"torch": "2.13.0", "threads": 4})
    'threads 2 -> 4'
    """
    return ", ".join(f"{name} {before.get(name)} -> {now.get(name)}" for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name))


__all__ = ["Keeper", "Snapshot", "differing", "numerics", "snapshot_of"]
