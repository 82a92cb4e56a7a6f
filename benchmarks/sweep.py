"""A sweep of 32 learning rates x 3 seeds on digits beside scikit-learn's grid search over the same grid.

    python benchmarks/sweep.py [--rounds N] [--json FILE]

Both sides make 96 fits of multi-class logistic regression by SGD on the same training rows, for the same number of passes, one
row an update, with the same penalty, shuffled anew each pass, and score every fit by its accuracy on the same held-out rows.
Both have all cores: `fl.sweep` as it is, `GridSearchCV(SGDClassifier, n_jobs=-1)` with its processes started and its data
given before. `SGDClassifier` fits ten one-against-rest models where `fl.softmax` is one model. Compiling is not counted: the
first round is not. A third contender is our sweep with batches of 32 rows, which nobody could ask of `SGDClassifier`.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
from machine import about, alternating
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, PredefinedSplit, train_test_split

import fallline as fl

RATES, SEEDS, EPOCHS, PENALTY, TARGET = 32, 3, 20, 1e-4, 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--json", help="write the record to this file")
    given = arguments.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # scikit-learn's fits at the largest rates
    X, y = load_digits(return_X_y=True)
    X = X / 16
    train, held = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    fold = np.where(np.isin(np.arange(len(y)), held), 0, -1)
    rates = fl.log(1e-4, 10, RATES)
    peer = GridSearchCV(
        SGDClassifier(loss="log_loss", alpha=PENALTY, learning_rate="constant", max_iter=EPOCHS, tol=None),
        {"eta0": list(rates), "random_state": list(range(SEEDS))}, cv=PredefinedSplit(fold), refit=False, n_jobs=-1, error_score="raise",
    )  # fmt: skip
    found = {}

    def ours(size: int) -> None:
        problem = fl.softmax(X[train], y[train])
        plan = fl.Plan(problem, epochs=EPOCHS, batch_size=size, optimizer=fl.SGD(weight_decay=PENALTY))
        made = fl.sweep(problem, plan, {"lr": rates}, seeds=SEEDS, valid=(X[held], y[held]), metric="accuracy", progress=False)
        assert len(made.runs) == RATES * SEEDS
        found[f"sweep, batch {size}"] = made.best.mean, f"lr {made.best.values['lr']:.3g}, {made.told.choices[0]}"

    def theirs() -> None:
        peer.fit(X, y)
        scores = np.reshape(peer.cv_results_["mean_test_score"], (RATES, SEEDS)).mean(axis=1)
        found["grid search"] = float(scores.max()), f"eta0 {list(rates)[scores.argmax()]:.3g}"

    times = alternating({"sweep, batch 1": lambda: ours(1), "sweep, batch 32": lambda: ours(32), "grid search": theirs}, given.rounds)
    record = {"about": about("scikit-learn"), "case": f"digits, {RATES} rates x {SEEDS} seeds, {EPOCHS} passes", "target": TARGET, "others": times.others, "contenders": {}}
    for name in times.rounds:
        ratio, (score, how) = times.ratio("grid search", name), found[name]
        record["contenders"][name] = {"seconds": times.median(name), "rounds": times.rounds[name], "ratio": ratio, "spread": times.spread("grid search", name), "best_accuracy": score, "how": how}
        print(f"{name:16} {times.median(name):7.3f} s  {ratio:6.1f} times the speed of the grid search (spread {times.spread('grid search', name):.1f})  best accuracy {score:.4f} ({how})")
    if given.json:
        with open(given.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
