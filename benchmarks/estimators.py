"""GDClassifier beside SGDClassifier, River and Vowpal Wabbit: whole calls in turn in one process, with what each has learnt.

    python benchmarks/estimators.py [--only dense,ten,text,row,stream] [--json FILE]

A line holds the median time of a whole `fit` (or call, or pass) of either side, their ratio (the peer's over ours), the distance
between the quartiles of the rounds' own ratios, and the accuracy of both on rows held out: a faster fit that has learnt less
is none. Both sides may use both cores. Where nothing else is said, parameters are the defaults of each side: each stops by its own
rule. Rounds in which other programs were busy are made again (machine.py). River and Vowpal Wabbit are timed where they are installed.

The text: paragraphs of the files under /usr/share/doc, words hashed to 2^20 columns, and whether the file is a list of changes.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"

import argparse
import gzip
import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from machine import about, alternating
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

import fallline as fl
from fallline.sklearn import GDClassifier

warnings.filterwarnings("ignore")
DOCS, MOST = "/usr/share/doc", 30_000


@dataclass(frozen=True)
class Line:
    """One line of the table: seconds of a whole call, accuracies on rows held out."""

    case: str
    peer: str
    ours_s: float
    peer_s: float
    ratio: float
    spread: float
    target: float
    ours_accuracy: float
    peer_accuracy: float
    others: float
    disturbed: int
    note: str = ""


def beside(case: str, peer: str, ours: Callable[[], Any], theirs: Callable[[], Any], score: Callable[[Any], float], target: float, rounds: int, note: Callable[[Any, Any], str] | str = "") -> Line:
    """Time both in turn, and score what they have learnt."""
    left: dict[str, Any] = {}

    def kept(name: str, call: Callable[[], Any]) -> Callable[[], float]:
        def timed() -> float:
            began = time.perf_counter()
            left[name] = call()
            return time.perf_counter() - began

        return timed

    times = alternating({"ours": kept("ours", ours), "theirs": kept("theirs", theirs)}, rounds)
    said = note if isinstance(note, str) else note(left["ours"], left["theirs"])
    line = Line(
        case, peer, times.median("ours"), times.median("theirs"), times.ratio("theirs", "ours"), times.spread("theirs", "ours"), target,
        score(left["ours"]), score(left["theirs"]), times.others, times.disturbed, said,
    )  # fmt: skip
    mark = "ok  " if line.ratio >= target else "MISS"
    print(
        f"{mark} {case:62s} ours {line.ours_s:9.3g} s ({line.ours_accuracy:.4f})   {peer} {line.peer_s:9.3g} s ({line.peer_accuracy:.4f})   "
        f"ratio {line.ratio:6.2f} (target {target:g}, spread {line.spread:.2f})   {said}",
        flush=True,
    )
    return line


def passes(ours: Any, theirs: Any) -> str:
    return f"{ours.n_iter_} and {int(np.max(theirs.n_iter_))} passes"


# ------------------------------------------------------------------------------------------------------- images


def fashion() -> tuple[np.ndarray, ...] | None:
    from linear import fashion as load

    return load()


def dense() -> Iterator[Line]:
    data = fashion()
    if data is None:
        return
    X, y, Xt, yt = data
    for loss in ("log_loss", "hinge"):
        target, held = y == 6, yt == 6
        fit = lambda kind: lambda: kind(loss=loss, random_state=0).fit(X, target)
        yield beside(f"{loss}, a shirt or not, 60,000 x 784 float32", "SGDClassifier", fit(GDClassifier), fit(SGDClassifier), lambda m: m.score(Xt, held), 4, 2, passes)


def ten() -> Iterator[Line]:
    data = fashion()
    if data is None:
        return
    X, y, Xt, yt = data
    ours = lambda: GDClassifier(loss="log_loss", random_state=0).fit(X, y)
    theirs = lambda: SGDClassifier(loss="log_loss", random_state=0, n_jobs=2).fit(X, y)
    yield beside("log_loss, 10 classes, 60,000 x 784 float32 (softmax; theirs one-vs-rest)", "SGDClassifier", ours, theirs, lambda m: m.score(Xt, yt), 10, 1, passes)


# --------------------------------------------------------------------------------------------------------- text


def paragraphs(root: str) -> tuple[list[str], list[str]]:
    """Paragraphs of at least 20 words in lists of changes, and in all other files."""
    kinds: tuple[list[str], list[str]] = ([], [])
    for file in sorted(p for p in Path(root).rglob("*") if p.is_file()):
        try:
            raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        except (OSError, EOFError):
            continue
        changes = re.search("changelog|news|relnotes|changes|history", str(file).lower())
        kinds[0 if changes else 1].extend(p for p in re.split(r"\n\s*\n", raw[:400_000].decode("utf8", "ignore")) if len(p.split()) >= 20)
    return kinds


def texts() -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Hashed words as float32 CSR with their labels, four fifths to learn from."""
    draw, parts = random.Random(0), []
    for part in paragraphs(DOCS):
        part = list(dict.fromkeys(part))
        draw.shuffle(part)
        parts.append(part)
    count = min(MOST, *map(len, parts))
    X = HashingVectorizer(n_features=2**20, alternate_sign=False, dtype=np.float32).transform(parts[0][:count] + parts[1][:count])
    y, order = np.repeat([1, 0], count), np.random.default_rng(0).permutation(2 * count)
    X, y, n = X[order].tocsr(), y[order], 2 * count * 4 // 5
    print(f"text: {2 * count:,} paragraphs, {X.nnz / (2 * count):.0f} words in each, {int((X.getnnz(0) > 0).sum()):,} columns in use", flush=True)
    return X[:n], y[:n], X[n:], y[n:]


