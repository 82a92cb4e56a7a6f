"""The run folder on disk: plan, model, history and journal as JSON and safetensors, with a manifest of hashes.

The manifest is written last: a folder that has one is whole, and a folder with a run.json but no manifest holds a run
that is under way or was killed. Nothing in it is code: JSON and safetensors only, and a file that does not match its
hash is refused by name.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fallline.durable import Damaged, described, listed, read_file, read_json, sync_folder, write_file
from fallline.errors import InvalidValue, RunDamaged, RunExists, RunUnfinished
from fallline.tensors import packed

MANIFEST, PLAN, RUN, HISTORY, REPORT = "manifest.json", "plan.json", "run.json", "history.jsonl", "report.html"
CHECKPOINTS = "checkpoints"
FORMAT = 1


def fresh(folder: str | Path) -> Path:
    """A folder that holds no run yet.

    Raises:
        RunExists: it does.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunExists(f"{path} exists already and is not empty: choose another folder, or remove it")
    return path


# ------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write a whole folder beside its final name and move it there in one rename.

    Args:
        folder: absent or empty.
        documents: name.json: a document; name.jsonl: an iterable of lines; name.html: a text.
        tensors: name.safetensors: arrays by name.
    """
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name, data in _whole(documents, tensors).items():
        write_file(staging / name, data)
    if folder.exists():
        folder.rmdir()  # `fresh` has seen that it is empty; anything else fails here rather than being lost
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, folder)


def complete(folder: Path, documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Bring an open folder to its end: every file by one rename within the folder, the manifest last."""
    for name, data in _whole(documents, tensors).items():
        put(folder, name, data)
    sync_folder(folder)


def put(folder: Path, name: str, data: bytes, *, durable: bool = True) -> None:
    """Write or replace one file; a reader sees the old one or the new one.

    Args:
        folder, name, data: where and what.
        durable: whether it must outlive a power cut from now on, which costs a millisecond or two; a kill it outlives anyway.
    """
    part = folder / f".{name}.{os.getpid()}.part"
    if durable:
        write_file(part, data)
    else:
        part.write_bytes(data)
    os.replace(part, folder / name)


def document(value: Any) -> bytes:
    """A JSON document's bytes."""
    return (json.dumps(plain(value), indent=1) + "\n").encode()


def _whole(documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, bytes]:
    """Every file's bytes by name, the manifest last."""
    contents: dict[str, bytes] = {}
    for name, value in documents.items():
        if name.endswith(".jsonl"):
            contents[name] = "".join(line + "\n" for line in value).encode()
        elif name.endswith(".html"):
            contents[name] = value.encode()
        else:
            contents[name] = document(value)
    for name, arrays in tensors.items():
        contents[name] = packed(arrays)
    hashes = {name: described(data) for name, data in contents.items()}
    contents[MANIFEST] = (json.dumps({"format": FORMAT, "files": hashes}, indent=1) + "\n").encode()
    return contents


# ------------------------------------------------------------------------------------------------------- reading


def read(folder: str | Path) -> dict[str, Any]:
    """Every file of the manifest, verified: bytes, or a memoryview of arrays.

    Raises:
        InvalidValue: no run there, or one of a newer format.
        RunUnfinished: a run that is under way or was killed; the message says what it holds.
        RunDamaged: a file is missing or does not match its hash.
    """
    path = Path(folder)
    try:
        manifest = read_json(MANIFEST, (path / MANIFEST).read_bytes())
        if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
            raise InvalidValue(f"{path} has format {manifest.get('format')!r} and this version reads {FORMAT}: use a newer fallline")
        files = listed(manifest.get("files") if isinstance(manifest, dict) else None)
        data = {name: read_file(path / name, expected) for name, expected in files.items()}
        return {name: held if name.endswith(".safetensors") else bytes(held) for name, held in data.items()}
    except FileNotFoundError:
        if (path / RUN).is_file():
            raise unfinished(path) from None
        raise InvalidValue(f"{path} holds no run: expected a folder that a run was saved to, with a {MANIFEST}") from None
    except Damaged as flaw:
        raise RunDamaged(f"{path}: {flaw}; restore the folder from a copy, or run again") from None


def unfinished(folder: Path) -> RunUnfinished:
    """What a folder without a manifest holds, as an error to raise: how far the run came, and whether it is still under way."""
    try:
        steps = json.loads((folder / PLAN).read_text())["steps"]
        of = f" of {int(steps):,}"
    except (OSError, ValueError, KeyError, TypeError):
        of = ""  # the folder was killed while it was being made
    last = None
    for entry in lines(folder / HISTORY):
        last = entry if entry.get("kind") == "evaluation" else last
    step = None if last is None else int(last["step"])
    how = "a run that is under way" if busy(folder) else "an unfinished run: its process is gone"
    shown = "" if last is None else ", ".join(f"{k.replace('_', ' ')} {v:.5g}" for k, v in last.items() if isinstance(v, float) and k not in ("epoch", "seconds", "lr"))
    reached = "before its first evaluation" if last is None else f"last evaluated after step {step:,}{of} ({shown})"
    kept = ", ".join(n for n in (PLAN, HISTORY, REPORT) if (folder / n).is_file())
    found = checkpointed(folder)
    kept += f"; a checkpoint of step {found[-1]:,}, from which it can go on" if found else "; no checkpoint yet"
    return RunUnfinished(f"{folder} holds {how}; {reached}. It keeps {kept}", step=step, evaluation=last)


def checkpointed(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run's folder, none of them verified, the newest last."""
    try:
        names = [name.split("-") for name in os.listdir(folder / CHECKPOINTS) if not name.startswith(".")]
        return [int(step) for _, _, step in sorted(names, key=lambda parts: int(parts[0]))]
    except (OSError, ValueError):
        return []


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file of JSON lines; a last line that was cut short by a kill is left out."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


# ---------------------------------------------------------------------------------------------------- who writes it


def hold(folder: Path) -> int | None:
    """Hold a folder for this process; the descriptor to close in the end. The system lets go of it when the process dies.

    Raises:
        RunExists: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows has no such locks; there a run that is under way looks unfinished
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise RunExists(f"{folder} holds a run that is under way: choose another folder, or wait for it") from None
    _held.add(descriptor)
    return descriptor


def let_go(descriptor: int) -> None:
    """Let go of a folder."""
    _held.discard(descriptor)
    os.close(descriptor)


_held: set[int] = set()
"""Descriptors of held folders. A forked child (a loader's worker) must not keep them: it may outlive a parent that was killed."""


def _let_go_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def busy(folder: Path) -> bool:
    """Whether a process holds the folder."""
    try:
        held = hold(folder)
    except RunExists:
        return True
    if held is not None:
        let_go(held)
    return False


@contextmanager
def replaced(folder: Path) -> Iterator[None]:
    """Within: `folder` is out of the way under a hidden name; after: it is deleted, or back where an error came."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.rename(folder, aside)
    try:
        yield
    except BaseException:
        os.rename(aside, folder)
        raise
    shutil.rmtree(aside)


def plain(value: Any) -> Any:
    """Values as JSON has them: NumPy scalars as Python's, NaN and infinities as their names."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)
