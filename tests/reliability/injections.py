"""The injections of the suite: each function makes some, looks at what is left, and counts what survived.

`make reliability` runs them in full, the tests in small; both call the same functions.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fallline.checkpoints import Checkpoints, Contents
from fallline.errors import CheckpointFailed
from tests.reliability.shim import Disk, Killed, Shim, shimmed

QUICK = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where flushing costs nothing, if there is such a place: the injections are made above the disk."""


@dataclass
class Tally:
    """What became of the injections of one kind."""

    id: str
    what: str
    injections: int = 0
    lost: int = 0
    detail: str = ""

    def count(self, fine: bool, why: str = "") -> None:
        self.injections += 1
        if not fine:
            self.lost += 1
            self.detail = self.detail or why

    @property
    def survived(self) -> int:
        return self.injections - self.lost


def contents(step: int, size: int = 200) -> Contents:
    """The state of a made-up run: every number tells its step, so a mixture of two steps shows."""
    state = {"w": np.full(size, float(step)), "v": np.full(size, -float(step)), "count": np.array(step)}
    return Contents({"about.json": {"step": step, "lr": 0.1}}, {"state.safetensors": state, "history.safetensors": {"loss": np.arange(float(step))}}, ("state.safetensors",))


def right(found: object, step: int | None = None) -> bool:
    """Whether a loaded checkpoint is one whole step's, and (given a step) that step's."""
    if found is None:
        return False
    s, state = found.step, found.contents.arrays["state.safetensors"]
    consistent = (state["w"] == s).all() and (state["v"] == -s).all() and state["count"] == s and found.contents.documents["about.json"]["step"] == s
    return bool(consistent and len(found.contents.arrays["history.safetensors"]["loss"]) == s and (step is None or s == step))


@contextmanager
def with_checkpoints(steps: tuple[int, ...] = (10, 20), size: int = 200) -> Iterator[Checkpoints]:
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        kept = Checkpoints(Path(place) / "checkpoints", "run")
        for step in steps:
            kept.save(step, contents(step, size))
        yield kept


def calls_of_a_save() -> int:
    """How many file-system calls a save makes, with the pruning that follows it."""
    with with_checkpoints() as kept, shimmed(Shim()) as shim:
        kept.save(30, contents(30))
        return shim.calls


def killed_at_every_call() -> Tally:
    """R1b: the process dies before each file-system call of a save; then the newest valid one loads, and a new save works."""
    tally = Tally("R1b", "killed at every file-system call of a save")
    for call in range(1, calls_of_a_save() + 1):
        with with_checkpoints() as kept:
            try:
                with shimmed(Shim(kill_at=call)):
                    kept.save(30, contents(30))
            except Killed:
                pass
            after = Checkpoints(kept.folder, "run")
            found = after.newest()
            fine = right(found) and found.step in (20, 30) and not after.damaged
            after.sweep()
            after.save(40, contents(40))
            left = [name for name in os.listdir(kept.folder) if name.startswith(".")]
            whole = all(after._read(path) is not None for path, _ in after._named())
            tally.count(fine and right(after.newest(), 40) and whole and not left, f"call {call}: {found}, {after.damaged}, {left}")
    return tally


def power_cut(seeds: int = 3) -> Tally:
    """R2: the power goes after each call; what was not flushed is dropped, cut or reordered, some ways for each call."""
    tally = Tally("R2", "power cut after every call, unflushed writes and names dropped or kept at random")
    with with_checkpoints() as kept, tempfile.TemporaryDirectory(dir=QUICK) as place:
        before = Path(place) / "before"
        shutil.copytree(kept.folder, before)
        with shimmed(Shim()) as shim:
            kept.save(30, contents(30))
        for cut in range(len(shim.log) + 1):
            for seed in range(seeds):
                base = Path(place) / "after"
                shutil.copytree(before, base)
                disk = Disk(kept.folder)
                for name, given in shim.log[:cut]:
                    disk.follow(name, given)
                disk.left(np.random.default_rng([seed, cut]), base)
                found = Checkpoints(base, "run").newest()
                done = cut == len(shim.log)  # the save has returned: now it must be there
                tally.count(right(found, 30) if done else right(found) and found.step in (20, 30), f"after call {cut}, seed {seed}: {found}")
                shutil.rmtree(base)
    return tally


