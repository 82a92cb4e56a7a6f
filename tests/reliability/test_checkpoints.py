"""Checkpoints under injected failures, in small; `make reliability` runs the same in full."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import fallline as fl
from fallline import run_folder
from fallline.checkpoints import Checkpoints, Contents, store
from fallline.errors import CheckpointFailed
from tests.reliability import injections as suite
from tests.reliability.mutants import MUTANTS, noticed


@pytest.mark.parametrize(
    "run",
    [
        suite.killed_at_every_call,
        lambda: suite.power_cut(1),
        lambda: suite.disk_full(8),
        lambda: suite.truncated_swapped_deleted(20),
        lambda: suite.flipped_bits(150, 20),
    ],
    ids=["R1b", "R2", "R3", "R4", "R5"],
)
def test_nothing_is_lost(run):
    tally = run()
    assert tally.injections > 10 and tally.lost == 0, tally


def test_the_newest_that_verifies_is_used_and_the_damaged_one_reported():
    with suite.with_checkpoints((10, 20, 30)) as kept:
        assert kept.steps() == [20, 30]
        (kept._named()[-1][0] / "state.safetensors").write_bytes(b"nothing")
        found = kept.newest()
        assert suite.right(found, 20)
        (folder, why), = kept.damaged
        assert folder.name.endswith("-step-000000030") and "has 7 bytes where" in why
        kept.save(40, suite.contents(40))  # the damaged one does not count among those that are kept
        assert kept.steps() == [20, 30, 40]


def test_another_run_is_left_alone():
    with suite.with_checkpoints() as kept:
        other = Checkpoints(kept.folder, "another")
        assert other.newest() is None and other.damaged == []
        for step in (1, 2, 3):
            other.save(step, suite.contents(step))
        assert kept.newest().step == 20 and other.newest().step == 3


def test_going_back_to_an_earlier_step_makes_a_newer_checkpoint():
    with suite.with_checkpoints() as kept:
        kept.save(15, suite.contents(15))
        assert kept.newest().step == 15


def test_weights_that_are_not_finite_are_not_kept_as_good(tmp_path: Path):
    kept = Checkpoints(tmp_path, "run")
    state = {"w": np.array([1.0, np.nan])}
    with pytest.raises(CheckpointFailed, match=r"the state after step 7 is not kept as good: state\.safetensors: array 'w' is not finite"):
        kept.save(7, Contents({}, {"state.safetensors": state}, ("state.safetensors",)))
    kept.save(7, Contents({}, {"history.safetensors": state}))
    assert np.isnan(kept.newest().contents.arrays["history.safetensors"]["w"][1])


def test_one_writer_at_a_time(tmp_path: Path):
    held = store.writer(tmp_path)
    with pytest.raises(fl.RunExists, match="under way"):
        store.writer(tmp_path)
    if held is not None:
        run_folder.let_go(held)
    run_folder.let_go(store.writer(tmp_path))
    assert not run_folder.busy(tmp_path)


def test_a_reader_beside_a_writer_never_sees_a_part():
    with suite.with_checkpoints() as kept:
        for step in range(30, 60):
            kept.save(step, suite.contents(step))
            reader = Checkpoints(kept.folder, "run")
            assert suite.right(reader.newest(), step) and not reader.damaged


def test_keep_is_at_least_two():
    with tempfile.TemporaryDirectory() as place, pytest.raises(fl.InvalidValue, match="keep=1: expected at least 2"):
        Checkpoints(Path(place), "run", keep=1)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("extra.bin", b"?", "extra.bin is not in its manifest.json"),
        ("manifest.json", b"[]", "does not list files"),
        ("manifest.json", b'{"format": 99, "files": {}}', "has format 99 and this version reads 1: use a newer fallline"),
        ("manifest.json", b'{"format": 1, "step": 1, "run": "run", "seal": "", "files": {"../x.json": {}}}', "names a file outside of its folder: '../x.json'"),
        ("manifest.json", b'{"format": 1, "step": NaN, "run": "run", "seal": "", "files": {}}', "lacks its step"),
        ("manifest.json", b"[" * 100_000, "is not JSON"),
        ("state.safetensors", (2**60).to_bytes(8, "little") * 2, "has 16 bytes where"),
    ],
)
def test_hostile_contents_are_refused(name: str, data: bytes, says: str):
    with suite.with_checkpoints() as kept:
        (kept._named()[-1][0] / name).write_bytes(data)
        assert suite.right(kept.newest(), 20 if name == "none" else 10)
        assert says in kept.damaged[0][1]


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path):
    with suite.with_checkpoints() as kept:
        path = kept._named()[-1][0] / "about.json"
        (tmp_path / "about.json").write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(tmp_path / "about.json")
        assert suite.right(kept.newest(), 10) and "is no plain file" in kept.damaged[0][1]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_suite_fails_for_an_implementation_that_breaks_a_rule(mutant: str):
    assert noticed(mutant)
