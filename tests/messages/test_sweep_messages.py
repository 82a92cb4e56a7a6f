"""What a sweep says of what it cannot do: the exact words."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl


def made(**more):
    r = np.random.default_rng(0)
    X = r.standard_normal((160, 5))
    y = (X[:, 0] + 0.5 * r.standard_normal(160) > 0).astype(int)
    problem = fl.logistic(X[:120], y[:120])
    plan = fl.Plan(problem, epochs=3, batch_size=16, seed=4, optimizer=fl.SGD(momentum=0.5))
    return problem, plan, {"valid": (X[120:], y[120:]), "progress": False, **more}


def test_the_folder_is_refused_where_it_is_another_sweeps_or_damaged(tmp_path):
    problem, plan, more = made()
    folder = tmp_path / "sweep"
    fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, seeds=2, save=folder, **more)
    whole = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text(whole[0])
    with pytest.raises(fl.RunUnfinished, match=r"holds this sweep, with 1 of its 4 runs: continue it with resume=True \(--resume\), or choose another folder"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, seeds=2, save=folder, **more)
    with pytest.raises(fl.RunExists, match=r"holds another sweep \(over differs\)"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.3]}, seeds=2, save=folder, resume=True, **more)
    with pytest.raises(fl.RunExists, match=r"holds another sweep \(plan, seeds differ\)"):
        fl.sweep(problem, plan.with_lr(3), {"lr": [0.1, 0.2]}, seeds=3, save=folder, resume=True, **more)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(fl.RunExists, match="holds no sweep"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, save=tmp_path / "mine", resume=True, **more)
    part = folder / "part-0001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(fl.RunDamaged, match="does not match its hash"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, seeds=2, save=folder, resume=True, **more)
    (folder / "runs.jsonl").write_text('{"kind": "run"}\n')
    with pytest.raises(fl.RunDamaged, match="has a line that is not of runs"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, seeds=2, save=folder, resume=True, **more)


MESSAGES = [
    ({}, {}, 'over= names what is tried, such as over={"lr": fl.log(1e-4, 1, 9), "momentum": [0, 0.9]}; it is empty'),
    ({"momentun": [0]}, {}, "no SGD hyperparameter 'momentun'; did you mean 'momentum'?"),
    ({"seed": [1]}, {}, "over= holds 'seed': give the number of seeds as seeds=3; they begin with the plan's"),
    ({"lr": []}, {}, "over['lr'] holds no value: give a list, such as [0, 0.9], or fl.log(1e-4, 1, 9)"),
    ({"lr": [0, 0.1]}, {}, "over['lr'] holds 0: a rate of 0 never moves; expected numbers above 0"),
    ({"lr": [0.1], "batch_size": [0]}, {}, "the combination batch_size=0, lr=0.1 cannot stand: Batches(size=0): expected a whole number of rows, 1 or more"),
    ({"lr": [0.1], "batch_size": [500]}, {}, "the combination batch_size=500, lr=0.1 cannot stand: a batch of 500 rows was asked for, but the data have only 120 rows"),
    ({"lr": [0.1], "epochs": [0]}, {}, "the combination epochs=0, lr=0.1 cannot stand: epochs=0: expected a finite number above 0"),
    ({"lr": [-1]}, {}, "the combination lr=-1 cannot stand: SGD(lr=-1): expected a number of at least 0"),
    ({"lr": [float("nan")]}, {}, "the combination lr=nan cannot stand: SGD(lr=nan): expected a number of at least 0"),
    ([("lr", 0.1)], {}, "over= names what is tried"),
    ({"lr": [0.1]}, {"seeds": True}, "seeds=True: expected a whole number of at least 1"),
    ({"lr": [0.1]}, {"processes": 0}, "processes=0: expected a whole number of at least 1"),
    ({"lr": [0.1, 0.1]}, {}, "over['lr'] holds 0.1 twice: give each value once"),
    ({"lr": "1e-4..1"}, {}, "values '1e-4..1': expected LOW..HIGH:COUNT, such as 1e-4..1:9 (log scale), or 0.1..0.9:5:linear"),
    ({"lr": [0.1], "momentum": [2]}, {}, "the combination lr=0.1, momentum=2 cannot stand: SGD(momentum=2): expected a number of at least 0 and below 1"),
    ({"momentum": [0]}, {}, "lr is auto and not swept: give over={'lr': fl.log(1e-4, 1, 9), ...}, or plan.with_lr(0.1)"),
    ({"lr": [0.1], "epochs": [1], "steps": [3]}, {}, "over= holds epochs and steps: they say the same thing, give one of them"),
    ({"lr": [0.1], "optimizer": ["sgd"]}, {}, "over['optimizer'] holds 'sgd': expected rules such as fl.SGD(lr=0.1)"),
    ({"lr": [0.1], "optimizer": [fl.SGD(), fl.Adam()], "momentum": [0]}, {}, "no Adam hyperparameter 'momentum';"),
    ({"lr": [0.1]}, {"seeds": 0}, "seeds=0: expected a whole number of at least 1"),
    ({"lr": [0.1]}, {"budget": 0}, "budget=0: expected a number of full runs above 0"),
    ({"lr": [0.1, 0.2, 0.3]}, {"budget": 0.001}, "budget=0.001 full runs is too little for 3 combinations: expected at least 1.23, or fewer values"),
    ({"lr": [0.1]}, {"metric": "acuracy"}, "no metric 'acuracy'; did you mean 'accuracy'?"),
    ({"lr": [0.1]}, {"metric": "accuracy", "valid": None}, "metric='accuracy' is of held-out rows: give valid=(X_valid, y_valid)"),
]


@pytest.mark.parametrize(("over", "changes", "message"), MESSAGES)
def test_messages(over, changes, message):
    problem, plan, more = made(**changes)
    with pytest.raises(fl.InvalidValue) as error:
        fl.sweep(problem, plan, over, **more)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("values", ["1..1:3", "0..1:3", "2..1:3", "1..2:1", "a..2:3", "1..2:3:even", "1,,2", "", "1..2:3,4"])
def test_values_that_cannot_be_read(values):
    with pytest.raises(fl.InvalidValue, match="values "):
        fl.values(values)


def test_a_plan_of_other_rows():
    problem, _plan, more = made()
    with pytest.raises(fl.PlanMismatch, match="the plan is for 160 rows and the problem has 120: make it with"):
        fl.sweep(problem, fl.Plan(rows=160, epochs=1, batch_size=16, optimizer=fl.SGD()), {"lr": [0.1]}, **more)


def test_pictures_of_what_was_not_tried():
    problem, plan, more = made()
    found = fl.sweep(problem, plan, {"lr": [0.1, 0.2], "nesterov": [False, True]}, **more)
    with pytest.raises(fl.UnknownName, match="no name in over 'momentum'"):
        found.plot(x="momentum")
    with pytest.raises(fl.InvalidValue, match=r"plot\(x='nesterov'\): its values are not numbers; put it on the other axis, as plot\(y='nesterov'\)"):
        found.plot(x="nesterov")
    with pytest.raises(fl.InvalidValue, match="expected two different names"):
        found.plot(x="lr", y="lr")
    with pytest.raises(fl.UnknownName, match="no column 'loos'; did you mean 'loss'"):
        found.table()["loos"]
