"""What schedules say when they cannot stand."""

from __future__ import annotations

import pytest

from fallline.errors import InvalidValue
from fallline.lengths import Clock, epochs, steps
from fallline.schedules import (
    constant,
    cosine,
    custom,
    exponential,
    linear,
    one_cycle,
    schedule,
    step_decay,
    warmup,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", r"no schedule 'cosin'; did you mean 'cosine'\?"),
        ("cosine(too=1)", r"no argument of cosine 'too'; did you mean 'to'\?"),
        ("step_decay(0.1, every=30)", r"the length 30 has no unit; write 30 epochs, 30 steps, or a percentage"),
        ("warmup(0.05)", r"the length 0.05 has no unit"),
        ("warmup(5%) >", r"expected the name of a schedule, found the end"),
        ("cosine(1)", r"expected a named argument of cosine"),
        ("cosine(to=0, to=1)", r"got to twice"),
        ("ema", r"ema needs a value, such as ema\(decay=...\)"),
        ("cosine)", r"expected '>' or the end, found '\)'"),
        ("warmup(500%)", r"expected a share between 0 and 1"),
        ("step_decay(0.1)", r"neither of every= and at="),
        ("custom(os:system)", r"nothing is imported for a text"),
        ("", r"expected a text such as"),
    ],
)
def test_texts(text: str, message: str):
    with pytest.raises(InvalidValue, match=message):
        schedule(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step_decay(0.1, every=30), r"every=30\): expected a length with its unit, such as steps\(30\) or epochs\(30\)"),
        (lambda: exponential(), r"neither of rate= and gamma="),
        (lambda: exponential(gamma=0), r"above zero"),
        (lambda: cosine(to=float("nan")), r"cosine\(to=nan\): expected a finite number"),
        (lambda: warmup() > cosine(), r"write first\.then\(second\)"),
        (lambda: warmup().then(0.1), r"constant\(0\.1\)"),
        (lambda: cosine().bind(Clock(5)), r"no peak to start from; write cosine\(\.\.\., start=0\.1\)"),
        (lambda: one_cycle().bind(Clock(1), 1.0), r"one-cycle needs at least one update up and one down"),
        (lambda: cosine().then(linear()).bind(Clock(5), 1.0), r"both lack a length"),
        (lambda: warmup(steps(8)).then(linear(over=steps(4))).bind(Clock(10), 1.0), r"8 \(steps\(8\)\) \+ 4 .* = 12 updates, but the plan has 10"),
        (lambda: warmup(epochs(1)).bind(Clock(10), 1.0), r"does not know its rows; use steps"),
        (lambda: custom(lambda x, n: 1.0).to_json(), r"cannot be written to JSON"),
        (lambda: constant("0.1"), r"expected a finite number"),
    ],
)
def test_values(make, message: str):
    with pytest.raises(InvalidValue, match=message):
        make()
