"""R6: folders, plans and checkpoints from strangers, loaded in a process that watches what Python does.

    python -m tests.reliability.hostile COUNT SEED     prints a JSON line: what was tried, what happened

Whoever makes a folder can make its hashes too, so every mutant gets a manifest that fits: what is tested is what stands behind.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fallline as fl
from fallline.checkpoints import Checkpoints
from fallline.durable import described
from fallline.errors import FalllineError
from tests.reliability.injections import contents

STRANGE: list[Any] = [
    None, True, -1, 0, 2**63, 10**400, 1e308, -1e-300, float("nan"), float("inf"), "", "x" * 10_000, "../../etc/passwd", "/etc/passwd",
    "__import__('os').system('touch hacked')", "os:system", "{0.__class__}", "\u0000", "<U1000000000", "O", [], {}, [[]], [1] * 10_000,
    {"rule": "SGD"}, {"__class__": "os.system"}, {"schedule": "custom(os.system)"}, "warmup(" * 3000, "!!python/object/apply:os.system", "\ud800",
]  # fmt: skip
"""Values that stand where others were expected."""
WATCHED = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "marshal.", "shutil.", "pty.", "webbrowser.")
MEMORY = 64 << 20


class Watch:
    """An audit hook: while `on`, every event that loading has no business with is written down."""

    def __init__(self) -> None:
        self.on, self.seen = False, Counter()
        self.places: tuple[str, ...] = ()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = given
            writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            outside = isinstance(path, str) and not path.startswith(self.places)
            if writes or outside:
                self.seen[f"open {path} {mode}"] += 1
        elif event.startswith(WATCHED) and event not in ("os.listdir", "os.scandir", "os.fsencode"):
            self.seen[f"{event} {str(given)[:80]}"] += 1


def spoilt_json(document: Any, draw: np.random.Generator) -> Any:
    """The document with a strange value somewhere, or a part of it gone or doubled."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    if isinstance(document, (dict, list)):
        walk(document)
    if not places or draw.random() < 0.02:
        return STRANGE[draw.integers(len(STRANGE))]
    owner, key = places[draw.integers(len(places))]
    if isinstance(owner, dict) and draw.random() < 0.2:
        del owner[key]
    else:
        owner[key] = STRANGE[draw.integers(len(STRANGE))]
    return document


