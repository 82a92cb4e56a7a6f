"""A table larger than its memory: throughput beside rows in memory, accuracy beside a full shuffle, peak memory as rows double.

    python benchmarks/out_of_core.py [--gigabytes 6] [--folder FOLDER] [--json FILE] [--cgroup]

The table is made of the 569 rows of breast-cancer (30 numbers), repeated with noise of half of each column's spread, and sorted by
class: the worst order that a file can have. It is read by processes of their own, each held by RLIMIT_DATA at 1 GB (memory that is
written to: RLIMIT_AS would count mapped files, and addresses that compilers and BLAS set aside). With --cgroup (root on Linux),
also by one in a memory cgroup of 1 GB, where the system's own cache of the files counts too, so that every pass is read from disk.
What is reported as peak is the system's VmHWM: all that the process ever had in memory at once, mapped pages included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import about

import fallline as fl
from fallline.problems.linear import LinearProblem
from fallline.tables.builtin import builtin

MEMORY = 1_000_000_000
BATCH, EPOCHS, LR = 256, 2, 0.01
PART_ROWS = 4_000_000
"""Rows in memory beside which the throughput is put: 480 MB, what fits into the budget."""
CHUNK = 1 << 17


def generate(path: Path, size: float) -> int:
    """A Parquet file of about `size` bytes; returns its rows."""
    import pyarrow as pa
    from pyarrow import parquet

    real, _ = builtin("breast-cancer")
    names = [n for n in real.names if n != "target"]
    X = np.column_stack([real.column(n).to_numpy() for n in names])
    y = np.array(real.column("target").to_pylist())
    rows, random = int(size / (8 * len(names) + 1)), np.random.default_rng(0)
    per_class = {label: np.flatnonzero(y == label) for label in sorted(set(y.tolist()))}
    schema, done = None, 0
    writer: Any = None
    for k, (label, own) in enumerate(per_class.items()):
        last = rows if k == len(per_class) - 1 else int(rows * len(own) / len(y))
        while done < last:
            many = min(CHUNK, last - done)
            made = X[random.choice(own, many)] + 0.5 * X.std(axis=0) * random.standard_normal((many, len(names)), np.float32)
            columns = {n: np.ascontiguousarray(made[:, i]) for i, n in enumerate(names)} | {"diagnosis": pa.array([label] * many).dictionary_encode()}
            table = pa.table(columns)
            if writer is None:
                schema = table.schema
                writer = parquet.ParquetWriter(path, schema, compression="none", use_dictionary=["diagnosis"])
            writer.write_table(table, row_group_size=CHUNK)
            done += many
    writer.close()
    return rows


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    line = next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def plan(problem: Any) -> fl.Plan:
    return fl.Plan(problem, epochs=EPOCHS, batch_size=BATCH, optimizer=fl.SGD(lr=LR, momentum=0.9, weight_decay=1e-4, schedule="warmup(5%) > linear(to=0)"))


def descended(problem: Any, test: Any) -> dict[str, Any]:
    """Rows a second over whole epochs, and the accuracy on test rows; kernels are compiled or loaded beforehand."""
    fl.train(problem, plan(problem)._with(steps=20), progress=False)
    began = time.perf_counter()
    run = fl.train(problem, plan(problem), progress=False)
    seconds = time.perf_counter() - began
    ends = [e["seconds"] for e in run.history.evaluations]
    epochs = [problem.rows / (b - a) for a, b in zip([0.0, *ends], ends, strict=False)]
    return {
        "rows": problem.rows, "seconds": seconds, "rows_per_second": EPOCHS * problem.rows / seconds, "epochs_rows_per_second": epochs,
        "accuracy": float(run.score(test.X, test.y)),
    }  # fmt: skip


def held(path: Path, cache: Path, limit: bool) -> dict[str, Any]:
    """The whole of it within the budget: what a child process prints."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    began = time.perf_counter()
    table = fl.table(str(path), target="diagnosis", options=fl.TableOptions(memory=MEMORY, cache=str(cache)))
    prepared = time.perf_counter() - began
    found = descended(table.problem(), table.test)
    return {"prepared_s": prepared, **found, "peak_bytes": peak(), "limit": MEMORY if limit else None, "stored_bytes": table.meta["size"]}


def shown(found: dict[str, Any]) -> str:
    return ", ".join(f"{rate / 1e6:.1f}" for rate in found["epochs_rows_per_second"])


