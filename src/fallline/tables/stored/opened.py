"""A table larger than memory as a `Table`: its rows encoded once into files, which later runs find again."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fallline import __version__
from fallline.errors import InvalidValue, TableError
from fallline.problems import LinearProblem
from fallline.problems.stored import StoredProblem, blocks_for
from fallline.problems.window import Mapped, Window
from fallline.tables.account import ColumnNote, Summary
from fallline.tables.cells import cells
from fallline.tables.encoders import Encoder
from fallline.tables.files.text_bytes import open_bytes, packed
from fallline.tables.files.watch import stamp
from fallline.tables.options import TableOptions
from fallline.tables.reading import read, stream, streams
from fallline.tables.sources import Source, need
from fallline.tables.stored import budget
from fallline.tables.stored.survey import TEST, TRAIN, VALID, Shares, Survey, pieces, survey
from fallline.tables.stored.writing import VERSION, Rows, checked, enough_room, fresh, read_meta, write_meta
from fallline.tables.table import Part, Table
from fallline.tables.target import Target, numbered
from fallline.tables.weights import weights_of

FOLDER = ".fallline-rows"
"""Where encoded rows go, in the folder where one is, unless a cache is named."""
HELD_ROWS = 100_000
"""Rows that validate at most, and that test: with so many, the 95 % interval of an accuracy of 0.9 is 0.2 % to either side."""
SAMPLE_ROWS = 1 << 16
"""Rows in memory among which a learning rate is searched for."""
BUFFER, BLOCKS = 1 << 26, 64
"""Bytes of rows that are shuffled together, and blocks of them."""
SHARE = 16
"""A buffer takes a sixteenth of the memory at most; validation and test rows an eighth."""
LEAST = 100_000_000
"""Bytes that reading and compiled code take beside the rows."""


@dataclass(frozen=True, repr=False)
class StoredTable(Table):
    """A table whose training rows lie in files; validation and test rows are in memory. See `Table`.

    `train.y` holds what the problem has: the class's number, or the standardised number.
    """

    folder: Path = Path()
    meta: Any = None
    order: Any = None
    files: Any = None

    def problem(self, loss: str | None = None) -> LinearProblem:
        """The training part as a problem over its files."""
        from scipy.sparse import csr_matrix

        classes = list(self.target.classes)
        y = np.array(classes) if classes else np.zeros(2)
        shape = len(y), self.encoder.features
        few = Part(csr_matrix(shape, dtype=np.float32) if self.meta["sparse"] else np.zeros(shape, np.float32), y, None, np.arange(len(y)))
        model = Table.problem(replace(self, train=few), loss).model
        files = self.files
        target = files["decoded" if model.loss.name == "poisson" else "target"].array
        if model.loss.name == "poisson" and self.meta["least"] < 0:
            raise InvalidValue(f"y goes down to {self.meta['least']:g}: expected counts or rates of at least 0 for poisson")
        weight = files["weight"].array if "weight" in files else None
        sample = self._sample
        some = LinearProblem(sample["X"], sample["decoded"] if model.loss.name == "poisson" else sample["target"], sample.get("weight"), model)
        by_row = tuple(files[name] for name in ("X", "target", "decoded", "weight") if name in files)
        by_entry = tuple(files[name] for name in ("data", "indices") if name in files)
        window = Window(by_row, by_entry, files["starts"].array if by_entry else None)
        return StoredProblem(
            self.train.X, target, weight, model, window=window, order=self.order, sample=some,
            digest=self.meta["digest"], column_scales=np.array(self.meta["scales"]), top=self.meta["top"],
        )  # fmt: skip

    def baseline(self) -> tuple[Any, float]:
        """How often each class occurs in the training rows (None of numbers), and the mean of the numbers."""
        counts = self.meta["by_class"]
        return (None if counts is None else dict(zip(self.target.classes, counts, strict=True))), self.meta["mean"]

    @cached_property
    def _sample(self) -> dict[str, Any]:
        return _loaded(self.folder / "sample.npz")


def stored_table(source: Any, target: str | None, given: TableOptions) -> StoredTable | None:
    """The table by its files where it is to go there, else None.

    Raises:
        InvalidValue: a cache for what is no file, or a budget that nothing fits in.
    """
    is_file = isinstance(source, (str, Path)) and streams(source)
    if not is_file:
        if given.cache is not None:
            raise InvalidValue("cache= keeps the encoded rows of a file (CSV, Parquet, Arrow, .npy, JSON lines, svmlight) on disk: give a file's path, or leave it out")
        return None
    path, memory = Path(source), budget.size(given.memory)
    if given.cache is None and (_fits(path, memory)):
        return None
    if memory is not None:
        _enough(memory)
    if given.standardize:
        raise InvalidValue("standardize=True needs the rows in memory, and this table goes through files: leave it out, give a larger memory=, or scale the file's columns")
    if given.time is not None:
        raise InvalidValue("time= needs all rows at once, and this table goes through files: split it by time beforehand, and give valid= and test= as files")
    folder = _place(path, target, given)
    meta = read_meta(folder)
    if meta is None:
        print(f"fallline: {path}: its rows are encoded into {folder} (once, as long as the file stays as it is) ...", file=sys.stderr, flush=True)
        with fresh(folder) as part:
            _Making(path, target, given, memory, folder.parent).write(part)
        meta = read_meta(folder)
        assert meta is not None
    return _opened(folder, meta, memory)


# ------------------------------------------------------------------------------------------- whether, and where


def _fits(path: Path, memory: int | None) -> bool:
    size = path.stat().st_size
    if memory is None and (size <= budget.SMALL or not budget.free()):
        return True
    room = budget.free() * budget.FREE if memory is None else memory - budget.held()
    first = next(stream(path))
    each = (first.table.nbytes + (0 if first.csr is None else 2 * first.csr.data.nbytes)) / first.rows
    return expected_rows(path) * each * budget.TIMES <= room


def _enough(memory: int) -> None:
    needed = (budget.held() + LEAST) / (1 - 1 / SHARE * 3 - 2 / 8)
    if needed > memory:
        raise InvalidValue(f"memory={budget.shown(memory)} is too little: this process alone holds {budget.shown(budget.held())}; give {budget.shown(1.05 * needed)} at least")


def expected_rows(path: Path) -> float:
    """How many rows a file has: told by its own head, or from its size and its first megabyte."""
    pa, suffix = need("pyarrow"), path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return need("pyarrow.parquet").read_metadata(path).num_rows
    if suffix == ".npy":
        return len(np.load(path, mmap_mode="r"))
    if suffix in (".arrow", ".feather"):
        with pa.memory_map(str(path)) as file:
            try:
                opened = pa.ipc.open_file(file)
                return sum(opened.get_batch(i).num_rows for i in range(opened.num_record_batches))
            except pa.ArrowInvalid:
                file.seek(0)
                return sum(batch.num_rows for batch in pa.ipc.open_stream(file))
    with open_bytes(path) as file:
        start = file.read(1 << 20)
    size = path.stat().st_size * (4 if packed(path) else 1)
    return max(start.count(b"\n"), 1) * max(size / max(len(start), 1), 1)


def _place(path: Path, target: str | None, given: TableOptions) -> Path:
    """The folder of these rows: its name says what they were made of."""
    own = {name: value for name, value in vars(given).items() if name not in ("cache", "valid", "test", "types")}
    for part in ("valid", "test"):
        value = getattr(given, part)
        if not isinstance(value, (int, float, str, Path)):
            raise InvalidValue(f"{part}= is a {type(value).__name__}, and this table goes through files: give a share, or a file's path")
        own[part] = value if isinstance(value, (int, float)) else [str(Path(value).resolve()), stamp(Path(value))]
    own["types"] = sorted(given.types.items())
    words = json.dumps([VERSION, __version__, str(path.resolve()), stamp(path), target, own], default=str)
    return Path(given.cache or FOLDER) / f"{path.name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"


# --------------------------------------------------------------------------------------------------- the making


class _Making:
    """One table on its way to files: a pass that learns, and one that writes."""

    def __init__(self, path: Path, target: str | None, given: TableOptions, memory: int | None, root: Path):
        self.path, self.given, self.memory, self.root = path, given, memory, root
        first = next(stream(path))
        self.target = target or ("target" if "target" in first.names else None)
        if self.target is None:
            raise InvalidValue(f"which column is the target? give target=...; columns: {', '.join(first.names[:20])}")
        rows = expected_rows(path)
        shares = [min(float(s), HELD_ROWS / rows) if isinstance(s, (int, float)) else 0.0 for s in (given.valid, given.test)]
        if not all(0 <= s < 1 for s in shares) or sum(shares) >= 1:
            raise InvalidValue(f"valid={given.valid!r}, test={given.test!r}: expected shares from 0 to 1 that leave rows to train on")
        self.shares = Shares.of(*shares, min(SAMPLE_ROWS / rows, 1.0), given.seed)

    def write(self, folder: Path) -> None:
        found = survey(self.path, self.target, self.given, self.shares)  # type: ignore[arg-type]
        names, features, notes = found.encoder.kept_names, found.encoder.features, []
        sparse = bool(found.encoder.sparse_width) or any(c.width for c in found.encoder.columns)
        if not sparse:
            enough_room(self.root, found.counts[TRAIN] * (4.0 * features + 16))
            self.shares = self._that_fit(found, 4 * features, notes)
        decoded = found.target.task == "regression"
        rows = Rows(folder, sparse, features, found.weight_mean is not None, decoded)
        held: dict[int, list[dict[str, Any]]] = {VALID: [], TEST: [], -1: []}
        try:
            least = self._encode(found, rows, held, names)
            meta = rows.close()
        except BaseException:
            rows.abandon()
            raise
        files = [_file_part(found, self.given, getattr(self.given, part)) for part in ("valid", "test")]
        counts = {"train": meta["rows"]}
        for part, name, own in ((VALID, "valid", files[0]), (TEST, "test", files[1]), (-1, "sample", None)):
            stacked = _stacked(held[part] if own is None else [own], sparse, features)
            np.savez(folder / f"{name}.npz", **stacked)
            counts[name] = len(stacked["target"])
        counts.pop("sample")
        size = sum(f.stat().st_size for f in folder.iterdir())
        total = found.rows + sum(len(f["target"]) + f["missing"] for f in files if f is not None)
        reported = {f"the target {self.target!r} is missing": total - sum(counts.values())}
        summary = Summary(str(self.path), total, counts, reported, found.notes, self._split(files), (*found.warnings, *notes))
        by_class = None if found.by_class is None else [found.by_class[c] for c in found.target.classes]
        more = {"version": VERSION, "by_class": by_class, "mean": found.mean, "least": least, "size": size}
        more |= {"summary": summary.to_json(), "encoder": found.encoder.to_json(), "goal": found.target.to_json()}
        np.savez(folder / "encoder.npz", **found.encoder.arrays())
        write_meta(folder, meta | more)

    def _that_fit(self, found: Survey, each: int, notes: list[str]) -> Shares:
        """Shares of rows in memory that are within the budget."""
        room = (self.memory or budget.free()) / 8
        wanted = (found.counts[VALID] + found.counts[TEST]) * each
        if wanted <= room or not room:
            return self.shares
        part = room / wanted
        notes.append("fewer rows validate and test than was asked for, so that they fit into memory; encoders were learnt without the others")
        return Shares(self.shares.valid * part, self.shares.test * part, self.shares.sample * part, self.shares.key)

    def _encode(self, found: Survey, rows: Rows, held: dict[int, list[dict[str, Any]]], names: tuple[str, ...] | None) -> float:
        """Write the training rows, keep the others and the sample; returns the lowest target."""
        least = np.inf
        for source, at, parts, sampled in pieces(self.path, self.given, self.shares, found.encoder):
            X, columns, there = _encoded(source, found, self.given)
            columns["rows"] = np.arange(at, at + source.rows)
            parts = np.where(there, parts, -2)
            for part in (VALID, TEST):
                held[part] += _taken(X, columns, np.flatnonzero(parts == part))
            held[-1] += _taken(X, columns, np.flatnonzero(sampled & there))
            train = parts == TRAIN
            least = min(least, columns.get("decoded", columns["target"])[train].min(initial=np.inf))
            if not train.all():
                X, columns = X[train], {name: values[train] for name, values in columns.items()}
            if X.shape[0]:
                rows.add(checked(X, names), columns)
        return float(least)

    def _split(self, files: list[Any]) -> str:
        given = self.given
        words = [f"{part} from {getattr(given, part)}" for part, own in zip(("valid", "test"), files, strict=True) if own is not None]
        how = f"by a hash of {'the group' if given.group else 'the row number'}, seed {given.seed}"
        asked = [s for s in (given.valid, given.test) if isinstance(s, (int, float))]
        most = f"; {HELD_ROWS:,} rows at most validate, and test" if self.shares.valid + self.shares.test < sum(asked) else ""
        return "; ".join([*words, how]) + most


def _encoded(source: Source, found: Survey, given: TableOptions) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """A piece's features, its columns by file, and which rows have a target."""
    wanted = cells(source, found.target.name, found.kind, found.form)  # type: ignore[arg-type]
    there = ~wanted.missing
    columns: dict[str, np.ndarray] = {}
    if found.target.task == "classification":
        codes, labels = numbered(wanted)
        place = {label: i for i, label in enumerate(found.target.classes)}
        by_code = np.array([*(place.get(label, -1) for label in labels), -1])
        columns["target"] = by_code[codes].astype(np.float32)
        if found.by_weight is not None:
            weights = np.array([*(found.by_weight[c] for c in found.target.classes), 0.0])[by_code[codes]]
            columns["weight"] = (weights / found.weight_mean).astype(np.float32)
    else:
        values = np.where(there, wanted.values.astype(np.float64), 0.0)
        columns |= {"target": found.target.encode(values).astype(np.float32), "decoded": values.astype(np.float32)}
    if given.sample_weight is not None:
        if not found.weight_mean:
            raise TableError("every training row weighs 0: expected at least one weight above 0", file=source.name)
        columns["weight"] = (weights_of(source, given.sample_weight) / found.weight_mean).astype(np.float32)
    return found.encoder.transform(source), columns, there


