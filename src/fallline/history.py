"""What a run is in while it runs, and what it leaves: the state, a segment's trace, the outcome, the history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np

from fallline.errors import InvalidValue
from fallline.rows import Answer, Start


@dataclass
class State:
    """The registers as flat vectors over a problem's layout, and the next update.

    Args:
        step: the next update, 0 .. T.
        w: the parameters, (P,).
        v, s, a: velocity, second moment and average, (P,); None stands for zeros that nothing has touched yet
            (`a` None stands for a copy of `w`).
    """

    step: int
    w: np.ndarray
    v: np.ndarray | None = None
    s: np.ndarray | None = None
    a: np.ndarray | None = None

    @classmethod
    def begin(cls, weights: np.ndarray, start: Start | None = None, dtype: Any = np.float64) -> State:
        """The state before update 0: `v`, `s` and `a` as the rule's `Start` says."""
        start = start or Start()
        w = np.array(weights, dtype)
        return cls(0, w, w.copy() if start.v_from_w else None, np.full_like(w, start.s) if start.s else None)

    def copy(self) -> State:
        """An independent copy."""
        return State(self.step, self.w.copy(), *(None if r is None else r.copy() for r in (self.v, self.s, self.a)))

    def pack(self) -> Packed:
        """This state as plain things; `State.unpack` is its inverse."""
        registers = {"w": self.w, "v": self.v, "s": self.s, "a": self.a}
        return Packed(self.step, {k: np.array(r) for k, r in registers.items() if r is not None})

    @classmethod
    def unpack(cls, packed: Packed) -> State:
        """The state that was packed."""
        return cls(packed.step, **{k: packed.arrays[k].copy() for k in ("w", "v", "s", "a") if k in packed.arrays})

    def registers(self) -> State:
        """The registers flat and up to date: this state itself (engines with their own arrangement convert)."""
        return self

    def answer(self, answer: Answer) -> np.ndarray:
        """c_w*w + c_v*v + c_a*a: the parameters that predictions, validation and exports use, (P,)."""
        if (answer.w, answer.v, answer.a) == (1, 0, 0):
            return self.w.copy()
        zero = np.zeros_like(self.w)
        v, a = (zero if self.v is None else self.v), (self.w if self.a is None else self.a)
        return answer.w * self.w + answer.v * v + answer.a * a


class Settled(Protocol):
    """What `train` asks of any engine's state."""

    step: int

    def copy(self) -> Any: ...

    def registers(self) -> State: ...


@dataclass(frozen=True)
class Trace:
    """What falls out of a segment: the mean loss of each update's batch, before the update; float64 (steps done,)."""

    loss: np.ndarray


@dataclass(frozen=True)
class Advance:
    """What an engine returns: the state after the last good update, the trace, and where and why it stopped early."""

    state: Any
    trace: Trace
    stopped_at: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Packed:
    """An engine's state as plain things, for going back to and for files: unpacked, it goes on with the same bits.

    Args:
        step: the next update.
        arrays: everything that is numbers, by name, copies.
        values: the rest, as JSON has it.
    """

    step: int
    arrays: dict[str, np.ndarray]
    values: dict[str, Any] = field(default_factory=dict)


