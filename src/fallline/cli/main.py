"""The commands, their flags, and how errors reach a person. The work is done by the library."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fallline.errors import (
    Diverged,
    FalllineError,
    MissingExtra,
    NoLearningRate,
    RunFolderError,
    RunUnfinished,
    TableError,
)

try:
    import rich  # noqa: F401  # the progress bar's; typer may come without it
    import typer
except ImportError:  # pragma: no cover - the package without its extra
    print("fallline: the command line needs the packages 'typer' and 'rich', which are not installed: pip install 'fallline[cli]'", file=sys.stderr)
    sys.exit(7)

from fallline.cli import batch_commands, compare_commands, flags, stream_commands, sweep_commands

CODES = """Exit codes: 0 done; 1 unexpected; 2 the command's words are off; 3 the data cannot be read right;
4 diverged; 5 no learning rate found; 6 the run folder cannot be used; 7 a package is missing; 8 the folder holds a run
that did not come to its end; 130 interrupted; 143 terminated."""

app = typer.Typer(
    name="fallline", help="Gradient descent on your table: finds the numbers, runs the descent fast, shows the evidence.",
    epilog=CODES, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@app.command(epilog=CODES)
def fit(
    data: flags.Data, target: flags.Target = None, lr: flags.Lr = "auto", batch_size: flags.BatchSize = "auto", optimizer: flags.Optimizer = "auto",
    momentum: flags.Momentum = None, nesterov: flags.Nesterov = False, weight_decay: flags.WeightDecay = None,
    schedule: flags.Schedule = "warmup(5%) > linear(to=0)", epochs: flags.Epochs = 20,
    model: flags.Model = "linear", device: flags.Device = None,
    loss: flags.Loss = None, metric: flags.Metric = None, class_weight: flags.ClassWeight = None, log_target: flags.LogTarget = False,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    valid: flags.Valid = "0.15", test: flags.Test = "0.15", group: flags.Group = None, time: flags.Time = None, sample_weight: flags.SampleWeight = None,
    drop: flags.Drop = "", only: flags.Only = "", type: flags.Type = None, cross: flags.Cross = None, standardize: flags.Standardize = False, memory: flags.Memory = None, cache: flags.Cache = None, seed: flags.Seed = 0,
    patience: Annotated[float | None, typer.Option(help="Stop after this many epochs without improvement.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Such as 90s, 5m or 2h.")] = None,
    on_divergence: Annotated[str, typer.Option(help="stop; rollback: go back to the last good state, halve the learning rate, go on; or skip: leave out batches that are not finite, ten at most.")] = "stop",
    plan: Annotated[str | None, typer.Option(help="A saved plan, or the run that made it, to carry out as it stands: nothing is searched for.")] = None,
    out: flags.Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder; start it where there is none; print it where it is finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Learn row by row, in one pass, as rows come: from a file, or from standard input where DATA is -.")] = False,
    format: Annotated[str | None, typer.Option(help="Of a stream: csv, jsonl or svmlight; left out, told from its first line.")] = None,
    classes: Annotated[str, typer.Option(help="Of a stream: the only labels that may come, A,B; left out, new ones are added.")] = "",
    save_every: Annotated[int | None, typer.Option(help="Of a stream: rows between checkpoints; left out, ten seconds.")] = None,
    from_here: Annotated[bool, typer.Option("--from-here", help="Of a stream that is resumed: it begins after the rows learnt, instead of at its start.")] = False,
    json: flags.Json = False,
) -> None:  # fmt: skip
    """Fit a linear model or a network to a table: choose, train, test, report."""
    if stream or data == "-":
        return stream_commands.fit(locals(), fit)
    stream_commands.only_for_streams(format=format, classes=classes, save_every=save_every, from_here=from_here)
    from fallline.cli import work

    options = work.table_options(drop, only, type, valid, test, group, time, sample_weight, class_weight, log_target, task, seed, memory, cache, cross, standardize)
    rule = work.rule(optimizer, lr, momentum, nesterov, weight_decay)
    told = work.choices(epochs, batch_size, rule, schedule, loss, metric, plan, seed, compare_commands.read_model(model), device)
    told = work.left_open(told, weight_decay)
    work.fit(data, target, options, told, work.judges(patience, time_limit, on_divergence), work.Place(out, resume, overwrite), json)


@app.command("resume", epilog=CODES)
def go_on(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    model: Annotated[str | None, typer.Option("--model", help="package.module:factory, where the run's model is code.")] = None,
    json: flags.Json = False,
) -> None:  # fmt: skip
    """Go on with a run that fit had begun: its own command again, with --resume."""
    from fallline.cli import work

    sys.argv[1:] = work.resume(run, model)  # the command that will stand in the run
    app(args=[*sys.argv[1:], *(["--json"] if json else [])], standalone_mode=False)


@app.command("find-lr", epilog=CODES)
def find_lr(
    data: flags.Data, target: flags.Target = None, batch_size: flags.BatchSize = "auto", optimizer: flags.Optimizer = "auto", momentum: flags.Momentum = None,
    nesterov: flags.Nesterov = False, weight_decay: flags.WeightDecay = None, schedule: flags.Schedule = "warmup(5%) > linear(to=0)",
    epochs: flags.Epochs = 20, model: flags.Model = "linear", device: flags.Device = None,
    loss: flags.Loss = None, seed: flags.Seed = 0, drop: flags.Drop = "", only: flags.Only = "", type: flags.Type = None, cross: flags.Cross = None, standardize: flags.Standardize = False, memory: flags.Memory = None, cache: flags.Cache = None,
    budget: Annotated[float, typer.Option(help="The most it may cost, in full runs.")] = 0.5,
    plot: Annotated[str | None, typer.Option(help="Save the picture: FILE.png, .svg or .html.")] = None,
    json: flags.Json = False,
) -> None:  # fmt: skip
    """The learning rate for a plan: range test, probes on held-out rows, an interval, a choice."""
    from fallline.cli import work

    options = work.table_options(drop, only, type, "0.15", "0.15", None, None, None, None, False, None, seed, memory, cache, cross, standardize)
    rule = work.rule(optimizer, "auto", momentum, nesterov, weight_decay)
    told = work.choices(epochs, batch_size, rule, schedule, loss, None, None, seed, compare_commands.read_model(model), device)
    work.find_lr(data, target, options, told, budget, plot, json)


@app.command(epilog=CODES)
def plan(
    rows: Annotated[int, typer.Option(help="Rows of the training data.")], epochs: flags.Epochs = 20, batch_size: flags.BatchSize = "64",
    lr: flags.Lr = "0.1", optimizer: flags.Optimizer = "auto", momentum: flags.Momentum = None, nesterov: flags.Nesterov = False,
    weight_decay: flags.WeightDecay = None, schedule: flags.Schedule = "constant", seed: flags.Seed = 0,
    out: Annotated[str | None, typer.Option(help="Save the plan: FILE.json.")] = None, json: flags.Json = False,
) -> None:  # fmt: skip
    """Print and draw what a plan would do."""
    from fallline.cli import work

    work.plan(rows, epochs, batch_size, work.rule(optimizer, lr, momentum, nesterov, weight_decay), schedule, seed, out, json)


@app.command(epilog=CODES)
def predict(
    run: Annotated[str, typer.Argument(help="A run's folder.")], data: flags.Data,
    out: Annotated[str, typer.Option("--out", "-o", help="FILE.csv, .parquet or .jsonl.")],
    id: Annotated[str | None, typer.Option(help="A column to carry over.")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Probabilities of the classes too.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="package.module:factory of a run whose own word for it you have not used here.")] = None,
    json: flags.Json = False,
) -> None:  # fmt: skip
    """Predict every row of a table: one row out per row in, in the same order."""
    from fallline.cli import work

    work.predict(run, data, out, id, proba, model, json)


@app.command(epilog=CODES)
def export(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    file: Annotated[str, typer.Argument(help="FILE.onnx.")],
    json: flags.Json = False,
) -> None:  # fmt: skip
    """Write a run's model as an ONNX file: raw columns in, encoders inside, predictions out."""
    from fallline.cli import work

    work.export(run, file, json)


