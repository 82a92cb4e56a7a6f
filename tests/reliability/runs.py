"""Whole runs under injected kills and signals: processes are forked from this one, whose kernels are warm.

Each function makes injections and counts what survived, as those of `injections` do for single checkpoints.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fallline as fl
from fallline.checkpoints import Checkpoints
from fallline.errors import RunExists
from fallline.lengths import steps
from tests.reliability.injections import QUICK, Tally, contents, right

GRACE = 10.0
"""Seconds that a process may take to end after a signal."""
draw = np.random.default_rng(0)
X = draw.normal(size=(400, 8))
Y = np.where(X[:, 0] + 0.3 * draw.normal(size=400) > 0, "yes", "no")


def linear() -> tuple[Any, fl.Plan, Any]:
    problem = fl.logistic(X, Y)
    return problem, fl.Plan(problem, epochs=12, batch_size=4, optimizer=fl.AdamW(0.01, schedule="warmup(5%) > cosine", average=0.05)), (X[:100], Y[:100])


def module() -> tuple[Any, fl.Plan, Any]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 2))
    rows = torch.tensor(X, dtype=torch.float32), torch.tensor(Y == "yes").long()
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows)
    return problem, fl.Plan(problem, epochs=8, batch_size=8, optimizer=fl.SGD(0.05, momentum=0.9, nesterov=True, schedule="linear")), rows


def carried(make: Callable[[], tuple[Any, fl.Plan, Any]], folder: Path, pause: float = 0.0) -> fl.Run:
    """A run that begins or goes on, slowed down at its evaluations so that there is time to kill it."""
    problem, plan, valid = make()
    log = (lambda entry: time.sleep(pause)) if pause else None
    return fl.train(problem, plan, valid=fl.Validation(valid, every=steps(10)), save=fl.Save(folder, every=steps(7)), resume=True, log=log, progress=False)


def told(folder: Path) -> tuple[Any, ...]:
    """Everything that must be the same to the bit: weights, registers, the loss of every update, evaluations."""
    run = fl.load(folder)
    found = Checkpoints(folder / "checkpoints", str(run.id)).newest()
    assert found is not None
    weights = {k: v.tobytes() for part in (run.weights, run.best, run.averaged) for k, v in (part or {}).items()}
    registers = {k: v.tobytes() for k, v in found.contents.arrays["state.safetensors"].items()}
    evaluations = [{k: v for k, v in e.items() if k != "seconds"} for e in run.history.evaluations]
    return weights, registers, run.history.loss.tobytes(), evaluations, found.step, run.outcome.name


class Forked:
    """A child process; `begun` returns once it does what it is for."""

    def __init__(self, work: Callable[[Callable[[], None]], Any]):
        reads, writes = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:  # pragma: no cover - the child
            code = 1
            try:
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 2)
                work(lambda: os.write(writes, b"x") and None)
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            except KeyboardInterrupt:
                code = 130
            finally:
                os._exit(code)
        os.close(writes)
        os.read(reads, 1)
        os.close(reads)

    def send(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, seconds: float = 120.0) -> tuple[int | None, float]:
        """The exit code (negative: the signal), None where it did not end in time; and how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status), time.monotonic() - began
            time.sleep(0.002)
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None, seconds


# ------------------------------------------------------------------------------------------------------ R1: killed


def killed(linears: int = 60, modules: int = 30, kills: int = 3) -> Tally:
    """R1: SIGKILL at random moments, `kills` a run at least, then to the end."""
    tally = Tally("R1", f"runs killed at least {kills} times each, then carried to the end: same bits")
    chance = random.Random(0)
    for make, count in ((linear, linears), (module, modules)):
        with tempfile.TemporaryDirectory(dir=QUICK) as place:
            carried(make, Path(place) / "whole")
            whole = told(Path(place) / "whole")
            for k in range(count):
                folder, made = Path(place) / f"run-{k}", 0
                for _ in range(40):

                    def work(begun: Callable[[], None], folder: Path = folder, pause: float = 0.006 if made < kills else 0.0) -> None:
                        begun()
                        carried(make, folder, pause)

                    child = Forked(work)
                    if made < kills:
                        time.sleep(chance.uniform(0.0, 0.25))
                        child.send(signal.SIGKILL)
                    code, _ = child.wait()
                    made += code == -signal.SIGKILL
                    if code != -signal.SIGKILL:
                        break
                tally.count(made >= kills and code == 0 and told(folder) == whole, f"{make.__name__} {k}: {made} kills, code {code}")
    return tally


# ------------------------------------------------------------------------------------------------- R12: terminated


