"""Where batches come from: tensors gathered by index, a map-style data set, or anything that yields batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import torch

from fallline.errors import InvalidValue
from fallline.torch.nest import as_tensors, described, leaves, mapped, moved, rows_of
from fallline.torch.randomness import borrowed


class Source(Protocol):
    """Batches by the indices of their rows."""

    rows: int
    device: torch.device

    def take(self, rows: torch.Tensor | None) -> Any:
        """The batch of these rows (int64 on any device), or of all rows."""
        ...

    def fingerprint(self) -> str: ...


class Resident:
    """Tensors on the device, gathered by index: no loader, no collation.

    Args:
        data: a nest of tensors or arrays, all of the same first dimension.
    """

    def __init__(self, data: Any, device: torch.device):
        self.nest, self.device = as_tensors(data, device), device
        lengths = {len(leaf) if leaf.ndim else 0 for leaf in leaves(self.nest)}
        if len(lengths) != 1 or lengths == {0}:
            raise InvalidValue(f"data is a {described(self.nest)}: expected tensors with the same, non-zero number of rows")
        self.rows = lengths.pop()

    def take(self, rows: torch.Tensor | None) -> Any:
        if rows is None:
            return self.nest
        return mapped(lambda leaf: leaf.index_select(0, rows), self.nest)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for leaf in leaves(self.nest):
            digest.update(f"{leaf.dtype}{list(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().view(torch.uint8).reshape(-1).numpy().data if leaf.numel() else b"")
        return digest.hexdigest()


class SparseRows:
    """SciPy's CSR rows beside dense targets and weights: a batch is made dense when it is taken, never all of them.

    Args:
        data: (X, y) or (X, y, weight), with X [rows, features] in CSR.
    """

    def __init__(self, data: tuple[Any, ...], device: torch.device):
        self.X, self.rest, self.device, self.rows = data[0], as_tensors(data[1:], device), device, data[0].shape[0]

    def take(self, rows: torch.Tensor | None) -> Any:
        x = torch.from_numpy((self.X if rows is None else self.X[rows.cpu().numpy()]).toarray()).to(self.device)
        return (x, *(self.rest if rows is None else (leaf.index_select(0, rows) for leaf in self.rest)))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.X.shape).encode())
        for part in (self.X.data, self.X.indices, self.X.indptr, *(leaf.cpu().numpy() for leaf in self.rest)):
            digest.update(f"{part.dtype.str}{part.shape}".encode() + part.tobytes())
        return digest.hexdigest()


class Indexed:
    """A map-style data set: `dataset[i]`, collated as a DataLoader does.

    Args:
        dataset: anything with `__len__` and `__getitem__`.
    """

    def __init__(self, dataset: Any, device: torch.device):
        self.dataset, self.device, self.rows = dataset, device, len(dataset)
        if self.rows == 0:
            raise InvalidValue(f"data is a {type(dataset).__name__} of length 0: expected at least one row")

    def take(self, rows: torch.Tensor | None) -> Any:
        from torch.utils.data import default_collate

        at = range(self.rows) if rows is None else rows.tolist()
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(list(at)) if fetch else [self.dataset[i] for i in at]
        return moved(default_collate(items), self.device)

    def fingerprint(self) -> str:
        """Of the length and the first and last rows: reading all of a data set may take hours."""
        digest = hashlib.sha256(f"{type(self.dataset).__name__} {self.rows}".encode())
        for i in (0, self.rows - 1):
            for leaf in leaves(self.dataset[i]):
                digest.update(np.asarray(leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf).tobytes() if not isinstance(leaf, str) else leaf.encode())
        return digest.hexdigest()


class Stream:
    """Batches that come in their own order, such as a DataLoader's: iterated again from its beginning when it ends.

    Args:
        batches: an iterable that can be iterated again; each item is a batch.
    """

    def __init__(self, batches: Iterable[Any], device: torch.device):
        if isinstance(batches, Iterator):
            raise InvalidValue(f"data is a {type(batches).__name__}, which can be read only once: give a list or a DataLoader")
        self.batches, self.device = batches, device
        self.rows: int = 0
        self.per_epoch = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
        self._iterator: Iterator[Any] | None = None
        self._next = -1
        self.last: Any = None
        self._stood: dict[int, list[torch.Tensor]] = {}

    def batch(self, step: int, seeded: Callable[[int], None]) -> Any:
        """The batch of update `step`.

        A pass begins with the generators set by `seeded(its first step)`, also when it is begun again to get to a step in
        its middle; so the same update sees the same batch where the iterable draws on those generators.
        """
        if self._iterator is None or step != self._next:
            first = step - step % self.per_epoch if self.per_epoch else 0
            known = {at for at in self._stood if at <= step}
            if known and (self.per_epoch is None or self._generators()):  # a pass that just ended is walked through: a sampler draws once more at its end
                first = max(known)
                self._set(self._stood[first])
            self._open(first, seeded)
            while self._next < step:
                self._advance(seeded)
            if step != first:
                seeded(step)
        self.last = moved(self._advance(seeded), self.device)  # kept, so that a batch that broke can be looked at
        return self.last

    def _open(self, first: int, seeded: Callable[[int], None]) -> None:
        """Begin a pass at update `first`."""
        seeded(first)
        self._stood = {first: [g.get_state() for g in self._generators()]}
        self._iterator, self._next = iter(self.batches), first

    def _advance(self, seeded: Callable[[int], None]) -> Any:
        for _ in range(2):
            assert self._iterator is not None
            for batch in self._iterator:
                self._next += 1
                return batch
            self._open(self._next, seeded)
        raise InvalidValue("data yields no batch at all: expected an iterable of at least one")

    def _generators(self) -> list[torch.Generator]:
        """Generators of the loader's own, and of its samplers: a seed does not set them."""
        owners = [self.batches, *(getattr(self.batches, name, None) for name in ("sampler", "batch_sampler"))]
        owners.append(getattr(owners[2], "sampler", None))
        found = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
        return list(found.values())

    def _set(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators(), states, strict=True):
            generator.set_state(state)

    def position(self) -> dict[str, Any]:
        """Where the present pass began, and how the generators of its own stood then: what they hold later is drawn from there."""
        return {"stood": [[at, [bytes(s.tolist()).hex() for s in states]] for at, states in self._stood.items()]}

    def go_to(self, position: Mapping[str, Any] | None) -> None:
        """Begin the pass of the next batch as it stood at a `position`.

        Raises:
            InvalidValue: the loader has other generators now.
        """
        stood = {int(at): [torch.tensor(list(bytes.fromhex(s)), dtype=torch.uint8) for s in states] for at, states in (position or {"stood": []})["stood"]}
        own = len(self._generators())
        if any(len(states) != own for states in stood.values()):
            raise InvalidValue(f"the loader has {own} generators of its own and had another number: make it as it was")
        self._iterator, self._next, self._stood = None, -1, stood

    def take(self, rows: torch.Tensor | None) -> Any:
        raise InvalidValue("data is an iterable of batches: rows cannot be taken by their index")

    def passes(self) -> Iterator[Any]:
        """One pass over the batches."""
        return (moved(batch, self.device) for batch in iter(self.batches))

    def fingerprint(self) -> str:
        """Of its kind and length: a stream cannot be read ahead."""
        return hashlib.sha256(f"{type(self.batches).__name__} {self.per_epoch}".encode()).hexdigest()