def text() -> Iterator[Line]:
    X, y, Xt, yt = texts()
    score = lambda m: m.score(Xt, yt)
    for case, target, options in (
        ("log_loss, l2", 1.5, {"loss": "log_loss"}),
        ("log_loss, l2, 10 passes", 1.5, {"loss": "log_loss", "alpha": 1e-5, "max_iter": 10, "tol": None}),
        ("hinge, l2, 10 passes", 1.5, {"loss": "hinge", "alpha": 1e-5, "max_iter": 10, "tol": None}),
        ("log_loss, l1", 3, {"loss": "log_loss", "penalty": "l1", "alpha": 1e-5}),
        ("log_loss, l1, 10 passes", 3, {"loss": "log_loss", "penalty": "l1", "alpha": 1e-5, "max_iter": 10, "tol": None}),
        ("hinge, l1, 10 passes", 3, {"loss": "hinge", "penalty": "l1", "alpha": 1e-5, "max_iter": 10, "tol": None}),
    ):
        fit = lambda kind: lambda: kind(random_state=0, **options).fit(X, y)
        sparse = lambda a, b: passes(a, b) + (f"; {(a.coef_ != 0).mean():.2%} and {(b.coef_ != 0).mean():.2%} of coefficients not 0" if "l1" in case else "")
        yield beside(f"{case}; CSR float32, {X.shape[0]:,} texts, 2^20 columns", "SGDClassifier", fit(GDClassifier), fit(SGDClassifier), score, target, 3, sparse)


# ------------------------------------------------------------------------------------------- one row, many rows


def rows(n: int, d: int = 20) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    X = r.standard_normal((n, d))
    return X, (X @ r.standard_normal(d) + r.standard_normal(n) > 0).astype(int)


def accuracy(coef: Any, intercept: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(((X @ np.ravel(coef) + np.ravel(intercept)[0] > 0) == y).mean())


def row() -> Iterator[Line]:
    """One row in each call, handed over in Python."""
    X, y = rows(24_000)
    X, y, Xt, yt = X[:4000], y[:4000], X[4000:], y[4000:]

    def partial(model: Any) -> Callable[[], Any]:
        model.partial_fit(X[:1], y[:1], classes=[0, 1])

        def run() -> Any:
            for i in range(1, 1000):
                model.partial_fit(X[i : i + 1], y[i : i + 1])
            return model

        return run

    def online() -> Any:
        for i in range(1, 1000):
            stream.learn(X[i], int(y[i]))
        return stream

    stream = fl.online("logistic", features=20, optimizer=fl.SGD(0.05, weight_decay=1e-4), dtype="float64")
    score = lambda m: accuracy(m.coef_, m.intercept_, Xt, yt) if hasattr(m, "coef_") else accuracy(m.coef, m.intercept, Xt, yt)
    each = lambda a, b: "999 rows of 20 numbers, one a call"
    theirs = lambda: partial(SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05))
    yield beside("one row a call, partial_fit", "SGDClassifier", partial(GDClassifier(loss="log_loss")), theirs(), score, 20, 5, each)
    yield beside("one row a call, partial_fit, lr=0.05", "SGDClassifier", partial(GDClassifier(loss="log_loss", lr=0.05)), theirs(), score, 20, 5, each)
    yield beside("one row a call, Online.learn, lr=0.05", "SGDClassifier", online, theirs(), score, 80, 5, each)


