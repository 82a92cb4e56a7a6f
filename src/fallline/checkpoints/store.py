"""The checkpoints of a run on disk: which there are, the newest that verifies, a new one, the old ones removed.

    FOLDER/000007-step-000001200/    one checkpoint: whole, or not there
    FOLDER/.000008-...tmp/           one being written, or left by a kill; removed by the next writer

Each is written under a hidden name in the same folder, every file flushed, the manifest last, and named by one rename. No
file says which is the latest: it is computed, as the newest that verifies. Nothing is ever overwritten; an old one goes only
after the new one was read back and verified, and never below `keep`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fallline import durable, run_folder
from fallline.checkpoints.contents import Contents, Damaged, verified, whole
from fallline.errors import CheckpointFailed, InvalidValue

_NAME = re.compile(r"(\d{6,})-step-(\d{9,})")
LOOKS = 20
"""How often a reader looks again, where a writer beside it removed what it had begun to read."""
_HIDDEN = re.compile(r"\.\d{6,}-step-\d{9,}\.\d+\.(tmp|old)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        step: updates made.
        run: the identity of the run that wrote it.
        contents: documents and arrays.
        path: its folder.
    """

    step: int
    run: str
    contents: Contents = field(repr=False)
    path: Path


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        run: the run's identity, written into each. Those of another run are left alone and never loaded.
        keep: how many valid ones stay, at least 2.

    Attributes:
        damaged: what was found that does not verify, as (folder, reason): reported, never loaded.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as place:
    ...     kept = Checkpoints(Path(place), "a run")
    ...     for step in (10, 20, 30):
    ...         _ = kept.save(step, Contents({"about.json": {"lr": 0.1}}, {"state.safetensors": {"w": np.ones(3)}}))
    ...     newest = kept.newest()
    ...     newest.step, kept.steps()
    (30, [20, 30])
    """

    folder: Path
    run: str
    keep: int = 2
    damaged: list[tuple[Path, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.keep < 2:
            raise InvalidValue(f"keep={self.keep}: expected at least 2, so that one is left where the newest is damaged")

    # ------------------------------------------------------------------------------------------------- reading

    def steps(self) -> list[int]:
        """The steps of all checkpoints there, in the order in which they were written; none is verified."""
        return [int(found[2]) for _, found in self._named()]

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint of this run that verifies, or None. Those that do not are in `damaged`."""
        self.damaged.clear()
        for _ in range(LOOKS):  # one may be removed by its writer between looking and reading: look again
            gone = False
            for path, _ in reversed(self._named()):
                try:
                    found = self._read(path)
                except FileNotFoundError:
                    gone = True
                    continue
                if found is not None:
                    return found
            if not gone:
                return None
        return None

    def _read(self, path: Path) -> Checkpoint | None:
        """One checkpoint, or None where it is damaged or of another run."""
        try:
            manifest, contents = verified(path)
        except Damaged as flaw:
            if not path.exists():  # its writer removed it while it was read: gone, not damaged
                raise FileNotFoundError(path) from None
            self.damaged.append((path, str(flaw)))
            return None
        if manifest["run"] != self.run:
            return None
        found = _NAME.fullmatch(path.name)
        if found is None or int(found[2]) != manifest["step"] or int(found[1]) != manifest.get("serial"):
            self.damaged.append((path, "the folder's name is not that of its manifest: it was renamed, or files were exchanged"))
            return None
        return Checkpoint(manifest["step"], manifest["run"], contents, path)

    def _named(self) -> list[tuple[Path, re.Match[str]]]:
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        found = [(self.folder / name, match) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(found, key=lambda pair: int(pair[1][1]))

    # ------------------------------------------------------------------------------------------------- writing

    def save(self, step: int, contents: Contents) -> Path:
        """Write a checkpoint, verify it, and remove those that are no longer needed.

        Raises:
            CheckpointFailed: it could not be written; those before it are as they were.
        """
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            durable.sync_folder(self.folder.parent)
        named = self._named()
        serial = 1 + max((int(found[1]) for _, found in named), default=0)
        final = self.folder / f"{serial:06d}-step-{step:09d}"
        staging = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            files = whole(contents, {"run": self.run, "serial": serial, "step": step})
        except Damaged as flaw:
            raise CheckpointFailed(f"the state after step {step:,} is not kept as good: {flaw}") from None
        try:
            durable.make_folder(staging)
            for name, data in files.items():
                durable.write_file(staging / name, data)
            durable.sync_folder(staging)
            durable.rename(staging, final)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise self._failed(step, sum(map(len, files.values())), error) from error
        self._prune(final)
        return final

    def _prune(self, new: Path) -> None:
        """Remove what is beyond `keep` valid checkpoints of this run, once the new one has been read back.

        Those that stay are verified each time: a bad disk may have spoiled one since. A damaged one stays for whoever looks
        into it.
        """
        if self._read(new) is None:
            return
        valid = 0
        for path, _ in reversed(self._named()):
            try:
                mine = self._read(path) is not None
            except FileNotFoundError:
                continue
            if mine and valid >= self.keep:
                durable.remove_folder(path)
            valid += mine

    def sweep(self) -> int:
        """Remove what kills have left half written; only for the one writer, who holds the run's folder. Returns how many."""
        left = list(self._hidden())
        for path in left:
            durable.remove_folder(path)
        return len(left)

    def _hidden(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (self.folder / name for name in sorted(os.listdir(self.folder)) if _HIDDEN.fullmatch(name))

    def _failed(self, step: int, needed: int, error: OSError) -> CheckpointFailed:
        before = self.steps()
        kept = f"the one of step {before[-1]:,} before it is whole" if before else "there is none before it"
        room = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            room = f"; {shutil.disk_usage(self.folder).free:,} bytes are free there"
        return CheckpointFailed(f"the checkpoint of step {step:,} could not be written to {self.folder} ({error.strerror or error}): it needs {needed:,} bytes{room}; {kept}")


def writer(folder: Path) -> int | None:
    """Hold a folder of checkpoints for this process; see `run_folder.hold`."""
    folder.mkdir(parents=True, exist_ok=True)
    return run_folder.hold(folder)


__all__ = ["Checkpoint", "Checkpoints", "writer"]