def disk_full(places: int = 50) -> Tally:
    """R3: the disk is full at byte k of a save, or broken at call k; the ones before are whole, nothing is left over."""
    tally = Tally("R3", "disk full at byte k, input/output error at call k")
    total = sum(map(len, _bytes(30).values()))
    calls = calls_of_a_save()
    for k in range(places):
        broken = Shim(fail_at=1 + k * (calls // 2) // places, error=errno.EIO)
        for shim in (Shim(room=k * total // places), broken):
            with with_checkpoints() as kept:
                said = ""
                try:
                    with shimmed(shim):
                        kept.save(30, contents(30))
                except CheckpointFailed as error:
                    said = str(error)
                except OSError as error:
                    said = f"raw {error!r}"
                found = Checkpoints(kept.folder, "run").newest()
                hidden = [n for n in os.listdir(kept.folder) if n.startswith(".")]
                worded = "it needs" in said and "bytes" in said and "step 20" in said
                tally.count(right(found) and (worded or right(found, 30)) and len(hidden) <= 1, f"{shim}: {said}")
    return tally


def _bytes(step: int) -> dict[str, bytes]:
    from fallline.checkpoints import whole

    return whole(contents(step), {"run": "run", "serial": 1, "step": step})


def truncated_swapped_deleted(lengths: int = 200) -> Tally:
    """R4: files cut, exchanged between checkpoints, deleted: found out each time, and the one before is used."""
    tally = Tally("R4", "files cut short, exchanged or deleted")
    with with_checkpoints() as kept:
        old, new = (path for path, _ in kept._named())
        files = sorted(p for p in new.iterdir())
        sizes = np.random.default_rng(0).random(lengths)
        for k in range(lengths):
            path = files[k % len(files)]
            tally.count(_noticed(kept, path, lambda data, part=sizes[k]: data[: int(len(data) * part)]), f"cut {path.name} at {sizes[k]:.2f}")
        for path in files:
            tally.count(_noticed(kept, path, lambda data: None), f"deleted {path.name}")
            other = (old / path.name).read_bytes()
            tally.count(_noticed(kept, path, lambda data, other=other: other), f"exchanged {path.name}")
        aside = old.with_name("aside")
        for source, target in ((old, aside), (new, old), (aside, new)):
            os.rename(source, target)
        after = Checkpoints(kept.folder, kept.run)
        tally.count(after.newest() is None and len(after.damaged) == 2, "two folders exchanged")
    return tally


def _noticed(kept: Checkpoints, path: Path, change: Callable[[bytes], bytes | None]) -> bool:
    """Change a file of the newest checkpoint; whether it is found out and the one before is used; then put it back."""
    data = path.read_bytes()
    changed = change(data)
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    try:
        after = Checkpoints(kept.folder, kept.run)
        found = after.newest()
        return right(found, 10) and [p for p, _ in after.damaged] == [path.parent]
    finally:
        path.write_bytes(data)


def flipped_bits(flips: int = 3000, bursts: int = 300) -> Tally:
    """R5: one bit flipped anywhere, and bursts of up to 64 bytes: never a silent wrong load; no false alarm when clean."""
    tally = Tally("R5", "bits flipped, bursts of bytes changed; silent wrong loads")
    draw = np.random.default_rng(1)
    with with_checkpoints() as kept:
        new = kept._named()[-1][0]
        files = sorted(new.iterdir())
        weights = np.array([p.stat().st_size for p in files], float)
        for k in range(flips + bursts):
            path = files[draw.choice(len(files), p=weights / weights.sum())]

            def change(data: bytes, burst: bool = k >= flips) -> bytes:
                spoiled = bytearray(data)
                at = int(draw.integers(len(data)))
                if not burst:
                    spoiled[at] ^= 1 << int(draw.integers(8))
                else:
                    for j in range(at, min(len(data), at + int(draw.integers(2, 65)))):
                        spoiled[j] ^= int(draw.integers(1, 256))
                return bytes(spoiled)

            tally.count(_noticed(kept, path, change), f"{path.name}")
        tally.count(right(kept.newest(), 20) and not kept.damaged, "false alarm on the clean one")
    return tally