def _file_part(found: Survey, given: TableOptions, value: Any) -> dict[str, Any] | None:
    """Validation or test rows from a file of their own."""
    if isinstance(value, (int, float)):
        return None
    source = read(value)
    X, columns, there = _encoded(source, found, given)
    known = there & (columns["target"] >= 0 if found.target.task == "classification" else True)
    columns["rows"] = np.arange(source.rows)
    taken = _taken(X, columns, np.flatnonzero(known))
    if not taken:
        raise TableError("no row has a target", file=str(value))
    return taken[0] | {"missing": int(np.count_nonzero(~known))}


def _taken(X: Any, columns: dict[str, np.ndarray], rows: np.ndarray) -> list[dict[str, Any]]:
    return [{"X": X[rows]} | {name: values[rows] for name, values in columns.items()}] if len(rows) else []


def _stacked(parts: list[dict[str, Any]], sparse: bool, features: int) -> dict[str, Any]:
    """Rows of many pieces as arrays that a .npz holds."""
    from scipy import sparse as sp

    if not parts:
        return {"X": np.zeros((0, features), np.float32), "target": np.zeros(0, np.float32), "rows": np.zeros(0, np.int64)}
    out = {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name not in ("X", "missing")}
    X = sp.vstack([p["X"] for p in parts], format="csr") if sparse else np.concatenate([p["X"] for p in parts])
    if not sparse:
        return out | {"X": X}
    return out | {"data": X.data, "indices": X.indices, "starts": X.indptr, "features": np.array(X.shape[1])}


