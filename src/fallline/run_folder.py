"""The run folder on disk: plan, model, history and journal as JSON and safetensors, with a manifest of hashes.

Written beside its final name and moved there in one rename, so a folder is whole or absent. Nothing in it is code:
JSON and safetensors only, and a file that does not match its hash is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, RunDamaged, RunExists

MANIFEST = "manifest.json"
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


def write(folder: Path, documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write JSON documents (name.json), JSON lines (name.jsonl: an iterable of lines) and tensors (name.safetensors)."""
    from safetensors.numpy import save

    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    contents: dict[str, bytes] = {}
    for name, document in documents.items():
        if name.endswith(".jsonl"):
            contents[name] = "".join(line + "\n" for line in document).encode()
        elif name.endswith(".html"):
            contents[name] = document.encode()
        else:
            contents[name] = (json.dumps(plain(document), indent=1) + "\n").encode()
    for name, arrays in tensors.items():
        contents[name] = save({k: np.asarray(v, order="C") for k, v in arrays.items()})  # not ascontiguousarray: it makes () into (1,)
    hashes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    contents[MANIFEST] = (json.dumps({"format": FORMAT, "files": hashes}, indent=1) + "\n").encode()
    for name, data in contents.items():
        with open(staging / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        folder.rmdir()  # `fresh` has seen that it is empty; anything else fails here rather than being lost
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, folder)


def read(folder: str | Path) -> dict[str, bytes]:
    """Every file of the manifest, verified.

    Raises:
        InvalidValue: no run there, or one of a newer format.
        RunDamaged: a file is missing or does not match its hash.
    """
    path = Path(folder)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = dict(manifest["files"])
    except FileNotFoundError:
        raise InvalidValue(f"{path} holds no run: expected a folder that a run was saved to, with a {MANIFEST}") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunDamaged(f"{path / MANIFEST} cannot be read ({error}): restore the folder from a copy, or run again") from None
    if manifest.get("format") != FORMAT:
        raise InvalidValue(f"{path} has format {manifest.get('format')!r} and this version reads {FORMAT}: use a newer fallline")
    out = {}
    for name, expected in files.items():
        if Path(name).name != name:
            raise RunDamaged(f"{path / MANIFEST} names a file outside of its folder: {name!r}")
        try:
            data = (path / name).read_bytes()
        except FileNotFoundError:
            raise RunDamaged(f"{path / name} is missing: restore the folder from a copy, or run again") from None
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise RunDamaged(f"{path / name} does not match its hash in {MANIFEST}: it was changed or damaged; restore it from a copy")
        out[name] = data
    return out


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file."""
    from safetensors.numpy import load

    return dict(load(data))


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
