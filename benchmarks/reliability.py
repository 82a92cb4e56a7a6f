"""The same injections for checkpoints as others write them, beside ours: what loads in the end, and is it right.

    python benchmarks/reliability.py [--kills 20] [--flips 300] [--only ours ...] [--json FILE]

Systems: ours; torch.save; torch.distributed.checkpoint (DCP); Accelerate's save_state; Lightning's Trainer.save_checkpoint. Each
writes a new folder or file for every step, as their documentation recommends, and loads the newest by its name. What is not
installed is said to be left out. A state holds a network's weights and its momentum, every number telling its step.

R1  a process that saves step after step is killed (SIGKILL) at a random moment; then the newest is loaded
R3  the disk is full in the middle of a save (RLIMIT_FSIZE); then the newest is loaded
R5  one bit of the newest is flipped; then it is loaded
R6  the newest is exchanged for a file that runs a command when it is unpickled; then it is loaded
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

warnings.filterwarnings("ignore")
logging.disable(logging.ERROR)  # what a peer logs of a failure is counted, not shown
SIZE = 500_000
"""Numbers of each of the two tensors: 4 MB a checkpoint."""


@dataclass(frozen=True)
class System:
    """How a system saves a step into a folder of its own, and how it loads the newest: (step, weights, momentum)."""

    name: str
    save: Callable[[Path, int], None]
    load: Callable[[Path], tuple[float, np.ndarray, np.ndarray]]
    pickles: str = ""
    """The file that is read as pickle, where there is one."""


def state(step: int, size: int = SIZE) -> dict[str, torch.Tensor]:
    return {"w": torch.full((size,), float(step)), "m": torch.full((size,), -float(step))}


def newest(root: Path) -> Path:
    """The step with the largest number, as a user's script would find it."""
    found = [p for p in root.iterdir() if p.name.startswith("step-") and not p.name.endswith(".tmp")]
    if not found:
        raise FileNotFoundError("no checkpoint")
    return max(found, key=lambda p: p.name)


# ------------------------------------------------------------------------------------------------------ ours


def ours() -> System:
    from fallline.checkpoints import Checkpoints, Contents

    def save(root: Path, step: int) -> None:
        arrays = {k: v.numpy() for k, v in state(step).items()}
        Checkpoints(root, "run").save(step, Contents({}, {"state.safetensors": arrays}, ("state.safetensors",)))

    def load(root: Path) -> tuple[float, np.ndarray, np.ndarray]:
        found = Checkpoints(root, "run").newest()
        if found is None:
            raise FileNotFoundError("no valid checkpoint")
        arrays = found.contents.arrays["state.safetensors"]
        return found.step, arrays["w"], arrays["m"]

    return System("fallline", save, load)


# ------------------------------------------------------------------------------------------------------ peers


def torch_save() -> System:
    def save(root: Path, step: int) -> None:
        torch.save({"step": step, **state(step)}, root / f"step-{step:06d}.pt")

    def load(root: Path) -> tuple[float, np.ndarray, np.ndarray]:
        found = torch.load(newest(root), weights_only=True)
        return found["step"], found["w"].numpy(), found["m"].numpy()

    return System(f"torch.save {torch.__version__}", save, load, "")


def dcp() -> System:
    import torch.distributed.checkpoint as dist

    def save(root: Path, step: int) -> None:
        dist.save({"step": torch.tensor(float(step)), **state(step)}, checkpoint_id=str(root / f"step-{step:06d}"), no_dist=True)

    def load(root: Path) -> tuple[float, np.ndarray, np.ndarray]:
        found = {"step": torch.zeros(()), **state(0)}
        dist.load(found, checkpoint_id=str(newest(root)), no_dist=True)
        return float(found["step"]), found["w"].numpy(), found["m"].numpy()

    return System(f"DCP {torch.__version__}", save, load, ".metadata")


class Net(torch.nn.Module):
    """One tensor of weights; its optimizer's momentum is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(SIZE))

    def at(self, step: int) -> torch.optim.SGD:
        """Weights and momentum as after `step`."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        values = state(step)
        with torch.no_grad():
            self.w.copy_(values["w"])
        optimizer.state[self.w]["momentum_buffer"] = values["m"]
        return optimizer


def accelerate() -> System:
    import accelerate as library

    def prepared(step: int) -> tuple[Any, Any, Any]:
        library.state.AcceleratorState._reset_state(True)
        accelerator = library.Accelerator(cpu=True)
        net = Net()
        return accelerator, *accelerator.prepare(net, net.at(step))

    def save(root: Path, step: int) -> None:
        prepared(step)[0].save_state(str(root / f"step-{step:06d}"))

    def load(root: Path) -> tuple[float, np.ndarray, np.ndarray]:
        accelerator, net, optimizer = prepared(0)
        accelerator.load_state(str(newest(root)))
        momentum = next(iter(optimizer.optimizer.state.values()))["momentum_buffer"]
        return float(net.w[0]), net.w.detach().numpy(), momentum.numpy()

    return System(f"Accelerate {library.__version__}", save, load, "optimizer.bin")


