"""Laws of tables larger than memory: the same columns, rows and bits as in memory, whatever the file's format; memory that does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.batches import Batches, Blocks
from fallline.problems import arrays
from fallline.problems.linear import LinearProblem
from fallline.problems.window import Mapped, Window
from fallline.tables.stored import budget
from fallline.tables.stored.tallies import Different, Moments

ROWS = 3000


def frame() -> pd.DataFrame:
    """Every kind of column, missing cells, one that counts and one that never changes."""
    random = np.random.default_rng(0)
    made = pd.DataFrame({f"x{i}": random.normal(i, i + 1, ROWS) for i in range(4)})
    made["kind"] = random.choice(["flat", "house", "boat"], ROWS)
    made["code"] = [f"c{v}" for v in random.integers(0, 200, ROWS)]
    made["flag"] = random.random(ROWS) < 0.5
    made["when"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 10**6, ROWS), unit="min")
    made["said"] = [" ".join(random.choice(["a", "lovely", "dark", "small", "house", "by", "the", "sea", str(i)], 9)) for i in range(ROWS)]
    made["row"] = np.arange(ROWS)
    made["same"] = 3.0
    made.loc[random.random(ROWS) < 0.1, "x2"] = np.nan
    made.loc[random.random(ROWS) < 0.05, "kind"] = None
    made["y"] = np.where(made.x0 + made.x1 / 2 + (made.kind == "flat") + random.normal(size=ROWS) > 0.5, "yes", "no")
    made.loc[random.random(ROWS) < 0.02, "y"] = None
    made["price"] = 3 * made.x0 + made.x1 + random.normal(size=ROWS)
    return made


WRITERS = {
    "parquet": lambda f, p: f.to_parquet(p, row_group_size=400),
    "csv": lambda f, p: f.to_csv(p, index=False),
    "arrow": lambda f, p: f.to_feather(p, chunksize=400, compression="uncompressed"),
    "jsonl": lambda f, p: f.to_json(p, orient="records", lines=True, date_format="iso"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stored")


def written(folder: Path, kind: str) -> str:
    path = folder / f"t.{kind}"
    if not path.exists():
        WRITERS[kind](frame(), path)
    return str(path)


@pytest.mark.parametrize("target, drop", [("y", ["said"]), ("price", ["y", "said", "code"]), ("y", [])])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_in_files_is_the_one_in_memory(folder: Path, kind: str, target: str, drop: list[str]):
    """The same columns, treatments and classes; and each stored row is what its encoder makes of that row of the file."""
    path = written(folder, kind)
    stored = fl.table(path, target=target, options=fl.TableOptions(drop=drop, cache=str(folder / "rows")))
    memory = fl.table(path, target=target, options=fl.TableOptions(drop=drop))
    assert [(n.name, n.kind, n.used, n.treatment, n.missing) for n in stored.summary.columns] == [
        (n.name, n.kind, n.used, n.treatment, n.missing) for n in memory.summary.columns
    ]
    assert stored.target.classes == memory.target.classes and stored.feature_names == memory.feature_names
    for a, b in zip(stored.encoder.columns, memory.encoder.columns, strict=True):
        assert a.levels == b.levels and a.width == b.width and np.allclose(a.numbers, b.numbers, rtol=0.2, atol=1.5)
    X, rows = stored.encoder.transform(path), stored.train.rows
    assert abs(X[rows] - stored.train.X).max() == 0
    every = np.sort(np.concatenate([p.rows for p in (stored.train, stored.valid, stored.test)]))
    assert len(np.unique(every)) == len(every) == sum(stored.summary.parts.values())
    y = frame()[target]
    if target == "y":
        assert (np.array(stored.target.classes)[stored.train.y.astype(int)] == y[rows]).all() and (stored.test.y == y[stored.test.rows]).all()
    else:
        assert np.allclose(stored.target.decode(stored.train.y), y[rows], atol=1e-4)


def test_means_and_scales_are_those_of_the_training_rows(folder: Path):
    path = written(folder, "parquet")
    stored = fl.table(path, target="price", options=fl.TableOptions(cache=str(folder / "rows")))
    rows = frame().iloc[stored.train.rows]
    for column in stored.encoder.columns:
        if column.kind == "number":
            assert column.numbers[:, 0] == pytest.approx([rows[column.name].mean(), rows[column.name].std(ddof=0)], rel=1e-12)
    assert stored.target.mean == pytest.approx(rows.price.mean(), rel=1e-12)
    problem = stored.problem()
    assert np.allclose(problem.scales(), LinearProblem(np.array(stored.train.X.toarray()), problem.target, None, problem.model).scales())


def in_memory(problem: Any) -> LinearProblem:
    """The rows of a stored problem, in memory."""
    X = arrays.matrix(problem.X.copy()).X if problem.sparse else np.array(problem.X)
    return LinearProblem(X, np.array(problem.target), None if problem.weight is None else np.array(problem.weight), problem.model)


@pytest.mark.parametrize("drop", [["said", "code"], []])
def test_a_descent_over_files_has_the_bits_of_one_in_memory(folder: Path, drop: list[str]):
    """Dense and sparse rows, weights, batches that straddle buffers, momentum; cut anywhere."""
    random = np.random.default_rng(1)
    made = frame().assign(w=random.random(ROWS))
    path = folder / f"weighted{len(drop)}.parquet"
    made.to_parquet(path)
    stored = fl.table(str(path), target="y", options=fl.TableOptions(drop=drop, sample_weight="w", cache=str(folder / "rows"))).problem()
    memory = in_memory(stored)
    assert stored.weight is not None and abs(stored.weight.mean() - 1) < 1e-5
    for size in (1, 7, 64):
        batches = Batches(size, order=Blocks(100, 30))
        for rule in (fl.SGD(lr=0.05, momentum=0.9), fl.SGD(lr=0.05)):
            plan = fl.Plan(memory, steps=400, batch_size=batches, optimizer=rule, seed=3)
            a, b = (fl.train(p, plan, progress=False) for p in (stored, memory))
            assert np.array_equal(a.weights["coef"], b.weights["coef"]) and np.array_equal(a.history.loss, b.history.loss)


def test_the_full_gradient_is_exact_in_one_pass(folder: Path, monkeypatch):
    from fallline.engines.linear import engine
    from fallline.engines.linear import stored as stored_engine

    problem = fl.table(written(folder, "parquet"), target="y", options=fl.TableOptions(drop=["said", "code"], cache=str(folder / "rows"))).problem()
    memory, w = in_memory(problem), np.random.default_rng(2).normal(size=problem.layout.size)
    assert problem.gradient(w, chunk=100)[1] == pytest.approx(memory.gradient(w)[1], rel=1e-12)
    monkeypatch.setattr(engine, "THREADED", 1000)
    monkeypatch.setattr(stored_engine, "CHUNK_BYTES", 1000)
    for batches in (Batches.full(), Batches(900, order=Blocks(300, 50))):
        plan = fl.Plan(problem, steps=7, batch_size=batches, optimizer=fl.SGD(lr=0.5, momentum=0.9))
        a, b = (fl.train(p, plan, progress=False) for p in (problem, memory))
        assert a.weights["coef"] == pytest.approx(b.weights["coef"], rel=1e-4, abs=1e-6)


def test_a_run_goes_on_in_the_middle_of_the_file(folder: Path, tmp_path: Path):
    """Interrupted inside an epoch, inside a buffer, and resumed by a table that is opened anew: the bits of a run in one piece."""
    path, options = written(folder, "parquet"), fl.TableOptions(drop=["said", "code"], cache=str(folder / "rows"))
    open_ = lambda: fl.table(path, target="y", options=options).problem()
    plan = fl.Plan(open_(), epochs=3, batch_size=Batches(32, order=Blocks(200, 50)), optimizer=fl.SGD(lr=0.1, momentum=0.9))
    whole = fl.train(open_(), plan, progress=False)
    part = fl.Plan(open_(), steps=plan.steps // 2 + 3, batch_size=plan.batch_size, optimizer=plan.optimizer)
    fl.train(open_(), part, save=tmp_path / "run", progress=False)
    again = fl.train(open_(), plan, save=tmp_path / "run", resume=True, progress=False)
    assert np.array_equal(again.weights["coef"], whole.weights["coef"])


def test_fit_takes_it_from_the_file_to_the_report(folder: Path, tmp_path: Path):
    options = fl.TableOptions(drop=["said"], cache=str(folder / "rows"))
    run = fl.fit(written(folder, "csv"), target="y", options=options, epochs=2, save=tmp_path / "run", progress=False)
    memory = fl.fit(written(folder, "csv"), target="y", options=fl.TableOptions(drop=["said"]), epochs=2, progress=False)
    assert run.summary["headline"]["value"] == pytest.approx(memory.summary["headline"]["value"], abs=0.1)
    assert run.summary["headline"]["baseline_name"] == memory.summary["headline"]["baseline_name"]
    assert "rows lie in" in run.summary["data"]["text"]
    assert (fl.load(tmp_path / "run").predict(frame()) == run.predict(frame())).all()


def test_the_rows_are_found_again_and_made_anew_where_the_file_or_the_options_changed(folder: Path, tmp_path: Path, capsys):
    path = tmp_path / "t.parquet"
    frame().to_parquet(path)
    made = lambda **more: fl.table(str(path), target="y", options=fl.TableOptions(drop=["said"], cache=str(tmp_path / "rows"), **more))
    first = made()
    assert "encoded into" in capsys.readouterr().err
    again = made()
    assert not capsys.readouterr().err and again.folder == first.folder and again.problem().fingerprint == first.problem().fingerprint
    assert made(seed=5).folder != first.folder
    frame().assign(x0=1.0 * np.arange(ROWS) % 7).to_parquet(path)
    assert made().folder != first.folder and "encoded into" in capsys.readouterr().err
    assert not list((tmp_path / "rows").glob("*.part"))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=4))
@settings(deadline=None)
def test_moments_in_pieces_are_those_of_the_whole(values: list[float], cuts: list[int]):
    x, found = np.array(values), Moments()
    for piece in np.split(x, sorted(c for c in cuts if c < len(x))):
        found.add(piece)
    assert float(found.mean) == pytest.approx(x.mean(), rel=1e-9, abs=1e-6)
    assert found.deviation == pytest.approx(x.std(), rel=1e-6, abs=1e-6)
    weighted = Moments()
    distinct, often = np.unique(x, return_counts=True)
    weighted.add(distinct, often)
    assert weighted.deviation == pytest.approx(x.std(), rel=1e-6, abs=1e-6)


def test_different_numbers_are_told_from_those_that_repeat_beyond_what_is_kept():
    yes, no = Different(), Different()
    for k in range(10):
        yes.add(np.arange(k * 20_000, (k + 1) * 20_000, dtype=float))
        no.add(np.arange(k * 20_000, (k + 1) * 20_000, dtype=float) % 150_000)
    assert yes.so_far and not no.so_far and len(yes._kept) <= 1 << 15


def test_a_window_lets_go_of_what_is_not_in_use(tmp_path: Path):
    """Of a mapped file only the spans in use, and those that follow, are in this process's memory."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("the system does not say what is in memory")
    np.save(tmp_path / "X.npy", np.ones((40_000, 256)))
    mapped = Mapped(tmp_path / "X.npy")
    window = Window((mapped,))
    spans = [np.array([[a, a + 4000]]) for a in range(0, 40_000, 4000)]
    seen = []
    for now, then in zip(spans, [*spans[1:], None], strict=True):
        window.enter(now, then)
        assert mapped.array[now[0, 0] : now[0, 1]].sum() == 4000 * 256
        window._coming and window._coming[1].result()
        seen.append(resident("X.npy"))
    each = 4000 * 256 * 8
    assert max(seen) <= 2 * each + (1 << 23) < mapped.array.nbytes / 3  # the system may map some megabytes beyond an edge
    window.leave()
    assert resident("X.npy") < each / 4


