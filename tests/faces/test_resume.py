"""Going on: whatever cut a run off, it ends with the bits of the run that nothing cut off; and what cannot go on is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import fallline as fl
from fallline import durable, run_folder
from fallline.checkpoints import Checkpoints
from fallline.errors import PlanMismatch, RunDamaged, RunExists, RunUnfinished
from fallline.judges import GO
from fallline.lengths import Clock, steps
from fallline.runs import keeper, live
from fallline.runs.keeper import Keeper, differing

draw = np.random.default_rng(0)
X = draw.normal(size=(120, 5))
Y = np.where(X[:, 0] > 0, "up", "down")


class Cut(Exception):
    """Stands for a kill: nothing is saved because of it."""


def cut_at(step: int) -> Callable[[dict[str, Any]], None]:
    def log(entry: dict[str, Any]) -> None:
        if entry["step"] >= step:
            raise Cut

    return log


class CutAt:
    """A judge that stands for a kill."""

    def __init__(self, step: int):
        self.step = step

    def begin(self, clock: Clock) -> Any:
        def look(view: Any) -> Any:
            if view.step >= self.step:
                raise Cut
            return GO

        return look


def problem_and_plan(kind: str, epochs: float = 6) -> tuple[Any, fl.Plan]:
    if kind == "module":
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.2), torch.nn.Linear(6, 2))
        rows = torch.tensor(X, dtype=torch.float32), torch.tensor(X[:, 0] > 0).long()
        problem: Any = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows, valid=rows)
        return problem, fl.Plan(problem, epochs=epochs, batch_size=16, optimizer=fl.Nesterov(0.05, schedule="warmup(10%) > cosine"))
    if kind == "function":
        problem = fl.quadratic([1.0, 20.0], noise=0.1, rows=64)
        return problem, fl.Plan(problem, epochs=epochs, batch_size=4, optimizer=fl.SGD(0.02, momentum=0.9))
    data: Any = sp.csr_array(np.where(np.abs(X) > 1, X, 0.0)) if kind == "sparse" else X
    problem = fl.logistic(data, Y)
    rule = {"dense": fl.SGD(0.1), "sparse": fl.SGD(0.1, momentum=0.9, schedule="cosine"), "adam": fl.AdamW(0.01, average=0.1)}[kind]
    return problem, fl.Plan(problem, epochs=epochs, batch_size=1 if kind == "dense" else 16, optimizer=rule)


def valid(kind: str) -> Any:
    return None if kind in ("module", "function") else (X, Y)


def train(kind: str, plan: Any = None, epochs: float = 6, **options: Any) -> fl.Run:
    problem, own = problem_and_plan(kind, epochs)
    return fl.train(problem, plan or own, valid=valid(kind), progress=False, **options)


def same(one: fl.Run, other: fl.Run) -> None:
    for which in ("weights", "best", "averaged"):
        mine, theirs = getattr(one, which) or {}, getattr(other, which) or {}
        assert {k: v.tobytes() for k, v in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}, which
    assert one.history.loss.tobytes() == other.history.loss.tobytes()
    assert told(one.history.evaluations) == told(other.history.evaluations)
    assert [e for e in one.journal if e["what"] not in ("resume", "checkpoint")] == [e for e in other.journal if e["what"] not in ("resume", "checkpoint")]
    assert (one.history.path is None) == (other.history.path is None)
    if one.history.path is not None:
        assert one.history.path.tobytes() == other.history.path.tobytes()
    assert one.plans == other.plans and [(s, v.tobytes()) for s, v in one.history.undone] == [(s, v.tobytes()) for s, v in other.history.undone]


def told(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in evaluations]


def cut_often(kind: str, folder: Path, at: list[int], every: int = 7, **options: Any) -> fl.Run:
    """A run that is cut off at some updates, and goes on each time in a new problem."""
    for step in at:
        with pytest.raises(Cut):
            problem, plan = problem_and_plan(kind)
            fl.train(problem, plan, valid=fl.Validation(valid(kind), every=steps(3)) if valid(kind) else None, save=fl.Save(folder, every=steps(every)), resume=True, log=cut_at(step), progress=False, **options)
    problem, plan = problem_and_plan(kind)
    given = fl.Validation(valid(kind), every=steps(3)) if valid(kind) else None
    return fl.train(problem, plan, valid=given, save=fl.Save(folder, every=steps(every)), resume=True, progress=False, **options)


@pytest.mark.parametrize("kind", ["dense", "sparse", "adam"])
def test_a_run_that_was_cut_off_three_times_ends_with_the_bits_of_one_that_was_not(kind: str, tmp_path: Path):
    problem, plan = problem_and_plan(kind)
    whole = fl.train(problem, plan, valid=fl.Validation(valid(kind), every=steps(3)), progress=False)
    run = cut_often(kind, tmp_path / "a", [plan.steps // 5, plan.steps // 2, plan.steps - 1])
    same(run, whole)
    same(fl.load(tmp_path / "a"), whole)
    assert [e["why"] for e in run.journal if e["what"] == "resume"] == ["to the bit: the same versions, device and threads"] * 3
    assert len(run_folder.checkpointed(tmp_path / "a")) == 2 and run_folder.checkpointed(tmp_path / "a")[-1] == plan.steps


def test_a_module_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path):
    whole = train("module")
    for step in (8, 16, 24, 48):
        with pytest.raises(Cut):
            train("module", save=fl.Save(tmp_path / "a", every=steps(5)), resume=True, log=cut_at(step))
    problem, plan = problem_and_plan("module")
    run = fl.train(problem, plan, save=fl.Save(tmp_path / "a", every=steps(5)), resume=True, progress=False)
    same(run, whole)
    assert all(run.weights[k].tobytes() == v.numpy().tobytes() for k, v in problem.model.state_dict().items())


@pytest.mark.parametrize("workers", [(0, 1), (1, 0)])
def test_a_loader_may_come_back_with_other_workers(workers: tuple[int, int], tmp_path: Path):
    def made(count: int) -> tuple[Any, fl.Plan]:
        torch.manual_seed(1)
        rows = torch.utils.data.TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(X[:, :1], dtype=torch.float32))
        loader = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True, num_workers=count)
        problem = fl.torch.problem(torch.nn.Linear(5, 1), torch.nn.functional.mse_loss, loader)
        return problem, fl.Plan(problem, steps=20, batch_size=16, optimizer=fl.SGD(0.05, momentum=0.9))

    whole = fl.train(*made(0), progress=False)
    problem, plan = made(workers[0])

    with pytest.raises(Cut):
        fl.train(problem, plan, save=fl.Save(tmp_path / "a", every=steps(8)), stop=CutAt(11), progress=False)
    problem, plan = made(workers[1])
    same(fl.train(problem, plan, save=tmp_path / "a", resume=True, progress=False), whole)


def test_a_function_with_its_path_goes_on(tmp_path: Path):
    whole = train("function")
    with pytest.raises(Cut):
        train("function", save=fl.Save(tmp_path / "a", every=steps(11)), stop=CutAt(50))
    run = train("function", save=fl.Save(tmp_path / "a", every=steps(11)), resume=True)
    same(run, whole)
    assert len(run.history.path) == 97


def test_judges_and_good_states_go_on(tmp_path: Path):
    """A run that goes back, and one that stops early: cut off before and after, they do the same."""
    problem = fl.least_squares(X, X @ np.arange(5.0))
    plan = fl.Plan(problem, epochs=12, batch_size=12, optimizer=fl.SGD(2.0, momentum=0.9))

    def carried(**options: Any) -> fl.Run:
        stop = [fl.Rollback(keep=steps(6)), fl.EarlyStop(fl.epochs(4), min_delta=1e-9)]
        return fl.train(problem, plan, valid=(X[:40], (X @ np.arange(5.0))[:40]), stop=stop, progress=False, **options)

    whole = carried()
    assert whole.history.undone and whole.outcome.name in ("EarlyStopped", "Finished")
    for step in (9, 20, 60, 90):
        try:
            carried(save=fl.Save(tmp_path / "a", every=steps(4)), resume=True, log=cut_at(step))
        except Cut:
            pass
    same(carried(save=fl.Save(tmp_path / "a", every=steps(4)), resume=True), whole)


# ---------------------------------------------------------------------------------------------- again, and longer


@pytest.mark.parametrize("kind", ["adam", "module"])
def test_a_finished_run_comes_back_and_nothing_is_trained_again(kind: str, tmp_path: Path):
    first = train(kind, save=tmp_path / "a", resume=True)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    problem, plan = problem_and_plan(kind)
    again = fl.train(problem, plan, valid=valid(kind), save=tmp_path / "a", resume=True, progress=False)
    same(again, first)
    assert again.problem is problem and {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == before
    if kind == "module":
        assert all(first.weights[k].tobytes() == v.numpy().tobytes() for k, v in problem.model.state_dict().items())


def test_a_longer_plan_goes_on_to_the_bits_of_the_long_run(tmp_path: Path):
    train("dense", epochs=3, save=tmp_path / "a")
    longer = train("dense", epochs=5, save=tmp_path / "a", resume=True)
    assert longer.weights["coef"].tobytes() == train("dense", epochs=5).weights["coef"].tobytes()
    assert [s for s, _ in longer.plans] == [0, 360] and longer.history.steps == 600
    replayed = fl.train(problem_and_plan("dense")[0], longer.plans, valid=valid("dense"), progress=False)
    assert replayed.weights["coef"].tobytes() == longer.weights["coef"].tobytes()
    same(fl.load(tmp_path / "a"), longer)
    third = train("dense", epochs=6, save=tmp_path / "a", resume=True)
    assert [s for s, _ in third.plans] == [0, 360, 600] and third.weights["coef"].tobytes() == train("dense", epochs=6).weights["coef"].tobytes()


def test_a_run_without_a_checkpoint_yet_begins_anew(tmp_path: Path):
    with pytest.raises(Cut):
        train("adam", save=tmp_path / "a", log=cut_at(8))
    assert run_folder.checkpointed(tmp_path / "a") == []
    same(train("adam", save=tmp_path / "a", resume=True), train("adam"))


def test_an_absent_and_an_empty_folder_are_begun(tmp_path: Path):
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        assert train("adam", save=tmp_path / name, resume=True).outcome.name == "Finished"


def test_a_rate_that_was_found_is_not_searched_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, _ = problem_and_plan("adam")
    plan = fl.Plan(problem, epochs=4, batch_size=16)
    with pytest.raises(Cut):
        fl.train(problem, plan, save=fl.Save(tmp_path / "a", every=steps(4)), log=cut_at(16), progress=False)
    import fallline.advice.lr

    monkeypatch.setattr(fallline.advice.lr, "find_lr", lambda *a, **k: pytest.fail("searched again"))
    run = fl.train(problem, plan, save=tmp_path / "a", resume=True, progress=False)
    assert run.found is not None and run.plan.optimizer.lr == run.found.lr


def test_fit_goes_on_with_its_choices_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = fl.fit("diabetes", epochs=4, progress=False)
    real = live.LiveFolder._follow

    def dies(self: Any, line: str) -> None:
        real(self, line)
        if '"step": 80' in line or '"step": 78' in line:
            raise Cut

    monkeypatch.setattr(live.LiveFolder, "_follow", dies)
    monkeypatch.setattr(keeper, "FIRST", 0.0)
    with pytest.raises(Cut):
        fl.fit("diabetes", epochs=4, save=fl.Save(tmp_path / "a", every=steps(30)), progress=False)
    monkeypatch.undo()
    run = fl.fit("diabetes", epochs=4, save=tmp_path / "a", resume=True, progress=False)
    same(run, whole)
    assert run.summary["headline"] == whole.summary["headline"] and run.summary["lr_source"] == whole.summary["lr_source"]
    same(fl.fit("diabetes", epochs=4, save=tmp_path / "a", resume=True, progress=False), whole)
    with pytest.raises(PlanMismatch, match=r"holds a run of other choices .*batch_size None there, 7 here"):
        fl.fit("diabetes", epochs=4, batch_size=7, save=tmp_path / "a", resume=True, progress=False)
    longer = fl.fit("diabetes", epochs=5, save=tmp_path / "a", resume=True, progress=False)
    assert longer.plan.epochs == 5 and len(longer.plans) == 2 and longer.summary["headline"]["value"] > 0


# ------------------------------------------------------------------------------------------- what is refused


def test_other_data_another_optimizer_and_a_shorter_plan_are_refused(tmp_path: Path):
    train("adam", save=tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    problem, plan = problem_and_plan("adam")
    for attempt, kind, words in (
        (lambda: fl.train(fl.logistic(X + 1, Y), plan, save=tmp_path / "a", resume=True), PlanMismatch, "holds a run of other data"),
        (lambda: fl.train(problem, fl.Plan(problem, epochs=9, batch_size=16, optimizer=fl.SGD(0.1)), save=tmp_path / "a", resume=True), PlanMismatch, "it cannot go on with it"),
        (lambda: fl.train(problem, fl.Plan(problem, epochs=2, batch_size=16, optimizer=fl.AdamW(0.01, average=0.1)), save=tmp_path / "a", resume=True), fl.InvalidValue, "has made 48 updates, and the plan has 16"),
        (lambda: fl.train(problem, plan, save=tmp_path / "a"), RunExists, "exists already"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            attempt()
    assert {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()} == before
    assert not run_folder.busy(tmp_path / "a")


def test_a_module_of_another_shape_is_refused_before_it_is_touched(tmp_path: Path):
    with pytest.raises(Cut):
        train("module", save=fl.Save(tmp_path / "a", every=steps(5)), log=cut_at(16))
    rows = torch.tensor(X, dtype=torch.float32), torch.tensor(X[:, 0] > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))
    before = [p.clone() for p in model.parameters()]
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows)
    with pytest.raises(fl.InvalidValue, match="is of another problem"):
        fl.train(problem, problem_and_plan("module")[1], save=tmp_path / "a", resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_folder_of_an_older_version_is_refused_with_what_to_do(tmp_path: Path):
    run = train("adam")
    run.save(tmp_path / "a")  # as older versions left it: no identity, no checkpoints
    with pytest.raises(RunUnfinished, match="of a version without checkpoints"):
        train("adam", save=tmp_path / "a", resume=True)
    assert fl.load(tmp_path / "a").outcome.name == "Finished"
    (tmp_path / "a" / "run.json").write_text("{")
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(RunDamaged, match=r"run\.json cannot be read"):
        train("adam", save=tmp_path / "a", resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExists, match="is not a run"):
        train("adam", save=tmp_path, resume=True)


def test_two_cannot_go_on_at_once(tmp_path: Path):
    with pytest.raises(Cut):
        train("adam", save=fl.Save(tmp_path / "a", every=steps(4)), log=cut_at(16))
    one = live.LiveFolder.claim(tmp_path / "a", resume=True)
    with pytest.raises(RunExists, match="under way"):
        train("adam", save=tmp_path / "a", resume=True)
    one.close()
    same(train("adam", save=tmp_path / "a", resume=True), train("adam"))


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path):
    """A loader's worker may outlive its parent that was killed: the folder must be free at once."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "run.json").write_text("{}")
    held = run_folder.hold(tmp_path)
    (reads, writes), (there, ready) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child
        os.write(ready, b"x")
        os.read(reads, 1)
        os._exit(0)
    assert held is not None
    os.read(there, 1)
    run_folder.let_go(held)
    try:
        assert not run_folder.busy(tmp_path)
    finally:
        os.write(writes, b"x")
        os.waitpid(child, 0)
        for end in (reads, writes, there, ready):
            os.close(end)


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(Cut):
        train("adam", save=fl.Save(tmp_path / "a", every=steps(4)), log=cut_at(24))
    newest = sorted((tmp_path / "a" / "checkpoints").iterdir())[-1]
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-3] ^= 4
    (newest / "state.safetensors").write_bytes(bytes(data))
    same(train("adam", save=tmp_path / "a", resume=True), train("adam"))
    assert f"checkpoint {newest} is damaged (state.safetensors does not match its hash" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_ours_is_refused(tmp_path: Path):
    with pytest.raises(Cut):
        train("adam", save=fl.Save(tmp_path / "a", every=steps(4)), log=cut_at(24))
    store = Checkpoints(tmp_path / "a" / "checkpoints", json.loads((tmp_path / "a" / "run.json").read_text())["run"])
    found = store.newest()
    assert found is not None
    about = {k: v for k, v in found.contents.documents["about.json"].items() if k != "moments"}
    store.save(99, type(found.contents)({**found.contents.documents, "about.json": about}, found.contents.arrays))
    with pytest.raises(RunDamaged, match=r"does not hold a run as this fallline writes it \(KeyError: 'moments'\)"):
        train("adam", save=tmp_path / "a", resume=True)


