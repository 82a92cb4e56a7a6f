"""Which rows each update reads: the batches of a plan laid end to end, epoch after epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.batches import Batches, Blocks, Buffer, Shuffled
from fallline.plan.segment import Stream
from fallline.shuffle import index_dtype


class Visits:
    """The rows that updates read, a function of (rows, batches, seed) alone; two epochs' orders are kept.

    Args:
        rows: of the data.
        batches: their size and order.
        seed: of the order.
    """

    def __init__(self, rows: int, batches: Batches, seed: int):
        self.rows, self.batches, self.seed = rows, batches, seed
        size, per = batches.size or rows, batches.steps_per_epoch(rows)
        self.stream = Stream(min(rows, per * size), size, per)
        self._orders: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_orders": {}}

    @property
    def smallest(self) -> int:
        """Rows of the smallest batch: an epoch's last."""
        return self.stream.rows - (self.stream.per_epoch - 1) * self.stream.batch

    def position(self, updates: Any) -> Any:
        """Rows read before an update, or before each of an array of them."""
        return self.stream.position(updates)

    def between(self, start: int, stop: int) -> np.ndarray:
        """Data rows of updates start .. stop-1, end to end; a view where they lie in one epoch."""
        stream, order = self.stream, self.batches.order
        a, b = stream.position(start), stream.position(stop)
        first, last = a // stream.rows, -(-b // stream.rows)
        if last - first <= 1 and not hasattr(order, "part"):
            return self._order(first)[a - first * stream.rows : b - first * stream.rows]
        out = np.empty(b - a, index_dtype(self.rows))
        for epoch in range(first, last):
            base = epoch * stream.rows
            there = slice(max(a - base, 0), min(b - base, stream.rows))
            self._fill(out[base + there.start - a : base + there.stop - a], epoch, there)
        return out

    def _fill(self, place: np.ndarray, epoch: int, there: slice) -> None:
        """Write a stretch of an epoch's order where it is needed."""
        order: Any = self.batches.order
        if hasattr(order, "part"):
            place[:] = order.part(self.rows, self.seed, epoch, there.start, there.stop)
        elif place.size == self.rows and epoch not in self._orders and isinstance(order, Shuffled):
            order.indices(self.rows, self.seed, epoch, place)  # no copy, a nanosecond a row
        else:
            place[:] = self._order(epoch)[there]

    def buffers(self, start: int, stop: int) -> tuple[Buffer, ...]:
        """The buffers that updates start .. stop-1 read, and the one that follows, counted from update start's first entry; see `Blocks`."""
        order, stream = self.batches.order, self.stream
        if not isinstance(order, Blocks):
            return ()
        out: list[Buffer] = []
        a, b = stream.position(start), stream.position(stop)
        for epoch in (*range(a // stream.rows, -(-b // stream.rows)), -(-b // stream.rows)):
            base = epoch * stream.rows
            for buffer in order.buffers(self.rows, self.seed, epoch, max(a - base, 0), stream.rows):
                out.append(Buffer(buffer.start + base - a, buffer.stop + base - a, buffer.spans))
                if out[-1].start + a >= b:
                    return tuple(out)
        return tuple(out)

    def _order(self, epoch: int) -> np.ndarray:
        """The order of rows in an epoch; two epochs are kept, so that short segments cost no shuffle."""
        order = self._orders.get(epoch)
        if order is None:
            order = self.batches.order.indices(self.rows, self.seed, epoch)
            for old in list(self._orders)[:-1]:
                self._orders.pop(old, None)
            self._orders[epoch] = order
        return order


__all__ = ["Visits"]