def check_packed(packed: Packed, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
    """Refuse a packed state whose arrays are not those that are expected, by name, shape and type.

    Raises:
        InvalidValue: the first array that differs is named.
    """
    for name in sorted(packed.arrays.keys() | expected.keys()):
        held = packed.arrays.get(name)
        if held is None or name not in expected:
            raise InvalidValue(f"the state {'lacks' if held is None else 'holds'} the array {name!r}{'' if held is None else ', which this problem has not'}: it is of another problem")
        shape, dtype = expected[name]
        if held.shape != tuple(shape) or held.dtype != np.dtype(dtype):
            raise InvalidValue(f"the state's array {name!r} is {held.dtype} {list(held.shape)} and this problem's {np.dtype(dtype)} {list(shape)}: it is of another problem")


class Outcome(Enum):
    """How a run ended, as a sentence."""

    Finished = "the plan was carried out to its last update"
    EarlyStopped = "stopped early: the validation score no longer improved"
    Diverged = "the descent diverged; the weights are those before the failing update"
    TimeUp = "stopped: the time budget was used up"
    Interrupted = "interrupted; the weights are those of the last update made"

    def __str__(self) -> str:
        return self.value


@dataclass
class History:
    """What happened: losses, evaluations, decisions.

    Attributes:
        losses: parts of the per-update loss, float64, in order (see `loss`).
        evaluations: one flat dict per evaluation: step, epoch, seconds, lr, loss, and the validation's metrics.
        journal: one dict per decision: what, value, why.
        path: positions (updates + 1, P) of a teaching problem, or None.
        undone: parts that were gone back from: the update it began with, and the losses from there on, the failing one last.
        failed: the loss of the update that was not made because it, or its gradient, was not finite; else None.
        follow: called with each decision and each evaluation as a JSON line, the moment it is known.
    """

    losses: list[np.ndarray] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    path: np.ndarray | None = None
    failed: float | None = None
    undone: list[tuple[int, np.ndarray]] = field(default_factory=list)
    follow: Callable[[str], None] | None = field(default=None, repr=False, compare=False)

    @property
    def loss(self) -> np.ndarray:
        """The mean loss of each update's batch, before the update; float64 (updates,), and of the failing one after them."""
        if len(self.losses) > 1:
            self.losses[:] = [np.concatenate(self.losses)]
        made = self.losses[0] if self.losses else np.empty(0)
        return made if self.failed is None else np.append(made, self.failed)

    def since(self, step: int) -> np.ndarray:
        """The losses of the updates made from `step` on, float64."""
        first, parts = self.steps, []
        for part in reversed(self.losses):
            first -= len(part)
            parts.append(part[max(step - first, 0) :])
            if first <= step:
                break
        return np.concatenate(parts[::-1]) if parts else np.empty(0)

    @property
    def steps(self) -> int:
        """Updates made."""
        return sum(map(len, self.losses))

    def note(self, what: str, value: Any, why: str) -> None:
        """Write a decision into the journal."""
        self.journal.append({"what": what, "value": value, "why": why})
        if self.follow is not None:
            self.follow(decision_line(self.journal[-1]))

    def measured(self, entry: dict[str, Any]) -> None:
        """Write an evaluation down."""
        self.evaluations.append(entry)
        if self.follow is not None:
            self.follow(evaluation_line(entry))

    def go_back(self, step: int) -> None:
        """Forget what came after update `step - 1`, which was undone; its losses are kept apart."""
        loss = self.loss
        self.undone.append((step, loss[step:].copy()))
        made, self.failed = loss[:step].copy(), None
        self.losses[:] = [made]
        self.evaluations[:] = [e for e in self.evaluations if e["step"] <= step]
        if self.path is not None:
            self.path = self.path[: step + 1]

    def columns(self) -> dict[str, list[Any]]:
        """The evaluations by column; what an evaluation lacks is None."""
        names = dict.fromkeys(k for e in self.evaluations for k in e)
        return {n: [e.get(n) for e in self.evaluations] for n in names}

    def to_pandas(self) -> Any:
        """The evaluations as a pandas frame, one row each.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            from fallline.errors import MissingExtra

            raise MissingExtra("pandas", "pandas", "History.to_pandas") from None
        return pandas.DataFrame(self.columns())

    def lines(self) -> Iterator[str]:
        """The history as JSON lines: decisions, then evaluations. NaN stands as NaN."""
        yield from map(decision_line, self.journal)
        yield from map(evaluation_line, self.evaluations)

    def __repr__(self) -> str:
        return f"History(updates={self.steps}, evaluations={len(self.evaluations)}, decisions={len(self.journal)})"


def decision_line(entry: Mapping[str, Any]) -> str:
    """A decision as a JSON line."""
    return json.dumps({"kind": "decision", **entry}, default=str)


def evaluation_line(entry: Mapping[str, Any]) -> str:
    """An evaluation as a JSON line; NaN stands as NaN."""
    return _encode({"kind": "evaluation", **entry})


_encode = json.JSONEncoder(default=float).encode  # made once: an epoch of a small table takes well under a millisecond


__all__ = ["Advance", "History", "Outcome", "Packed", "Settled", "State", "Trace", "check_packed", "decision_line", "evaluation_line"]