def test_the_system_is_asked_for_more_than_is_waited_for_and_for_nothing_twice(tmp_path: Path, monkeypatch):
    from fallline.problems import window

    np.save(tmp_path / "X.npy", np.ones((4000, 16)))
    np.save(tmp_path / "y.npy", np.ones(4000))
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Mapped, "ask", lambda self, a, b: seen.append(("ask", self.array.ndim, a)))
    monkeypatch.setattr(Mapped, "read", lambda self, a, b: seen.append(("read", self.array.ndim, a)))
    spans = np.array([[a, a + 100] for a in (900, 100, 3000, 0, 2000, 1500, 500, 3900)])
    Window((Mapped(tmp_path / "X.npy"), Mapped(tmp_path / "y.npy"))).enter(spans, None)
    order = [(n, a) for a, _ in spans.tolist() for n in (2, 1)]
    for what in ("ask", "read"):
        assert [(n, a) for w, n, a in seen if w == what] == order
    ahead = [sum(w == "ask" for w, _, _ in seen[:i]) - sum(w == "read" for w, _, _ in seen[:i]) for i, s in enumerate(seen) if s[0] == "read"]
    assert ahead[0] == window.AHEAD + 1 and ahead[-1] == 1


def resident(name: str) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            here = line.endswith(name)
        elif here and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