class Later:
    """An iterable of batches without the first few of each pass; one that has no others keeps them.

    Args:
        batches: can be iterated again.
        skipped: how many are left out.
    """

    def __init__(self, batches: Iterable[Any], skipped: int):
        self.batches, self.skipped = batches, skipped

    def __iter__(self) -> Iterator[Any]:
        own = iter(self.batches)
        first = list(islice(own, self.skipped))
        later = next(own, None)
        yield from first if later is None else chain([later], own)


def source_of(data: Any, device: torch.device) -> Resident | SparseRows | Indexed | Stream:
    """Which of the three the user's data is.

    A DataLoader and other iterables without `__getitem__` are streams; a list of batches is one too. Tensors, arrays,
    and tuples or mappings of them are resident; what is left with `__len__` and `__getitem__` is a data set.

    Raises:
        InvalidValue: none of them.
    """
    if isinstance(data, torch.utils.data.TensorDataset):
        return Resident(data.tensors, device)
    if isinstance(data, tuple) and data and hasattr(data[0], "tocsr"):
        return SparseRows((data[0].tocsr(), *data[1:]), device)
    if isinstance(data, (torch.Tensor, np.ndarray)) or _is_nest(data):
        return Resident(data, device)
    if isinstance(data, (torch.utils.data.IterableDataset, list)) or not hasattr(data, "__getitem__"):
        if not isinstance(data, Iterable):
            raise InvalidValue(f"data is a {type(data).__name__}: expected tensors or arrays, a map-style Dataset, or an iterable of batches")
        return Stream(data, device)
    if not hasattr(data, "__len__"):
        raise InvalidValue(f"data is a {type(data).__name__} without a length: expected a map-style Dataset with __len__, or an iterable of batches")
    return Indexed(data, device)


def _is_nest(data: Any) -> bool:
    """A tuple or a mapping whose leaves are all arrays of some length."""
    if not isinstance(data, tuple) and not hasattr(data, "keys"):
        return False
    return all(hasattr(leaf, "shape") or hasattr(leaf, "to_numpy") for leaf in leaves(data)) and any(True for _ in leaves(data))


def some_rows(source: Resident | SparseRows | Indexed | Stream, n: int) -> Any:
    """A batch of about the first n rows, for looking at: no random number is used up."""
    if isinstance(source, Stream):
        with borrowed(source.device, True):
            return next(source.passes())
    return source.take(torch.arange(min(n, source.rows), device=source.device if isinstance(source, (Resident, SparseRows)) else None))


def pieces(source: Resident | SparseRows | Indexed | Stream, size: int, rows: Sequence[int] | None = None) -> Iterator[Any]:
    """All rows in file order, `size` at a time (a stream as it comes)."""
    if isinstance(source, Stream):
        yield from source.passes()
        return
    for a in range(0, source.rows, size):
        yield source.take(torch.arange(a, min(source.rows, a + size), device=source.device if isinstance(source, (Resident, SparseRows)) else None))


__all__ = ["Indexed", "Resident", "Source", "SparseRows", "Stream", "pieces", "rows_of", "some_rows", "source_of"]
