"""The commands that look at several things at once: `compare` and `runs`, their flags and their help."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fallline.cli import flags
from fallline.errors import InvalidValue
from fallline.model_spec import ModelSpec, model_spec

VARIANT_NAMES = "batch, sgd, minibatch, momentum, nesterov, step-decay, exponential, linear, cosine, warmup-cosine, one-cycle, adam, adamw, nadam, rmsprop, adagrad, schedule-free"
"""As in `contenders.VARIANTS`, which would load the engines only to print a help; a test holds the two together."""

Data = Annotated[str, typer.Argument(help=f"{flags.FILES}; or ravine or rosenbrock: a function to look at.")]


def read_model(words: str) -> ModelSpec:
    """--model, read; words that name none are a fault of the command."""
    try:
        return model_spec(words)
    except InvalidValue as error:
        raise typer.BadParameter(str(error), param_hint="--model") from None


def register(app: typer.Typer, codes: str) -> None:
    """Add the commands to the application."""

    @app.command(epilog=codes)
    def compare(
        data: Data,
        target: flags.Target = None,
        variants: Annotated[str, typer.Option(help=f"Names with commas between: {VARIANT_NAMES}.")] = "batch,sgd,minibatch,momentum,nesterov",
        epochs: flags.Epochs = 20,
        seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 5,
        batch_size: Annotated[int, typer.Option(help="Rows of a mini-batch.")] = 32,
        model: flags.Model = "linear",
        device: flags.Device = None,
        loss: flags.Loss = None,
        drop: flags.Drop = "",
        only: flags.Only = "",
        type: flags.Type = None,
        cross: flags.Cross = None,
        standardize: flags.Standardize = False,
        seed: Annotated[int, typer.Option(help="Of the split, and the first of the seeds.")] = 0,
        lr: Annotated[float | None, typer.Option(help="Of ravine and rosenbrock; found by each variant elsewhere.")] = None,
        momentum: Annotated[float | None, typer.Option(help="Of ravine and rosenbrock; 0.9 where left out.")] = None,
        noise: Annotated[float | None, typer.Option(help="Of ravine: how far a row's gradient is off; 10 where left out.")] = None,
        steps: Annotated[int | None, typer.Option(help="Of ravine and rosenbrock: updates; 100 and 400 where left out.")] = None,
        out: Annotated[str | None, typer.Option(help="FILE.html; of ravine and rosenbrock also .gif, .png or .svg.")] = None,
        json: flags.Json = False,
    ) -> None:  # fmt: skip
        """Several variants on the same data: one table, one picture; or the ravine, to play with."""
        from fallline.cli import compare_work as work

        if data in work.LANDSCAPES:
            return work.landscape(data, work.Look(lr, momentum, noise, steps), out, json)
        work.only_for_landscapes(data, {"--lr": lr, "--momentum": momentum, "--noise": noise, "--steps": steps})
        work.compare(work.Asked(data, target, variants, epochs, seeds, batch_size, loss, seed, out, read_model(model), device), work.Columns(drop, only, type, cross, standardize), json)

    @app.command(epilog=codes)
    def runs(
        folder: Annotated[str, typer.Argument(help="The directory that holds run folders.")] = "runs",
        sort: Annotated[str | None, typer.Option("--sort", help='Such as "test rmsle", "valid loss", loss or seconds; left out, the headline of most runs.')] = None,
        json: flags.Json = False,
    ) -> None:  # fmt: skip
        """The runs below a directory, ranked; unfinished and damaged ones are listed as such."""
        from fallline.cli import compare_work as work

        work.list_runs(folder, sort, json)


def together(folders: list[str], out: str | None, json: bool) -> Any:
    """`fallline report RUN RUN ...`: one page with all of them."""
    from fallline.cli import compare_work as work

    return work.together(folders, out, json)
