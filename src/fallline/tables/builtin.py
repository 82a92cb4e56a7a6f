"""Built-in real data sets, read from files that other packages have installed; nothing is downloaded."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, MissingExtra
from fallline.tables.arrow import column_of
from fallline.tables.sources import Source, need

NAMES = ("digits", "breast-cancer", "diabetes", "fashion-mnist")
"""What may stand in place of a file."""
_FASHION = (Path("/usr/share/dataset-fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/fashion-mnist"))


def builtin(name: str) -> tuple[Source, int]:
    """A built-in data set, and how many of its last rows are its own test part (0: none).

    Raises:
        MissingExtra: scikit-learn, whose bundled files these are, is not installed.
        InvalidValue: Fashion-MNIST's package is not installed.
    """
    if name == "fashion-mnist":
        return _fashion()
    return {"digits": _digits, "breast-cancer": _cancer, "diabetes": _diabetes}[name](), 0


def _bundled(file: str) -> Path:
    """A data file of scikit-learn's package, found without importing it (which takes over a second)."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise MissingExtra("scikit-learn", "sklearn", "this built-in data set")
    return Path(spec.origin).parent / "datasets" / "data" / file


def _source(columns: dict[str, Any], name: str) -> Source:
    return Source(need("pyarrow").Table.from_arrays([column_of(values) for values in columns.values()], names=list(columns)), name)


def _digits() -> Source:
    with gzip.open(_bundled("digits.csv.gz"), "rt") as file:
        data = np.loadtxt(file, delimiter=",")
    columns: dict[str, Any] = {f"pixel {i // 8},{i % 8}": data[:, i] for i in range(64)}
    return _source(columns | {"target": data[:, 64].astype(np.int64)}, "digits")


def _cancer() -> Source:
    with open(_bundled("breast_cancer.csv"), newline="") as file:
        rows = list(csv.reader(file))
    names = [f"{part} {what}" for part in ("mean", "error of", "worst") for what in (
        "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry", "fractal dimension")]  # fmt: skip
    data = np.array(rows[1:], np.float64)
    columns: dict[str, Any] = {n: data[:, i] for i, n in enumerate(names)}
    return _source(columns | {"target": [rows[0][2:][int(v)] for v in data[:, -1]]}, "breast-cancer")


def _diabetes() -> Source:
    names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    with gzip.open(_bundled("diabetes_data_raw.csv.gz"), "rt") as file:
        data = np.loadtxt(file)
    with gzip.open(_bundled("diabetes_target.csv.gz"), "rt") as file:
        target = np.loadtxt(file)
    columns: dict[str, Any] = {n: data[:, i] for i, n in enumerate(names)}
    return _source(columns | {"target": target}, "diabetes")


def _fashion() -> tuple[Source, int]:
    folder = next((f for f in _FASHION if f.is_dir()), None)
    files = {} if folder is None else {p.name.removesuffix(".gz"): p for p in folder.rglob("*-ubyte*")}
    wanted = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if any(w not in files for w in wanted):
        raise InvalidValue("fashion-mnist is not installed on this machine: apt install dataset-fashion-mnist (Debian, Ubuntu)")
    images, labels, more, more_labels = (_idx(files[w]) for w in wanted)
    X = np.ascontiguousarray(np.concatenate([images, more]).reshape(len(images) + len(more), -1).T)  # features in rows: columns of Arrow
    columns: dict[str, Any] = {f"pixel {i // 28},{i % 28}": X[i] for i in range(784)}
    return _source(columns | {"target": np.concatenate([labels, more_labels]).astype(np.int64)}, "fashion-mnist"), len(more)


def _idx(path: Path) -> np.ndarray:
    """An IDX file: two zero bytes, a type, the number of dimensions, the dimensions, the bytes."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dimensions = data[3]
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