def test_other_numerics_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Cut):
        train("adam", save=fl.Save(tmp_path / "a", every=steps(4)), log=cut_at(24))
    monkeypatch.setattr("fallline.loop.numerics", lambda engine: keeper.numerics(engine) | {"numba": "99.0"})
    run = train("adam", save=tmp_path / "a", resume=True)
    note = next(e for e in run.journal if e["what"] == "resume")
    assert note["value"] == 20 and note["why"].startswith("within tolerance, not to the bit: numba ") and note["why"].endswith("-> 99.0")
    assert differing({"a": 1}, {"a": 1}) == ""


def test_a_full_disk_stops_no_training_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    write = durable.write_file

    def full(path: Path, data: bytes) -> None:
        if "step-" in path.parent.name and "step-000000012" in path.parent.name:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr("fallline.checkpoints.store.durable.write_file", full)
    run = train("adam", save=fl.Save(tmp_path / "a", every=steps(6)))
    said = capsys.readouterr().err
    assert run.outcome.name == "Finished" and "the checkpoint of step 12 could not be written" in said and "it needs" in said
    assert [e["value"] for e in run.journal if e["what"] == "checkpoint"] == [12]
    assert run_folder.checkpointed(tmp_path / "a") == [42, 48]


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["training", "measuring", "saving", "the last evaluation"])
def test_a_signal_ends_with_a_checkpoint_of_the_present_step(number: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also within an evaluation: it is left at once, and made when the run goes on."""
    sent = []

    def late(y: Any, prediction: Any) -> float:
        if not sent and moment == ("the last evaluation" if len(calls) == 5 else "measuring" if len(calls) == 2 else ""):
            sent.append(1)
            signal.raise_signal(number)
            pytest.fail("the evaluation went on")
        calls.append(1)
        return 0.5

    calls: list[int] = []
    problem, plan = problem_and_plan("adam")
    held_out = fl.Validation((X, Y), metrics=["log_loss", late])
    if moment == "saving":
        real = Checkpoints.save

        def save(self: Checkpoints, step: int, contents: Any) -> Path:
            if step == 20 and not sent:
                sent.append(1)
                signal.raise_signal(number)
            return real(self, step, contents)

        monkeypatch.setattr(Checkpoints, "save", save)

    def log(entry: dict[str, Any]) -> None:
        if moment == "training" and entry["step"] == 24:
            sent.append(1)
            signal.raise_signal(number)

    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
    with pytest.raises(kinds[signal.Signals(number)]) as ended:
        fl.train(problem, plan, valid=held_out, save=fl.Save(tmp_path / "a", every=steps(10)), log=log, progress=False)
    run = ended.value.run  # type: ignore[attr-defined]
    assert sent and run.outcome.name == "Interrupted" and signal.Signals(number).name in run.reason
    store = Checkpoints(tmp_path / "a" / "checkpoints", run.id)
    found = store.newest()
    assert found is not None and found.step == run.history.steps and not store.damaged
    if number == signal.SIGTERM:
        assert ended.value.code == 143  # type: ignore[union-attr]
    going_on = fl.Validation((X, Y), metrics=["log_loss", lambda y, p: 0.5])
    on = fl.train(problem, plan, valid=going_on, save=tmp_path / "a", resume=True, progress=False)
    whole = fl.train(problem, plan, valid=going_on, progress=False)
    assert on.outcome.name == "Finished" and on.weights["coef"].tobytes() == whole.weights["coef"].tobytes()
    assert [e["step"] for e in on.history.evaluations] == [e["step"] for e in whole.history.evaluations]
    assert [e["valid_log_loss"] for e in on.history.evaluations] == [e["valid_log_loss"] for e in whole.history.evaluations]


def test_a_signal_while_a_rate_is_searched_ends_at_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fallline.advice.lr

    def search(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the search went on")

    monkeypatch.setattr(fallline.advice.lr, "find_lr", search)
    problem, _ = problem_and_plan("adam")
    with pytest.raises(SystemExit) as ended:
        fl.train(problem, fl.Plan(problem, epochs=2, batch_size=16), save=tmp_path / "a", progress=False)
    assert ended.value.code == 143 and not (tmp_path / "a").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---------------------------------------------------------------------------------------------------- how often


def test_checkpoints_cost_at_most_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By a made-up clock: a save of 3 s is followed by 150 s without one; a quick one by ten."""
    now = [0.0]
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])

    class Slow:
        seconds = 3.0

        def save(self, step: int, contents: Any) -> None:
            now[0] += self.seconds

    store: Any = Slow()
    keeps, clock = Keeper(store), Clock(10_000)
    snapshot: Any = type("Snapshot", (), {"step": 1, "contents": lambda self: None})()
    keeps._due = keeper.FIRST
    assert not keeps.due(1, clock)
    now[0] = 10.0
    assert keeps.due(1, clock) and keeps.following(1, clock) is None
    keeps.save(snapshot)
    assert keeps.cost == 3.0
    now[0] = 13.0 + 149.0
    assert not keeps.due(2, clock)
    now[0] = 13.0 + 151.0
    snapshot.step, store.seconds = 2, 0.01
    assert keeps.due(2, clock)
    keeps.save(snapshot)
    now[0] += 9.0
    assert not keeps.due(3, clock)
    now[0] += 2.0
    assert keeps.due(3, clock)


@pytest.mark.parametrize(("make", "words"), [(lambda: fl.Save("a", every=5), r"Save\(every=5\): expected a length with its unit"), (lambda: fl.Save("a", keep=1), r"Save\(keep=1\): expected a whole number of at least 2")])
def test_how_often_is_checked(make: Callable[[], Any], words: str):
    with pytest.raises(fl.InvalidValue, match=words):
        make()
