"""How rows are drawn: the size of a batch, the order of the rows, and what becomes of the short last batch.

An order is a frozen value with one method, `indices(rows, seed, epoch)`: a pure function, so any step's batch is
found from one integer and a resumed run replays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from fallline.errors import InvalidValue, UnknownName
from fallline.shuffle import Indices, draws, index_dtype, permutation, shuffle_in_place, stream_key

# Purposes keep the streams of one seed apart. They are part of saved results: never renumber.
_SHUFFLED, _RESAMPLED, _BLOCK_ORDER, _BLOCK_INSIDE, _BUFFER_INSIDE = 1, 2, 3, 4, 5


class Order(Protocol):
    """The order in which the rows of an epoch are visited."""

    def indices(self, rows: int, seed: int, epoch: int) -> Indices:
        """The row numbers of one epoch, shape (rows,), C-contiguous, int32 when rows < 2**31 else int64."""
        ...


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Every row exactly once an epoch, in an order drawn anew each epoch from (seed, epoch).

    >>> Shuffled().indices(6, seed=0, epoch=0).size
    6
    """

    def indices(self, rows: int, seed: int, epoch: int, out: Indices | None = None) -> Indices:
        """A uniform permutation of 0 .. rows-1 (Fisher-Yates), into `out` where it is given."""
        return permutation(rows, stream_key(seed, epoch, _SHUFFLED), out)


@dataclass(frozen=True, slots=True)
class InFile:
    """Every row exactly once an epoch, in the order of the data.

    >>> InFile().indices(4, seed=0, epoch=9)
    array([0, 1, 2, 3], dtype=int32)
    """

    def indices(self, rows: int, seed: int, epoch: int) -> Indices:
        """0, 1, ..., rows-1, whatever the seed and the epoch."""
        return self.part(rows, seed, epoch, 0, rows)

    def part(self, rows: int, seed: int, epoch: int, start: int, stop: int) -> Indices:
        """Entries start .. stop-1 of `indices`."""
        return np.arange(start, stop, dtype=index_dtype(rows))


@dataclass(frozen=True, slots=True)
class Resampled:
    """Rows drawn independently with replacement: some come twice in an epoch, about 37 % not at all."""

    def indices(self, rows: int, seed: int, epoch: int) -> Indices:
        """`rows` independent uniform draws."""
        return draws(rows, stream_key(seed, epoch, _RESAMPLED))


class Buffer(NamedTuple):
    """Entries start .. stop-1 of an epoch's order, and where their rows lie: int64 [blocks, 2], from row to row."""

    start: int
    stop: int
    spans: np.ndarray


