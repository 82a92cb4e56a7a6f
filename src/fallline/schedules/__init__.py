"""Schedules: frozen values that are closed-form functions of the update index.

Update t, t = 0 .. T-1, uses `schedule(t)`; reading t = T is legal and gives the end value. A schedule is made of
legs that follow each other (`.then()`), each with its own formula in the leg's local step x = 0 .. L. Nothing is
carried from one step to the next, so any cut of a run, and any order of reading, gives the same bits.

`constructors` makes legs, `kinds` joins, scales and holds them, `placing` fits them into a plan, `formulas` computes them,
`curves` are read. Strings are read and printed by `fallline.schedules.text`.
"""

from fallline.schedules.constructors import (
    constant,
    cosine,
    custom,
    ema,
    exponential,
    inverse_scaling,
    linear,
    one_cycle,
    one_cycle_momentum,
    one_minus_sqrt,
    optimal,
    polyak,
    step_decay,
    warmup,
)
from fallline.schedules.curves import Curve, Piece, Span
from fallline.schedules.formulas import SHAPES
from fallline.schedules.kinds import Chain, Held, Hyper, Leg, Scaled, Schedule, curve_of, make_leg, schedule
from fallline.schedules.kinds import make_leg as _make
from fallline.schedules.values import Times, Value, number_text, times

__all__ = [
    "SHAPES", "Chain", "Curve", "Held", "Hyper", "Leg", "Piece", "Scaled", "Schedule", "Span", "Times", "Value", "_make", "constant",
    "cosine", "curve_of", "custom", "ema", "exponential", "inverse_scaling", "linear", "make_leg", "number_text", "one_cycle",
    "one_cycle_momentum", "one_minus_sqrt", "optimal", "polyak", "schedule", "step_decay", "times", "warmup",
]  # fmt: skip