def _slow(y: Any, prediction: Any) -> float:
    time.sleep(0.3)
    return 0.5


def _train(phase: str, folder: Path, begun: Callable[[], None]) -> None:
    """The work of a child for a phase, under what the command line puts around it."""
    from fallline.cli.main import _ends_on_terminate

    problem, plan, valid = (module if phase == "module" else linear)()
    every, measured = steps(50), fl.Validation(valid, every=steps(10))
    if phase == "evaluation":
        measured = fl.Validation(valid, metrics=["log_loss", _slow], every=steps(10))
    if phase == "search":
        plan = fl.Plan(problem, epochs=60, batch_size=4)
    if phase == "saving":
        every = steps(1)
    with _ends_on_terminate():
        begun()
        fl.train(problem, plan, valid=measured, save=fl.Save(folder, every=every), resume=True, log=lambda e: time.sleep(0.01), progress=False)


def _sound(folder: Path, code: int | None, took: float) -> bool:
    """Ended in time by SIGTERM, with a checkpoint of the step at which it ended (or before there was anything to keep)."""
    if code != 143 or took > GRACE:
        return False
    if not (folder / "run.json").is_file():
        return not folder.exists() or not any(folder.iterdir())
    run = fl.load(folder)
    store = Checkpoints(folder / "checkpoints", str(run.id))
    found = store.newest()
    return run.outcome.name == "Interrupted" and not store.damaged and (run.history.steps if found is None else found.step) == (0 if found is None else run.history.steps)


PHASES = {"training": 0.4, "module": 0.4, "evaluation": 1.5, "search": 0.15, "saving": 0.4}
"""Phases and the seconds within which the signal comes."""


def terminated(each: int = 18, cold: int = 9) -> Tally:
    """R12: SIGTERM at a random moment of every phase, of compiling kernels too; and a second one, which ends it at once."""
    tally = Tally("R12", "SIGTERM in training, module, evaluation, search, saving, compiling; a second one")
    chance = random.Random(0)
    for make in (linear, module):
        with tempfile.TemporaryDirectory(dir=QUICK) as place:
            carried(make, Path(place) / "warm")
    for phase, within in PHASES.items():
        for k in range(each):
            with tempfile.TemporaryDirectory(dir=QUICK) as place:
                child = Forked(lambda begun, phase=phase, place=place: _train(phase, Path(place) / "a", begun))
                time.sleep(chance.uniform(0, within))
                child.send(signal.SIGTERM)
                code, took = child.wait(30)
                tally.count(_sound(Path(place) / "a", code, took), f"{phase} {k}: code {code} after {took:.1f} s")
    for k in range(cold):
        tally.count(_while_compiling(chance.uniform(0, 2.5)), f"compiling {k}")
    tally.count(_second(), "a second signal")
    return tally