def _loaded(path: Path) -> dict[str, Any]:
    """The rows of a .npz, X as a problem has it."""
    from scipy import sparse as sp

    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    if "starts" in held:
        held["X"] = sp.csr_matrix((held.pop("data"), held.pop("indices"), held.pop("starts")), shape=(len(held["target"]), int(held.pop("features"))))
    if len(held["target"]):
        held["X"] = checked(held["X"])
    return held


# -------------------------------------------------------------------------------------------------- the opening


def _opened(folder: Path, meta: dict[str, Any], memory: int | None) -> StoredTable:
    goal = Target.from_json(meta["goal"])
    with np.load(folder / "encoder.npz", allow_pickle=False) as file:
        encoder = Encoder.from_parts(meta["encoder"], {name: file[name] for name in file.files})
    told = dict(meta["summary"])
    order = blocks_for(_row_bytes(folder, meta), min(BUFFER, (memory or BUFFER * SHARE) / SHARE), min(BUFFER, (memory or BUFFER * SHARE) / SHARE) / BLOCKS)
    told["columns"] = tuple(ColumnNote(**c) for c in told["columns"])
    told["notes"] = (*told["notes"], f"its {budget.shown(meta['size'])} of encoded rows lie in {folder}; batches come from blocks of {order.block:,} rows, {order.buffer:,} shuffled together")
    summary = Summary(**told)
    files = {name: Mapped(folder / f"{name}.npy") for name in meta["files"]}
    weight = files["weight"].array if "weight" in files else None
    train = Part(_features(files, meta), files["target"].array, weight, files["rows"].array)
    return StoredTable(train, _held(folder / "valid.npz", goal), _held(folder / "test.npz", goal), goal, encoder, summary, folder=folder, meta=meta, order=order, files=files)


def _row_bytes(folder: Path, meta: dict[str, Any]) -> float:
    rows = max(meta["rows"], 1)
    return sum((folder / f"{name}.npy").stat().st_size for name in meta["files"] if name != "rows") / rows


def _features(files: dict[str, Mapped], meta: dict[str, Any]) -> Any:
    if not meta["sparse"]:
        return files["X"].array
    from scipy.sparse import csr_array

    X = csr_array((meta["rows"], meta["features"]), dtype=np.float32)
    X.data, X.indices, X.indptr = (files[name].array for name in ("data", "indices", "starts"))
    X.has_sorted_indices = X.has_canonical_format = True
    return X


def _held(path: Path, goal: Target) -> Part:
    """Rows that validate or test, their targets in the user's terms."""
    held = _loaded(path)
    y = held["target"]
    if goal.task == "classification":
        y = np.array(list(goal.classes))[y.astype(np.intp)]
    return Part(held["X"], y, held.get("weight"), held["rows"])
