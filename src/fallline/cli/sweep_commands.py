"""The command `sweep`: its flags and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from fallline.cli import flags

Values = "One value, values with commas between, or LOW..HIGH:COUNT (log scale; :linear at the end for even steps)."


def register(app: typer.Typer, codes: str) -> None:
    """Add the command to the application."""

    @app.command(epilog=codes)
    def sweep(
        data: flags.Data,
        target: flags.Target = None,
        lr: Annotated[str, typer.Option(help=f"Learning rates. {Values}")] = "1e-4..1:9",
        momentum: Annotated[str | None, typer.Option(help="Of sgd and nesterov; 0.9 where left out. Values as for --lr.")] = None,
        weight_decay: Annotated[str | None, typer.Option(help="Values as for --lr.")] = None,
        batch_size: Annotated[str | None, typer.Option(help="Rows of a batch, or full; 32 where left out. Values as for --lr.")] = None,
        optimizer: Annotated[str, typer.Option(help=f"{flags.NAMES}; several with commas between.")] = "sgd",
        schedule: Annotated[str | None, typer.Option(help='Of the learning rate, such as "warmup(5%) > cosine"; several with commas between.')] = None,
        over: Annotated[list[str] | None, typer.Option(help="NAME=VALUES of any other hyperparameter; may be repeated.")] = None,
        epochs: flags.Epochs = 20,
        seeds: Annotated[int, typer.Option(help="Runs of each combination.")] = 3,
        budget: Annotated[float | None, typer.Option(help="Full runs that may be spent; below the grid's, successive halving.")] = None,
        metric: Annotated[str | None, typer.Option(help="Rank by this metric of the validation rows; left out, by their loss.")] = None,
        valid: flags.Valid = "0.2",
        model: flags.Model = "linear",
        device: flags.Device = None,
        loss: flags.Loss = None,
        drop: flags.Drop = "",
        only: flags.Only = "",
        type: flags.Type = None,
        cross: flags.Cross = None,
        standardize: flags.Standardize = False,
        seed: Annotated[int, typer.Option(help="Of the split, and the first of the seeds.")] = 0,
        out: Annotated[str | None, typer.Option(help="Folder of the sweep; left out, runs/sweep-<data>, or with a number behind it where that exists.")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Continue what the folder holds; begin where it holds nothing.")] = False,
        json: flags.Json = False,
    ) -> None:  # fmt: skip
        """Every combination of some hyperparameters, each with several seeds: the best with its spread, a heat map, the edge of stability."""
        from fallline.cli import sweep_work as work

        tried = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "batch_size": batch_size, "schedule": schedule}
        asked = work.Asked(data, target, tried, optimizer, tuple(over or ()), epochs, seeds, budget, metric, valid, loss, seed, out, resume, model, device)
        work.sweep(asked, work.Columns(drop, only, type, cross, standardize), json)