def child(path: Path, cache: Path, *also: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    done = subprocess.run([*prefix, sys.executable, __file__, "--child", str(path), "--cache", str(cache), *also], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the process within its budget failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_memory(path: Path, cache: Path) -> dict[str, Any]:
    """The same rows in memory, in full shuffle: all of them for the accuracy, a part that fits for the throughput."""
    table = fl.table(str(path), target="diagnosis", options=fl.TableOptions(memory=MEMORY, cache=str(cache)))
    stored = table.problem()
    take = np.linspace(0, stored.rows - 1, min(PART_ROWS, stored.rows)).astype(np.int64)
    part = LinearProblem(np.ascontiguousarray(stored.X[take]), stored.target[take], None, stored.model)
    out = {"part": descended(part, table.test)}
    whole = LinearProblem(np.array(stored.X), np.array(stored.target), None, stored.model)
    return out | {"all": descended(whole, table.test)}


def in_cgroup(path: Path, cache: Path) -> dict[str, Any] | None:
    """The same within a memory cgroup (version 1) of the budget, the cache of files included."""
    group = Path("/sys/fs/cgroup/memory/fallline-out-of-core")
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as error:
        print(f"no memory cgroup can be made here ({error.strerror}): left out", file=sys.stderr)
        return None
    try:
        for file in [path, *cache.rglob("*.npy")]:
            with open(file, "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = child(path, cache, "--no-limit", prefix=("sh", "-c", f"echo $$ > {group}/cgroup.procs; exec \"$@\"", "sh"))
        return found | {"charged_bytes": int((group / "memory.max_usage_in_bytes").read_text())}
    finally:
        group.rmdir()


def prepare(folder: Path, gigabytes: float) -> None:
    """Make the tables and encode them, each in a process within the budget."""
    for size in (gigabytes / 4, gigabytes / 2, gigabytes):
        path, cache = folder / f"{size:g}.parquet", folder / f"rows-{size:g}"
        rows = generate(path, size * 1e9)
        first = child(path, cache)
        found = {"gigabytes": path.stat().st_size / 1e9, "rows": rows, "first": first}
        (folder / f"{size:g}.json").write_text(json.dumps(found))
        print(f"{found['gigabytes']:.2f} GB, {rows:,} rows: encoded in {first['prepared_s']:.0f} s to {first['stored_bytes'] / 1e9:.2f} GB, "
              f"peak of the whole {first['peak_bytes'] / 1e6:.0f} MB", flush=True)  # fmt: skip


def measure(folder: Path, cgroup: bool) -> dict[str, Any]:
    """Time what `prepare` made: within the budget, then in memory."""
    record: dict[str, Any] = {"about": about("pyarrow"), "batch": BATCH, "epochs": EPOCHS, "cases": []}
    for made in sorted(folder.glob("*.json"), key=lambda p: float(p.stem)):
        case = json.loads(made.read_text())
        path, cache = made.with_suffix(".parquet"), folder / f"rows-{made.stem}"
        case["again"] = again = child(path, cache)
        record["cases"].append(case)
        print(f"{case['gigabytes']:.2f} GB: {again['rows_per_second'] / 1e6:.1f} million rows/s (epoch by epoch {shown(again)}), accuracy {again['accuracy']:.5f}, peak {again['peak_bytes'] / 1e6:.0f} MB", flush=True)
    record["in_memory"] = in_memory(path, cache)
    part, whole = record["in_memory"]["part"], record["in_memory"]["all"]
    record["ratio"], record["apart"] = again["rows_per_second"] / part["rows_per_second"], abs(whole["accuracy"] - again["accuracy"])
    print(f"in memory: {part['rows_per_second'] / 1e6:.1f} million rows/s of {part['rows']:,} rows that fit; ratio {record['ratio']:.2f}")
    print(f"full shuffle of all rows in memory: {whole['rows_per_second'] / 1e6:.1f} million rows/s, accuracy {whole['accuracy']:.5f}; apart {record['apart']:.5f}")
    if cgroup and (found := in_cgroup(path, cache)):
        record["cgroup"] = found
        print(f"in a cgroup: {found['rows_per_second'] / 1e6:.1f} million rows/s, {found['rows_per_second'] / part['rows_per_second']:.2f} of memory's; "
              f"peak {found['peak_bytes'] / 1e6:.0f} MB, charged {found['charged_bytes'] / 1e6:.0f} MB")  # fmt: skip
    return record


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gigabytes", type=float, default=6.0)
    arguments.add_argument("--folder", default="build/out-of-core")
    arguments.add_argument("--json")
    arguments.add_argument("--cgroup", action="store_true")
    arguments.add_argument("--only", choices=["prepare", "measure"], help="one of the two parts; prepare leaves its files")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    arguments.add_argument("--cache", help=argparse.SUPPRESS)
    arguments.add_argument("--no-limit", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        print(json.dumps(held(Path(given.child), Path(given.cache), not given.no_limit)))
        return
    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = None
    try:
        if given.only != "measure":
            prepare(folder, given.gigabytes)
        if given.only != "prepare":
            record = measure(folder, given.cgroup)
    finally:
        if given.only != "prepare":
            shutil.rmtree(folder, ignore_errors=True)
    if given.json and record is not None:
        Path(given.json).parent.mkdir(parents=True, exist_ok=True)
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
