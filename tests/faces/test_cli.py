"""The command line: exit codes, messages, JSON, the run folder, predictions that equal the library's."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fallline as fl
from fallline.cli import main

pytest.importorskip("typer")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows: an identifier, a number, a category, a target with signal."""
    path = tmp_path_factory.mktemp("data") / "houses.csv"
    rng = np.random.default_rng(0)
    area, kind = rng.normal(100, 20, 300), rng.integers(0, 3, 300)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Id", "area", "kind", "price"])
        for i in range(300):
            writer.writerow([f"h{i}", f"{area[i]:.3f}", "abc"[kind[i]], f"{3 * area[i] + 20 * kind[i] + rng.normal():.3f}"])
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of digits that several tests read."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    main(["fit", "digits", "--epochs", "4", "--out", str(folder), "--json"])
    return folder


def test_no_word_shows_help(run) -> None:
    done = run()
    assert done.code == 0 and "Commands:" in done.out and done.err == ""


@pytest.mark.parametrize("command", [(), ("fit",), ("find-lr",), ("plan",), ("predict",), ("report",)], ids=lambda c: c[0] if c else "all")
def test_help_names_the_exit_codes(run, command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.code == 0
    assert "130 interrupted" in " ".join(done.out.split())


def test_version(run) -> None:
    assert run("--version").out == f"fallline {fl.__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("fti", "digits"), "fit"), (("fit", "digits", "--epoch", "3"), "--epochs"), (("fit", "digits", "--model", "linaer"), "linear")],
)
def test_wrong_words_say_what_was_meant(run, words: tuple[str, ...], meant: str) -> None:
    done = run(*words)
    assert done.code == 2 and meant in done.err and "Traceback" not in done.err


def test_wrong_data_set_and_column(run, table: Path) -> None:
    assert "digits" in run("fit", "digts").err
    done = run("fit", table, "--target", "prise")
    assert done.code == 3 and "'price'" in done.err


def test_fit_with_no_option_writes_runs_and_says_where(run, tmp_path: Path) -> None:
    done = run("fit", "digits")
    assert done.code == 0
    assert (tmp_path / "runs" / "digits" / "report.html").exists() and "runs/digits" in done.out
    said = {line.split("  ")[0] for line in done.out.splitlines()}
    assert "95 % interval" in done.out and {"batch size", "lr", "weight decay", "searched"} <= said
    summary = fl.load("runs/digits").summary
    assert summary["headline"]["value"] >= 0.95


def test_json_is_one_document(digits: Path, run) -> None:
    for words in (("report", digits), ("plan", "--rows", 100, "--epochs", 2), ("find-lr", "breast-cancer")):
        json.loads(run(*words, "--json").out)


def test_divergence_has_its_code_and_advice(run) -> None:
    words = ("fit", "diabetes", "--lr", "50", "--out", "x")
    done = run(*words)
    assert done.code == 4 and "try lr" in done.err and "the run until then is in x" in done.err
    left = fl.load("x")
    assert left.outcome.name == "Diverged" and not np.isfinite(left.history.loss[-1]) and len(left.history.loss) == left.history.steps + 1
    assert f"1 of {len(left.history.loss):,} losses are not finite" in Path("x/report.html").read_text()
    again = run(*words)
    assert again.code == 8 and "Diverged" in again.err and "--overwrite" in again.err


def test_debug_shows_the_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALLLINE_DEBUG", "1")
    with pytest.raises(fl.FalllineError):
        main(["fit", "nothing.csv", "--target", "y"])


def test_the_same_run_again_prints_its_result(run) -> None:
    words = ("fit", "diabetes", "--epochs", 2, "--out", "d")
    assert run(*words).code == 0
    again = run(*words, "--resume")
    assert again.code == 0 and "finished" in again.out and "95 % interval" in again.out