def spoilt_tensors(data: bytes, draw: np.random.Generator) -> bytes:
    """A safetensors file with a header that lies."""
    kind = draw.integers(6)
    if kind == 0:
        return (2 ** int(draw.integers(8, 64))).to_bytes(8, "little") + data[8:]
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = list(header)[draw.integers(len(header))]
    if kind == 1:
        header[name]["shape"] = [2**60, 2**4]
    elif kind == 2:
        header[name]["data_offsets"] = [0, 2**62]
    elif kind == 3:
        header[name]["dtype"] = ["F64", "BF16", "BOOL", "F8_E4M3", "OBJECT", "I64"][draw.integers(6)]
    elif kind == 4:
        header["../" + name] = header.pop(name)
    else:
        return data[: int(draw.integers(len(data)))]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def spoilt(name: str, data: bytes, draw: np.random.Generator) -> bytes:
    """One file's bytes after a stranger had it."""
    if draw.random() < 0.1:
        at = draw.integers(0, max(1, len(data)), 5)
        changed = bytearray(data)
        for k in at[at < len(data)]:
            changed[k] = draw.integers(256)
        return bytes(changed)
    if name.endswith(".safetensors"):
        return spoilt_tensors(data, draw)
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        k = draw.integers(len(lines))
        lines[k] = _dumped(spoilt_json(json.loads(lines[k]), draw))
        return b"\n".join(lines) + b"\n"
    if name.endswith(".json"):
        return _dumped(spoilt_json(json.loads(data), draw))
    return data


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def trial(folder: Path, files: dict[str, bytes], draw: np.random.Generator, sealed: Callable[[dict[str, bytes]], bytes]) -> None:
    """Lay a folder of which one file is spoilt, under a manifest that fits, or under a spoilt manifest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = list(files)[draw.integers(len(files))]
    for key, data in files.items():
        files = {**files, key: spoilt(key, data, draw) if key == name else data}
    for key, data in files.items():
        (folder / key).write_bytes(data)
    manifest = sealed(files)
    (folder / "manifest.json").write_bytes(_dumped(spoilt_json(json.loads(manifest), draw)) if draw.random() < 0.15 else manifest)


def run_sealed(files: dict[str, bytes]) -> bytes:
    return json.dumps({"format": 1, "files": {name: described(data) for name, data in files.items()}}).encode()


def checkpoint_sealed(like: dict[str, Any]) -> Callable[[dict[str, bytes]], bytes]:
    from fallline.checkpoints.contents import _sealed

    def sealed(files: dict[str, bytes]) -> bytes:
        said = {name: described(data) for name, data in files.items()}
        for name, old in like["files"].items():
            if "tensors" in old:
                said[name] |= {"tensors": old["tensors"], "finite": old["finite"]}
        return _sealed({k: v for k, v in like.items() if k != "seal"} | {"files": said})

    return sealed


def victims(place: Path) -> tuple[Path, dict[str, bytes], dict[str, bytes], dict[str, Any], str]:
    """A run folder, its files, a checkpoint's files and manifest, and its name: what strangers start from."""
    draw = np.random.default_rng(0)
    frame = {"size": draw.normal(size=80), "town": draw.choice(["A", "B"], 80), "y": draw.choice(["no", "yes"], 80)}
    import pandas as pd

    table = pd.DataFrame(frame)
    run = fl.fit(table, target="y", epochs=2, progress=False)
    run.save(place / "run")
    files = {p.name: p.read_bytes() for p in sorted((place / "run").iterdir()) if p.name != "manifest.json"}
    kept = Checkpoints(place / "checkpoints", "run")
    kept.save(10, contents(10))
    last = kept.save(20, contents(20))
    inside = {p.name: p.read_bytes() for p in sorted(last.iterdir()) if p.name != "manifest.json"}
    return place / "run", files, inside, json.loads((last / "manifest.json").read_bytes()), last.name


def canary() -> dict[str, Any]:
    """What the watch sees of things that must not happen."""
    watch = Watch()
    watch.places = ("/nowhere",)
    watch.on = True
    eval("1 + 1")
    with open(os.devnull, "w"):
        pass
    os.system("true")
    watch.on = False
    return {"events": dict(watch.seen)}


def main(count: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        os.chdir(place)
        _, files, inside, manifest, name = victims(place)
        fl.load(place / "run")  # everything that loading imports is imported now
        kept = Checkpoints(place / "checkpoints", "run")
        kept.newest()
        plan = json.loads(files["plan.json"])
        watch = Watch()
        watch.places = (home,)
        outcomes: Counter[str] = Counter()
        strays: list[str] = []
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for k in range(count):
            which = ("run", "checkpoint", "plan")[k % 3]
            if which == "run":
                trial(place / "run", files, draw, run_sealed)
            elif which == "checkpoint":
                trial(place / "checkpoints" / name, inside, draw, checkpoint_sealed(manifest))
            else:
                text = _dumped(spoilt_json(json.loads(json.dumps(plan)), draw)).decode("utf-8", "surrogatepass")
            watch.on = True
            try:
                if which == "run":
                    fl.load(place / "run")
                elif which == "checkpoint":
                    kept.newest()
                else:
                    fl.Plan.from_json(text)
                outcomes["loaded"] += 1
            except FalllineError:
                outcomes["refused"] += 1
            except BaseException as error:
                strays.append(f"{which} {k}: {type(error).__name__}: {str(error)[:150]}")
            finally:
                watch.on = False
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        os.chdir("/")
    return {"tried": count, **outcomes, "events": dict(watch.seen.most_common(10)), "strays": strays[:10], "stray": len(strays), "grown": grown}


if __name__ == "__main__":
    print(json.dumps(canary() if sys.argv[1] == "canary" else main(int(sys.argv[1]), int(sys.argv[2]))))
