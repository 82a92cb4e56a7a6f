"""Devices by their names: `cpu`, `cuda`, `cuda:0`, `mps`."""

from __future__ import annotations

import torch

from fallline.errors import InvalidValue


def there() -> list[str]:
    """Names of the devices that this PyTorch can use here."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def device(name: str | None) -> torch.device:
    """The device of a name; None is the CPU.

    Raises:
        InvalidValue: no such device, or none of that kind here; the message says what there is.

    >>> device(None), device("cpu")
    (device(type='cpu'), device(type='cpu'))
    """
    names = there()
    try:
        wanted = torch.device("cpu" if name is None else name)
    except (RuntimeError, TypeError):
        wanted = None
    kinds = {n.partition(":")[0] for n in names}
    known = wanted is not None and wanted.type in kinds and (wanted.index in (None, 0) or str(wanted) in names)
    if not known:
        built = f" This PyTorch ({torch.__version__}) was built without CUDA." if str(name).startswith("cuda") and torch.version.cuda is None else ""
        raise InvalidValue(f"no device {name!r} here: there is {', '.join(names)}.{built}")
    assert wanted is not None
    return wanted
