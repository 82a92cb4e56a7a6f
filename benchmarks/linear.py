"""The linear engine beside its peers: one process, the same mathematics, alternating runs, medians and ratios.

    python benchmarks/linear.py [--quick] [--json FILE]

Each case prints: ours and the peer's time (per row or per step), the ratio peer/ours, the target, and how far ours is
from the limit measured in the same run: bytes of the data over the read bandwidth of the cores used, or
multiply-adds over the rate of a fused multiply-add loop, whichever takes longer. Compile time stands apart. Our runs
keep the loss of every step; both sides shuffle, with a constant learning rate and the same weight decay, on one
thread unless the case says otherwise.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"  # NumPy's full-batch peer has both cores; all other peers run on one thread of their own

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numba
import numpy as np
import scipy.sparse as sp
from machine import about
from sklearn.linear_model import SGDClassifier
from threadpoolctl import threadpool_limits

import fallline as fl
from fallline.engines.linear import LinearEngine
from fallline.history import State

warnings.filterwarnings("ignore", category=UserWarning)
FLAGS = {"reassoc", "contract", "nsz", "arcp"}


@dataclass(frozen=True)
class Result:
    """One line of the table; times in nanoseconds per unit (row or step)."""

    case: str
    peer: str
    ours_ns: float
    peer_ns: float
    ratio: float
    target: float
    limit_ns: float
    of_limit: float
    compile_s: float
    spread: float
    note: str = ""


# -------------------------------------------------------------------------------------------------- the limits


@numba.njit(nogil=True, fastmath=FLAGS)
def _read(x, times):
    total = np.float32(0)
    for _ in range(times):
        for i in range(x.shape[0]):
            total += x[i]
    return total


@numba.njit(nogil=True, fastmath=FLAGS)
def _multiply_add(x, times):
    quarter = x.shape[0] // 4  # four sums side by side: one alone would wait for its own latency
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for _ in range(times):
        for i in range(quarter):
            a += x[i] * x[i]
            b += x[i + quarter] * x[i + quarter]
            c += x[i + 2 * quarter] * x[i + 2 * quarter]
            d += x[i + 3 * quarter] * x[i + 3 * quarter]
    return a + b + c + d


def bandwidth(data: np.ndarray, threads: int) -> float:
    """Bytes per second when reading this very array on so many threads: from whatever cache holds it."""
    flat = data.reshape(-1)[: data.size // threads * threads].view(np.float32)
    parts = np.array_split(flat, threads)
    with ThreadPoolExecutor(threads) as pool:
        times = [max(1, 200_000_000 // flat.nbytes)] * threads
        list(pool.map(_read, parts, times))
        best = min(_timed(lambda: list(pool.map(_read, parts, times))) for _ in range(5))
    return flat.nbytes * times[0] / best


def rate(threads: int) -> float:
    """Multiply-adds per second of a loop that stays in the first cache."""
    x = np.ones(4096, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: _multiply_add(x, 10), range(threads)))
        best = min(_timed(lambda: list(pool.map(lambda _: _multiply_add(x, 20_000), range(threads)))) for _ in range(3))
    return threads * 20_000 * len(x) / best


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _rested(call: Callable[[], object]) -> float:
    """A time taken after a pause: for some milliseconds after a call, a BLAS keeps its idle threads spinning."""
    time.sleep(0.2)
    return _timed(call)


# ------------------------------------------------------------------------------------------------ side by side


def beside(case: str, peer: str, ours: Callable, theirs: Callable, units: int, target: float, limit_ns: float, repeats: int, note: str = "") -> Result:
    """Time both in turn, `repeats` times; the first call of ours compiles and is reported apart."""
    first = _timed(ours)
    theirs()
    pairs = [(_rested(ours), _rested(theirs)) for _ in range(repeats)]
    a, b = (statistics.median(p[i] for p in pairs) / units * 1e9 for i in (0, 1))
    ratios = [t / o for o, t in pairs]
    result = Result(case, peer, a, b, statistics.median(ratios), target, limit_ns, a / limit_ns, max(0.0, first - a * units / 1e9), max(ratios) - min(ratios), note)
    mark = "ok  " if result.ratio >= target else "MISS"
    print(
        f"{mark} {case:58s} ours {a:12,.0f} ns   {peer} {b:12,.0f} ns   ratio {result.ratio:6.2f} (target {target:g}, spread {result.spread:.2f})"
        f"   {result.of_limit:5.1f} x limit ({limit_ns:,.0f} ns)   compile {result.compile_s:.1f} s {note}",
        flush=True,
    )
    return result


def descent(problem, rule, epochs: int, batch) -> Callable[[], object]:
    """Our whole descent with its loss history, order, rows and kernel, in segments of about 50 ms as `train` cuts them."""
    engine = LinearEngine(problem)
    plan = fl.Plan(problem, epochs=epochs, batch_size=batch, optimizer=rule)
    segment = max(1, int(50_000_000 / nanoseconds_of_a_step(problem, plan)))

    def run():
        state, step = State.begin(problem.start(), dtype=np.float32), segment
        for a in range(0, plan.steps, step):
            result = engine.advance(state, plan.segment(a, min(plan.steps, a + step), problem.layout))
            assert result.stopped_at is None
            state = result.state
        return state

    return run


def nanoseconds_of_a_step(problem, plan) -> float:
    """Nanoseconds of a step, roughly: 20 and a tenth for each number that it touches."""
    size = plan.batch_size.size or problem.rows
    numbers = problem.X.size if isinstance(problem.X, np.ndarray) else problem.X.nnz
    return size * (20 + 0.1 * numbers / problem.rows * problem.outputs)


def sklearn(X, y, epochs: int, lr: float, alpha: float, jobs: int | None = None) -> Callable[[], object]:
    def run():
        return SGDClassifier(
            loss="log_loss", learning_rate="constant", eta0=lr, alpha=alpha, max_iter=epochs, tol=None, shuffle=True, n_jobs=jobs, random_state=0
        ).fit(X, y)

    return run


def dense(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    X = r.standard_normal((n, d), dtype=np.float32)
    return X, (X[:, 0] + r.standard_normal(n) > 0).astype(int)


def one_at_a_time(repeats: int) -> list[Result]:
    out = []
    for n, d, epochs, target in ((25_000, 20, 60, 6), (7_500, 100, 60, 6), (750, 1000, 100, 6), (40_000, 1000, 3, 4)):
        X, y = dense(n, d)
        limit = max(X[0].nbytes / bandwidth(X, 1), 2 * d / rate(1)) * 1e9
        ours = descent(fl.logistic(X, y), fl.SGD(0.001, weight_decay=1e-4), epochs, 1)
        place = "in cache" if X.nbytes < 1e7 else f"{X.nbytes / 1e6:.0f} MB"
        out.append(beside(f"logistic, dense float32, one at a time, d = {d}, {place}", "SGDClassifier", ours, sklearn(X, y, epochs, 0.001, 1e-4), n * epochs, target, limit, repeats))
    return out


def fashion() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    from fallline.tables.builtin import builtin

    try:
        source, tests = builtin("fashion-mnist")
    except fl.InvalidValue as missing:
        print(f"skip the Fashion-MNIST cases: {missing}")
        return None
    X = np.stack([source.table.column(i).to_numpy() for i in range(784)], axis=1).astype(np.float32) / 255
    y = source.table.column("target").to_numpy()
    return np.ascontiguousarray(X[:-tests]), y[:-tests], np.ascontiguousarray(X[-tests:]), y[-tests:]


def softmax_one_at_a_time(data, repeats: int) -> Result:
    X, y, X_test, y_test = data
    epochs, lr, decay = 2, 0.002, 1e-5
    problem = fl.softmax(X, y)
    ours, theirs = descent(problem, fl.SGD(lr, weight_decay=decay), epochs, 1), sklearn(X, y, epochs, lr, decay, jobs=2)
    weights = problem.layout.split(ours().registers().w)
    accuracy = float((problem.predict(weights, X_test) == y_test).mean())
    peer = float(theirs().score(X_test, y_test))
    limit = max(X[0].nbytes / bandwidth(X, 1), 2 * 7840 / rate(1)) * 1e9
    note = f"accuracy {accuracy:.4f} beside {peer:.4f}"
    return beside("Fashion-MNIST softmax, one at a time (peer: n_jobs=2)", "SGDClassifier", ours, theirs, len(X) * epochs, 10, limit, min(repeats, 3), note)


def softmax_batches(data, repeats: int) -> Result | None:
    try:
        import torch
    except ImportError:
        print("skip the PyTorch case: torch is not installed")
        return None
    torch.set_num_threads(1)
    X, y, *_ = data
    X, y = X[:20_000], y[:20_000]
    Xt, yt = torch.from_numpy(X), torch.from_numpy(y)

    def theirs():
        w, b = torch.zeros(784, 10, requires_grad=True), torch.zeros(10, requires_grad=True)
        v, vb, losses = torch.zeros(784, 10), torch.zeros(10), []
        order = torch.randperm(len(Xt))
        for a in range(0, len(Xt), 64):
            rows = order[a : a + 64]
            loss = torch.nn.functional.cross_entropy(Xt[rows] @ w + b, yt[rows])
            gw, gb = torch.autograd.grad(loss, (w, b))
            with torch.no_grad():
                v.mul_(0.9).add_(gw)
                vb.mul_(0.9).add_(gb)
                w.sub_(v, alpha=0.01)
                b.sub_(vb, alpha=0.01)
            losses.append(loss.detach())
        return torch.stack(losses)

    ours = descent(fl.softmax(X, y), fl.SGD(0.01, 0.9), 1, 64)
    steps = -(-len(X) // 64)
    limit = 64 * max(X[0].nbytes / bandwidth(X, 1), 2 * 7840 / rate(1)) * 1e9
    return beside("softmax, Fashion-MNIST, batch 64, momentum 0.9 (per step)", "PyTorch loop", ours, theirs, steps, 4, limit, repeats)


def sparse_rows(repeats: int) -> list[Result]:
    out = []
    for d, target in ((50_000, 1.4), (2_000_000, 2)):
        r, n, epochs = np.random.default_rng(0), 40_000, 10
        columns = np.sort(r.integers(0, d, (n, 50)), axis=1).astype(np.int32)
        X = sp.csr_matrix((r.standard_normal(n * 50, dtype=np.float32), columns.reshape(-1), np.arange(0, n * 50 + 1, 50, dtype=np.int32)), shape=(n, d))
        y = r.integers(0, 2, n)
        problem = fl.logistic(X, y)
        limit = max(50 * 8 / bandwidth(problem.X.data, 1), 100 / rate(1)) * 1e9
        ours = descent(problem, fl.SGD(0.01, weight_decay=1e-6), epochs, 1)
        out.append(beside(f"logistic, CSR, 50 non-zeros a row, {d:.0e} columns", "SGDClassifier", ours, sklearn(X, y, epochs, 0.01, 1e-6), n * epochs, target, limit, min(repeats, 5)))
    return out


def full_batch(repeats: int) -> Result:
    X, labels = dense(60_000, 784)
    y, steps = labels.astype(np.float32), 5

    def theirs():
        w, b = np.zeros(784, np.float32), np.float32(0)
        for _ in range(steps):
            z = X @ w + b
            residual = (1 / (1 + np.exp(-z)) - y) / np.float32(len(X))
            w -= np.float32(0.1) * (X.T @ residual)
            b -= np.float32(0.1) * residual.sum()
        return w

    ours = descent(fl.logistic(X, labels), fl.SGD(0.1), steps, fl.Batches.full())
    limit = max(X.nbytes / bandwidth(X, 2), 2 * X.size / rate(2)) * 1e9
    return beside("full-batch logistic step, 60,000 x 784, both cores", "NumPy float32", ours, theirs, steps, 1.5, limit, repeats)


def online(repeats: int) -> Result:
    X, y = dense(2000, 20)
    model, peer = fl.online("logistic", features=20, optimizer=fl.SGD(0.01)), SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
    peer.partial_fit(X[:1], y[:1], classes=[0, 1])
    few = 1000

    def ours():
        for i in range(few):
            model.learn(X[i], y[i])

    def theirs():
        for i in range(few):
            peer.partial_fit(X[i : i + 1], y[i : i + 1])

    return beside("one row at a time through the online interface, d = 20", "partial_fit", ours, theirs, few, 80, max(80 / bandwidth(X, 1), 40 / rate(1)) * 1e9, repeats)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="three repeats in place of nine")
    arguments.add_argument("--json", help="write the record to this file")
    given = arguments.parse_args()
    repeats = 3 if given.quick else 9
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; read {bandwidth(np.ones(50_000_000, np.float32), 1) / 1e9:.1f} GB/s "
          f"on one core, {bandwidth(np.ones(50_000_000, np.float32), 2) / 1e9:.1f} on two; {rate(1) / 1e9:.1f} G multiply-adds/s on one")  # fmt: skip
    results: list[Result | None] = [full_batch(repeats)]
    with threadpool_limits(1):
        results += [*one_at_a_time(repeats), *sparse_rows(repeats), online(repeats)]
        data = fashion()
        if data is not None:
            results += [softmax_one_at_a_time(data, repeats), softmax_batches(data, repeats)]
    kept = [r for r in results if r is not None]
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"about": about("scikit-learn"), "results": [asdict(r) for r in kept]}, file, indent=1)
    missed = [r.case for r in kept if r.ratio < r.target]
    print(f"{len(kept) - len(missed)} of {len(kept)} targets met" + (f"; missed: {'; '.join(missed)}" if missed else ""))
    sys.exit(0)


if __name__ == "__main__":
    main()
