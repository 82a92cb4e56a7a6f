"""R20: implementations that break one rule each. The suite is worth something only if it fails for every one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from fallline import durable
from fallline.checkpoints import contents, store
from tests.reliability import injections as suite

Mutant = Callable[[], Any]


def _write_without_flush(path: Path, data: bytes) -> None:
    descriptor = durable.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    durable.os.write(descriptor, data)
    durable.os.close(descriptor)


def _write_and_forget_the_rest(path: Path, data: bytes) -> None:
    descriptor = durable.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        durable.os.write(descriptor, data)  # may write a part only
        durable.os.fsync(descriptor)
    finally:
        durable.os.close(descriptor)


def _rename_without_flush(source: Path, target: Path) -> None:
    durable.os.rename(source, target)


def _remove_in_sight(folder: Path) -> None:
    for entry in os.listdir(folder):
        durable.os.unlink(folder / entry)
    durable.os.rmdir(folder)


def _rename_over(source: Path, target: Path) -> None:
    """One directory for all steps: the old one goes first, then the new one takes its place."""
    for path in sorted(target.parent.glob("0*")):
        _remove_in_sight(path)
    durable.os.rename(source, target)
    durable.sync_folder(target.parent)


def _manifest_first(made: Callable[..., dict[str, bytes]]) -> Callable[..., dict[str, bytes]]:
    return lambda *given: dict(reversed(made(*given).items()))


def _staged_in_sight(self: store.Checkpoints, step: int, what: Any) -> Path:
    """Files written straight into a folder of the final name."""
    serial = 1 + max((int(found[1]) for _, found in self._named()), default=0)
    final = self.folder / f"{serial:06d}-step-{step:09d}"
    self.folder.mkdir(parents=True, exist_ok=True)
    durable.make_folder(final)
    for name, data in reversed(contents.whole(what, {"run": self.run, "serial": serial, "step": step}).items()):
        durable.write_file(final / name, data)
    durable.sync_folder(final)
    durable.sync_folder(self.folder)
    return final


def _newest_unverified(self: store.Checkpoints) -> Any:
    """The newest folder, believed without a look."""
    for path, _ in reversed(self._named()):
        try:
            manifest = contents.read_json("manifest.json", (path / "manifest.json").read_bytes())
            arrays = {n: contents._tensors(n, (path / n).read_bytes(), f) for n, f in manifest["files"].items() if n.endswith(".safetensors")}
            documents = {n: contents.read_json(n, (path / n).read_bytes()) for n in manifest["files"] if n.endswith(".json")}
            return store.Checkpoint(manifest["step"], manifest["run"], contents.Contents(documents, arrays), path)
        except (OSError, contents.Damaged, KeyError, TypeError, ValueError, AttributeError):
            return None
    return None


def _read_by_any_name(self: store.Checkpoints, path: Path) -> Any:
    try:
        manifest, what = contents.verified(path)
    except contents.Damaged as flaw:
        self.damaged.append((path, str(flaw)))
        return None
    return store.Checkpoint(manifest["step"], manifest["run"], what, path)


def _any_tensors(name: str, data: bytes, expected: Any) -> dict[str, Any]:
    from safetensors.numpy import load

    return dict(load(data))


def _read_anything(path: Path, expected: Any) -> bytes:
    return path.read_bytes()


def _swallowed(save: Callable[..., Path]) -> Callable[..., Path]:
    """A failed write is passed over in silence, with what it left."""

    def quiet(self: store.Checkpoints, step: int, what: Any) -> Path:
        try:
            return save(self, step, what)
        except store.CheckpointFailed:
            return self.folder

    return quiet


def _prune_first(save: Callable[..., Path]) -> Callable[..., Path]:
    """The old ones go before the new one is there."""

    def greedy(self: store.Checkpoints, step: int, what: Any) -> Path:
        for path, _ in self._named():
            durable.remove_folder(path)
        return save(self, step, what)

    return greedy


def _unseen(path: str, value: Any) -> Mutant:
    return lambda: mock.patch(path, value)


MUTANTS: dict[str, Mutant] = {
    "a file is not flushed": _unseen("fallline.durable.write_file", _write_without_flush),
    "what a write left over is not written": _unseen("fallline.durable.write_file", _write_and_forget_the_rest),
    "names of the new folder's files are not flushed": _unseen("fallline.durable.sync_folder", lambda folder: None),
    "the rename is not flushed, then the old ones go": _unseen("fallline.durable.rename", _rename_without_flush),
    "one folder for all steps": _unseen("fallline.durable.rename", _rename_over),
    "old ones are removed file by file in sight": _unseen("fallline.durable.remove_folder", _remove_in_sight),
    "old ones are removed first": lambda: mock.patch.object(store.Checkpoints, "save", _prune_first(store.Checkpoints.save)),
    "written in sight, manifest first": lambda: mock.patch.object(store.Checkpoints, "save", _staged_in_sight),
    "the newest is believed": lambda: mock.patch.object(store.Checkpoints, "newest", _newest_unverified),
    "no hash, no length": _unseen("fallline.checkpoints.contents.read_file", _read_anything),
    "arrays are not compared with the manifest, and no hash": lambda: _both(
        mock.patch("fallline.checkpoints.contents.read_file", _read_anything), mock.patch("fallline.checkpoints.contents._tensors", _any_tensors)
    ),
    "the manifest's own seal is not looked at": _unseen("fallline.checkpoints.contents._sealed", lambda manifest: _Anything()),
    "a failed save is passed over": lambda: mock.patch.object(store.Checkpoints, "save", _swallowed(store.Checkpoints.save)),
    "what a kill left is not swept": _unseen("fallline.checkpoints.store.Checkpoints.sweep", lambda self: 0),
    "the folder's name is not compared": lambda: mock.patch.object(store.Checkpoints, "_read", _read_by_any_name),
}


class _Anything(bytes):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


@contextmanager
def _both(*patches: Any) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def noticed(name: str) -> bool:
    """Whether the suite fails for a mutant."""
    runs = (
        suite.killed_at_every_call, lambda: suite.power_cut(6), lambda: suite.disk_full(12),
        lambda: suite.truncated_swapped_deleted(20), lambda: suite.flipped_bits(150, 20),
    )  # fmt: skip
    with MUTANTS[name]():
        try:
            return any(run().lost for run in runs)
        except Exception:  # it broke down in the middle of the suite: noticed too
            return True
