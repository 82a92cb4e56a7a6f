"""Modules as problems, and the plan in one's own loop: what users see."""

from __future__ import annotations

import copy
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402

F = torch.nn.functional


def data(rows: int = 120, seed: int = 0) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, 6, generator=draw)
    return X, (X[:, 0] > 0).long()


def net(*extra: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), *extra, torch.nn.ReLU(), torch.nn.Linear(8, 2))


def quick(problem: Any, **options: Any) -> fl.Plan:
    return fl.Plan(problem, **({"epochs": 5, "batch_size": 20, "optimizer": fl.SGD(0.1, momentum=0.9)} | options))


def test_a_module_trains_in_place_validates_predicts_saves_and_loads(tmp_path):
    model = net()
    problem = fl.torch.problem(model, F.cross_entropy, data(), valid=data(60, 1))
    run = fl.train(problem, quick(problem), save=tmp_path / "run", progress=False)
    assert run.model is model and run.used == "best"
    last = run.history.evaluations[-1]
    assert last["valid_accuracy"] > 0.8 and set(run.weights) == set(model.state_dict())
    X, y = data(60, 1)
    guess = run.predict(X)
    assert guess.shape == (60, 2) and np.mean(guess.argmax(1) == y.numpy()) == max(e["valid_accuracy"] for e in run.history.evaluations)
    loaded = fl.load(tmp_path / "run", model=net())
    assert np.array_equal(loaded.predict(X), guess)
    assert "saved" not in repr(fl.load(tmp_path / "run")) and fl.load(tmp_path / "run").model is None
    with pytest.raises(fl.InvalidValue, match="build the module as it was"):
        fl.load(tmp_path / "run", model=torch.nn.Linear(6, 2))


def test_fit_chooses_a_rate_for_a_module():
    problem = fl.torch.problem(net(), F.cross_entropy, data(), valid=data(60, 1))
    run = fl.fit(problem, epochs=40, progress=False)
    assert run.found is not None and run.history.evaluations[-1]["valid_accuracy"] > 0.8


def test_fit_begins_with_what_suggest_says_of_the_module():
    wide = net(torch.nn.BatchNorm1d(8))
    conv = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 6)), torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    for model, rule, reason in ((wide, fl.AdamW, "a dense network"), (conv, fl.SGD, "for CNNs SGD")):
        problem = fl.torch.problem(model, F.cross_entropy, data(), valid=data(60, 1))
        run = fl.fit(problem, epochs=12, progress=False)
        assert isinstance(run.plan.optimizer, rule)
        noted = {e["what"]: e for e in run.journal}
        assert reason in noted["optimizer"]["why"] and "warmup" in noted["schedule"]["value"] and noted["lr"]["why"]
    own = fl.fit(problem, choices=fl.Choices(epochs=12, schedule="cosine"), progress=False)
    assert str(own.plan.optimizer.schedule).startswith("cosine"), "a schedule that is given is the one that is used"


