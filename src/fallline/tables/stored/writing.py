"""Encoded rows written to files, piece by piece, on a thread of its own; a folder is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from fallline.errors import TableError
from fallline.problems import arrays

META = "table.json"
VERSION = 1


class ArrayFile:
    """A .npy file under way; its shape is known in the end."""

    def __init__(self, path: Path, dtype: Any, width: tuple[int, ...] = ()):
        self.path, self.dtype, self.width, self.rows = path, np.dtype(dtype), width, 0
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115  # closed by `close`
        self._head()
        self._start = self._file.tell()

    def _head(self) -> None:
        shape = (self.rows, *self.width)
        np.lib.format.write_array_header_1_0(self._file, {"descr": self.dtype.str, "fortran_order": False, "shape": shape})

    def add(self, values: np.ndarray) -> bytes | memoryview:
        """More rows; returns their bytes."""
        data = memoryview(np.ascontiguousarray(values, self.dtype)).cast("B") if values.size else b""
        self._file.write(data)
        self.rows += len(values)
        return data

    def close(self) -> None:
        self._file.flush()
        self._file.seek(0)
        self._head()
        if self._file.tell() != self._start:  # NumPy keeps room for the number of rows; where it did not, the file would be damaged
            raise TableError(f"{self.path.name}: the header grew while it was written: please report this")
        self._file.close()


    def leave(self) -> None:
        """Close the file as it is."""
        with suppress(OSError):
            self._file.close()


class Rows:
    """Training rows on their way to files.

    Args:
        folder: where.
        sparse: whether rows are CSR.
        features: columns of the encoded rows.
        weighted: whether rows have weights.
        decoded: whether the target's own numbers are kept beside the standardised ones.
    """

    def __init__(self, folder: Path, sparse: bool, features: int, weighted: bool, decoded: bool):
        self.sparse, self.features = sparse, features
        self._files = {"target": ArrayFile(folder / "target.npy", np.float32), "rows": ArrayFile(folder / "rows.npy", np.int64)}
        if sparse:
            self._files |= {"data": ArrayFile(folder / "data.npy", np.float32), "indices": ArrayFile(folder / "indices.npy", np.int32)}
            self._files["starts"] = ArrayFile(folder / "starts.npy", np.int64)
            self._files["starts"].add(np.zeros(1, np.int64))
        else:
            self._files["X"] = ArrayFile(folder / "X.npy", np.float32, (features,))
        if weighted:
            self._files["weight"] = ArrayFile(folder / "weight.npy", np.float32)
        if decoded:
            self._files["decoded"] = ArrayFile(folder / "decoded.npy", np.float32)
        self._digest = hashlib.blake2b(digest_size=32)
        self._squares, self._top, self._entries, self.count = np.zeros(features), 0.0, 0, 0
        self._pool, self._waiting = ThreadPoolExecutor(1, thread_name_prefix="fallline-write"), None

    def add(self, X: Any, columns: dict[str, np.ndarray]) -> None:
        """More rows: their features, and one entry a row for each other file. They are written while the next ones are made."""
        self._wait()
        self._waiting: Future[None] | None = self._pool.submit(self._write, X, columns)

    def _wait(self) -> None:
        if self._waiting is not None:
            self._waiting.result()

    def _write(self, X: Any, columns: dict[str, np.ndarray]) -> None:
        with np.errstate(over="ignore"):
            if self.sparse:
                used, place = np.unique(X.indices, return_inverse=True)
                values = X.data
                self._squares[used] += np.bincount(place, X.data.astype(np.float64) ** 2, len(used))
                columns = columns | {"data": X.data, "indices": X.indices, "starts": X.indptr[1:] + self._entries}
                self._entries += len(X.data)
            else:
                values = X
                self._squares += np.einsum("ij,ij->j", X, X, dtype=np.float64)
                columns = columns | {"X": X}
        self._top = max(self._top, float(values.max(initial=0)), -float(values.min(initial=0)))
        for name, part in columns.items():
            data = self._files[name].add(part)
            if name != "rows":
                self._digest.update(data)
        self.count += X.shape[0]

    def close(self) -> dict[str, Any]:
        """Finish the files; returns what is known of the rows."""
        self._wait()
        self._pool.shutdown()
        for file in self._files.values():
            file.close()
        return {
            "rows": self.count, "features": self.features, "sparse": self.sparse, "files": sorted(self._files), "digest": self._digest.hexdigest(),
            "scales": np.sqrt(self._squares / max(self.count, 1)).tolist(), "top": self._top,
        }  # fmt: skip

    def abandon(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.leave()


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A new folder that takes its name once it is whole; nothing is left of it where it does not come to that.

    Raises:
        TableError: the disk is full.
    """
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():  # another process was faster, or an older one is in the way
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TableError(f"the disk of {folder.parent} is full: make room, or give cache= (--cache) on another disk") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def enough_room(folder: Path, size: float) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        TableError: it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise TableError(f"the encoded rows need {size / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free: make room, or give cache= (--cache) on another disk")


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    (folder / META).write_text(json.dumps(meta))


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a folder says of itself, or None where there is none that this version reads."""
    try:
        meta = json.loads((folder / META).read_text())
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and meta.get("version") == VERSION else None


def checked(X: Any, names: tuple[str, ...] | None = None) -> Any:
    """Encoded rows as kernels read them, all finite."""
    return arrays.matrix(X, names).X