@pytest.mark.parametrize("words", [("diabetes", "--epochs", 3), ("diabetes", "--epochs", 2, "--momentum", 0.5, "--resume"), ("breast-cancer", "--epochs", 2, "--resume")], ids=["longer", "other flags", "other data"])
def test_another_run_is_never_printed_as_this_one(run, words: tuple[object, ...]) -> None:
    run("fit", "diabetes", "--epochs", 2, "--out", "d")
    done = run("fit", *words, "--out", "d")
    assert done.code == 6 and "another" in done.err and "interval" not in done.out


def test_overwrite_deletes_nothing_but_a_run(run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run("fit", "diabetes", "--out", "mine", "--overwrite")
    assert done.code == 6 and (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_overwrite_spares_files_beside_the_run(run, tmp_path: Path) -> None:
    run("fit", "diabetes", "--epochs", 2, "--out", "d")
    (tmp_path / "d" / "submission.csv").write_text("1")
    done = run("fit", "diabetes", "--epochs", 2, "--out", "d", "--overwrite")
    assert done.code == 6 and "submission.csv" in done.err and (tmp_path / "d" / "submission.csv").exists()


def test_overwrite_keeps_the_old_run_when_the_new_one_fails(run) -> None:
    run("fit", "diabetes", "--epochs", 2, "--out", "d")
    for _ in range(2):  # the second failure takes the first one's place
        done = run("fit", "diabetes", "--lr", "1e30", "--out", "d", "--overwrite")
        assert done.code == 4 and "d.new" in done.err
        assert fl.load("d").outcome.name == "Finished" and fl.load("d.new").outcome.name == "Diverged"
    assert run("fit", "diabetes", "--epochs", 3, "--out", "d", "--overwrite").code == 0
    assert fl.load("d").plan.steps > 0 and sorted(p.name for p in Path().iterdir()) == ["d"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_gives_what_the_library_gives(run, table: Path, suffix: str) -> None:
    from fallline.tables import read

    assert run("fit", table, "--target", "price", "--drop", "Id", "--out", "r", "--epochs", 5).code == 0
    assert run("predict", "r", table, "-o", f"p.{suffix}", "--id", "Id").code == 0
    written = read(f"p.{suffix}")
    assert written.values("Id").tolist() == [f"h{i}" for i in range(300)]
    np.testing.assert_allclose(written.values("price").astype(float), fl.load("r").predict(str(table)), rtol=1e-12)


def test_predict_proba(run, digits: Path) -> None:
    assert run("predict", digits, "digits", "-o", "p.csv", "--proba").code == 0
    with open("p.csv") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 1797 and len(rows[0]) == 1 + 10
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 1:].sum(1), 1, atol=1e-6)


def test_plan_explains_and_draws(run) -> None:
    done = run("plan", "--rows", 60000, "--epochs", 12, "--batch-size", 64, "--lr", ".1", "--schedule", "warmup(5%) > cosine")
    assert done.code == 0 and "11,256 updates" in done.out and "⠉" in done.out


def test_a_saved_plan_is_carried_out(run) -> None:
    train_rows = fl.table("diabetes").problem().rows
    run("plan", "--rows", train_rows, "--epochs", 2, "--batch-size", 32, "--lr", ".01", "--out", "p.json")
    assert run("fit", "diabetes", "--plan", "p.json", "--out", "r").code == 0
    assert fl.load("r").plan == fl.Plan.from_json(json.loads(Path("p.json").read_text()))


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, run) -> None:
    from fallline.cli import work

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "report", stop)
    assert run("report", "x").code == 130


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_its_packages_the_command_says_the_line_to_type(package: str) -> None:
    program = f"import sys\nsys.modules[{package!r}] = None\nfrom fallline.cli import main\nmain(['--version'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 7 and done.stderr.count("\n") == 1 and "pip install 'fallline[cli]'" in done.stderr


def test_help_is_quick() -> None:
    """Printed; the bound (four times the target of 0.5 s) only notices a heavy import."""
    program = "import time\nt = time.perf_counter()\nfrom fallline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\nimport sys\nprint(time.perf_counter() - t, file=sys.stderr)"
    seconds = min(float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr) for _ in range(3))
    print(f"fallline --help: {seconds:.3f} s")
    assert seconds < 2