def stream() -> Iterator[Line]:
    """Rows in memory, each learnt from once, in order, by the same law: w = w - 0.05 * slope * x."""
    X, y = rows(120_000)
    X, y, Xt, yt = X[:100_000], y[:100_000], X[100_000:], y[100_000:]
    labels = y.tolist()

    def together() -> Any:
        return GDClassifier(loss="log_loss", lr=0.05, penalty=None).partial_fit(X, y, classes=[0, 1])

    def one_by_one() -> Any:
        model = fl.online("logistic", features=20, optimizer=fl.SGD(0.05), dtype="float64")
        for x, label in zip(X, labels, strict=True):
            model.learn(x, label)
        return model

    def safely() -> Any:
        model = fl.online("logistic", features=20)
        for x, label in zip(X, labels, strict=True):
            model.learn(x, label)
        return model

    def score(model: Any) -> float:
        if hasattr(model, "coef_"):
            return accuracy(model.coef_, model.intercept_, Xt, yt)
        if hasattr(model, "coef"):
            return accuracy(model.coef, model.intercept, Xt, yt)
        told = [model.predict("| " + " ".join(f"f{j}:{v:.17g}" for j, v in enumerate(x))) for x in Xt]
        return float(((np.array(told) > 0) == yt).mean())

    for peer, run, target in (("River", river(X, labels), 50), ("Vowpal Wabbit", vowpal(X, labels), 3)):
        if run is None:
            print(f"skip {peer}: it is not installed")
            continue
        yield beside("100,000 rows of 20 numbers in memory: partial_fit in one call", peer, together, run, score, target, 2, "theirs learns row by row, from rows made ready before")
        yield beside("the same rows, one a call: Online.learn", peer, one_by_one, run, score, 1, 2, "both a call for each row")
        yield beside("the same rows, one a call: safe steps", peer, safely, run, score, 1, 2, "both a call for each row")


def river(X: np.ndarray, y: list[int]) -> Callable[[], Any] | None:
    try:
        from river import linear_model, optim
    except ImportError:
        return None
    made = [{j: float(v) for j, v in enumerate(x)} for x in X]

    def run() -> Any:
        model = linear_model.LogisticRegression(optimizer=optim.SGD(0.05), intercept_lr=0.05)
        for x, label in zip(made, y, strict=True):
            model.learn_one(x, label)
        return Weights(np.array([model.weights[j] for j in range(X.shape[1])]), np.array([model.intercept]))

    return run


def vowpal(X: np.ndarray, y: list[int]) -> Callable[[], Any] | None:
    try:
        from vowpalwabbit import Workspace
    except ImportError:
        return None
    model = Workspace("--loss_function logistic --sgd --power_t 0 -l 0.05 --quiet")  # one for all rounds: examples belong to it
    made = [model.parse(f"{2 * label - 1} | " + " ".join(f"f{j}:{v:.17g}" for j, v in enumerate(x))) for x, label in zip(X, y, strict=True)]

    def run() -> Any:
        for example in made:
            model.learn(example)
        return model

    return run


@dataclass(frozen=True)
class Weights:
    """What a peer has learnt."""

    coef: np.ndarray
    intercept: np.ndarray


CASES = {"dense": dense, "ten": ten, "text": text, "row": row, "stream": stream}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--json")
    parser.add_argument("--patience", type=int, default=machine.PATIENCE, help="rounds that are tried for each that is wanted")
    given = parser.parse_args()
    machine.PATIENCE = given.patience
    lines = [line for name in given.only.split(",") for line in CASES[name]()]
    if given.json:
        record = {"command": f"python benchmarks/estimators.py --only {given.only}", "machine": about("scikit-learn", "river", "vowpalwabbit"), "lines": [asdict(line) for line in lines]}
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
