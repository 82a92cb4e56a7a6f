"""What a search for the batch size would cost and gain in a fit of the estimators, beside their fixed law: 1, and 32 with momentum.

    python benchmarks/estimator_batches.py [--only digits,cancer,fashion,text] [--json FILE]

A line is one whole fit at one batch size: seconds, passes, the accuracy on rows held out (median time of three fits of the small data,
one of the large). The last of each data set says what `find_batch_size` answers for a plan of the passes that the fit made, and how
long it takes; the fit itself would come on top.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from estimators import fashion, texts
from machine import about
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

import fallline as fl
from fallline.sklearn import GDClassifier

warnings.filterwarnings("ignore")
SIZES = {0.0: ("auto", 4, 8, 16, 32, 128), 0.9: ("auto", 4, 8, 128)}


@dataclass(frozen=True)
class Line:
    """One fit, or one search."""

    data: str
    momentum: float
    batch_size: Any
    seconds: float
    passes: int
    accuracy: float


def data() -> dict[str, Any]:
    small = lambda load: train_test_split(*load(return_X_y=True), test_size=0.25, random_state=0)

    def order(X: Any, Xt: Any, y: Any, yt: Any) -> tuple[Any, ...]:
        return X, y, Xt, yt

    return {"digits": lambda: order(*small(load_digits)), "cancer": lambda: order(*small(load_breast_cancer)), "fashion": fashion, "text": texts}


def lines(name: str, X: Any, y: Any, Xt: Any, yt: Any) -> Iterator[Line]:
    rounds = 3 if X.shape[0] < 10_000 else 1
    for momentum, sizes in SIZES.items():
        passes = 1
        for size in sizes:
            model, seconds = GDClassifier(loss="log_loss", random_state=0, batch_size=size, momentum=momentum), []
            model.fit(X[:1000], y[:1000])  # compiled
            for _ in range(rounds):
                began = time.perf_counter()
                model.fit(X, y)
                seconds.append(time.perf_counter() - began)
            passes = model.n_iter_ if size == "auto" else passes
            yield Line(name, momentum, size, float(np.median(seconds)), model.n_iter_, model.score(Xt, yt))
        if momentum == 0 and not hasattr(X, "indptr"):
            spread = X.std(axis=0)
            seen = ((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(X.dtype)
            problem = fl.logistic(seen, y) if len(np.unique(y)) == 2 else fl.softmax(seen, y)
        elif momentum == 0:
            problem = fl.logistic(X, y)
        plan = fl.Plan(problem, epochs=passes, batch_size=32 if momentum else 1, optimizer=fl.SGD(lr=fl.auto, momentum=momentum))
        began = time.perf_counter()
        found = fl.find_batch_size(problem, plan)
        yield Line(name, momentum, f"found: {found.batch_size}", time.perf_counter() - began, passes, float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits,cancer,fashion,text")
    parser.add_argument("--json")
    given, told = parser.parse_args(), []
    for name in given.only.split(","):
        loaded = data()[name]()
        for line in lines(name, *loaded) if loaded is not None else ():
            print(f"{line.data:8} momentum {line.momentum:g}  batch size {line.batch_size!s:12} {line.seconds:8.3f} s  {line.passes:4} passes  accuracy {line.accuracy:.4f}", flush=True)
            told.append(line)
    if given.json:
        record = {"command": f"python benchmarks/estimator_batches.py --only {given.only}", "machine": about("scikit-learn"), "lines": [asdict(line) for line in told]}
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