def test_fit_plans_a_stream_in_updates():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=20, shuffle=True)
    problem = fl.torch.problem(net(), F.cross_entropy, loader, valid=data(60, 1))
    before = torch.get_rng_state()
    run = fl.fit(problem, epochs=3, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert (run.plan.steps, run.plan.rows) == (18, None) and [e["step"] for e in run.history.evaluations] == [6, 12, 18]
    assert run.journal[0]["what"] == "length" and "3 passes of 6 batches" in run.journal[0]["why"]
    with pytest.raises(fl.InvalidValue, match="a stream that gives 20 rows at a time"):
        fl.fit(problem, epochs=3, batch_size=30, progress=False)

    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield data(16)

    problem = fl.torch.problem(net(), F.cross_entropy, Endless())
    with pytest.raises(fl.InvalidValue, match=r"without a length.*give fit\(problem, steps=1000\)"):
        fl.fit(problem, epochs=3, progress=False)
    assert fl.fit(problem, steps=30, progress=False).history.steps == 30


class Reader(torch.nn.Module):
    """Takes **batch and gives an object with `.loss`, a mean over the tokens that are not masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10)

    def forward(self, input_ids: Any, labels: Any) -> Any:
        scores = self.head(self.embed(input_ids))
        return SimpleNamespace(loss=F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-100), logits=scores)


def tokens() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 10, (64, 5), generator=draw)
    return {"input_ids": ids, "labels": torch.where(torch.rand(64, 5, generator=draw) < 0.6, -100, ids).index_fill(1, torch.tensor([0]), 1)}


def test_a_token_weighted_mean_is_exact_in_chunks():
    def objective(m: Any, b: Any) -> Any:
        return m(**b).loss * (n := (b["labels"] != -100).sum()), n

    torch.manual_seed(0)
    whole = fl.torch.problem(Reader().double(), objective=objective, data=tokens())
    parts = fl.torch.problem(copy.deepcopy(whole.model), objective=objective, data=tokens())
    rule = fl.SGD(0.5, momentum=0.9)
    one = fl.train(whole, fl.Plan(whole, steps=10, batch_size=fl.Batches.full(), optimizer=rule), progress=False)
    two = fl.train(parts, fl.Plan(parts, steps=10, batch_size=fl.Batches.full(chunk=23), optimizer=rule), progress=False)
    assert max(np.abs(one.weights[k] - two.weights[k]).max() for k in one.weights) < 1e-14
    assert np.allclose(one.history.loss, two.history.loss, rtol=1e-13)


def test_a_mean_over_tokens_that_does_not_say_so_is_refused_in_chunks():
    problem = fl.torch.problem(Reader(), objective=lambda m, b: m(**b).loss, data=tokens())
    with pytest.raises(fl.InvalidValue, match=r"not a mean over rows.*\(sum, weight\)"):
        fl.train(problem, fl.Plan(problem, steps=2, batch_size=fl.Batches.full(chunk=23), optimizer=fl.SGD(0.1)), progress=False)


def test_batch_normalisation_is_refused_in_chunks_and_allowed_when_it_stands_still():
    problem = fl.torch.problem(net(torch.nn.BatchNorm1d(8)), F.cross_entropy, data())
    plan = fl.Plan(problem, steps=2, batch_size=fl.Batches.full(chunk=50), optimizer=fl.SGD(0.1))
    with pytest.raises(fl.InvalidValue, match="BatchNorm1d '1' normalises over the rows"):
        fl.train(problem, plan, progress=False)
    problem.model[1].eval()
    assert fl.train(problem, plan, progress=False).outcome.name == "Finished"


def test_data_sets_and_loaders_of_the_same_rows_train_alike():
    X, y = data()
    pairs = torch.utils.data.TensorDataset(X, y)
    rows = [pairs[i] for i in range(len(pairs))]

    class Listed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> Any:
            return rows[i]

    resident, indexed = fl.torch.problem(net(), F.cross_entropy, (X, y)), fl.torch.problem(net(), F.cross_entropy, Listed())
    a, b = (fl.train(p, quick(p), progress=False) for p in (resident, indexed))
    assert all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)
    plan = quick(resident)
    stream = fl.torch.problem(net(), F.cross_entropy, [(X[r], y[r]) for r in plan.batches()])
    assert stream.rows is None and "own order" in stream.notes[0]
    c = fl.train(stream, fl.Plan(stream, steps=plan.steps, batch_size=20, optimizer=plan.optimizer), progress=False)
    with pytest.raises(fl.InvalidValue, match=r"epochs=.*steps"):
        fl.Plan(stream, epochs=3, batch_size=20)
    assert all(np.array_equal(a.weights[k], c.weights[k]) for k in a.weights)


def test_a_shuffling_loader_is_repeated_by_the_plan_s_seed_wherever_it_is_cut():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=16, shuffle=True)
    plan = fl.Plan(steps=20, batch_size=16, optimizer=fl.SGD(0.1), seed=4)
    first = fl.train(fl.torch.problem(net(), F.cross_entropy, loader), plan, progress=False)
    problem = fl.torch.problem(net(), F.cross_entropy, loader)
    state = problem.engine().begin(None, plan.optimizer.start())
    for a, b in ((0, 5), (5, 11), (11, 20)):
        state = problem.engine().advance(state, plan.segment(a, b, problem.layout)).state  # another engine, another iterator
    problem = fl.torch.problem(problem.model, F.cross_entropy, loader)
    again = problem.named(problem.engine().answer(state, fl.rows.Answer()))
    assert all(np.array_equal(first.weights[k], again[k]) for k in again)


def test_single_rows_and_groups():
    model = net(torch.nn.BatchNorm1d(8))
    problem = fl.torch.problem(model, F.cross_entropy, data())
    groups = {"0.*": fl.Group(frozen=fl.epochs(1)), "1.*": fl.Group(frozen=fl.epochs(1)), "3.*": fl.Group(lr=10)}
    plan = quick(problem, epochs=1, optimizer=fl.SGD(0.01, momentum=0.9, groups=groups))
    before = copy.deepcopy(model.state_dict())
    fl.train(problem, plan, progress=False)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k[0] in "01"), "frozen parameters and their statistics stand still"
    assert not torch.equal(before["3.weight"], after["3.weight"])
    assert all(p.requires_grad for p in model.parameters()) and model[1].training
    assert "no weight decay" in quick(problem, optimizer=fl.SGD(0.01, weight_decay=0.1)).explain(problem)
    lone = fl.torch.problem(net(), F.cross_entropy, data())
    assert fl.train(lone, quick(lone, epochs=1, batch_size=fl.Batches.single()), progress=False).history.steps == 120


def test_a_loss_that_breaks_leaves_weights_and_statistics_of_the_last_good_step():
    X, y = data()
    X[37] = float("nan")
    problem = fl.torch.problem(net(torch.nn.BatchNorm1d(8)), F.cross_entropy, (X, y))
    with pytest.raises(fl.Diverged) as stopped:
        fl.train(problem, quick(problem), progress=False)
    assert 37 in quick(problem).segment(stopped.value.step, stopped.value.step + 1, problem.layout).batch(0)
    assert all(bool(torch.isfinite(t).all()) for t in problem.model.state_dict().values())


def test_autocast_in_bfloat16_keeps_float32_parameters():
    problem = fl.torch.problem(net(), F.cross_entropy, data(), autocast=torch.bfloat16)
    run = fl.train(problem, quick(problem), progress=False)
    assert run.weights["0.weight"].dtype == np.float32 and run.history.loss[-1] < run.history.loss[0]


def test_tied_and_unused_and_channels_last_parameters():
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            self.a, self.b, self.idle = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(2, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.b(self.a(self.conv(x).mean((2, 3))))

    torch.manual_seed(0)
    model = Tied().double()
    model.conv = model.conv.to(memory_format=torch.channels_last)
    X, y = torch.randn(40, 3, 5, 5, dtype=torch.float64), torch.randint(0, 4, (40,))
    problem = fl.torch.problem(model, F.cross_entropy, (X, y))
    assert "tied: a.weight = b.weight" in " ".join(problem.notes) and not model.conv.weight.is_contiguous()
    other = copy.deepcopy(model)
    plan = quick(problem, optimizer=fl.SGD(0.1, momentum=0.9))
    fl.train(problem, plan, progress=False)
    peer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    for rows in plan.batches():
        peer.zero_grad()
        F.cross_entropy(other(X[rows]), y[rows]).backward()
        peer.step()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert float((p - q).detach().abs().max()) < 1e-12, name


# -------------------------------------------------------------------------------------------------- one's own loop


def own(plan: fl.Plan, model: Any, **options: Any) -> Any:
    optimizer, (X, y) = fl.torch.Optimizer(model, plan, **options), data()
    return optimizer, lambda rows: F.cross_entropy(model(X[rows]), y[rows])


def test_the_optimizer_continues_from_its_state_bit_for_bit():
    plan = fl.Plan(rows=120, epochs=4, batch_size=20, optimizer=fl.AdamW(0.01, average=fl.ema(0.9), schedule="warmup(10%) > cosine"))
    batches = list(plan.batches())
    model = net()
    optimizer, loss = own(plan, model)
    for k, rows in enumerate(batches):
        if k == 9:
            kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        loss(rows).backward()
        assert optimizer.param_groups[0]["lr"] == plan.lr_at([k])[0]
        optimizer.step()
        optimizer.zero_grad()
    other = net()
    other.load_state_dict(kept[0])
    again, loss = own(plan, other)
    again.load_state_dict(torch.load(_saved(kept[1]), weights_only=True))
    for rows in batches[9:]:
        loss(rows).backward()
        again.step()
        again.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def _saved(value: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_eval_shows_the_answer_and_train_takes_it_back():
    plan = fl.Plan(rows=120, epochs=2, batch_size=20, optimizer=fl.ScheduleFree(0.5))
    model = net()
    optimizer, loss = own(plan, model)
    for rows in plan.batches():
        loss(rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.eval()
    optimizer.eval()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(fl.PlanEnded):
        optimizer.step()
    optimizer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_grad_scaler_unscales_and_a_skipped_update_uses_up_its_row():
    plan = fl.Plan(rows=120, epochs=1, batch_size=20, optimizer=fl.SGD(0.1, momentum=0.9, schedule="linear(to=0)"))
    scaled, plain = net(), net()
    one, loss_one = own(plan, scaled)
    two, loss_two = own(plan, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for k, rows in enumerate(plan.batches()):
        scaler.scale(loss_one(rows)).backward()
        loss_two(rows).backward()
        if k == 2:
            next(scaled.parameters()).grad[0] = float("inf")
            two.update += 1
            two._load_rows()
        else:
            two.step()
        scaler.step(one)
        scaler.update()
        one.zero_grad()
        two.zero_grad()
    assert one.update == two.update == plan.steps
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(scaled.parameters(), plain.parameters(), strict=True))


def test_accumulated_gradients_closures_and_hooks():
    plan = fl.Plan(rows=120, epochs=1, batch_size=20, optimizer=fl.SGD(0.1))
    optimizer, loss = own(plan, net())
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(o.update))
    for rows in plan.batches():
        for part in (rows[:10], rows[10:]):
            (loss(part) / 2).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert seen == [1, 2, 3, 4, 5, 6]
    closed, loss = own(plan, net())

    def closure() -> Any:
        closed.zero_grad()
        value = loss(np.arange(20))
        value.backward()
        return value

    assert closed.step(closure).item() > 0 and closed.update == 1


def test_importing_fallline_does_not_import_torch():
    code = "import sys, fallline as fl; fl.torch; assert 'torch' not in sys.modules; print(dir(fl.torch))"
    assert "Optimizer" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_without_torch_the_extra_is_named():
    code = "import sys; sys.modules['torch'] = None; import fallline as fl\ntry: fl.torch.problem\nexcept fl.MissingExtra as e: print(e)"
    assert "pip install 'fallline[torch]'" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
