"""What a checkpoint's folder holds: JSON documents, safetensors arrays, and a manifest that vouches for every byte.

    {"format": 1, "run": ..., "serial": 7, "step": 1200, "seal": sha256 of all the rest,
     "files": {"state.safetensors": {"bytes": 4096, "sha256": [...], "tensors": {"w": {"dtype": "<f8", "shape": [64]}}}, ...}}

Nothing in it is code, and there is no other way to read it. Sizes come first: a file is read only where it is as long as the
manifest says, so a few bytes cannot ask for much memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fallline.durable import Damaged, described, listed, read_file, read_json
from fallline.run_folder import plain
from fallline.tensors import packed, unpacked

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST_MANIFEST = 1 << 24
"""Bytes of a manifest, far above what thousands of tensors need."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Args:
        documents: plain values by file name, name.json.
        arrays: arrays by name, by file name, name.safetensors.
        finite: files whose arrays hold finite numbers only (weights, registers): neither written nor read otherwise.
    """

    documents: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    finite: tuple[str, ...] = ()


def whole(contents: Contents, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file's bytes by name, the manifest last.

    Raises:
        Damaged: an array that must be finite is not: no such weights are kept as good.
    """
    files: dict[str, bytes] = {}
    said: dict[str, Any] = {}
    for name, document in contents.documents.items():
        files[name] = (json.dumps(plain(document), allow_nan=False) + "\n").encode()
        said[name] = described(files[name])
    for name, arrays in contents.arrays.items():
        held = {k: np.asarray(v, order="C") for k, v in arrays.items()}  # not ascontiguousarray: it makes () into (1,)
        files[name] = packed(held)
        tensors = {k: _form(v) for k, v in held.items()}
        said[name] = {**described(files[name]), "tensors": tensors, "finite": name in contents.finite}
        if name in contents.finite:
            _check_finite(name, held)
    files[MANIFEST] = _sealed({"format": FORMAT, **about, "files": said})
    return files


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The one way to write a manifest, its own hash in it."""
    write = lambda value: (json.dumps(value, sort_keys=True) + "\n").encode()
    return write({**manifest, "seal": hashlib.sha256(write(manifest)).hexdigest()})


def verified(folder: Path) -> tuple[dict[str, Any], Contents]:
    """The manifest and everything it vouches for, read once and checked byte by byte.

    Raises:
        Damaged: anything is missing, longer, shorter, changed or not what the manifest says.
        FileNotFoundError: the folder itself is gone.
    """
    manifest = _manifest(folder)
    files = manifest["files"]
    strange = {e.name for e in folder.iterdir()} - {MANIFEST, *files}
    if strange:
        raise Damaged(f"{min(strange)} is not in its {MANIFEST}")
    documents, arrays = {}, {}
    for name, expected in files.items():
        data = read_file(folder / name, expected)
        if name.endswith(".json"):
            documents[name] = read_json(name, data)
        else:
            arrays[name] = _tensors(name, data, expected)
    finite = tuple(name for name in arrays if files[name].get("finite"))
    for name in finite:
        _check_finite(name, arrays[name])
    return manifest, Contents(documents, arrays, finite)


def _form(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def _check_finite(name: str, arrays: Arrays) -> None:
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Damaged(f"{name}: array {key!r} is not finite")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        folder.stat()  # gone altogether: another matter
        raise Damaged(f"{MANIFEST} is missing") from None
    if size > LARGEST_MANIFEST:
        raise Damaged(f"{MANIFEST} has {size:,} bytes: expected at most {LARGEST_MANIFEST:,}")
    data = path.read_bytes()
    manifest = read_json(MANIFEST, data)
    _check_form(manifest)
    del manifest["seal"]
    if data != _sealed(manifest):
        raise Damaged(f"{MANIFEST} does not match its own seal: it was changed or damaged")
    return manifest


def _check_form(manifest: Any) -> None:
    """Refuse a manifest of another form or version."""
    if not isinstance(manifest, dict):
        raise Damaged("the manifest does not list files")
    if manifest.get("format") != FORMAT:
        raise Damaged(f"the manifest has format {manifest.get('format')!r} and this version reads {FORMAT}: use a newer fallline")
    for name in listed(manifest.get("files")):
        if not name.endswith((".json", ".safetensors")):
            raise Damaged(f"the manifest names a file that no checkpoint holds: {name[:80]!r}")
    if type(manifest.get("step")) is not int or not all(isinstance(manifest.get(k), str) for k in ("run", "seal")):
        raise Damaged("the manifest lacks its step, its run or its seal")


def _tensors(name: str, data: bytes | memoryview, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file whose hashes were right: their bytes are, and their names, types and shapes must be the manifest's."""
    try:
        found = unpacked(data)
    except Damaged as flaw:
        raise Damaged(f"{name} is {flaw}") from None
    known = expected.get("tensors")
    if not isinstance(known, dict) or set(known) != set(found):
        raise Damaged(f"{name} does not hold the arrays that its manifest lists")
    for key, array in found.items():
        if known[key] != _form(array):
            raise Damaged(f"{name}: array {key!r} is not the one that was written")
    return found
