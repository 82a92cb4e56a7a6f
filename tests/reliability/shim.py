"""A file system that counts, stops, fails and remembers: it stands in for `os` where files are written durably."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fallline import durable

CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """The process is gone: nothing that would clean up may run."""


@dataclass
class Shim:
    """Stands in for `os`.

    Args:
        kill_at: the call (from 1) before which the process dies; None for never.
        fail_at: the call that fails with `error`, and every later one that writes.
        room: bytes that can still be written; None for any number.

    Attributes:
        log: every call as (name, arguments), for replay.
    """

    kill_at: int | None = None
    fail_at: int | None = None
    error: int = errno.EIO
    room: int | None = None
    calls: int = 0
    log: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *given: self._call(name, real, given)) if name in CALLS else real

    def _call(self, name: str, real: Any, given: tuple[Any, ...]) -> Any:
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed
        if self.fail_at is not None and self.calls >= self.fail_at and name in ("open", "write", "fsync", "mkdir", "rename"):
            raise OSError(self.error, os.strerror(self.error))
        if name == "write" and self.room is not None:
            taken = min(len(given[1]), self.room)
            if taken == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= taken
            given = (given[0], bytes(given[1])[:taken])
        result = real(*given)
        self._remember(name, given, result)
        return result

    def _remember(self, name: str, given: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._paths[result] = str(given[0])
            self.log.append(("create" if given[1] & os.O_CREAT else "look", (str(given[0]),)))
        elif name == "write":
            self.log.append(("write", (self._paths[given[0]], bytes(given[1])[:result])))
        elif name == "fsync":
            self.log.append(("fsync", (self._paths[given[0]],)))
        elif name != "close":
            self.log.append((name, tuple(map(str, given[: 2 if name == "rename" else 1]))))


@contextmanager
def shimmed(shim: Shim) -> Iterator[Shim]:
    """Within: durable files go through `shim`."""
    durable.os = shim  # type: ignore[assignment]
    try:
        yield shim
    finally:
        durable.os = os  # type: ignore[assignment]


# ------------------------------------------------------------------------------------- what a power cut may leave


@dataclass
class Disk:
    """What is on the disk after each call of a log, and what is only on its way.

    A file's bytes are there once it was flushed after they were written; a name is there once its folder was flushed.
    """

    root: Path
    names: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    safe: list[bool] = field(default_factory=list)
    written: dict[str, bytes] = field(default_factory=dict)
    flushed: dict[str, bytes] = field(default_factory=dict)

    def follow(self, name: str, given: tuple[Any, ...]) -> None:
        if name == "create":
            self.written[given[0]] = b""
            self.flushed.setdefault(given[0], b"")
            self._name("create", given)
        elif name == "write":
            self.written[given[0]] += given[1]
        elif name == "fsync" and given[0] in self.written:
            self.flushed[given[0]] = self.written[given[0]]
        elif name == "fsync":
            self.safe = [safe or any(str(Path(x).parent) == given[0] for x in paths) for safe, (_, paths) in zip(self.safe, self.names, strict=True)]
        elif name in ("rename", "mkdir", "unlink", "rmdir"):
            self._name(name, given)

    def _name(self, name: str, given: tuple[str, ...]) -> None:
        self.names.append((name, given))
        self.safe.append(False)

    def left(self, draw: Any, base: Path) -> None:
        """Lay under `base` (a copy of what was there before) one state that a power cut may leave.

        Args:
            draw: a random generator: which unflushed names made it, and how much of each unflushed file.
            base: a folder that holds a copy of `root`.
        """
        place = lambda path: base / Path(path).relative_to(self.root)
        for (name, given), safe in zip(self.names, self.safe, strict=True):
            if not safe and draw.random() < 0.5:
                continue
            at = place(given[0])
            if name == "mkdir" and at.parent.is_dir():
                at.mkdir(exist_ok=True)
            elif name == "create" and at.parent.is_dir():
                at.write_bytes(self._bytes(given[0], draw))
            elif name == "rename" and at.exists() and place(given[1]).parent.is_dir():
                os.rename(at, place(given[1]))
            elif name == "unlink" and at.is_file():
                at.unlink()
            elif name == "rmdir" and at.is_dir() and not any(at.iterdir()):
                at.rmdir()

    def _bytes(self, path: str, draw: Any) -> bytes:
        done, all_ = self.flushed[path], self.written[path]
        if done == all_:
            return all_
        kept = int(draw.integers(0, len(all_) + 1))
        return draw.choice([all_[:kept], all_, bytes(len(all_)), done])