@dataclass(frozen=True, slots=True)
class Blocks:
    """Every row exactly once an epoch; blocks of neighbouring rows in random order, several at a time shuffled together.

    For data that is read from disk: only a buffer of rows is needed in memory at a time.

    Args:
        buffer: rows that are shuffled together.
        block: rows of a block, which lie together; left out, a buffer is one block.

    Source: CorgiPile (Xu et al. 2022, arXiv 2206.05830).
    """

    buffer: int
    block: int | None = None

    def __post_init__(self) -> None:
        _at_least_one("Blocks", "buffer", self.buffer)
        if self.block is not None:
            _at_least_one("Blocks", "block", self.block)
            if self.block > self.buffer:
                raise InvalidValue(f"Blocks(buffer={self.buffer}, block={self.block}): a buffer holds one block at least; give block={self.buffer} or less")

    def indices(self, rows: int, seed: int, epoch: int) -> Indices:
        """The blocks in a random order, each buffer of them permuted."""
        return self.part(rows, seed, epoch, 0, rows)

    def part(self, rows: int, seed: int, epoch: int, start: int, stop: int) -> Indices:
        """Entries start .. stop-1 of `indices`, from their own buffers alone: memory for those, whatever the rows."""
        out = np.empty(stop - start, dtype=index_dtype(rows))
        for buffer in self.buffers(rows, seed, epoch, start, stop):
            a, b = max(buffer.start, start), min(buffer.stop, stop)
            out[a - start : b - start] = _permuted(self, rows, seed, epoch, buffer.start)[a - buffer.start : b - buffer.start]
        return out

    def buffers(self, rows: int, seed: int, epoch: int, start: int, stop: int) -> Iterator[Buffer]:
        """The buffers that hold entries start .. stop-1, in order."""
        size, many = self.block or self.buffer, self.buffer // (self.block or self.buffer)
        order, short, late = _block_order(rows, size, stream_key(seed, epoch, _BLOCK_ORDER))
        k = max(start // (size * many), 0)
        while start < stop and k * many < len(order):
            first, past = k * many, min((k + 1) * many, len(order))
            begin, end = (i * size - (short if i > late else 0) for i in (first, past))
            if begin >= stop:
                return
            if end > start:
                rows_from = order[first:past].astype(np.int64) * size
                yield Buffer(begin, end, np.stack([rows_from, np.minimum(rows_from + size, rows)], axis=1))
            k += 1


@lru_cache(maxsize=4)
def _block_order(rows: int, size: int, key: int) -> tuple[Indices, int, int]:
    """The order of the blocks, by how many rows the last one is short, and its place in the order."""
    count = -(-rows // size)
    order = permutation(count, key)
    return order, count * size - rows, int(np.argmax(order)) if count else 0


@lru_cache(maxsize=3)
def _permuted(order: Blocks, rows: int, seed: int, epoch: int, start: int) -> Indices:
    """The rows of the buffer whose first entry is `start`, in the order of their visit."""
    buffer = next(order.buffers(rows, seed, epoch, start, start + 1))
    part = np.concatenate([np.arange(a, b, dtype=index_dtype(rows)) for a, b in buffer.spans.tolist()])
    if order.block is None:
        key = stream_key(stream_key(seed, epoch, _BLOCK_INSIDE), int(buffer.spans[0, 0]) // order.buffer)
    else:
        key = stream_key(stream_key(seed, epoch, _BUFFER_INSIDE), start)
    shuffle_in_place(part, key)
    part.flags.writeable = False
    return part


_ORDERS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Shuffled, InFile, Resampled, Blocks)}


@dataclass(frozen=True, slots=True, repr=False)
class Batches:
    """How many rows an update sees, and which.

    Epoch e visits the rows in `order.indices(rows, seed, e)`; update k of the epoch takes the k-th stretch of `size`.

    Args:
        size: rows in a batch over all processes together, or None for the full batch (write `Batches.full()`).
        order: `Shuffled()`, `InFile()`, `Resampled()` or `Blocks(buffer)`.
        last: "keep" a short last batch (its gradient is the mean over the rows it has) or "drop" it.
        chunk: rows computed at a time inside a batch, or None to leave it to the engine. Changes memory, not results
            (beyond rounding).

    >>> Batches(64), Batches.full(), Batches.single()
    (Batches(64), Batches.full(), Batches.single())
    >>> Batches(64).steps_per_epoch(1000), Batches(64, last="drop").steps_per_epoch(1000)
    (16, 15)
    """

    size: int | None
    order: Order = field(default_factory=Shuffled)
    last: Literal["keep", "drop"] = "keep"
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            _at_least_one("Batches", "size", self.size)
        if self.chunk is not None:
            _at_least_one("Batches", "chunk", self.chunk)
        if self.last not in ("keep", "drop"):
            raise UnknownName.among("choice for last", str(self.last), ("keep", "drop"))
        if not callable(getattr(self.order, "indices", None)) or isinstance(self.order, type):
            hint = f"; write {self.order.__name__}()" if isinstance(self.order, type) else ""
            raise InvalidValue(f"Batches(order={self.order!r}): expected an order such as Shuffled() or InFile(){hint}")

    @classmethod
    def full(cls, chunk: int | None = None) -> Batches:
        """Batch gradient descent: one update an epoch with the exact gradient of all rows."""
        return cls(None, order=InFile(), chunk=chunk)

    @classmethod
    def single(cls) -> Batches:
        """Stochastic gradient descent: one row an update, shuffled every epoch."""
        return cls(1)

    @property
    def is_full(self) -> bool:
        """Whether every update sees every row."""
        return self.size is None

    def steps_per_epoch(self, rows: int) -> int:
        """Updates in one pass over `rows` rows: ceil(rows/size), or floor where the short last batch is dropped.

        Raises:
            InvalidValue: no rows, or a batch larger than the data.
        """
        if rows < 1:
            raise InvalidValue(f"the data have {rows} rows: expected at least one")
        if self.size is None:
            return 1
        if self.size > rows:
            raise InvalidValue(
                f"a batch of {self.size} rows was asked for, but the data have only {rows} rows; "
                f"use a batch size of at most {rows}, or Batches.full() for all rows in every update"
            )
        return rows // self.size if self.last == "drop" else -(-rows // self.size)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `Batches.from_json` takes them back.

        Raises:
            InvalidValue: the order is not one of the library's own.
        """
        kind = type(self.order).__name__
        if _ORDERS.get(kind) is not type(self.order):
            raise InvalidValue(f"the order {self.order!r} cannot be written to JSON; the ones that can: {', '.join(_ORDERS)}")
        order: dict[str, Any] = {"kind": kind}
        if isinstance(self.order, Blocks):
            order |= {"buffer": self.order.buffer} | ({} if self.order.block is None else {"block": self.order.block})
        return {"size": self.size, "order": order, "last": self.last, "chunk": self.chunk}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Batches:
        """The value that `to_json` wrote."""
        order = dict(data["order"])
        kind = order.pop("kind")
        if kind not in _ORDERS:
            raise UnknownName.among("order", str(kind), _ORDERS)
        return cls(data["size"], order=_ORDERS[kind](**order), last=data["last"], chunk=data["chunk"])

    def __repr__(self) -> str:
        if self.is_full:
            plain, given = InFile(), []
        else:
            plain, given = Shuffled(), [] if self.size == 1 else [str(self.size)]
        given += [f"order={self.order!r}"] if self.order != plain else []
        given += [f"last={self.last!r}"] if self.last != "keep" else []
        given += [f"chunk={self.chunk}"] if self.chunk is not None else []
        if self.is_full and (self.order != plain or self.last != "keep"):
            return f"Batches(None, {', '.join(given)})"
        if self.size == 1 and given:
            return f"Batches(1, {', '.join(given)})"
        name = "Batches.full" if self.is_full else "Batches.single" if self.size == 1 else "Batches"
        return f"{name}({', '.join(given)})"


def _at_least_one(what: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidValue(f"{what}({name}={value!r}): expected a whole number of rows, 1 or more")