def lightning() -> System:
    import lightning as library

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def configure_optimizers(self) -> Any:
            return self.net.at(int(self.net.w[0]))

    def save(root: Path, step: int) -> None:
        module = Module()
        optimizer = module.net.at(step)
        trainer = library.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.strategy.connect(module)
        trainer.strategy.optimizers = [optimizer]
        trainer.save_checkpoint(root / f"step-{step:06d}.ckpt")

    def load(root: Path) -> tuple[float, np.ndarray, np.ndarray]:
        found = torch.load(newest(root), weights_only=True)  # what Trainer.fit(ckpt_path=...) reads
        weights = found["state_dict"]["net.w"]
        momentum = next(iter(found["optimizer_states"][0]["state"].values()))["momentum_buffer"]
        return float(weights[0]), weights.numpy(), momentum.numpy()

    return System(f"Lightning {library.__version__}", save, load, "")


MAKERS = {"ours": ours, "torch": torch_save, "dcp": dcp, "accelerate": accelerate, "lightning": lightning}


# -------------------------------------------------------------------------------------------------- injections


def loaded(system: System, root: Path, expected: set[int] | None = None) -> str:
    """What became of it: "right", "mixed" (or of no expected step), "older", or "error"."""
    try:
        step, w, m = system.load(root)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "error"
    if not ((w == step).all() and (m == -step).all() and w.shape == m.shape == (SIZE,)):
        return "wrong, no error"
    return "right" if expected is None or int(step) in expected else "wrong, no error"


def killed(key: str, system: System, kills: int) -> Counter[str]:
    """R1: SIGKILL while saving step after step."""
    out: Counter[str] = Counter()
    draw = random.Random(0)
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as place:
            worker = subprocess.Popen([sys.executable, __file__, "--worker", key, place], stdout=subprocess.PIPE)
            assert worker.stdout is not None and worker.stdout.readline()  # two steps are saved
            time.sleep(draw.uniform(0.0, 0.5))
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            out[loaded(system, Path(place))] += 1
    return out


def work(key: str, place: str) -> None:
    """Save step after step until killed."""
    system, step = MAKERS[key](), 0
    while True:
        step += 1
        system.save(Path(place), step)
        if step == 2:
            print("ready", flush=True)
        if step > 3 and (old := [p for p in Path(place).iterdir() if p.name == f"step-{step - 3:06d}" or p.name.startswith(f"step-{step - 3:06d}.")]):
            for p in old:  # keep three, as save_total_limit or save_top_k would
                shutil.rmtree(p) if p.is_dir() else p.unlink()


def full(key: str, system: System, places: int = 10) -> Counter[str]:
    """R3: the third save finds the disk full at byte k; then the newest is loaded (a step that was reported to be saved)."""
    out: Counter[str] = Counter()
    for k in range(places):
        with tempfile.TemporaryDirectory() as place:
            code = "import benchmarks.reliability as r, resource, sys; s = r.MAKERS[sys.argv[1]](); from pathlib import Path; p = Path(sys.argv[2]); s.save(p, 1); s.save(p, 2); resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1)); s.save(p, 3)"
            limit = 4 * SIZE * k // places + 1
            done = subprocess.run([sys.executable, "-c", code, key, place, str(limit)], capture_output=True, cwd=Path(__file__).parents[1], preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
            out[loaded(system, Path(place), {2} if done.returncode else {3})] += 1
    return out


def flipped(system: System, flips: int) -> Counter[str]:
    """R5: one bit of the newest checkpoint."""
    out: Counter[str] = Counter()
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        system.save(root, 1)
        system.save(root, 2)
        last = max((p for p in root.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
        files = [last] if last.is_file() else [p for p in sorted(last.rglob("*")) if p.is_file()]
        sizes = [p.stat().st_size for p in files]
        for _ in range(flips):
            path = draw.choices(files, sizes)[0]
            data = path.read_bytes()
            at, bit = draw.randrange(len(data)), draw.randrange(8)
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            out[loaded(system, root, {1, 2})] += 1
            path.write_bytes(data)
    return out


class _Command:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)

    def __init__(self, mark: str):
        self.mark = mark


def malicious(system: System) -> str:
    """R6: whether loading a prepared file runs a command."""
    with tempfile.TemporaryDirectory() as place:
        root, mark = Path(place) / "root", Path(place) / "ran"
        root.mkdir()
        system.save(root, 1)
        last = max((p for p in root.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
        files = [last] if last.is_file() else [p for p in sorted(last.rglob("*")) if p.is_file()]
        for path in files:
            data = path.read_bytes()
            for bad in (pickle.dumps(_Command(str(mark))), _torch_file(_Command(str(mark)))):
                path.write_bytes(bad)
                loaded(system, root)
                if mark.exists():
                    return f"runs the command ({path.name})"
            path.write_bytes(data)
    return "refused"


def _torch_file(value: Any) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        torch.save(value, file.name)
        return Path(file.name).read_bytes()


def shown(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.most_common())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--flips", type=int, default=300)
    arguments.add_argument("--only", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    arguments.add_argument("--json")
    arguments.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        work(*given.worker)
    rows = {}
    for key in given.only:
        try:
            system = MAKERS[key]()
        except ImportError as missing:
            print(f"{key}: not measured: {missing}")
            continue
        result = {"R1": killed(key, system, given.kills), "R3": full(key, system), "R5": flipped(system, given.flips)}
        rows[system.name] = {k: dict(v) for k, v in result.items()} | {"R6": malicious(system)}
        print(system.name, *(f"  {k}: {shown(v)}" for k, v in result.items()), f"  R6: {rows[system.name]['R6']}", sep="\n", flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps({"about": {"python": platform.python_version(), "platform": platform.platform()}, "systems": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