CHILD = """
import json, resource, sys
import numpy as np, fallline as fl
from fallline.tables.stored import opened
opened.HELD_ROWS, opened.SAMPLE_ROWS, opened.BUFFER = 10_000, 10_000, 1 << 23
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
table = fl.table(sys.argv[1], target="target", options=fl.TableOptions(memory=limit, cache=sys.argv[2]))
problem = table.problem()
run = fl.train(problem, fl.Plan(problem, epochs=2, batch_size=256, optimizer=fl.SGD(lr=0.01, momentum=0.9)), progress=False)
peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"peak": 1024 * peak, "accuracy": run.score(table.test.X, table.test.y), "buffer": table.order.buffer, "rows": problem.rows}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")
def test_memory_stays_under_its_budget_and_does_not_grow_with_the_rows(tmp_path: Path):
    """Sorted by class, one size and four times it, within RLIMIT_DATA: the peak stays where the window's size puts it."""
    import pyarrow as pa
    from pyarrow import parquet

    real = fl.table("breast-cancer").train
    random, found = np.random.default_rng(0), []
    order = np.argsort(real.y, kind="stable")
    for rows in (200_000, 800_000):
        path = tmp_path / f"{rows}.parquet"
        at = order[np.linspace(0, len(order) - 1, rows).astype(int)]
        with parquet.ParquetWriter(path, pa.schema([*((f"x{i}", pa.float32()) for i in range(30)), ("target", pa.string())]), compression="none") as writer:
            for a in range(0, rows, 50_000):
                X = real.X[at[a : a + 50_000]] + 0.5 * random.standard_normal((50_000, 30), np.float32)
                writer.write_table(pa.table({**{f"x{i}": X[:, i].astype(np.float32) for i in range(30)}, "target": real.y[at[a : a + 50_000]].astype(str)}))
        done = subprocess.run([sys.executable, "-c", CHILD, str(path), str(tmp_path / "rows"), "450000000"], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
        path.unlink()
    assert found[1]["rows"] > 10 * found[1]["buffer"]  # more than the window holds
    assert max(f["peak"] for f in found) < 450_000_000
    assert found[1]["peak"] < 1.2 * found[0]["peak"]  # all its rows in memory would be a third more
    assert min(f["accuracy"] for f in found) > 0.95


def test_budgets_in_words():
    assert budget.size("1GB") == 10**9 and budget.size("512MiB") == 2**29 and budget.size(5) == 5 and budget.size(None) is None
