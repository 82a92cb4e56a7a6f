"""A stream under way as a checkpoint holds it, and back."""

from __future__ import annotations

from typing import Any

from fallline.checkpoints import Contents
from fallline.errors import (
    RunDamaged,
)
from fallline.history import History
from fallline.problems.losses import Loss
from fallline.streaming.columns import Columns
from fallline.streaming.learner import Asked, Learner, model_of
from fallline.streaming.parts import Stream
from fallline.streaming.tally import Tally


def kept(learner: Learner, stream: Stream, history: History, seconds: float) -> Contents:
    """A checkpoint."""
    model, tally, head = learner.model, learner.tally, stream.head
    about = {
        "format": stream.format, "header": stream.header.decode(),
        "head": None if head is None else {"names": list(head.names), "delimiter": head.delimiter, "size": head.size, "line": head.line},
        "place": {"bytes": stream.place.bytes, "crc": stream.place.crc, "line": stream.place.line},
        "columns": None if learner.columns is None else learner.columns.to_json(), "target": learner.target, "kind": learner.kind,
        "form": learner.form, "why": learner.why, "loss": model.loss.name, "classes": model.classes, "rows": model.step, "sparse": model.sparse,
        "tally": {"classifies": tally.classifies, "rows": tally.rows}, "unlabelled": learner.unlabelled, "next_line": learner.next_line,
        "since": list(learner.since), "seconds": seconds,
    }  # fmt: skip
    arrays = {"model.safetensors": model.arrays(), "tally.safetensors": {"sums": tally.sums, "counts": tally.counts, "loss": history.since(0)}}
    return Contents({"about.json": about, "history.json": {"journal": history.journal, "evaluations": history.evaluations}}, arrays, ("model.safetensors",))


def restored(contents: Contents, asked: Asked) -> tuple[Learner, History, dict[str, Any]]:
    """The learner of a checkpoint, its history, and what is known of its stream.

    Raises:
        RunDamaged: it does not hold a stream as this version writes it.
    """
    try:
        about = contents.documents["about.json"]
        columns = None if about["columns"] is None else Columns.from_json(about["columns"])
        model = model_of(Loss(about["loss"]), columns, about["classes"])
        model.widen(sparse=about["sparse"], outputs=len(about["classes"] or ()))
        model.restore(about["rows"], contents.arrays["model.safetensors"])
        held = contents.arrays["tally.safetensors"]
        tally = Tally(about["tally"]["classifies"], about["tally"]["rows"], held["sums"].copy(), held["counts"].copy())
        learner = Learner(
            asked, columns, about["target"], about["kind"], about["form"], about["why"], model, tally, about["unlabelled"], about["next_line"],
            (float(about["since"][0]), float(about["since"][1])),
        )  # fmt: skip
        past = contents.documents["history.json"]
        history = History([held["loss"].copy()], [dict(e) for e in past["evaluations"]], [dict(e) for e in past["journal"]])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunDamaged(f"the checkpoint does not hold a stream as this fallline writes it ({type(error).__name__}: {str(error)[:120]})") from None
    return learner, history, about