@app.command(epilog=CODES)
def report(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs.")],
    out: Annotated[str | None, typer.Option(help="FILE.html of several runs; left out, side-by-side.html in the folder that holds them.")] = None,
    json: flags.Json = False,
) -> None:  # fmt: skip
    """Write the report of a run, beside it; of several, one page that shows them side by side."""
    from fallline.cli import work

    if len(runs) > 1:
        return compare_commands.together(runs, out, json)
    if out is not None:
        raise typer.BadParameter("the report of one run stands in its folder; --out is for several", param_hint="--out")
    work.report(runs, json)


batch_commands.register(app, CODES)
compare_commands.register(app, CODES)
sweep_commands.register(app, CODES)


def _code(error: BaseException) -> int:
    for kind, code in ((Diverged, 4), (NoLearningRate, 5), (RunUnfinished, 8), (RunFolderError, 6), (MissingExtra, 7), (TableError, 3), (FalllineError, 3)):
        if isinstance(error, kind):
            return code
    return 1


@contextmanager
def _ends_on_terminate() -> Iterator[None]:
    """Within: SIGTERM ends the command with 143 wherever it is; while a run is under way, `train` has its own way to honour it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; every error of ours is one message on stderr and an exit code."""
    args = sys.argv[1:] if arguments is None else arguments
    if args[:1] == ["--version"]:
        from fallline import __version__

        print(f"fallline {__version__}")
        sys.exit(0)
    try:
        with _ends_on_terminate():
            ended = app(args=args or ["--help"], standalone_mode=False)
    except FalllineError as error:
        if os.environ.get("FALLLINE_DEBUG"):
            raise
        for line in (error, *getattr(error, "__notes__", ())):
            print(f"fallline: {line}", file=sys.stderr)
        sys.exit(_code(error))
    except (KeyboardInterrupt, typer.Abort):  # an older typer raises these
        ended = 130
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()  # type: ignore[attr-defined]
        command = next((c for c in args[:1] if "No such command" not in message and not c.startswith("-")), "")
        print(f"fallline: {message}\nTry '{' '.join(filter(None, ('fallline', command, '--help')))}'.", file=sys.stderr)
        sys.exit(2)
    # Outside of its standalone mode a newer typer catches an interrupt and *returns* 130 (and any other Exit's code).
    if isinstance(ended, int) and ended:
        if ended == 130:
            print("fallline: interrupted before there was anything to save", file=sys.stderr)
        sys.exit(ended)
