"""Placing a schedule in a plan: how many steps each leg gets, and the pieces of its curve."""

from __future__ import annotations

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Length
from fallline.schedules.curves import Curve, Piece, Span, flat
from fallline.schedules.formulas import SHAPES
from fallline.schedules.kinds import Held, Leg, Scaled, Schedule, legs_of


def place(one: Schedule, span: Span) -> tuple[Piece, ...]:
    """The pieces of `one` from the local step 0 of `span` on."""
    if isinstance(one, Scaled):
        pieces = place(one.inner, span)
        return tuple(_scaled(p, one.factor) for p in pieces)
    if isinstance(one, Held):
        inner = Curve(span.length, place(one.inner, span))
        every = span.count(one.length)
        # The step index is exact in float64, so flooring it there loses nothing.
        return (Piece(0, lambda x: inner((np.floor(x / every) * every).astype(np.int64)), inner.constant),)
    return _chained(legs_of(one), span)


def _scaled(piece: Piece, factor: float) -> Piece:
    constant = None if piece.constant is None else factor * piece.constant
    return Piece(piece.first, lambda x: factor * piece.formula(x), constant)


def _chained(legs: tuple[Schedule, ...], span: Span) -> tuple[Piece, ...]:
    placed: list[Piece] = []
    first, begin = 0, span.begin
    sizes = _sizes(legs, span)
    lived = [k for k, size in enumerate(sizes) if size > 0] or [0]  # legs of no length leave no trace
    for k in lived:
        leg, inner = legs[k], Span(span.clock, sizes[k], span.peak, begin)
        made = SHAPES[leg.kind].piece(leg, inner) if isinstance(leg, Leg) else place(leg, inner)
        pieces = made if isinstance(made, tuple) else (made,)
        placed += [Piece(first + p.first, p.formula, p.constant) for p in pieces]
        begin = pieces[-1].at(sizes[k] - pieces[-1].first)
        first += sizes[k]
    if first < span.length:  # explicit lengths that end early: the end value is held
        placed.append(flat(begin if begin is not None else 0.0, first))
    return tuple(placed)


def _over(one: Schedule) -> Length | None:
    """The length a leg asks for, or None for the rest of the plan."""
    if isinstance(one, Leg):
        return one.get("over")
    return _over(one.inner) if isinstance(one, (Scaled, Held)) else None


def _sizes(legs: tuple[Schedule, ...], span: Span) -> list[int]:
    """Steps of each leg: lengths that are above zero get at least one; the one left out gets the rest."""
    lengths = [_over(leg) for leg in legs]
    open_legs = [k for k, length in enumerate(lengths) if length is None]
    if len(open_legs) > 1:
        named = " and ".join(repr(legs[k]) for k in open_legs)
        raise InvalidValue(f"{named} both lack a length, and only one leg can take the rest of the plan; give over= to the others")
    least = min(1, span.length)
    sizes = [0 if length is None or length.value == 0 else max(least, length.in_steps(span.clock)) for length in lengths]
    rest = span.length - sum(sizes)
    shares = [length.value for length in lengths if length is not None and length.unit == "fraction"]
    if rest < 0 and len(shares) == len(lengths) - len(open_legs) and sum(shares) <= 1 + 1e-12:
        sizes[sizes.index(max(sizes))] += rest  # only the rounding of the shares overran
        rest = 0
    if rest < 0:
        shown = " + ".join(f"{size} ({length!r})" for size, length in zip(sizes, lengths, strict=True) if length is not None)
        raise InvalidValue(
            f"the legs of the schedule take {shown} = {sum(sizes)} updates, but the plan has {span.length}; "
            "shorten them, use fraction(...), or train longer"
        )
    if open_legs:
        sizes[open_legs[0]] = rest
    return sizes
