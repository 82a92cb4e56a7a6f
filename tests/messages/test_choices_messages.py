"""What is said where choices cannot stand: what was given, what was expected, what to do."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.advice.weight_decay import find_weight_decay
from fallline.charts import batch_size
from fallline.errors import InvalidValue
from fallline.fitting import choosing

PLAN = fl.Plan(rows=300, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.1))


def refusal(call) -> str:
    with pytest.raises(InvalidValue) as found:
        call()
    return str(found.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": "fast"}, "lr='fast': expected a number, or fl.auto"),
        ({"weight_decay": True}, "weight_decay=True: expected a number, or fl.auto"),
        (
            {"lr": 0.1, "optimizer": fl.SGD(lr=0.2)},
            "lr=0.1 beside optimizer=SGD(lr=0.2): two learning rates; leave one out",
        ),
        (
            {"lr": 0.1, "plan": PLAN},
            "lr=0.1 beside plan=: a plan is carried out as it stands; give plan.with_lr(...) or leave one out",
        ),
    ],
)
def test_choices_that_cannot_stand(given, said):
    assert refusal(lambda: fl.Choices(**given)) == said


def test_a_rule_says_itself_what_its_decay_may_be():
    X = np.random.default_rng(0).standard_normal((50, 2))
    assert "weight_decay=-1" in refusal(lambda: fl.fit(fl.least_squares(X, X[:, 0]), weight_decay=-1, progress=False))


def test_values_that_are_no_decays():
    X = np.random.default_rng(0).standard_normal((50, 2))
    problem = fl.least_squares(X, X[:, 0])
    plan = fl.Plan(problem, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.1))
    assert refusal(lambda: find_weight_decay(problem, plan, values=[-0.1, 1])) == "find_weight_decay(values=[-0.1, 1]): expected numbers of 0 or more"


def test_the_verdict_of_a_path_reads_as_a_sentence():
    values, score, error = np.array([0.0, 0.001, 0.1]), np.array([0.5, 0.4, 0.7]), np.array([0.02, 0.0, 0.1])
    from fallline.advice.weight_decay import verdict

    told = "the loss on 90 rows, each out of its fold of 5,"
    assert verdict(values, score, error, 0.001, told, 100, 100) == (
        "weight decay 0.001: the loss on 90 rows, each out of its fold of 5, is 0.4, the lowest of 3 values from 0 to 0.1 (none: 0.5); "
        "no other does as well within a standard error"
    )
    assert verdict(values, score, 10 * error, 0.001, told, 100, 900).endswith(
        "(none: 0.5), over 100 updates in place of 900; 0 to 0.1 do as well within a standard error"
    )
    assert verdict(values, np.full(3, np.inf), error, None, told, 100, 100) == "every one of 3 values from 0 to 0.1 diverged within 100 updates"


def test_where_every_decay_diverges_the_usual_one_stays_and_is_said_to():
    X = np.random.default_rng(0).standard_normal((50, 2))
    made = choosing.chosen(fl.least_squares(X, X[:, 0]), fl.Choices(epochs=5, lr=1e9))
    line = next(n for n in made.notes if n["what"] == "weight decay")
    assert line["value"] == 1e-4 and "diverged" in line["why"] and line["why"].endswith("; this is the usual value")


def test_a_picture_of_nothing():
    assert refusal(lambda: batch_size([8], chosen=8, steps=None)) == "batch_size(steps=None): without updates there must be rates or noise to draw"