def _while_compiling(delay: float) -> bool:
    """In a process that has no compiled kernels yet."""
    code = "import sys; from pathlib import Path; from tests.reliability import runs; runs._train('training', Path(sys.argv[1]), lambda: print('begun', flush=True))"
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        environment = os.environ | {"FALLLINE_CACHE": str(Path(place) / "cache")}
        child = subprocess.Popen([sys.executable, "-c", code, str(Path(place) / "a")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(delay)
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        ended = child.wait(60)
        child.stdout.close()
        return _sound(Path(place) / "a", ended, time.monotonic() - began)


def _second() -> bool:
    """One update takes long; the first signal waits for it, the second does not."""

    def stuck(begun: Callable[[], None]) -> None:
        def slow(w: Any) -> float:
            begun()
            time.sleep(5)
            return float(w @ w)

        problem = fl.function(slow, gradient=lambda w: 2 * w, start=[1.0])
        fl.train(problem, fl.Plan(problem, steps=3, optimizer=fl.SGD(0.1)), progress=False)

    child = Forked(stuck)
    child.send(signal.SIGTERM)
    time.sleep(0.2)
    child.send(signal.SIGTERM)
    code, took = child.wait(30)
    return code in (-signal.SIGTERM, 143) and took < 1.0


# ------------------------------------------------------------------------------------------------- R13: the matrix


class Cut(Exception):
    pass


class _CutAt:
    def __init__(self, step: int):
        self.step = step

    def begin(self, clock: Any) -> Any:
        from fallline.judges import GO

        def look(view: Any) -> Any:
            if view.step >= self.step:
                raise Cut
            return GO

        return look


def _loaded(workers: int, updates: int, seen: list[list[int]]) -> tuple[Any, fl.Plan]:
    import torch

    torch.manual_seed(1)
    rows = torch.utils.data.TensorDataset(torch.arange(60), torch.tensor(X[:60], dtype=torch.float32))
    loader = torch.utils.data.DataLoader(rows, batch_size=6, shuffle=True, num_workers=workers)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def objective(net: Any, batch: Any) -> Any:
        seen.append(batch[0].tolist())
        return net(batch[1]).square().mean()

    problem = fl.torch.problem(model, objective=objective, data=loader)
    return problem, fl.Plan(problem, steps=updates, batch_size=6, optimizer=fl.SGD(0.01, momentum=0.9))


def matrix(workers: tuple[int, ...] = (0, 1, 4), places: tuple[str, ...] = ("start", "mid", "end", "last")) -> Tally:
    """R13: cut at the start, the middle and the end of an epoch and before the last update; three times; other workers; longer."""
    import gc
    import warnings

    warnings.filterwarnings("ignore", message=".*worker processes in total")  # four of them on two cores are meant
    tally = Tally("R13", "cut at an epoch's start, middle, end, last; workers 0, 1, 4 -> other; three resumes, then a longer plan")
    seen: list[list[int]] = []
    problem, plan = _loaded(0, 40, seen)
    whole, order = fl.train(problem, plan, progress=False), list(seen)
    at = {"start": (10, 20, 21), "mid": (5, 14, 27), "end": (9, 19, 29), "last": (1, 38, 39)}
    for first in workers:
        for place in places:
            with tempfile.TemporaryDirectory(dir=QUICK) as folder:
                got: dict[int, list[int]] = {}
                for k, cut in enumerate((*at[place], 99)):
                    seen = []
                    gc.collect()  # a loader that was cut off would complain in the workers of the next
                    problem, plan = _loaded(workers[(workers.index(first) + k) % len(workers)], 30 if cut != 99 else 40, seen)
                    stop = _CutAt(min(cut, 29) if cut != 99 else 99)
                    try:
                        run = fl.train(problem, plan, save=fl.Save(Path(folder) / "a", every=steps(1)), resume=True, stop=stop, progress=False)
                    except Cut:
                        run = None
                    began = _resumed_at(Path(folder) / "a", len(seen), run)
                    got |= {began + i: ids for i, ids in enumerate(seen)}
                fine = run is not None and run.history.loss.tobytes() == whole.history.loss.tobytes()
                fine = fine and all(run.weights[k].tobytes() == v.tobytes() for k, v in whole.weights.items())
                passes = [sorted(row for t in range(e * 10, e * 10 + 10) for row in got[t]) for e in range(4)] if len(got) == 40 else []
                tally.count(bool(fine and [got[t] for t in range(40)] == order and passes == [list(range(60))] * 4), f"workers {first}, {place}")
    return tally


def _resumed_at(folder: Path, made: int, run: fl.Run | None) -> int:
    """The update with which a part began: where it ended less what it made."""
    if run is not None:
        return run.history.steps - made
    import json

    at = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    went_on = [e["value"] for e in at if e.get("what") == "resume"]
    return int(went_on[-1]) if went_on else 0


# ---------------------------------------------------------------------------------------- R15, R17: others beside


def two_at_once(writers: int = 20, seconds: float = 5.0) -> Tally:
    """R15: a second writer is refused within a second; a reader beside a writer never sees half a checkpoint."""
    tally = Tally("R15", "second writers; reads while another process writes")
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        folder = Path(place) / "a"

        def slowly(begun: Callable[[], None]) -> None:
            problem, plan, valid = linear()
            fl.train(problem, plan, valid=fl.Validation(valid, every=steps(10)), save=folder, log=lambda e: (begun(), time.sleep(1)), progress=False)  # type: ignore[func-returns-value]

        child = Forked(slowly)
        for k in range(writers):
            began = time.monotonic()
            try:
                carried(linear, folder)
                tally.count(False, f"writer {k} was let in")
            except RunExists:
                tally.count(time.monotonic() - began < 1.0, f"writer {k} was refused after {time.monotonic() - began:.1f} s")
        child.send(signal.SIGKILL)
        child.wait()
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        folder = Path(place)
        Checkpoints(folder, "run").save(1, contents(1))

        def write(begun: Callable[[], None]) -> None:
            step = 1
            while True:
                step += 1
                Checkpoints(folder, "run").save(step, contents(step))
                if step == 2:
                    begun()

        child, until = Forked(write), time.monotonic() + seconds
        while time.monotonic() < until:
            kept = Checkpoints(folder, "run")
            tally.count(right(kept.newest()) and not kept.damaged, f"a read saw {kept.damaged}")
        child.send(signal.SIGKILL)
        child.wait()
    return tally


def observers(times: int = 20) -> Tally:
    """R17: reruns with and without logs, evaluations, checkpoints and profilers."""
    import cProfile

    import torch

    tally = Tally("R17", "reruns with and without log, evaluation, checkpoints, profilers: same bits")
    whole: dict[str, bytes] = {}
    for k in range(times):
        for make in (linear, module):
            problem, plan, valid = make()
            options: dict[str, Any] = {}
            if k & 1:
                options |= {"valid": fl.Validation(valid, every=steps(3 + k))}
            if k & 2:
                options |= {"log": lambda entry: None}
            with tempfile.TemporaryDirectory(dir=QUICK) as place:
                if k & 4:
                    options |= {"save": fl.Save(Path(place) / "a", every=steps(5 + k))}
                run = lambda: fl.train(problem, plan, progress=False, **options)
                if k & 8 and make is module:
                    with torch.profiler.profile():
                        found = run()
                else:
                    found = cProfile.Profile().runcall(run) if k & 8 else run()
            bits = b"".join(v.tobytes() for v in found.weights.values()) + found.history.loss.tobytes()
            tally.count(bits == whole.setdefault(make.__name__, bits), f"{make.__name__}, rerun {k}")
    return tally


# ------------------------------------------------------------------------------------------- R19: what safety costs


def cost(seconds: float = 25.0) -> Tally:
    """R19: checkpoints under 3 % of a run at the default interval; the guard under 1 % of a 5 ms step; verifying at least 1 GB/s."""
    tally = Tally("R19", "cost:")
    share, guard, speed = _share(seconds), _guard(), _speed()
    tally.what = f"cost: checkpoints {share:.2%} of a run (under 3 %), guard {guard:.2%} of a 5 ms step (under 1 %), verifying {speed / 1e9:.2f} GB/s (at least 1)"
    tally.count(share < 0.03, f"checkpoints {share:.2%}")
    tally.count(guard < 0.01, f"guard {guard:.2%}")
    tally.count(speed >= 1e9, f"verifying {speed / 1e9:.2f} GB/s")
    return tally


def _share(seconds: float) -> float:
    """The share of its time that a run of a million parameters spends in checkpoints, at the default interval."""
    from unittest import mock

    import torch

    from fallline.runs.keeper import Keeper

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 2))
    rows = torch.tensor(X, dtype=torch.float32), torch.tensor(Y == "yes").long()
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows)
    plan = fl.Plan(problem, steps=10_000_000, batch_size=32, optimizer=fl.AdamW(1e-4))
    spent = [0.0]
    save = Keeper.save

    def timed(self: Keeper, snapshot: Any) -> None:
        began = time.monotonic()
        save(self, snapshot)
        spent[0] += time.monotonic() - began

    with tempfile.TemporaryDirectory() as place, mock.patch.object(Keeper, "save", timed):
        began = time.monotonic()
        fl.train(problem, plan, stop=fl.TimeBudget(seconds), save=Path(place) / "a", progress=False)
        return spent[0] / (time.monotonic() - began)


