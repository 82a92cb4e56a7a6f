"""The reliability suite in full: `make reliability`. One line for each kind of injection, and an exit code.

    python -m tests.reliability [ID ...]     all of them, or some
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tests.reliability import guards, runs
from tests.reliability import injections as suite
from tests.reliability.injections import Tally
from tests.reliability.mutants import MUTANTS, noticed
from tests.reliability.test_hostile import hostile


def hostile_files(count: int = 10_000) -> Tally:
    """R6: files from strangers; nothing runs, memory stays bounded, the interpreter lives."""
    seen = hostile(str(count), "1")
    tally = Tally("R6", f"mutated and malicious files; memory grew by {seen['grown'] >> 20} MB", count)
    tally.lost = sum(seen["events"].values()) + seen["stray"] + (seen["grown"] > 64 << 20)
    tally.detail = str(seen["events"] or seen["strays"] or "")
    return tally


def mutants() -> Tally:
    """R20: the suite fails for every implementation that breaks a rule."""
    tally = Tally("R20", "implementations that break one rule: the suite must fail")
    for name in MUTANTS:
        tally.count(noticed(name), f"not noticed: {name}")
    return tally


FULL: dict[str, Callable[[], Tally]] = {
    "R1": runs.killed,
    "R1b": suite.killed_at_every_call,
    "R2": lambda: suite.power_cut(40),
    "R3": lambda: suite.disk_full(50),
    "R4": lambda: suite.truncated_swapped_deleted(200),
    "R5": lambda: suite.flipped_bits(3000, 300),
    "R6": hostile_files,
    "R7": guards.not_finite,
    "R8": guards.poisoned,
    "R9": guards.malformed,
    "R12": runs.terminated,
    "R13": runs.matrix,
    "R15": runs.two_at_once,
    "R17": runs.observers,
    "R19": runs.cost,
    "R20": mutants,
}


def main(ids: list[str]) -> int:
    lost = 0
    print(f"{'id':5}{'injections':>11}{'survived':>10}{'lost':>6}{'target':>8}  {'s':>5}  what")
    for id in ids or FULL:
        began = time.monotonic()
        tally = FULL[id]()
        lost += tally.lost
        print(f"{tally.id:5}{tally.injections:11,}{tally.survived:10,}{tally.lost:6}{'0 lost':>8}  {time.monotonic() - began:5.0f}  {tally.what}{'; ' + tally.detail if tally.lost else ''}", flush=True)
    return lost > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