def _guard(rounds: int = 400) -> float:
    """What looking for numbers that are not finite adds to a step, as a share of 5 ms: a million parameters, in one's own loop."""
    import torch

    took: dict[bool, float] = {}
    for guard in (False, True) * 3:  # in turn, and the best of each: what else the machine does is no cost of ours
        model = torch.nn.Linear(1000, 1000)
        optimizer = fl.torch.Optimizer(model, fl.Plan(rows=rounds, epochs=1, batch_size=1, optimizer=fl.SGD(1e-4, momentum=0.9)), guard=guard)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        times = []
        for _ in range(rounds - 1):
            began = time.perf_counter()
            optimizer.step()
            times.append(time.perf_counter() - began)
        took[guard] = min(took.get(guard, np.inf), float(np.median(times)))
    return max(0.0, took[True] - took[False]) / 5e-3


def _speed() -> float:
    """Bytes that are read and verified in a second, of a checkpoint of 200 MB; the best of three."""
    from fallline.checkpoints import Contents

    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        kept = Checkpoints(Path(place), "run")
        kept.save(1, Contents({}, {"state.safetensors": {"w": np.random.default_rng(0).normal(size=25_000_000)}}, ("state.safetensors",)))
        took = []
        for _ in range(3):
            began = time.perf_counter()
            assert kept.newest() is not None
            took.append(time.perf_counter() - began)
        return 200e6 / min(took)
